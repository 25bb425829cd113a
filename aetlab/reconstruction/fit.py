"""Connect the settings of a run with the solver: make the forward model of a tilt series, and fit the volume."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from aetlab import solve
from aetlab.core.nouns import TiltSeries
from aetlab.forward import narrowest_atom_A
from aetlab.methods.regulariser import Problem
from aetlab.methods.regularisers import REGULARISERS
from aetlab.reconstruction.device import Model, choose_model, exit_waves_of, solver_parts
from aetlab.spec import RunSpec

if TYPE_CHECKING:
    from aetlab.forward.alignment import TiltAligner

#: Maximum step between the defoci that a first alignment tries, in Å.
_SEARCH_STEP_A = 10.0


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
                               make_exit_waves=exit_waves_of(spec, model),
                               n_layers_per_slice=spec.binning.n_layers, contrast=spec.align.contrast,
                               robust=spec.align.robust, images=spec.align.images,
                               magnification=spec.align.magnification)


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
    aligner.align(state.proximal, search, smoothing_A=spec.align.smoothing_at(state.n_done),
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
               align: Callable[[solve.State], bool] | None = None, enough: Callable[[solve.State], str] | None = None,
               resume: solve.State | None = None, tolerance: float = 0.0) -> solve.Solution:
    """Fit the volume (Z, X, Y) of ``model`` to ``tilts`` (indices), regularised with ``weight`` in 1/V.

    ``align`` is called before each iteration. It may change the poses in ``model``, and returns True if momentum must
    be reset. ``enough`` is called after each iteration and returns the reason to stop, or an empty string. A relative
    change below ``tolerance`` ends the fit once the regulariser and the poses are settled.
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

    return solve.minimize(
        volume0, lambda volume, i, by: model.descend(volume, int(tilts[i]), by, metric()), prior.prox,
        n_tilts=len(tilts), n_iterations=n_iterations, step=step, decay=spec.engine.step_decay, rng=rng,
        adapt=adapt, extrapolate=parts.extrapolate, enough=enough, tolerance=tolerance,
        not_before=max(prior.settled, settled_poses(spec)), on_iteration=on_iteration, resume=resume)


def step_of(spec: RunSpec, n_tilts: int) -> float:
    """Return the first step of a fit to ``n_tilts``, in units of the inverse Lipschitz constant of one tilt."""
    row = REGULARISERS[spec.reg.kind]
    return row.step(row.own(spec.reg), _problem(spec, n_tilts)) if row.step else spec.engine.step


def _problem(spec: RunSpec, n_tilts: int) -> Problem:
    return Problem(spec.scale.shape_zxy, spec.scale.voxel_A, n_tilts, blur_A(spec))
