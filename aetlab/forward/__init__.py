"""From atoms to images: potential, rotation, multislice, imaging and noise, and the model that joins them."""

from aetlab.forward.blur import narrowest_atom_A
from aetlab.forward.expected_signal import expected_signals
from aetlab.forward.model import ForwardModel
from aetlab.forward.noise import add_shot_noise, effective_electrons_per_pixel
from aetlab.forward.potential import build_potential
from aetlab.forward.simulate import draw_poses, simulate_tilt_series

__all__ = ["ForwardModel", "add_shot_noise", "build_potential", "draw_poses",
           "effective_electrons_per_pixel", "expected_signals", "narrowest_atom_A", "simulate_tilt_series"]
