"""Leave images out of a run, so that its final model can predict what it has never seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from aetlab.core.nouns import TiltSeries
from aetlab.core.seeds import generator
from aetlab.spec import RunSpec

#: Fewest tilts that remain with an image.
LEAST_TILTS = 2


def held_images(spec: RunSpec, series: TiltSeries) -> np.ndarray:
    """Return which images of ``series`` no step is fitted to, bool (T, F): the share ``spec.data.held_out``.

    Without a validation, which predicts them, there are none. They are drawn with the seed, at least one if the share
    is above 0 and at most one of a tilt. A tilt keeps an image, which gives its pose, unless the series has one image
    for each tilt; then whole tilts are left out.
    """
    present = series.weight > 0
    held = np.zeros(present.shape, bool)
    if spec.validate.kind == "none" or spec.data.held_out == 0:
        return held
    rng = generator(spec.seed, "images held out")
    alone = present.sum(axis=1) == 1
    tilts = np.flatnonzero(present.any(axis=1) & (~alone if series.n_defoci > 1 else alone))
    n_most = len(tilts) if series.n_defoci > 1 else len(tilts) - LEAST_TILTS
    n_held = min(max(round(spec.data.held_out * int(present.sum())), 1), max(n_most, 0))
    for i_tilt in rng.choice(tilts, n_held, replace=False) if n_held else ():
        held[i_tilt, rng.choice(np.flatnonzero(present[i_tilt]))] = True
    return held


def without_held_images(spec: RunSpec, series: TiltSeries, say: Callable[[str], None] | None = None) -> TiltSeries:
    """Return ``series`` with the weight 0 for the images of :func:`held_images`; itself if there are none.

    ``say`` receives a line on their number, and on whole tilts that are left out.
    """
    held = held_images(spec, series)
    if say is not None and spec.validate.kind != "none" and spec.data.held_out > 0:
        say(_describe(spec, series, held))
    return replace(series, weight=np.where(held, 0.0, series.weight)) if held.any() else series


def _describe(spec: RunSpec, series: TiltSeries, held: np.ndarray) -> str:
    present = series.weight > 0
    n_held, n_images = int(held.sum()), int(present.sum())
    line = f"data.held_out={spec.data.held_out:g} leaves out {n_held} of {n_images} images"
    if n_held < round(spec.data.held_out * n_images):
        line += ": at most one of a tilt, and no image that a tilt or the series needs"
    n_tilts = int((held.any(axis=1) & ~(present & ~held).any(axis=1)).sum())
    if n_tilts:
        line += (f": with one image for each tilt, {n_tilts} whole tilts are missing from the reconstruction, which "
                 "widens the steps between the others")
    return line
