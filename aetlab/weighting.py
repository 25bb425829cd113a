"""The weight of a regulariser: as set, by the written rule, or from images that are left out of the fit and predicted.

``reg.weight=auto`` needs no truth. Some tilts are held out; for a few weights the others are fitted in a short run and
the images held out predicted. Too small a weight fits noise, too great a one loses the sample: both predict worse. The
cost of the prediction is walked downhill in factors of 2 from the rule's weight, and the bottom found by a parabola.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from aetlab import physics, solve
from aetlab.data import TiltSeries
from aetlab.engine import Model
from aetlab.fitting import fit_volume
from aetlab.progress import Reporter
from aetlab.seeds import generator
from aetlab.spec import RunSpec

#: Share of the tilts that ``auto`` holds out, and iterations of each of its short runs.
HELD_OUT, TRIAL_ITERATIONS = 0.1, 15
#: Weights that ``auto`` tries at most.
TRIALS_MAX = 9


def hold_out(n_tilts: int, fraction: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the tilts that are fitted and of those that are held out, both ascending.

    At least one tilt is held out where ``fraction`` > 0, never the first or the last, and at least two are fitted.
    """
    n_held = min(max(round(fraction * n_tilts), 1), n_tilts - 2) if fraction > 0 else 0
    held = np.sort(rng.choice(np.arange(1, n_tilts - 1), n_held, replace=False)) if n_held else np.zeros(0, np.int64)
    return np.setdiff1d(np.arange(n_tilts), held), held


def prediction_cost(model: Model, volume: np.ndarray, tilts: np.ndarray) -> float:
    """Mean cost of a tilt of ``tilts``, which the volume was not fitted to."""
    return float(np.mean([model.cost(volume, int(i_tilt)) for i_tilt in tilts]))


def rule_weight(spec: RunSpec, series: TiltSeries) -> float:
    """The weight per V of the written rule (:func:`aetlab.solve.rule_weight`)."""
    n_tilts, n_defoci = series.images.shape[:2]
    return solve.rule_weight(spec.reg.rule_factor, voxel_A=spec.scale.voxel_A, n_images=n_tilts * n_defoci,
                             interaction=physics.interaction_parameter(spec.microscope.energy_keV),
                             electrons_per_pixel=series.electrons_per_pixel)


def regulariser_weight(spec: RunSpec, series: TiltSeries, model: Model, reporter: Reporter) -> float:
    """The weight per V that ``spec.reg.weight`` asks for: a number, ``rule`` or ``auto``."""
    if isinstance(spec.reg.weight, float):
        return spec.reg.weight
    by_rule = rule_weight(spec, series)
    if spec.reg.weight == "rule" or by_rule == 0:
        return by_rule
    fitted, held = hold_out(model.n_tilts, HELD_OUT, generator(spec.seed, "held out"))

    def trial(weight: float) -> float:
        solution = fit_volume(spec, model, fitted, weight, n_iterations=TRIAL_ITERATIONS,
                              rng=generator(spec.seed, "tilt order"))
        cost = prediction_cost(model, solution.volume, held)
        reporter.say(f"weight {weight:.3g} per V: {len(held)} tilts held out are predicted at a cost of {cost:.6g}")
        return cost

    return search_weight(trial, by_rule)


def search_weight(trial: Callable[[float], float], start: float, trials_max: int = TRIALS_MAX) -> float:
    """The weight of least ``trial(weight)``: factors of 2 downhill from ``start``, then a parabola in its logarithm."""
    costs = {k: trial(start * 2.0**k) for k in (0, -1, 1)}
    best = min(costs, key=lambda k: costs[k])
    while len(costs) < trials_max and not {best - 1, best + 1} <= set(costs):
        k = best - 1 if best - 1 not in costs else best + 1
        costs[k] = trial(start * 2.0**k)
        best = min(costs, key=lambda k: costs[k])
    if not {best - 1, best + 1} <= set(costs):
        return start * 2.0**best
    below, here, above = (costs[best + d] for d in (-1, 0, 1))
    bend = below - 2 * here + above
    shift = 0.5 * (below - above) / bend if bend > 0 and math.isfinite(bend) else 0.0
    return start * 2.0 ** (best + shift)
