"""The sidecar table of a series (CSV): one row per image, with what no header holds.

Columns: ``file`` (name; may be left out where rows follow the images), ``frame`` (number of the image in its file, from
0), ``tilt_deg``, ``defocus_nm`` (overfocus positive), ``dose_e_A2`` (of this exposure), ``exclude`` (a reason to leave
the image out; empty: it is used). A cell left empty keeps what the header says. Lines that begin with # are comments.
"""

from __future__ import annotations

import csv
import difflib
import math
from dataclasses import dataclass, replace
from pathlib import Path

from aetlab.core.errors import SeriesError
from aetlab.series.angles import read_text
from aetlab.series.frames import FrameInfo

COLUMNS = ("file", "frame", "tilt_deg", "defocus_nm", "dose_e_A2", "exclude")
_NUMBERS = ("tilt_deg", "defocus_nm", "dose_e_A2")
#: Differences between table and headers that are rounding, not disagreement.
_ROUNDING = {"tilt_deg": 0.05, "defocus_nm": 0.5, "dose_e_A2": 0.01}
#: Most images or files that a message names.
_MOST_NAMED = 5
_NOT_EXCLUDED = ("", "0", "false", "no")


@dataclass(frozen=True)
class TableRow:
    """One row: ``file`` and ``frame`` are empty and None where the table leaves them out; the rest as in FrameInfo."""

    line: int
    file: str
    frame: int | None
    tilt_deg: float | None
    defocus_nm: float | None
    dose_e_A2: float | None
    exclude: str


def read_table(path: Path) -> tuple[TableRow, ...]:
    """Return the rows of a table.

    Raises
    ------
    SeriesError
        For an unknown or repeated column, a cell that is no number, a row of another length, or no rows.
    """
    lines = [(number, line) for number, line in enumerate(read_text(path).splitlines(), 1)
             if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise SeriesError(f"{path} is empty, wanted columns {', '.join(COLUMNS)}")
    cut = ";" if ";" in lines[0][1] else "\t" if "\t" in lines[0][1] else ","
    names = [name.strip() for name in next(csv.reader([lines[0][1]], delimiter=cut))]
    for name in names:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=1)
            raise SeriesError(f"{path}: unknown column {name[:40]!r}" + (f", did you mean {near[0]}?" if near else "")
                              + f"{'' if near else '.'} Columns are {', '.join(COLUMNS)}")
    if len(set(names)) != len(names):
        raise SeriesError(f"{path}: a column stands there twice")
    rows = []
    for number, line in lines[1:]:
        cells = [cell.strip() for cell in next(csv.reader([line], delimiter=cut))]
        if len(cells) != len(names):
            raise SeriesError(f"{path}, line {number}: {len(cells)} cells, wanted {len(names)}")
        rows.append(_row(path, number, dict(zip(names, cells))))
    if not rows:
        raise SeriesError(f"{path} has no rows")
    return tuple(rows)


def _row(path: Path, line: int, cells: dict[str, str]) -> TableRow:
    numbers: dict[str, float | None] = {}
    for name in _NUMBERS:
        text = cells.get(name, "")
        try:
            numbers[name] = float(text) if text else None
        except ValueError:
            numbers[name] = math.nan
        value = numbers[name]
        if value is not None and not math.isfinite(value):
            raise SeriesError(f"{path}, line {line}: {name} {text[:40]!r} is no number")
    if numbers["tilt_deg"] is not None and abs(numbers["tilt_deg"]) > 360:
        raise SeriesError(f"{path}, line {line}: tilt_deg {numbers['tilt_deg']:g} is no tilt angle")
    if numbers["dose_e_A2"] is not None and numbers["dose_e_A2"] < 0:
        raise SeriesError(f"{path}, line {line}: dose_e_A2 {numbers['dose_e_A2']:g} must not be negative")
    frame = cells.get("frame", "")
    if frame and not frame.isdecimal():
        raise SeriesError(f"{path}, line {line}: frame {frame[:40]!r} is no whole number from 0")
    exclude = cells.get("exclude", "")
    if exclude.casefold() in _NOT_EXCLUDED:
        exclude = ""
    elif exclude.casefold() in ("1", "true", "yes"):
        exclude = "excluded by the table"
    return TableRow(line, cells.get("file", ""), int(frame) if frame else None, numbers["tilt_deg"],
                    numbers["defocus_nm"], numbers["dose_e_A2"] or None, exclude)


