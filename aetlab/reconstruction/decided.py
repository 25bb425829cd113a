"""Decide once for all tiles what a fit would find by itself: the weight of the regulariser and the iterations.

``reg.weight=auto`` predicts held-out images, ``reg.iterations_factor`` counts that are left out, ``align=true`` finds
the poses of the tilts. Found tile by tile, they would differ at the seams; found in the middle tile, they are the same
for all. A weight by the rule is the same anyway. The poses come from a fit of the middle tile that ends with its last
alignment. An error of the tilt axis of φ moves what lies y away from the middle tile by φ y.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from aetlab.core.nouns import TiltSeries
from aetlab.core.poses import Poses
from aetlab.core.progress import Reporter
from aetlab.core.seeds import generator
from aetlab.core.tiling import cut_poses
from aetlab.reconstruction.fit import StagedFit, at_least_cost, fit_stages, make_model, settled_poses
from aetlab.reconstruction.iterations import find_iterations
from aetlab.reconstruction.left_out import without_held_images
from aetlab.reconstruction.refined_tiles import middle_of
from aetlab.reconstruction.resumable import Resumption
from aetlab.reconstruction.tiles import settings_of, tiles_of
from aetlab.reconstruction.weight import hold_out, regulariser_weight, rule_weight, smaller_problem
from aetlab.spec import RunSpec, TileSpec, leaves_counts_out


@dataclass(frozen=True)
class Decisions:
    """The weight per V of the regulariser and the number of iterations of every tile.

    ``poses`` are those of the whole sample, None unless they are aligned.
    """

    weight_per_V: float
    n_iterations: int
    poses: Poses | None = None

    def applied(self, settings: RunSpec) -> RunSpec:
        """Return ``settings`` with the decisions in place of what would find them."""
        return replace(settings, reg=replace(settings.reg, weight=self.weight_per_V, iterations_factor=0.0),
                       engine=replace(settings.engine, n_iterations=self.n_iterations))


def must_decide(spec: RunSpec) -> bool:
    """Return whether a fit to a tile of ``spec`` would find its weight, its iterations or its poses by itself."""
    return spec.reg.weight == "auto" or leaves_counts_out(spec) or spec.align.enabled


def decide(spec: RunSpec, series: TiltSeries, simulate: Callable[[RunSpec], TiltSeries],
           reporter: Reporter) -> Decisions:
    """Return the decisions for all tiles of ``spec``, from the ``series`` of the middle one.

    ``simulate`` is as in :func:`aetlab.reconstruction.weight.regulariser_weight`.
    """
    middle = middle_of(tiles_of(spec))
    settings = settings_of(spec, middle)
    series = without_held_images(settings, series)
    fitted, _ = hold_out(series, spec.reg.held_out, generator(spec.seed, "held out"))
    n_iterations = find_iterations(settings, series, fitted, reporter)
    whole = replace(spec, tile=TileSpec())
    if spec.reg.weight == "auto":
        # A needle is searched on a smaller one, as for a volume that is reconstructed at once.
        of_whole = smaller_problem(whole) is not None
        model = make_model(at_least_cost(settings), series, reporter.say)
        weight = regulariser_weight(whole if of_whole else settings, series, model, simulate, reporter)
    else:
        weight = rule_weight(spec, series) if isinstance(spec.reg.weight, str) else spec.reg.weight
    poses = None
    if spec.align.enabled:
        stages = fit_stages(settings, min(n_iterations, settled_poses(settings)))
        aligner = StagedFit(stages, series, fitted, Resumption(None, spec.seed), reporter).run(lambda _: weight).aligner
        poses = cut_poses(aligner.poses, -middle.offset_A(spec.scale.voxel_A)) if aligner else None
    return Decisions(float(weight), n_iterations, poses)
