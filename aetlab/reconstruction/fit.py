"""The settings of a run joined with the solver: the forward model of a tilt series, and the volume that fits it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from aetlab import forward, solve
from aetlab.core.nouns import TiltSeries
from aetlab.forward import narrowest_atom_A
from aetlab.reconstruction.device import Model, choose_model, solver_parts
from aetlab.spec import RunSpec

#: Step of the atoms prior where tilts are sparse, and what it may come to where they overlap (measured: below these the
#: cost falls without a reset at 0.08 and at 0.4 tilts a sample).
_LONGEST_STEP, _SHARED_STEP = 4.0, 0.6
#: The farthest that the defoci of a first alignment lie apart, in Å.
_SEARCH_STEP_A = 10.0


def make_model(spec: RunSpec, series: TiltSeries, say: Callable[[str], None]) -> Model:
    """The forward model that the reconstruction of ``series`` uses; its volume is c of V = g ∗ c for reg=atoms.

    ``say`` is told where it computes.
    """
    return choose_model(spec, series, blur_A=blur_A(spec), say=say)


def make_aligner(spec: RunSpec, series: TiltSeries, model: Model) -> forward.TiltAligner | None:
    """What finds where the tilts of ``series`` lie, and tells ``model``; None where ``spec`` does not ask for it."""
    if not spec.align.enabled or not isinstance(model, forward.ForwardModel):
        return None
    return forward.TiltAligner(model, series, spec.scale.shape_zxy, microscope=spec.microscope,
                               n_layers_per_slice=spec.binning.n_layers)


def align_when_due(spec: RunSpec, aligner: forward.TiltAligner, state: solve.State) -> bool:
    """Align all tilts before an iteration of ``spec.align.at``; True where momentum must start anew.

    It does after the first alignment alone: later ones change less, and the volume that follows them needs momentum.
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
    """Standard deviation of g in Å, as set or that of the narrowest atom; 0 without the atoms prior."""
    if spec.reg.kind != "atoms":
        return 0.0
    if spec.reg.blur_A is not None:
        return spec.reg.blur_A
    return narrowest_atom_A(spec.microscope, spec.scale.voxel_A, spec.sample.debye_waller_A2["default"])


def fit_volume(spec: RunSpec, model: Model, tilts: np.ndarray, weight: float, *, n_iterations: int,
               rng: np.random.Generator, on_iteration: Callable[[solve.State], None] | None = None,
               align: Callable[[solve.State], bool] | None = None, enough: Callable[[solve.State], str] | None = None,
               resume: solve.State | None = None) -> solve.Solution:
    """The volume (Z, X, Y) of ``model`` that fits ``tilts`` (indices), regularised with ``weight`` in 1/V.

    ``align`` is called before each iteration; it may change what ``model`` knows of the tilts and then returns True.
    ``enough`` tells after each iteration why it is the last, or nothing.
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
    """The first step in units of the inverse Lipschitz constant of one tilt.

    For the atoms prior, unless set, 4, or less where the planes of neighbouring tilts overlap at the Nyquist frequency:
    then several tilts of a pass step along the same direction. ``n_tilts`` planes share π N_x / 2 samples of a half
    circle; their steps together stay at 0.6 / (n_tilts / (π N_x / 2)).
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
