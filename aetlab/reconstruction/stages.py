"""Fit a volume in stages: with coarse slices first, if the settings have them, then with fine ones.

A coarse slice costs as little as a fine one, and there are fewer of them. A stage continues from the state of the one
before, momentum included; only the cost may rise in its first iteration, since another model computes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from aetlab import solve
from aetlab.core.nouns import TiltSeries
from aetlab.core.outlying import name_weakened
from aetlab.core.poses import Poses
from aetlab.core.progress import Reporter
from aetlab.reconstruction.device import Model
from aetlab.reconstruction.fit import align_when_due, fit_volume, make_aligner, make_model
from aetlab.reconstruction.resumable import Resumption
from aetlab.spec import BinningSpec, RunSpec, coarse_layers

if TYPE_CHECKING:
    from aetlab.forward.alignment import TiltAligner

#: Arrays of :attr:`aetlab.forward.alignment.TiltAligner.state` in a checkpoint.
_ALIGNED = ("tilts", "image_factors", "of_images", "magnification")


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
