"""From atoms to images: potential, rotation, multislice, imaging and noise, and the model that joins them."""

from aetlab.forward.model import ForwardModel
from aetlab.forward.noise import add_shot_noise
from aetlab.forward.potential import build_potential
from aetlab.forward.simulate import simulate_tilt_series

__all__ = ["ForwardModel", "add_shot_noise", "build_potential", "simulate_tilt_series"]
