"""The computation of the reconstruction: slices, device, likelihood and iterations."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.spec.checks import choice, positive, require


@dataclass(frozen=True, kw_only=True)
class BinningSpec:
    """Slices of the reconstruction.

    Attributes
    ----------
    n_layers : int
        N_B: voxel layers that are summed into one slice for each propagation, from 1 to the layers of the volume.
    """

    n_layers: int

    def __post_init__(self) -> None:
        require(self.n_layers >= 1, "binning.n_layers", self.n_layers, "at least 1")


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """Computation of the reconstruction. ``device`` and ``n_threads`` are not part of a run's identity.

    Attributes
    ----------
    device : str
        ``cpu``, ``gpu``, or ``auto`` for a GPU if one serves and the CPU otherwise.
    n_threads : int
        Threads of the CPU; 0 for one on each core.
    rotation : str
        Interpolation of the rotated volume: ``linear``, ``cubic`` or ``fourier`` (three shears, CPU only).
    n_iterations : int
        Passes over all tilts, at least 1; the most where ``reg.iterations_factor`` ends the fit.
    step : float
        Step in units of the inverse Lipschitz constant of one tilt, (σ Δz)² · N_z · N_defoci; greater than 0.
    step_decay : float
        Factor of the step at each reset of the momentum, in (0, 1]; 1 is the constant step of the paper.
    likelihood : str
        Comparison with the images: ``amplitude`` (equation 5 of the paper) or ``poisson``.
    """

    device: str = "auto"
    n_threads: int = 0
    rotation: str = "linear"
    n_iterations: int = 40
    step: float = 1.5
    step_decay: float = 0.7
    likelihood: str = "amplitude"

    def __post_init__(self) -> None:
        choice("engine.device", self.device, ("auto", "cpu", "gpu"))
        require(self.n_threads >= 0, "engine.n_threads", self.n_threads, "0 (all cores) or more")
        choice("engine.rotation", self.rotation, ("linear", "cubic", "fourier"))
        require(self.n_iterations >= 1, "engine.n_iterations", self.n_iterations, "at least 1")
        positive("engine.step", self.step)
        choice("engine.likelihood", self.likelihood, ("amplitude", "poisson"))
        require(0 < self.step_decay <= 1, "engine.step_decay", self.step_decay, "it must lie in (0, 1]")
