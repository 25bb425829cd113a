"""Settings of the regulariser; :mod:`aetlab.spec` takes them into the settings of a run."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.spec.checks import choice, not_negative, positive, require


@dataclass(frozen=True, kw_only=True)
class RegSpec:
    """The regulariser, with its weight per volt, or how it is found.

    ``weight`` is a number, ``rule`` for ``rule_factor`` standard deviations of the noise in the data's gradient
    (:func:`aetlab.solve.rule_weight`), or ``auto`` for the weight that best predicts images left out of the fit
    (:mod:`~aetlab.reconstruction.weight`). ``inner_iterations`` belong to the dual solver of TV, which keeps its dual
    variables between outer iterations when ``warm_start`` is set. ``held_out`` is the share of the tilts that the whole
    reconstruction leaves out and predicts, so that runs can be compared without the truth. Above 0,
    ``iterations_factor`` ends the fit after so many times the iterations that predict counts left out best
    (:mod:`aetlab.reconstruction.iterations`), or after engine.n_iterations.

    The others belong to ``atoms`` (:mod:`aetlab.solve.atoms_prior`). ``blur_A`` is the standard deviation of g, None
    for the narrowest atom that the microscope and the voxels show. ``step`` takes the place of engine.step, in the same
    units; None for the rule of :func:`aetlab.reconstruction.fit.step_of`. From iteration ``metric_at`` steps follow the
    solution, down to ``metric_floor``, and from the iterations ``reweight_at`` the weights do, with
    ``reweight_softness``, ``reweight_gain`` and the reach ``reweight_sigma_A``.
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
