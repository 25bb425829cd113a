"""The computation of the reconstruction: slices, device, likelihood and iterations."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.core.checks import require
from aetlab.core.setting import check_ranges, documented, setting
from aetlab.methods.likelihoods import LIKELIHOODS
from aetlab.methods.regularisers import REGULARISERS
from aetlab.methods.rotations import ROTATIONS

_WITH_THIS_STEP = f"reg={'|'.join(name for name, row in REGULARISERS.items() if row.step is None)}"


@documented
@dataclass(frozen=True, kw_only=True)
class BinningSpec:
    """Slices of the reconstruction.

    Coarse slices serve until the volume has converged to what they can tell; a few iterations with ``n_layers`` follow.
    """

    n_layers: int = setting("N_B: voxel layers that are summed into one slice for each propagation, at most those of "
                            "the volume", within="[1, inf)")
    coarse: int | str = setting(
        "N_B of all iterations but the last ones; rule for the thickest slice in which the phase of a wave at the edge "
        "of the aperture changes by at most π/5; 0 takes binning.n_layers in all iterations", within="[0, inf)",
        default=0)
    fine_iterations: int = setting("last iterations, with slices of binning.n_layers", within="[1, inf)",
                                   reads=("binning.coarse!=0",), default=5)

    def __post_init__(self) -> None:
        check_ranges("binning", self)
        require(not isinstance(self.coarse, str) or self.coarse == "rule", "binning.coarse", self.coarse,
                "give a number of layers, or rule")
        require(isinstance(self.coarse, str) or self.coarse == 0 or self.coarse > self.n_layers, "binning.coarse",
                self.coarse, f"coarse slices have more layers than binning.n_layers={self.n_layers}; 0 for none")


@documented
@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """Computation of the reconstruction.

    ``device``, ``devices`` and ``n_threads`` are not part of a run's identity.
    """

    device: str = setting("where the reconstruction is computed; auto is a GPU if one serves and the CPU otherwise",
                          choices=("auto", "cpu", "gpu"), default="auto")
    devices: int = setting("GPUs that share the volume of a run in slabs along the tilt axis", within="[1, inf)",
                           reads=("engine.device!=cpu",), default=1)
    n_threads: int = setting("threads of the CPU; 0 for one on each core", within="[0, inf)", default=0)
    rotation: str = setting(
        f"rotation of the volume: {'; '.join(f'{name} ({row.meaning})' for name, row in ROTATIONS.items())}",
        choices=tuple(ROTATIONS), default="linear")
    n_iterations: int = setting("passes over all tilts; the most where reg.iterations_factor ends the fit",
                                within="[1, inf)", default=40)
    tolerance: float = setting("relative change of the volume in an iteration below which the fit, or its part with "
                               "coarse slices, ends; 0 takes all iterations", within="[0, 1)", default=0.0)
    step: float = setting("step in units of the inverse Lipschitz constant of one tilt, (σ Δz)² · N_z · N_defoci",
                          within="(0, inf)", reads=(_WITH_THIS_STEP,), default=1.5)
    step_decay: float = setting("factor of the step at each reset of the momentum; 1 is the constant step of the paper",
                                within="(0, 1]", default=0.7)
    likelihood: str = setting(
        f"comparison with the images: {'; '.join(f'{name} ({row.meaning})' for name, row in LIKELIHOODS.items())}",
        choices=tuple(LIKELIHOODS), default="amplitude")

    def __post_init__(self) -> None:
        check_ranges("engine", self)
