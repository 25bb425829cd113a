"""Split a tilt series into two independent halves, and reconstruct and trace each with the settings of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from aetlab import flow
from aetlab.core.backend import to_numpy
from aetlab.core.nouns import Reconstruction, RefinedAtoms, TiltSeries, TracedAtoms
from aetlab.core.pairing import register_atoms
from aetlab.core.progress import NamedReporter, Reporter
from aetlab.core.seeds import generator
from aetlab.reconstruction.iterations import split_counts
from aetlab.reconstruction.left_out import without_held_images
from aetlab.reconstruction.weight import rule_weight
from aetlab.spec import RunSpec, SpecError
from aetlab.validation.agreement import NamedPlaces

#: Fewest tilts with an image that a half can be reconstructed from.
LEAST_TILTS = 2


@dataclass(frozen=True)
class Half:
    """A half of the data: its reconstruction, traced atoms, and refined atoms where they were asked for."""

    reconstruction: Reconstruction
    traced: TracedAtoms
    refined: RefinedAtoms | None = None

    def places(self, *, refined: bool) -> NamedPlaces:
        """Return the atoms to compare, the ``refined`` or the traced ones, without sites that are no atom."""
        atoms = self.refined if refined and self.refined is not None else self.traced
        named = atoms.numbers > 0
        return NamedPlaces(atoms.positions_A[named], atoms.numbers[named])


def split_of(spec: RunSpec, series: TiltSeries) -> str:
    """Return how the halves of a run are made, counts or images: as set, or what suits the data."""
    if spec.validate.split != "auto":
        return spec.validate.split
    return "images" if spec.data.kind == "measured" or np.isinf(series.mean_electrons_per_pixel) else "counts"


def split_series(spec: RunSpec, series: TiltSeries) -> tuple[TiltSeries, TiltSeries]:
    """Return two halves of ``series`` with independent noise.

    Counts: each count is given to one half at random, with the seed of the run; images that are Poisson counts give two
    images of independent Poisson counts. Images: those of a tilt alternate between the halves, and so do neighbouring
    tilts, like the fields of a chessboard; a series with one image for each tilt is split into every other tilt.

    Raises
    ------
    SpecError
        If a half has images of fewer than two tilts.
    """
    series = without_held_images(spec, series)
    if split_of(spec, series) == "counts":
        rng = generator(spec.seed, "halves")
        images = np.zeros((2, *series.images.shape), np.float32)
        for i_tilt in range(series.n_tilts):
            electrons = series.electrons_per_pixel[i_tilt][:, None, None]
            images[:, i_tilt] = split_counts(to_numpy(series.sound_images(i_tilt)), electrons, 0.5, rng)
        first, second = (replace(series, images=part, electrons_per_pixel=series.electrons_per_pixel / 2)
                         for part in images)
        return first, second
    rank = np.argsort(np.argsort(series.tilt_deg, kind="stable"))
    odd = (rank[:, None] + np.arange(series.n_defoci)) % 2 == 1
    weights = [np.where(odd == own, series.weight, 0.0) for own in (False, True)]
    n_tilts = min(int((weight > 0).any(axis=1).sum()) for weight in weights)
    if n_tilts < LEAST_TILTS:
        raise SpecError(f"validate.split={split_of(spec, series)!r} cannot be used: a half of alternate images has "
                        f"{n_tilts} tilts, and {LEAST_TILTS} are needed; choose validate=images")
    first, second = (replace(series, weight=weight) for weight in weights)
    return first, second


def settings_of_half(spec: RunSpec, series: TiltSeries, half: TiltSeries, whole: Reconstruction) -> RunSpec:
    """Return the settings of a half: those of the run, with what the whole reconstruction has found.

    The number of iterations is that of the whole. The weight of the regulariser is that of the whole, times what the
    written rule asks for at the dose of the half.
    """
    by_rule = rule_weight(spec, series)
    weight = whole.weight_per_V * (rule_weight(spec, half) / by_rule if by_rule > 0 else 1.0)
    return replace(
        spec, reg=replace(spec.reg, weight=float(weight), iterations_factor=0.0), data=replace(spec.data, held_out=0.0),
        engine=replace(spec.engine, n_iterations=max(len(whole.cost), 1)))


def make_halves(spec: RunSpec, series: TiltSeries, whole: Reconstruction, *, elements: Sequence[int],
                progress: Reporter) -> list[Half]:
    """Return both halves of a run, reconstructed, traced and, on request, refined."""
    halves = []
    for k, half in enumerate(split_series(spec, series), 1):
        settings = settings_of_half(spec, series, half, whole)
        reporter = NamedReporter(progress, f"half {k}")
        reconstruction = flow.reconstruct(settings, half, progress=reporter)
        traced = flow.trace(settings, reconstruction, elements=elements, progress=reporter)
        refined = None
        if spec.validate.refined and spec.refine.kind != "none":
            refined = flow.refine(settings, half, reconstruction, traced, elements=elements, progress=reporter)
        halves.append(Half(reconstruction, traced, refined))
    return halves


def registered(moving: NamedPlaces, fixed: NamedPlaces, max_distance_A: float) -> NamedPlaces:
    """Return ``moving`` after the rigid motion that fits its atoms to those of ``fixed``.

    Images determine neither the place of a sample nor its turn about the tilt axis where the tilts are aligned.
    """
    rotation, shift_A = register_atoms(moving.positions_A, fixed.positions_A, max_distance_A)
    return replace(moving, positions_A=moving.positions_A @ rotation.T + shift_A)
