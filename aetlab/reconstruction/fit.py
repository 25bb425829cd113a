"""Connect the settings of a run with the solver: make the forward model of a tilt series, and fit the volume in stages.

The stages are coarse slices first, if the settings have them, then fine ones. A coarse slice costs as little as a fine
one, and there are fewer of them. A stage continues from the state of the one before, momentum included; only the cost
may rise in its first iteration, since another model computes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aetlab import solve
from aetlab.core.nouns import TiltSeries
from aetlab.core.outlying import name_weakened
from aetlab.core.poses import Poses
from aetlab.core.progress import Reporter
from aetlab.forward import narrowest_atom_A
from aetlab.methods.regulariser import Problem
from aetlab.methods.regularisers import REGULARISERS
from aetlab.reconstruction.device import choose_model, solver_parts, tilt_equations_of
from aetlab.reconstruction.model import Model
from aetlab.reconstruction.resumable import Resumption
from aetlab.spec import BinningSpec, RunSpec, coarse_layers
from aetlab.spec.derived import alignment_smoothing_A

if TYPE_CHECKING:
    from aetlab.forward.alignment import TiltAligner

#: Maximum step between the defoci that a first alignment tries, in Å.
_SEARCH_STEP_A = 10.0
#: Arrays of :attr:`aetlab.forward.alignment.TiltAligner.state` in a checkpoint.
_ALIGNED = ("tilts", "image_factors", "of_images", "magnification")


def make_model(spec: RunSpec, series: TiltSeries, say: Callable[[str], None]) -> Model:
    """Return the forward model for the reconstruction of ``series``; its volume is c of V = g ∗ c
    if the regulariser has a peak g.

    ``say`` is called with one line that names the device.
    """
    return choose_model(spec, series, blur_A=blur_A(spec), say=say)


def make_aligner(spec: RunSpec, series: TiltSeries, model: Model) -> TiltAligner | None:
    """Return the aligner that finds the poses of the tilts of ``series`` and sets them in ``model``.

    Return None if ``spec`` has no alignment.
    """
    if not spec.align.enabled:
        return None
    from aetlab.forward.alignment import TiltAligner

    return TiltAligner(model, series, spec.scale.shape_zxy, microscope=spec.microscope,
                       n_layers_per_slice=spec.binning.n_layers, contrast=spec.align.contrast,
                       robust=spec.align.robust, images=spec.align.images, magnification=spec.align.magnification,
                       make_equations=tilt_equations_of(model))


def align_when_due(spec: RunSpec, aligner: TiltAligner, state: solve.State, *, poses: bool = True) -> bool:
    """Align all tilts before an iteration of ``spec.align.at``; return True if momentum must be reset.

    Momentum is reset only after the first alignment. Later alignments change less, and the volume needs momentum to
    follow them. With ``poses`` that stay as they are, only the images are weighed.
    """
    if state.n_done not in spec.align.at:
        return False
    if not poses:
        if spec.align.robust:
            aligner.weigh(state.proximal)
        return False
    from aetlab.forward.alignment import Search

    first = state.n_done == spec.align.at[0]
    reach_A = 10 * spec.align.reach_nm
    n_steps = math.ceil(reach_A / _SEARCH_STEP_A)
    search = Search(spec.align.reach_A, np.linspace(-reach_A, reach_A, 2 * n_steps + 1))
    aligner.align(state.proximal, search, smoothing_A=alignment_smoothing_A(spec.align, state.n_done),
                  angles=state.n_done >= spec.align.angles_from, first=first)
    return first


def settled_poses(spec: RunSpec) -> int:
    """Return the iterations that are done when the tilts have been aligned for the last time; 0 without alignment."""
    return max(spec.align.at) + 1 if spec.align.enabled else 0


def blur_A(spec: RunSpec) -> float:
    """Return the standard deviation of g in Å, as set or that of the narrowest atom; 0 for a regulariser without g."""
    row = REGULARISERS[spec.reg.kind]
    if row.blur_A is None:
        return 0.0
    own = row.blur_A(row.own(spec.reg))
    return own or narrowest_atom_A(spec.microscope, spec.scale.voxel_A, spec.sample.debye_waller_A2["default"])


def fit_volume(spec: RunSpec, model: Model, tilts: np.ndarray, weight: float, *, n_iterations: int,
               rng: np.random.Generator, on_iteration: Callable[[solve.State], None] | None = None,
               align: Callable[[solve.State], bool] | None = None,
               enough: Callable[[solve.State, int], str] | None = None, resume: solve.State | None = None,
               tolerance: float = 0.0) -> solve.Solution:
    """Fit the volume (Z, X, Y) of ``model`` to ``tilts`` (indices), regularised with ``weight`` in 1/V.

    ``align`` is called before each iteration. It may change the poses in ``model``, and returns True if momentum must
    be reset. ``enough`` is called after each iteration, with the number of those after which the regulariser and the
    poses are settled, and returns the reason to stop, or an empty string. A relative change below ``tolerance`` ends
    the fit once they are.
    """
    parts = solver_parts(model)
    volume0 = parts.zeros(spec.scale.shape_zxy)
    if resume is not None:
        resume = solve.State.restore({k: parts.place(a) for k, a in resume.arrays().items()}, resume.values())
    step = step_of(spec, len(tilts)) / model.lipschitz
    row = REGULARISERS[spec.reg.kind]
    prior = parts.make_prior(row, row.own(spec.reg), weight, _problem(spec, len(tilts)))

    def metric() -> Any:
        return prior.metric() if prior.metric else None

    def adapt(state: solve.State) -> bool:
        adapted = prior.adapt(state) if prior.adapt else False
        return (align(state) if align else False) or adapted

    stopping = solve.Stopping(n_iterations=n_iterations, tolerance=tolerance, enough=enough,
                              not_before=max(prior.settled, settled_poses(spec)))
    return solve.minimize(
        volume0, lambda volume, i, by: model.descend(volume, int(tilts[i]), by, metric()), prior.prox, stopping,
        n_tilts=len(tilts), step=step, decay=spec.engine.step_decay, rng=rng, adapt=adapt,
        extrapolate=parts.extrapolate, on_iteration=on_iteration, resume=resume)


def step_of(spec: RunSpec, n_tilts: int) -> float:
    """Return the first step of a fit to ``n_tilts``, in units of the inverse Lipschitz constant of one tilt."""
    row = REGULARISERS[spec.reg.kind]
    return row.step(row.own(spec.reg), _problem(spec, n_tilts)) if row.step else spec.engine.step


def _problem(spec: RunSpec, n_tilts: int) -> Problem:
    return Problem(spec.scale.shape_zxy, spec.scale.voxel_A, n_tilts, blur_A(spec))


@dataclass(frozen=True)
class Stage:
    """At most ``n_iterations`` with slices of one thickness; ``spec`` are the settings of the run with these slices.

    The stage ends when the volume changes by less than ``tolerance`` of itself; 0 for never.
    """

    spec: RunSpec
    n_iterations: int
    tolerance: float


@dataclass(frozen=True)
class Fit:
    """The result of the last stage, its forward model, and the aligner if the tilts were aligned.

    ``weight`` is that of the regulariser in 1/V.
    """

    solution: solve.Solution
    weight: float
    model: Model
    aligner: TiltAligner | None


def with_layers(spec: RunSpec, n_layers: int) -> RunSpec:
    """Return ``spec`` with slices of ``n_layers`` in all iterations."""
    return replace(spec, binning=BinningSpec(n_layers=n_layers)) if spec.binning.coarse else spec


def fit_stages(spec: RunSpec, n_iterations: int) -> tuple[Stage, ...]:
    """Return the stages of a fit with ``n_iterations``.

    A fit that is not longer than ``binning.fine_iterations`` has fine slices only.
    """
    tolerance, n_fine = spec.engine.tolerance, spec.binning.fine_iterations if spec.binning.coarse else 0
    fine = with_layers(spec, spec.binning.n_layers)
    if n_iterations <= n_fine or coarse_layers(spec) == spec.binning.n_layers:
        return (Stage(fine, n_iterations, tolerance),)
    return Stage(at_least_cost(spec), n_iterations - n_fine, tolerance), Stage(fine, n_fine, 0.0)


def at_least_cost(spec: RunSpec) -> RunSpec:
    """Return ``spec`` for fits that only choose a weight or a number of iterations: all slices are coarse."""
    return with_layers(spec, coarse_layers(spec))


class StagedFit:
    """A fit of the volume to ``tilts`` (indices) of ``series`` in ``stages``; it continues from ``resumption``.

    ``poses`` that are given stay as they are; otherwise the stages that align find them.
    """

    def __init__(self, stages: tuple[Stage, ...], series: TiltSeries, tilts: np.ndarray, resumption: Resumption,
                 progress: Reporter, poses: Poses | None = None) -> None:
        self._stages, self._series, self._tilts = stages, _with_pixel_weights(stages[0].spec, series), tilts
        self._resumption, self._progress = resumption, progress
        self._rng, self._state = resumption.begin("reconstruct")
        #: State of the aligner; empty before the first iteration.
        self._aligned = {} if poses is None else _as_aligned(poses)
        if self._state:
            self._aligned = {name: resumption.arrays[name] for name in _ALIGNED if name in resumption.arrays}
        self._finds_poses = poses is None
        at, before = resumption.notes["at_stage"] if self._state else (0, 0)
        #: Stage of the next iteration, and iterations done before that stage.
        self._at, self._before = int(at), int(before)

    def run(self, weigh: Callable[[Model], float]) -> Fit:
        """Fit the volume. One forward model exists at a time.

        ``weigh`` is called once, with the forward model of the next iteration, and returns the regulariser's weight in
        1/V.
        """
        model = make_model(self._stages[self._at].spec, self._series, self._progress.say)
        weight = weigh(model)
        n_done = self._state.n_done if self._state else 0
        if n_done:
            self._progress.say(f"goes on after iteration {n_done} of {self._n_iterations}")
        self._progress.step("reconstruct", n_done, self._n_iterations)
        fit = self._fit(model, weight)
        while self._at < len(self._stages) - 1:
            self._at, self._before = self._at + 1, fit.solution.state.n_done
            fit.solution.state.renewals.append(self._before)
            del model, fit
            stage = self._stages[self._at]
            self._progress.say(f"{stage.n_iterations} iterations follow, with slices of {stage.spec.binning.n_layers} "
                               "layers")
            model = make_model(stage.spec, self._series, lambda text: None)
            fit = self._fit(model, weight)
        return fit

    @property
    def _n_iterations(self) -> int:
        """The most iterations of the whole fit, as known in the present stage."""
        return self._before + sum(stage.n_iterations for stage in self._stages[self._at:])

    def _fit(self, model: Model, weight: float) -> Fit:
        stage, n_iterations, last = self._stages[self._at], self._n_iterations, self._at == len(self._stages) - 1
        aligner = make_aligner(stage.spec, self._series, model)
        if aligner and self._aligned:
            aligner.restore(**self._aligned)
        notes = {"n_iterations": sum(stage.n_iterations for stage in self._stages), "weight_per_V": weight,
                 "at_stage": (self._at, self._before)}

        def on_iteration(state: solve.State) -> None:
            self._progress.step("reconstruct", state.n_done, n_iterations, f"cost {state.cost[-1]:.5g}")
            before_refinement = last and state.n_done == n_iterations and stage.spec.refine.kind != "none"
            self._resumption.keep("reconstruct", state, self._rng, notes, at_once=before_refinement,
                                  arrays=aligner.state if aligner else {})

        def align(state: solve.State) -> bool:
            return align_when_due(stage.spec, aligner, state, poses=self._finds_poses) if aligner else False

        solution = fit_volume(stage.spec, model, self._tilts, weight, n_iterations=self._before + stage.n_iterations,
                              tolerance=stage.tolerance, rng=self._rng, on_iteration=on_iteration, resume=self._state,
                              align=align if aligner else None)
        if last and solution.stopped and len(solution.cost) < n_iterations:
            self._progress.say(f"the fit ends after {len(solution.cost)} iterations: {solution.stopped}")
        self._state = solution.state
        if aligner:
            self._aligned = aligner.state
            if last and (weakened := name_weakened(self._series, aligner.factors)):
                self._progress.say(f"{(aligner.factors < 1).sum()} images fit the volume much worse than the others "
                                   f"and have less weight: {weakened}")
        return Fit(solution, weight, model, aligner)


def _as_aligned(poses: Poses) -> dict[str, np.ndarray]:
    """Return the state of an aligner that has found ``poses``."""
    return {"tilts": poses.table, "of_images": poses.of_images, "magnification": poses.magnification}


def _with_pixel_weights(spec: RunSpec, series: TiltSeries) -> TiltSeries:
    """Return ``series`` with weights of its pixels where the alignment may lower those of an image."""
    if not (spec.align.enabled and spec.align.robust) or series.pixel_weight is not None:
        return series
    return replace(series, pixel_weight=np.ones(series.images.shape, np.float32))
