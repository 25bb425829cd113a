"""Settings of the regulariser."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.spec.checks import require
from aetlab.spec.setting import check_ranges, documented, setting

_TV, _ATOMS = ("reg=tv",), ("reg=atoms",)
_REWEIGHTED = (*_ATOMS, "reg.reweight_at!=[]")


@documented
@dataclass(frozen=True, kw_only=True)
class RegSpec:
    """The regulariser and its weight."""

    kind: str = setting(
        "regulariser: tv (total variation, positive), lasso, pos (positive), none (real) or atoms (sparse sum of "
        "narrow peaks, aetlab.solve.atoms_prior)", choices=("tv", "lasso", "pos", "none", "atoms"))
    weight: float | str = setting(
        "weight; rule for rule_factor standard deviations of the noise in the gradient; auto for the weight that best "
        "predicts images left out of the fit", unit="1/V", within="[0, inf)", reads=("reg=tv|lasso|atoms",),
        default="rule")
    rule_factor: float = setting("standard deviations of weight=rule", within="[0, inf)",
                                 reads=("reg=tv|lasso|atoms", "reg.weight=rule|auto"), default=0.0)
    inner_iterations: int = setting("iterations of the dual solver of TV", within="[1, inf)", reads=_TV, default=15)
    warm_start: bool = setting("whether TV keeps its dual variables between iterations", reads=_TV, default=False)
    held_out: float = setting("share of the tilts that the reconstruction leaves out and predicts", within="[0, 0.5]",
                              default=0.0)
    iterations_factor: float = setting(
        "factor of the iterations that predict counts left out best, after which the fit ends; 0 takes "
        "engine.n_iterations", within="[0, inf)",
        reads=("dose.total_e_A2<inf", "align=false", "data=simulated|given"), default=0.0)
    blur_A: float | None = setting(
        "standard deviation of the peak g; null for the narrowest atom that the microscope and the voxels show",
        unit="Å", within="(0, inf)", reads=_ATOMS, default=None)
    step: float | None = setting("step in place of engine.step, in its units; null for a rule by how densely the tilts "
                                 "sample the volume", within="(0, inf)", reads=_ATOMS, default=None)
    metric_at: int = setting("iteration from which the step of each voxel follows the solution", within="[1, inf)",
                             reads=_ATOMS, default=6)
    metric_floor: float = setting("least step of a voxel in units of that of an atom", within="(0, inf)", reads=_ATOMS,
                                  default=0.02)
    reweight_at: tuple[int, ...] = setting("iterations at which the weight of each voxel is set from the solution",
                                           within="[1, inf)", reads=_ATOMS, default=(12, 18))
    reweight_softness: float = setting("softness of these weights", within="(0, inf)", reads=_REWEIGHTED, default=0.3)
    reweight_gain: float = setting("gain of these weights", within="(0, inf)", reads=_REWEIGHTED, default=1.5)
    reweight_sigma_A: float = setting("reach of these weights", unit="Å", within="(0, inf)", reads=_REWEIGHTED,
                                      default=0.6)

    def __post_init__(self) -> None:
        check_ranges("reg", self)
        if isinstance(self.weight, str):
            require(self.weight in ("rule", "auto"), "reg.weight", self.weight, "give a number, rule or auto")