def apply_table(path: Path, rows: tuple[TableRow, ...], infos: list[FrameInfo]) -> tuple[list[FrameInfo], list[str]]:
    """Return the facts of all images with those of the table in front, and a line for every disagreement.

    Raises
    ------
    SeriesError
        If rows and images do not match one to one.
    """
    if len(rows) != len(infos):
        raise SeriesError(f"{path} has {len(rows)} rows, the files hold {len(infos)} images"
                          + _without_row(path, rows, infos))
    joined: list[FrameInfo | None] = [None] * len(infos)
    apart: dict[str, list[str]] = {name: [] for name in _NUMBERS}
    for row, place in zip(rows, _match(path, rows, infos)):
        info = infos[place]
        if joined[place] is not None:
            raise SeriesError(f"{path}, line {row.line}: {info.name} has a row already")
        for name in _NUMBERS:
            new, old = getattr(row, name), getattr(info, name)
            if new is not None and old is not None and abs(new - old) > _ROUNDING[name] + 1e-3 * abs(new):
                apart[name].append(f"{info.name}: {new:g} against {old:g}")
        joined[place] = replace(
            info, tilt_deg=info.tilt_deg if row.tilt_deg is None else row.tilt_deg,
            defocus_nm=info.defocus_nm if row.defocus_nm is None else row.defocus_nm,
            dose_e_A2=info.dose_e_A2 if row.dose_e_A2 is None else row.dose_e_A2, exclude=row.exclude or info.exclude)
    notes = [f"{path.name}: {name} of {len(lines)} of {len(infos)} images differs from the headers; the table is used "
             f"({'; '.join(lines[:3])}{'; …' if len(lines) > 3 else ''})" for name, lines in apart.items() if lines]
    return [info for info in joined if info is not None], notes


def _without_row(path: Path, rows: tuple[TableRow, ...], infos: list[FrameInfo]) -> str:
    """Return the images that rows, which name file or frame, leave out."""
    if len(rows) > len(infos) or not all(row.frame is not None for row in rows):
        return ""
    there = set(_match(path, rows, infos))
    names = [info.name for place, info in enumerate(infos) if place not in there]
    return (f"; no row for {', '.join(names[:_MOST_NAMED])}{', …' if len(names) > _MOST_NAMED else ''}: an image that "
            "is not to be used has a row with a reason in the column exclude")


def _match(path: Path, rows: tuple[TableRow, ...], infos: list[FrameInfo]) -> list[int]:
    """Place in ``infos`` of each row: by file and frame, by file and order, by frame, or by order alone."""
    by_name: dict[str, list[int]] = {}
    for place, info in enumerate(infos):
        by_name.setdefault(info.source, []).append(place)
    if not any(row.file for row in rows):
        if not any(row.frame is not None for row in rows):
            return list(range(len(rows)))
        if len(by_name) > 1:
            raise SeriesError(f"{path}: there are {len(by_name)} files of images; give the column file")
    elif not all(row.file for row in rows):
        raise SeriesError(f"{path}: some rows name a file and some do not")
    used: dict[str, int] = {}
    places = []
    for row in rows:
        name = Path(row.file.replace("\\", "/")).name if row.file else infos[0].source
        if name not in by_name:
            raise SeriesError(f"{path}, line {row.line}: {row.file[:80]} is none of the files of images, "
                              f"{', '.join(list(by_name)[:_MOST_NAMED])}{', …' if len(by_name) > _MOST_NAMED else ''}")
        number = used.setdefault(name, 0) if row.frame is None else row.frame
        used[name] = used.get(name, 0) + 1
        if number >= len(by_name[name]):
            raise SeriesError(f"{path}, line {row.line}: {name} has no image {number}; it holds {len(by_name[name])}, "
                              "numbered from 0")
        places.append(by_name[name][number])
    return places
