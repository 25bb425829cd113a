"""Settings of the regulariser."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.spec.checks import choice, not_negative, positive, require


@dataclass(frozen=True, kw_only=True)
class RegSpec:
    """The regulariser and its weight.

    Attributes
    ----------
    kind : str
        ``tv`` (total variation, positive), ``lasso``, ``pos`` (positive), ``none`` (real) or ``atoms`` (sparse sum of
        narrow peaks, :mod:`aetlab.solve.atoms_prior`).
    weight : float or str
        Weight per volt, at least 0; ``rule`` for ``rule_factor`` standard deviations of the noise in the gradient
        (:func:`aetlab.solve.rule_weight`); ``auto`` for the weight that best predicts images left out of the fit
        (:mod:`aetlab.reconstruction.weight`).
    rule_factor : float
        Standard deviations of ``weight=rule``, at least 0.
    inner_iterations : int
        Iterations of the dual solver of TV, at least 1.
    warm_start : bool
        Whether TV keeps its dual variables between iterations.
    held_out : float
        Share of the tilts that the reconstruction leaves out and predicts, 0 to 0.5.
    iterations_factor : float
        The fit ends after this factor times the iterations that predict counts left out best
        (:mod:`aetlab.reconstruction.iterations`), at least 0; 0 takes ``engine.n_iterations``.
    blur_A : float, optional
        ``atoms``: standard deviation of the peak g in Å, greater than 0; None for the narrowest atom that the
        microscope and the voxels show.
    step : float, optional
        ``atoms``: replaces ``engine.step``, in its units, greater than 0; None for the rule of
        :func:`aetlab.reconstruction.fit.step_of`.
    metric_at : int
        ``atoms``: iteration from which the step of each voxel follows the solution, at least 1.
    metric_floor : float
        ``atoms``: least step of a voxel in units of that of an atom, greater than 0.
    reweight_at : tuple of int
        ``atoms``: iterations at which the weight of each voxel is set from the solution, each at least 1.
    reweight_softness, reweight_gain : float
        ``atoms``: constants of these weights without a unit, greater than 0.
    reweight_sigma_A : float
        ``atoms``: reach of these weights in Å, greater than 0.
    """

    kind: str
    weight: float | str = "rule"
    rule_factor: float = 0.0
    inner_iterations: int = 15
    warm_start: bool = False
    held_out: float = 0.0
    iterations_factor: float = 0.0
    blur_A: float | None = None
    step: float | None = None
    metric_at: int = 6
    metric_floor: float = 0.02
    reweight_at: tuple[int, ...] = (12, 18)
    reweight_softness: float = 0.3
    reweight_gain: float = 1.5
    reweight_sigma_A: float = 0.6

    def __post_init__(self) -> None:
        choice("reg.kind", self.kind, ("tv", "lasso", "pos", "none", "atoms"))
        if isinstance(self.weight, str):
            require(self.weight in ("rule", "auto"), "reg.weight", self.weight, "give a number, rule or auto")
        else:
            not_negative("reg.weight", self.weight)
        not_negative("reg.rule_factor", self.rule_factor)
        require(self.inner_iterations >= 1, "reg.inner_iterations", self.inner_iterations, "at least 1")
        require(0 <= self.held_out <= 0.5, "reg.held_out", self.held_out, "it must lie between 0 and 0.5")
        not_negative("reg.iterations_factor", self.iterations_factor)
        if self.blur_A is not None:
            positive("reg.blur_A", self.blur_A)
        if self.step is not None:
            positive("reg.step", self.step)
        require(self.metric_at >= 1, "reg.metric_at", self.metric_at, "at least 1: the first iteration has no solution")
        require(all(i >= 1 for i in self.reweight_at), "reg.reweight_at", self.reweight_at, "at least 1 each")
        for name in ("metric_floor", "reweight_softness", "reweight_gain", "reweight_sigma_A"):
            positive(f"reg.{name}", getattr(self, name))
