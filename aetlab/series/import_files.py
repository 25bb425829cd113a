"""From the files of a microscope to a measured series: read, ordered, prepared, with all that was found on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from aetlab.core.files import unchanged
from aetlab.series.collect import Collection, collect
from aetlab.series.errors import SeriesError
from aetlab.series.frames import Region
from aetlab.series.imported import ImportedSeries
from aetlab.series.prepare import Prepared, PrepareSpec, Step, prepare, record_collection


def import_files(files: Sequence[Path | str], *, table: Path | str | None = None, microscope: Path | str | None = None,
                 elements: Sequence[str] | str = (), region: Region | None = None, pixel_A: float | None = None,
                 settings: PrepareSpec | None = None, say: Callable[[str], None] = lambda line: None) -> ImportedSeries:
    """Return the measured series of some files, prepared with the defaults or with ``settings``.

    Parameters are those of :func:`aetlab.series.collect.collect`; ``say`` is called with one line for everything that
    was found, taken, overruled or guessed.

    Raises
    ------
    SeriesError
        If the files cannot be used, with the reason in one line.
    DataError
        If the images cannot be prepared.
    """
    settings = settings or PrepareSpec()
    with unchanged(*(Path(file) for file in (*files, table, microscope) if file is not None)) as digests:
        collection = collect(files, table, microscope, elements, region, pixel_A)
        for note in collection.notes:
            say(note)
        if collection.microscope is None:
            raise SeriesError("no microscope: give its energy and lens in a YAML file (--microscope)")
        prepared = prepare(record_collection(collection), settings, overwrite=True)
    for step in prepared.steps:
        say(f"{step.name}: {step.line}" + ("" if step.verdict == "ok" else f" ({step.verdict})"))
    # An MTF counts in cycles per recorded pixel; the images may have larger ones.
    scope = collection.microscope.in_pixels(prepared.series.pixel_A / collection.pixel_A)
    return ImportedSeries(
        prepared.series, prepared.poses, scope.spec, scope.mtf, collection.elements,
        prepared.axis_deg, prepared.radius_A, {
            "files": _by_name(digests), "settings": asdict(settings),
            "notes": list(collection.notes), "steps": [_plain_step(step) for step in prepared.steps],
            "excluded": _excluded(collection, prepared), "aetlab": metadata.version("aetlab")})


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
