"""When a fit without a regulariser is to end: before it fits noise, which a part of the counts that it never saw tells.

Every count of the images is left out with the same chance. What is kept and what is left out are then Poisson counts of
the same images with independent noise, so that no tilt has to be missed. A fit to what is kept first comes to predict
what is left out, and then, as it takes its noise for sample, ever worse. Images are predicted best earlier than atoms
are found best, by a factor of about 2 in iterations in all cases of docs/engine.md: a search for atoms smooths the
volume, and takes less harm from noise than from peaks that are not yet sharp.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from aetlab import solve
from aetlab.core import parabola
from aetlab.core.backend import to_numpy
from aetlab.core.nouns import TiltSeries
from aetlab.core.progress import Reporter
from aetlab.core.seeds import generator
from aetlab.reconstruction.device import solver_parts
from aetlab.reconstruction.fit import fit_volume, make_model
from aetlab.reconstruction.weight import prediction_cost, rule_weight
from aetlab.spec import RunSpec, leaves_counts_out

#: Share of the counts that is left out; it is predicted for every fourth tilt.
LEFT_OUT, EVERY = 0.2, 4
#: Iterations without a better prediction after which no better one is waited for; those thrown away do not count.
PATIENCE = 2
#: Iterations that a fit takes at least: after one the volume leans to the tilts that came last.
LEAST = 2


def split_counts(images: np.ndarray, electrons_per_pixel: float | np.ndarray, share: float,
                 rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The counts of ``images`` that are kept and those left out, each count with the chance ``share``.

    ``electrons_per_pixel`` of a vacuum pixel is one number or an array that is broadcast to the shape of ``images``.
    Both are intensities like ``images``, vacuum 1. If the counts are Poisson, so are both, and independent.
    """
    counts = np.rint(images.astype(np.float64) * electrons_per_pixel).astype(np.int64)
    left_out = rng.binomial(counts, share)
    kept = (counts - left_out) / ((1 - share) * electrons_per_pixel)
    return kept.astype(np.float32), (left_out / (share * electrons_per_pixel)).astype(np.float32)


def find_iterations(spec: RunSpec, series: TiltSeries, tilts: np.ndarray, reporter: Reporter) -> int:
    """Iterations of the fit of ``tilts`` (indices) of ``series``: ``spec.reg.iterations_factor`` times those that
    predict best, ``spec.engine.n_iterations`` at most; all of them where that is 0, without noise, and with align=true.
    """
    most = spec.engine.n_iterations
    if not leaves_counts_out(spec):
        return most
    costs = _costs_of_prediction(spec, series, tilts, reporter)
    if not _n_changes(costs):
        return most
    best = vertex(costs)
    found = min(max(round(spec.reg.iterations_factor * best), LEAST), most)
    reporter.say(f"a fifth of the counts is left out and predicted best after {best:.1f} iterations; "
                 f"the fit takes {found}")
    return found


def vertex(costs: list[float]) -> float:
    """Where a parabola through the least of ``costs`` and its neighbours is least: a place between 0 and the last."""
    least = int(np.argmin(costs))
    if not 0 < least < len(costs) - 1:
        return float(least)
    return least + float(parabola.vertex(*costs[least - 1 : least + 2]).place)


def _n_changes(costs: list[float]) -> int:
    """Iterations that changed the volume: one that diverged, or raised the cost, leaves it and its prediction."""
    return sum(one != other for one, other in pairwise(costs))


def _costs_of_prediction(spec: RunSpec, series: TiltSeries, tilts: np.ndarray, reporter: Reporter) -> list[float]:
    """Cost of the counts left out before the first iteration and after each, until they rise."""
    model = make_model(spec, _with_counts_left_out(spec, series, tilts), lambda text: None)
    predicted = np.arange(len(tilts), model.n_tilts)
    costs = [prediction_cost(model, solver_parts(model).zeros(spec.scale.shape_zxy), predicted)]

    def worse(state: solve.State) -> str:
        costs.append(prediction_cost(model, state.proximal, predicted))
        reporter.step("split", state.n_done, spec.engine.n_iterations, f"predicts at a cost of {costs[-1]:.6g}")
        return "predicts worse" if _n_changes(costs[int(np.argmin(costs)):]) >= PATIENCE else ""

    weight = spec.reg.weight if isinstance(spec.reg.weight, float) else rule_weight(spec, series)
    fit_volume(spec, model, np.arange(len(tilts)), weight, n_iterations=spec.engine.n_iterations,
               rng=generator(spec.seed, "tilt order"), enough=worse)
    return costs


def _with_counts_left_out(spec: RunSpec, series: TiltSeries, tilts: np.ndarray) -> TiltSeries:
    """What is kept of the counts of ``tilts``; behind it, as further tilts, what is left out of every fourth."""
    seen = tilts[::EVERY]
    images = np.empty((len(tilts) + len(seen), *series.images.shape[1:]), np.float32)
    rng = generator(spec.seed, "counts left out")
    for i, i_tilt in enumerate(tilts):
        electrons = series.electrons_per_pixel[i_tilt][:, None, None]
        images[i], left_out = split_counts(to_numpy(series.sound_images(i_tilt)), electrons, LEFT_OUT, rng)
        if i % EVERY == 0:
            # The mean root of a count and a quarter is the root of its mean, to first order.
            quarter = 0.25 / (LEFT_OUT * electrons) if spec.engine.likelihood == "amplitude" else 0.0 * electrons
            images[len(tilts) + i // EVERY] = left_out + quarter.astype(np.float32)
    both = np.concatenate([tilts, seen])
    # The weights of the whole series, whatever electrons the tilts chosen have.
    return TiltSeries(images, series.tilt_deg[both], series.defocus_A[both], series.pixel_A,
                      electrons_per_pixel=(1 - LEFT_OUT) * series.mean_electrons_per_pixel,
                      weight=series.image_weights[both],
                      pixel_weight=None if series.pixel_weight is None else series.pixel_weight[both])
