"""Settings of the reconstruction: regulariser, slices, solver and alignment.

The regularisers themselves are the rows of :mod:`aetlab.methods.regularisers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from aetlab.core.setting import check_ranges, documented, owners, require, setting, with_own_settings
from aetlab.methods.likelihoods import LIKELIHOODS
from aetlab.methods.regularisers import REGULARISERS
from aetlab.methods.rotations import ROTATIONS

_WEIGHTED = f"reg={'|'.join(name for name, row in REGULARISERS.items() if row.weighted)}"
_OWN = {name: row.settings for name, row in REGULARISERS.items()}
#: The regularisers that read each setting that belongs to some of them alone.
OWNERS = owners(_OWN)


@documented
@dataclass(frozen=True, kw_only=True)
@with_own_settings("reg", _OWN)
class RegSpec:
    """The regulariser and its weight."""

    kind: str = setting(
        f"regulariser: {'; '.join(f'{name} ({row.meaning})' for name, row in REGULARISERS.items())}",
        choices=tuple(REGULARISERS))
    weight: float | str = setting(
        "weight; rule for rule_factor standard deviations of the noise in the gradient; auto for the weight that best "
        "predicts images left out of the fit", unit="1/V", within="[0, inf)", reads=(_WEIGHTED,), default="rule")
    rule_factor: float = setting("standard deviations of weight=rule", within="[0, inf)",
                                 reads=(_WEIGHTED, "reg.weight=rule|auto"), default=0.0)
    held_out: float = setting("share of the tilts that the reconstruction leaves out and predicts", within="[0, 0.5]",
                              default=0.0)
    iterations_factor: float = setting(
        "factor of the iterations that predict counts left out best, after which the fit ends; 0 takes "
        "engine.n_iterations", within="[0, inf)",
        reads=("dose.total_e_A2<inf", "align=false", "data=simulated|given"), default=0.0)

    def __post_init__(self) -> None:
        check_ranges("reg", self)
        if isinstance(self.weight, str):
            require(self.weight in ("rule", "auto"), "reg.weight", self.weight, "give a number, rule or auto")


def refuse_other_kind(choice: str, kind: str, content: Mapping[str, Any]) -> None:
    """Raise :class:`SpecError` for a ``choice`` of the group with the name of another regulariser than its ``kind``.

    ``content`` are the settings of the choice's file: one that belongs to other regularisers must have its default.
    """
    require(choice not in REGULARISERS or kind == choice, "reg.kind", kind,
            f"reg={choice} is the regulariser of that name; give another choice, or another name to the file")
    defaults = {field.name: field.default for field in fields(RegSpec)}
    for key, value in content.items():
        require(kind in OWNERS.get(key, (kind,)) or value == defaults[key], f"reg.{key}", value,
                f"the file of reg={choice} sets it, and only reg={'|'.join(OWNERS.get(key, ()))} reads it")


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
        "of the aperture changes by at most π/10; 0 takes binning.n_layers in all iterations", within="[0, inf)",
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
    support: str = setting(
        "positions across the tilt axis that are reconstructed: all; or images, those that the images do not show to "
        "be vacuum (on the CPU)", choices=("all", "images"), default="all")
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
        require(self.support == "all" or ROTATIONS[self.rotation].matrix is not None, "engine.support", self.support,
                f"engine.rotation={self.rotation} turns all positions; choose "
                f"{' or '.join(name for name, row in ROTATIONS.items() if row.matrix is not None)}")


_ALIGNED = ("align=true",)


@documented
@dataclass(frozen=True, kw_only=True)
class AlignSpec:
    """Alignment of the tilts to the volume during the reconstruction.

    :mod:`aetlab.forward.alignment` computes it.
    """

    enabled: bool = setting("whether tilts are aligned to the volume", default=False)
    at: tuple[int, ...] = setting("iterations, counted from 0 and rising, before which all tilts are aligned",
                                  within="[1, inf)", reads=_ALIGNED,
                                  default=(3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 27))
    smoothing_A: tuple[float, ...] = setting(
        "standard deviations of the Gaussian that smooths the compared images, one for each alignment; the last is for "
        "all further ones", unit="Å", within="[0, inf)", reads=_ALIGNED,
        default=(1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.1))
    angles_from: int = setting("iteration before which tilt angles are not changed", within="[0, inf)", reads=_ALIGNED,
                               default=8)
    reach_A: float = setting("largest shift along x and y that the first alignment tries", unit="Å", within="[0, inf)",
                             reads=_ALIGNED, default=4.0)
    reach_nm: float = setting("largest change of the defocus that the first alignment tries", unit="nm",
                              within="[0, inf)", reads=_ALIGNED, default=6.0)
    contrast: bool = setting("whether the contrast of the images of a tilt is left open while its pose is fitted",
                             reads=_ALIGNED, default=False)
    images: bool = setting("whether single images have a shift, defocus and brightness of their own, besides those of "
                           "their tilt", reads=_ALIGNED, default=False)
    magnification: bool = setting("whether the magnification of the images of each plane of the defocus is fitted, "
                                  "relative to the mean of all planes", reads=_ALIGNED, default=False)
    robust: bool = setting("whether images that fit the volume much worse than the others lose weight, by the square "
                           "of how much worse, in the alignment and in the reconstruction", reads=_ALIGNED,
                           default=False)

    def __post_init__(self) -> None:
        require(bool(self.at) and all(a < b for a, b in zip((0, *self.at), self.at, strict=False)), "align.at", self.at,
                "give rising numbers of iterations, at least 1: the first iteration has no volume to align to")
        require(bool(self.smoothing_A), "align.smoothing_A", self.smoothing_A, "give at least one")
        check_ranges("align", self)
