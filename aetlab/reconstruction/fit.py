"""Connect the settings of a run with the solver: make the forward model of a tilt series, and fit the volume."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from aetlab import forward, solve
from aetlab.core.nouns import TiltSeries
from aetlab.forward import narrowest_atom_A
from aetlab.reconstruction.device import Model, choose_model, solver_parts
from aetlab.spec import RunSpec

#: Step of the atoms prior for sparse tilts, and the limit of the sum of steps of overlapping tilts. Measured: below
#: these the cost falls without a reset at 0.08 and at 0.4 tilts per sample.
_LONGEST_STEP, _SHARED_STEP = 4.0, 0.6
#: Maximum step between the defoci that a first alignment tries, in Å.
_SEARCH_STEP_A = 10.0


def make_model(spec: RunSpec, series: TiltSeries, say: Callable[[str], None]) -> Model:
    """Return the forward model for the reconstruction of ``series``; its volume is c of V = g ∗ c for reg=atoms.

    ``say`` is called with one line that names the device.
    """
    return choose_model(spec, series, blur_A=blur_A(spec), say=say)


def make_aligner(spec: RunSpec, series: TiltSeries, model: Model) -> forward.TiltAligner | None:
    """Return the aligner that finds the poses of the tilts of ``series`` and sets them in ``model``.

    Return None if ``spec`` has no alignment.
    """
    if not spec.align.enabled or not isinstance(model, forward.ForwardModel):
        return None
    return forward.TiltAligner(model, series, spec.scale.shape_zxy, microscope=spec.microscope,
                               n_layers_per_slice=spec.binning.n_layers)


def align_when_due(spec: RunSpec, aligner: forward.TiltAligner, state: solve.State) -> bool:
    """Align all tilts before an iteration of ``spec.align.at``; return True if momentum must be reset.

    Momentum is reset only after the first alignment. Later alignments change less, and the volume needs momentum to
    follow them.
    """
    if state.n_done not in spec.align.at:
        return False
    first = state.n_done == spec.align.at[0]
    reach_A = 10 * spec.align.reach_nm
    n_steps = math.ceil(reach_A / _SEARCH_STEP_A)
    search = forward.Search(spec.align.reach_A, np.linspace(-reach_A, reach_A, 2 * n_steps + 1))
    aligner.align(state.proximal, search, smoothing_A=spec.align.smoothing_at(state.n_done),
                  angles=state.n_done >= spec.align.angles_from, first=first)
    return first


def blur_A(spec: RunSpec) -> float:
    """Return the standard deviation of g in Å, as set or that of the narrowest atom; 0 without the atoms prior."""
    if spec.reg.kind != "atoms":
        return 0.0
    if spec.reg.blur_A is not None:
        return spec.reg.blur_A
    return narrowest_atom_A(spec.microscope, spec.scale.voxel_A, spec.sample.debye_waller_A2["default"])


def fit_volume(spec: RunSpec, model: Model, tilts: np.ndarray, weight: float, *, n_iterations: int,
               rng: np.random.Generator, on_iteration: Callable[[solve.State], None] | None = None,
               align: Callable[[solve.State], bool] | None = None, enough: Callable[[solve.State], str] | None = None,
               resume: solve.State | None = None) -> solve.Solution:
    """Fit the volume (Z, X, Y) of ``model`` to ``tilts`` (indices), regularised with ``weight`` in 1/V.

    ``align`` is called before each iteration. It may change the poses in ``model``, and returns True if momentum must
    be reset. ``enough`` is called after each iteration and returns the reason to stop, or an empty string.
    """
    parts = solver_parts(model)
    volume0 = parts.zeros(spec.scale.shape_zxy)
    if resume is not None:
        resume = solve.State.restore({k: parts.place(a) for k, a in resume.arrays().items()}, resume.values())
    step = step_of(spec, len(tilts)) / model.lipschitz
    prior = solve.AtomsPrior(weight, _schedule(spec), sparsify=parts.sparsify) if spec.reg.kind == "atoms" else None
    prox = prior or parts.make_prox(spec.reg.kind, weight, inner_iterations=spec.reg.inner_iterations,
                                    warm_start=spec.reg.warm_start)

    def adapt(state: solve.State) -> bool:
        adapted = prior.adapt(state) if prior else False
        return (align(state) if align else False) or adapted

    return solve.minimize(
        volume0, lambda volume, i, by: model.descend(volume, int(tilts[i]), by, prior.metric if prior else None), prox,
        n_tilts=len(tilts), n_iterations=n_iterations, step=step, decay=spec.engine.step_decay, rng=rng,
        adapt=adapt, extrapolate=parts.extrapolate, enough=enough, on_iteration=on_iteration, resume=resume)


def step_of(spec: RunSpec, n_tilts: int) -> float:
    """Return the first step in units of the inverse Lipschitz constant of one tilt.

    For the atoms prior, unless set, it is 4, or less if the planes of neighbouring tilts overlap at the Nyquist
    frequency, because several tilts of a pass then step along the same direction. ``n_tilts`` planes share π N_x / 2
    samples of a half circle; the step is at most 0.6 / (n_tilts / (π N_x / 2)).
    """
    if spec.reg.kind != "atoms":
        return spec.engine.step
    if spec.reg.step is not None:
        return spec.reg.step
    return min(_LONGEST_STEP, _SHARED_STEP * math.pi * spec.scale.shape_zxy[1] / (2 * n_tilts))


def _schedule(spec: RunSpec) -> solve.AtomsSchedule:
    reg, voxel_A = spec.reg, spec.scale.voxel_A
    return solve.AtomsSchedule(
        metric_at=reg.metric_at, metric_floor=reg.metric_floor, blur_px=blur_A(spec) / voxel_A,
        reweight_at=reg.reweight_at, reweight_sigma_px=reg.reweight_sigma_A / voxel_A,
        reweight_softness=reg.reweight_softness, reweight_gain=reg.reweight_gain)
