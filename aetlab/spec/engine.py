"""The computation of the reconstruction: slices, device, likelihood and iterations."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.spec.checks import choice, positive, require


@dataclass(frozen=True, kw_only=True)
class BinningSpec:
    """N_B: voxel layers summed into one slice for each propagation of the reconstruction."""

    n_layers: int

    def __post_init__(self) -> None:
        require(self.n_layers >= 1, "binning.n_layers", self.n_layers, "at least 1")


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """How the reconstruction is computed. ``device`` and ``n_threads`` do not belong to a run's identity.

    ``step`` is in units of the inverse Lipschitz constant of one tilt, (σ Δz)² · N_z · N_defoci (method, c ≈ 1.5);
    ``step_decay`` is its factor at each reset of the momentum (1: the paper's constant step). ``likelihood`` is what
    the images are compared by: amplitude (equation 5) or poisson.
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
