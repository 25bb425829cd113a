"""Choose the weight of a regulariser: as set, by the written rule, or by the prediction of held-out images.

``reg.weight=auto`` needs no truth. Some tilts are held out. For a few weights, a short run fits the other tilts and
predicts the held-out images. A small weight fits noise, a large weight suppresses the sample; both predict worse. The
search starts from the rule's weight, descends in factors of 2, and finds the minimum of the cost with a parabola.

For a large needle the search uses a smaller needle with the same sampling density and the same dose per image. The
ratio of the best weight to the rule's weight is transferred to the large needle (:func:`smaller_problem`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from aetlab import solve
from aetlab.core import parabola, physics
from aetlab.core.nouns import TiltSeries
from aetlab.core.progress import Reporter
from aetlab.core.seeds import generator
from aetlab.reconstruction.fit import at_least_cost, fit_volume, make_model
from aetlab.reconstruction.model import Model
from aetlab.reconstruction.resumable import Resumption
from aetlab.spec import RunSpec, tilt_angles_deg, with_fewer_tilts

#: Fraction of the tilts that ``auto`` holds out, and iterations of each of its short runs.
HELD_OUT, TRIAL_ITERATIONS = 0.1, 15
#: Maximum number of weights that ``auto`` tries.
TRIALS_MAX = 9
#: Minimum width in voxels and number of tilts of the smaller problem, and minimum factor of its reduction.
LEAST_WIDTH, LEAST_TILTS, LEAST_SHRINK = 120, 12, 1.5


def hold_out(series: TiltSeries, fraction: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the fitted tilts and of the held-out tilts, both ascending.

    If ``fraction`` > 0, at least one tilt is held out, never that of the smallest or the largest angle, and at least
    two are fitted. Tilts without any image of weight > 0 are in neither.
    """
    seen = np.flatnonzero(series.weight.max(axis=1) > 0)
    inner = np.sort(seen[np.argsort(series.tilt_deg[seen], kind="stable")][1:-1])
    n_held = min(max(round(fraction * len(seen)), 1), len(seen) - 2) if fraction > 0 else 0
    held = np.sort(rng.choice(inner, n_held, replace=False)) if n_held > 0 else np.zeros(0, np.int64)
    return np.setdiff1d(seen, held), held


def prediction_cost(model: Model, volume: np.ndarray, tilts: np.ndarray) -> float:
    """Return the mean cost per tilt of ``tilts``, to which the volume was not fitted."""
    return float(np.mean([model.cost(volume, int(i_tilt)) for i_tilt in tilts]))


def rule_weight(spec: RunSpec, series: TiltSeries) -> float:
    """Return the weight per V of the written rule (:func:`aetlab.solve.rule_weight`)."""
    return solve.rule_weight(spec.reg.rule_factor, voxel_A=spec.scale.voxel_A,
                             interaction=physics.interaction_parameter(spec.microscope.energy_keV),
                             electrons_per_pixel=series.electrons_per_pixel, image_weights=series.image_weights)


def regulariser_weight(spec: RunSpec, series: TiltSeries, model: Model, simulate: Callable[[RunSpec], TiltSeries],
                       reporter: Reporter, resumption: Resumption | None = None,
                       found: Mapping[str, Any] | None = None) -> float:
    """Return the weight per V according to ``spec.reg.weight``: a number, ``rule`` or ``auto``.

    ``simulate`` returns the images of the smaller problem for its settings. An interrupted search continues from
    ``resumption``; ``found`` is what the stages before it have found.
    """
    if isinstance(spec.reg.weight, float):
        return spec.reg.weight
    by_rule = rule_weight(spec, series)
    if spec.reg.weight == "rule" or by_rule == 0:
        return by_rule
    small = smaller_problem(spec)
    if small is None:
        return predicting_weight(spec, series, model, reporter, resumption, found)
    reporter.say(f"the weight is found on a needle in {small.scale.shape_zxy} voxels with "
                 f"{small.tilts.n_tilts or len(tilt_angles_deg(small.tilts, small.wedge))} tilts")
    images = simulate(small)
    best = predicting_weight(small, images, make_model(at_least_cost(small), images, reporter.say), reporter,
                             resumption, found)
    return by_rule * best / rule_weight(small, images)


