"""Find the number of iterations of a fit without a regulariser, so that it ends before it fits noise.

Each count of the images is left out with the same probability. The kept and the left-out counts are then Poisson counts
of the same images with independent noise, and no tilt has to be held out. The prediction of the left-out counts by a
fit to the kept counts first improves, and becomes worse when the fit begins to reproduce noise. Images are predicted
best earlier than atoms are found best, by a factor of about 2 in iterations in all cases of docs/engine.md: tracing
smooths the volume, and noise harms it less than peaks that are not sharp yet.
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
from aetlab.methods.likelihoods import LIKELIHOODS
from aetlab.reconstruction.device import solver_parts
from aetlab.reconstruction.fit import at_least_cost, fit_volume, make_model
from aetlab.reconstruction.resumable import Resumption
from aetlab.reconstruction.weight import prediction_cost, rule_weight
from aetlab.spec import RunSpec, leaves_counts_out

#: Fraction of the counts that is left out, and step between the tilts whose left-out counts are predicted.
LEFT_OUT, EVERY = 0.2, 4
#: Iterations without a better prediction after which the search ends; rejected iterations do not count.
PATIENCE = 2
#: Minimum iterations of a fit: after one iteration the volume is biased towards the last tilts.
LEAST = 2


def split_counts(images: np.ndarray, electrons_per_pixel: float | np.ndarray, share: float,
                 rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Split the counts of ``images`` into kept and left-out counts; each is left out with the probability ``share``.

    ``electrons_per_pixel`` of a vacuum pixel is one number or an array that broadcasts to the shape of ``images``. Both
    results are intensities like ``images``, vacuum 1. If the counts are Poisson, both results are Poisson and
    independent.
    """
    counts = np.rint(images.astype(np.float64) * electrons_per_pixel).astype(np.int64)
    left_out = rng.binomial(counts, share)
    kept = (counts - left_out) / ((1 - share) * electrons_per_pixel)
    return kept.astype(np.float32), (left_out / (share * electrons_per_pixel)).astype(np.float32)


def find_iterations(spec: RunSpec, series: TiltSeries, tilts: np.ndarray, reporter: Reporter,
                    resumption: Resumption | None = None) -> int:
    """Return the number of iterations of the fit to ``tilts`` (indices) of ``series``.

    It is ``spec.reg.iterations_factor`` times the number that predicts best, and at most ``spec.engine.n_iterations``.
    It is ``spec.engine.n_iterations`` if the factor is 0, without noise, and with align=true. An interrupted search
    continues from ``resumption``, and one that is complete is not repeated.
    """
    most = spec.engine.n_iterations
    resumption = resumption or Resumption(None, spec.seed)
    if "n_iterations" in resumption.notes:
        return int(resumption.notes["n_iterations"])
    if not leaves_counts_out(spec):
        if spec.reg.iterations_factor > 0 and spec.data.kind == "measured":
            reporter.say(f"prepared images are no counts that could be left out: the fit takes all {most} iterations")
        return most
    reporter.step("split", 0, most)
    costs, settled = _costs_of_prediction(spec, series, tilts, reporter, resumption)
    reporter.step("split", len(costs) - 1, len(costs) - 1)
    if not _n_changes(costs[settled:]):
        return most
    best = settled + vertex(costs[settled:])
    found = min(max(round(spec.reg.iterations_factor * best), LEAST), most)
    reporter.say(f"a fifth of the counts is left out and predicted best after {best:.1f} iterations; "
                 f"the fit takes {found}")
    return found


def vertex(costs: list[float]) -> float:
    """Return the index at the minimum of a parabola through the least of ``costs`` and its neighbours.

    The index is a real number from 0 to that of the last cost.
    """
    least = int(np.argmin(costs))
    if not 0 < least < len(costs) - 1:
        return float(least)
    return least + float(parabola.vertex(*costs[least - 1 : least + 2]).place)


def _n_changes(costs: list[float]) -> int:
    """Return the number of iterations that changed the volume.

    An iteration that diverged or raised the cost leaves the volume and its prediction unchanged.
    """
    return sum(one != other for one, other in pairwise(costs))


def _costs_of_prediction(spec: RunSpec, series: TiltSeries, tilts: np.ndarray, reporter: Reporter,
                         resumption: Resumption) -> tuple[list[float], int]:
    """Return the costs of the left-out counts before the first iteration and after each, until they rise.

    The second value is the number of iterations after which the regulariser is settled, whose costs alone are judged.
    """
    spec = at_least_cost(spec)
    model = make_model(spec, _with_counts_left_out(spec, series, tilts), lambda text: None)
    predicted = np.arange(len(tilts), model.n_tilts)
    rng, saved = resumption.begin("split")
    costs = resumption.notes["costs"] if saved else [
        prediction_cost(model, solver_parts(model).zeros(spec.scale.shape_zxy), predicted)]

    settled = 0

    def worse(state: solve.State, not_before: int) -> str:
        nonlocal settled
        settled = not_before
        costs.append(prediction_cost(model, state.proximal, predicted))
        reporter.step("split", state.n_done, spec.engine.n_iterations, f"predicts at a cost of {costs[-1]:.6g}")
        judged = costs[settled:]
        return "predicts worse" if judged and _n_changes(judged[int(np.argmin(judged)):]) >= PATIENCE else ""

    weight = spec.reg.weight if isinstance(spec.reg.weight, float) else rule_weight(spec, series)
    fit_volume(spec, model, np.arange(len(tilts)), weight, n_iterations=spec.engine.n_iterations, rng=rng, enough=worse,
               on_iteration=lambda state: resumption.keep("split", state, rng, {"costs": costs}), resume=saved)
    return costs, settled


def _with_counts_left_out(spec: RunSpec, series: TiltSeries, tilts: np.ndarray) -> TiltSeries:
    """Return the series of the kept counts of ``tilts``, followed by the left-out counts of every fourth as tilts."""
    seen = tilts[::EVERY]
    images = np.empty((len(tilts) + len(seen), *series.images.shape[1:]), np.float32)
    rng = generator(spec.seed, "counts left out")
    for i, i_tilt in enumerate(tilts):
        electrons = series.electrons_per_pixel[i_tilt][:, None, None]
        images[i], left_out = split_counts(to_numpy(series.sound_images(i_tilt)), electrons, LEFT_OUT, rng)
        if i % EVERY == 0:
            added = LIKELIHOODS[spec.engine.likelihood].added_counts / (LEFT_OUT * electrons)
            images[len(tilts) + i // EVERY] = left_out + added.astype(np.float32)
    both = np.concatenate([tilts, seen])
    # Keep the weights of the whole series, whatever the electrons of the chosen tilts are.
    return TiltSeries(images, series.tilt_deg[both], series.defocus_A[both], series.pixel_A,
                      electrons_per_pixel=(1 - LEFT_OUT) * series.mean_electrons_per_pixel,
                      weight=series.image_weights[both],
                      pixel_weight=None if series.pixel_weight is None else series.pixel_weight[both])
