"""From the files of a microscope to a measured series: read, ordered, prepared, with all that was found on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from aetlab.core.errors import SeriesError
from aetlab.core.files import unchanged
from aetlab.forward.reach import lateral_reach_A
from aetlab.series.collect import Collection, collect
from aetlab.series.facts import ImageFacts
from aetlab.series.frames import Region
from aetlab.series.imported import ImportedSeries
from aetlab.series.microscope import Microscope
from aetlab.series.prepare import Prepared, PrepareSpec, Step, prepare, record_collection
from aetlab.series.prepare.collected import axis_of
from aetlab.series.prepare.geometry import axis_search
from aetlab.series.prepare.sample_region import SMALL_PX, find_sample_region


def import_files(files: Sequence[Path | str], *, table: Path | str | None = None, microscope: Path | str | None = None,
                 elements: Sequence[str] | str = (), region: Region | None = None, pixel_A: float | None = None,
                 settings: PrepareSpec | None = None, say: Callable[[str], None] = lambda line: None) -> ImportedSeries:
    """Return the measured series of some files, prepared with the defaults or with ``settings``.

    Parameters are those of :func:`aetlab.series.collect.collect`; ``region`` is that of ``settings`` if not given, and
    where neither is given, that of the sample in large frames. Only the region is held in memory. ``say`` is called
    with one line for everything that was found, taken, overruled or guessed.

    Raises
    ------
    SeriesError
        If the files cannot be used, with the reason in one line.
    DataError
        If the images cannot be prepared.
    """
    settings = settings or PrepareSpec()
    if region is None and settings.region is not None:
        x_from, x_to, y_from, y_to = settings.region
        region = (slice(x_from, x_to), slice(y_from, y_to))
    with unchanged(*(Path(file) for file in (*files, table, microscope) if file is not None)) as digests:
        collection = collect(files, table, microscope, elements, region, pixel_A)
        scope = collection.microscope
        if scope is None:
            raise SeriesError("no microscope: give its energy and lens in a YAML file (--microscope)")
        if region is None and max(collection.shape_xy) > SMALL_PX and settings.vacuum != "rectangles":
            collection = _with_sample_region(collection, scope, settings)
        for note in collection.notes:
            say(note)
        prepared = prepare(record_collection(collection), replace(settings, region=None), overwrite=True)
    for step in prepared.steps:
        say(f"{step.name}: {step.line}" + ("" if step.verdict == "ok" else f" ({step.verdict})"))
    excluded = _excluded(collection, prepared)
    for name, reason in excluded.items():
        say(f"left out: {name}: {reason}")
    # An MTF counts in cycles per recorded pixel; the images may have larger ones.
    scope = scope.in_pixels(prepared.series.pixel_A / collection.pixel_A)
    # The directions of aberrations turn with the images, whose axis comes to lie along y unless the poses turn it.
    scope = scope.turned(float(prepared.poses.turn_deg[0, 2]) - prepared.axis_deg)
    return ImportedSeries(
        prepared.series, prepared.poses, scope.spec, scope.mtf, collection.elements,
        prepared.axis_deg, prepared.radius_A, {
            "files": _by_name(digests), "settings": asdict(settings),
            "notes": list(collection.notes), "steps": [_plain_step(step) for step in prepared.steps],
            "excluded": excluded, "aetlab": metadata.version("aetlab")},
        _facts(collection, prepared))


def _with_sample_region(collection: Collection, microscope: Microscope, settings: PrepareSpec) -> Collection:
    """Return the collection with the region of the sample, which is found in frames that are read one at a time."""
    used = (collection.grid >= 0) & (collection.weight > 0)
    frames = (collection.read(int(i_frame)) for i_frame in collection.grid[used])
    reach_A = max(lateral_reach_A(microscope.spec, defocus_A, 0.0, collection.pixel_A)
                  for defocus_A in np.unique(collection.defocus_A[used]))
    middle_deg, half_deg = axis_search(axis_of(collection), settings)
    axis_deg = None if middle_deg is None else (middle_deg - half_deg, middle_deg + half_deg)
    found = find_sample_region(frames, collection.shape_xy, collection.pixel_A, reach_A=reach_A, axis_deg=axis_deg)
    if found.rectangle is not None:
        x_from, x_to, y_from, y_to = found.rectangle
        collection = replace(collection, region=(slice(x_from, x_to), slice(y_from, y_to)),
                             shape_xy=(x_to - x_from, y_to - y_from))
    return replace(collection, notes=(*collection.notes, found.line))


def _by_name(digests: Mapping[Path, str]) -> dict[str, str]:
    """Return digests by the names of the files, or by their paths where two have the same name."""
    names = [path.name for path in digests]
    return {path.name if names.count(path.name) == 1 else str(path): digest for path, digest in digests.items()}


def _excluded(collection: Collection, prepared: Prepared) -> dict[str, str]:
    """Return the reason by name for each image that is left out."""
    reasons = {info.name: info.exclude for info in collection.infos if info.exclude}
    for (i_tilt, i_defocus), reason in prepared.excluded.items():
        reasons[collection.infos[collection.grid[i_tilt, i_defocus]].name] = reason
    return reasons


def _plain_step(step: Step) -> dict[str, Any]:
    numbers = {name: float(value) if math.isfinite(value) else None for name, value in step.numbers.items()}
    return {"name": step.name, "setting": step.setting, "line": step.line, "verdict": step.verdict, "numbers": numbers}


def _facts(collection: Collection, prepared: Prepared) -> ImageFacts:
    """Return the facts of an import."""
    grid, infos = collection.grid, collection.infos
    there = grid >= 0
    names = tuple(tuple(infos[i].name if i >= 0 else "" for i in row) for row in grid)
    tilt = np.array([info.tilt_deg for info in infos], float)
    order = np.array([info.order for info in infos])
    pictures = {f"{step.name}/{when}": np.asarray(picture, np.float32) for step in prepared.steps
                for when, picture in (("before", step.before), ("after", step.after)) if picture is not None}
    return ImageFacts(names, np.where(there, order[grid], -1), np.where(there, tilt[grid], np.nan),
                      np.where(there, collection.defocus_A / 10, np.nan), collection.dose_e_A2, prepared.measures,
                      prepared.shift_A, prepared.thumbnails, prepared.axis_curve, pictures)