def smaller_problem(spec: RunSpec) -> RunSpec | None:
    """Return the settings of a smaller needle, or None if the needle of ``spec`` is already small.

    All lengths and the number of tilts are divided by the same factor. Voxels, defoci, wedge and dose per image stay
    the same, so that tilts are as sparse and images as noisy. Its atoms differ, since it has another seed. Return None
    also for a structure from a file, which cannot be made smaller.
    """
    scale, n_tilts = spec.scale, spec.tilts.n_tilts or len(tilt_angles_deg(spec.tilts, spec.wedge))
    shrink = min(min(scale.shape_zxy[:2]) / LEAST_WIDTH, n_tilts / LEAST_TILTS)
    if shrink < LEAST_SHRINK or spec.sample.kind != "needle":
        return None
    n_z, n_x, n_y = (max(8 * round(n / shrink / 8), 8) for n in scale.shape_zxy)
    tilts = with_fewer_tilts(spec.tilts, shrink)
    small = replace(
        spec, seed=(spec.seed + 1) % 2**63, sample=replace(spec.sample, vacancies=()), tilts=tilts,
        scale=replace(scale, shape_zxy=(n_z, n_x, n_y), core_radius_A=scale.core_radius_A / shrink,
                      shell_thickness_A=scale.shell_thickness_A / shrink, length_A=scale.length_A / shrink,
                      apex_gap_A=scale.apex_gap_A / shrink))
    share = len(tilt_angles_deg(tilts, spec.wedge)) / len(tilt_angles_deg(spec.tilts, spec.wedge))
    return replace(small, dose=replace(spec.dose, total_e_A2=spec.dose.total_e_A2 * share))


def predicting_weight(spec: RunSpec, series: TiltSeries, model: Model, reporter: Reporter,
                      resumption: Resumption | None = None, found: Mapping[str, Any] | None = None) -> float:
    """Return the weight per V with which a fit to most tilts of ``series`` best predicts the others.

    ``resumption`` and ``found`` are those of :func:`regulariser_weight`. Its notes hold the weights that were tried
    with their costs, and the weight of the trial that was interrupted.
    """
    fitted, held = hold_out(series, HELD_OUT, generator(spec.seed, "held out"))
    resumption = resumption or Resumption(None, spec.seed)
    saved_rng, saved = resumption.begin("weight")
    costs = {weight: cost for weight, cost in resumption.notes["trials"]} if saved else {}
    cut_off = resumption.notes["weight"] if saved else None
    if saved:
        reporter.say(f"goes on after {len(costs)} weights and iteration {saved.n_done} of {TRIAL_ITERATIONS} of the "
                     "next")

    def trial(weight: float) -> float:
        if weight in costs:
            return costs[weight]
        state = saved if weight == cut_off else None
        rng = saved_rng if state else generator(spec.seed, "tilt order")
        n_before = len(costs) * TRIAL_ITERATIONS

        def on_iteration(state: solve.State) -> None:
            reporter.step("weight", n_before + state.n_done, TRIALS_MAX * TRIAL_ITERATIONS, f"{weight:.3g} per V")
            resumption.keep("weight", state, rng, {**(found or {}), "trials": list(costs.items()), "weight": weight})

        solution = fit_volume(spec, model, fitted, weight, n_iterations=TRIAL_ITERATIONS, rng=rng, resume=state,
                              on_iteration=on_iteration)
        costs[weight] = prediction_cost(model, solution.volume, held)
        reporter.say(f"weight {weight:.3g} per V: {len(held)} tilts held out are predicted at a cost of "
                     f"{costs[weight]:.6g}")
        return costs[weight]

    best = search_weight(trial, rule_weight(spec, series))
    reporter.step("weight", len(costs) * TRIAL_ITERATIONS, len(costs) * TRIAL_ITERATIONS)
    return best


def search_weight(trial: Callable[[float], float], start: float, trials_max: int = TRIALS_MAX) -> float:
    """Return the weight that minimises ``trial(weight)``.

    Descend from ``start`` in factors of 2, then find the minimum of a parabola in the logarithm of the weight.
    """
    costs = {k: trial(start * 2.0**k) for k in (0, -1, 1)}
    best = min(costs, key=lambda k: costs[k])
    while len(costs) < trials_max and not {best - 1, best + 1} <= set(costs):
        k = best - 1 if best - 1 not in costs else best + 1
        costs[k] = trial(start * 2.0**k)
        best = min(costs, key=lambda k: costs[k])
    if not {best - 1, best + 1} <= set(costs):
        return start * 2.0**best
    shift = parabola.vertex(*(costs[best + d] for d in (-1, 0, 1))).place
    return start * 2.0 ** (best + float(shift))
