"""Files of a microscope joined into one ordered set of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from aetlab.core.errors import SeriesError
from aetlab.series.angles import holds_angles
from aetlab.series.frames import FrameInfo, FrameSource, Region, check_region
from aetlab.series.microscope import Microscope, check_elements, read_microscope
from aetlab.series.ordering import order_frames
from aetlab.series.readers import open_frames
from aetlab.series.sidecars import Described, describe
from aetlab.series.table import apply_table, read_table

#: Pixels along x and y, or of two files, differ by rounding below the first, and are two sizes above the second.
_PIXEL_ROUNDING, _TWO_PIXELS = 1e-5, 1e-3
#: A frame is saturated where this part of its pixels has the greatest value of a converter of 8 to 16 bits.
_SATURATED_PART = 0.005
_CONVERTER_MAXIMA = frozenset(2**bits - 1 for bits in range(8, 17))
_MOST_NAMED = 5
#: The pixel in Å of a header that states none, and the start of the note that asks for the right one.
_PLACEHOLDER_A, PIXEL_DOUBT = 1.0, "pixel: "
#: Angles from which on their range says whether they are radians, and defocus in nm that is micrometres.
_SEVERAL, _TINY_DEFOCUS_NM = 5, 1.0


@dataclass(frozen=True)
class Collection:
    """Images in a grid of T tilts and F defoci; every image is read from its file when asked for.

    Parameters
    ----------
    sources : tuple of FrameSource
        The files.
    places : tuple of (int, int)
        For each image the number of its file in ``sources`` and its number in that file.
    infos : tuple of FrameInfo
        For each image the facts that hold: those of the table where it has them, else those of the headers.
    grid : int (T, F)
        Number of the image in each cell, into ``places`` and ``infos``; -1: no image. Excluded images stay in the grid.
    weight : float (T, F)
        1; 0 for an empty cell and for an excluded image.
    tilt_deg : float (T,)
        Tilt angle of each row, the mean over its images; rows are in rising order, repeated tilts behind each other.
    defocus_A : float (T, F)
        Defocus in Å, overfocus positive; in an empty cell the mean of its column.
    dose_e_A2 : float (T, F)
        Electrons per Å² of each exposure; NaN: not known.
    shape_xy : (int, int)
        Size of an image as read, (X, Y): that of ``region``.
    pixel_A : float
        Pixel in Å.
    region : (slice, slice) or None
        Part of each image that is read.
    microscope : Microscope or None
        The microscope, where a file or headers describe it.
    elements : tuple of str
        Elements of the sample; empty: not given.
    header : dict
        Facts that hold for all images, see :class:`~aetlab.series.frames.FrameSource`.
    notes : tuple of str
        One line for everything found, taken, overruled or guessed.
    """

    sources: tuple[FrameSource, ...]
    places: tuple[tuple[int, int], ...]
    infos: tuple[FrameInfo, ...]
    grid: np.ndarray
    weight: np.ndarray
    tilt_deg: np.ndarray
    defocus_A: np.ndarray
    dose_e_A2: np.ndarray
    shape_xy: tuple[int, int]
    pixel_A: float
    region: Region | None = None
    microscope: Microscope | None = None
    elements: tuple[str, ...] = ()
    header: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def n_frames(self) -> int:
        """Number of images."""
        return len(self.places)

    def read(self, i_frame: int) -> np.ndarray:
        """Return image ``i_frame``, float32 (X, Y), in the counts of its file."""
        i_source, index = self.places[i_frame]
        return self.sources[i_source].read(index, self.region)

    def read_all(self) -> np.ndarray:
        """Return all images, float32 (T, F, X, Y), in the counts of their files; 0 in empty cells."""
        images = np.zeros((*self.grid.shape, *self.shape_xy), np.float32)
        for i_tilt, i_defocus in np.argwhere(self.grid >= 0):
            images[i_tilt, i_defocus] = self.read(int(self.grid[i_tilt, i_defocus]))
        return images


def collect(files: Sequence[Path | str], table: Path | str | None = None, microscope: Path | str | None = None,
            elements: Sequence[str] | str = (), region: Region | None = None,
            pixel_A: float | None = None) -> Collection:
    """Join files of images, logs, angles and a table into one ordered set of images.

    Every value comes from the table where it has one, else from angle files, logs and headers, in this order; every
    disagreement becomes a note. All images (of ``region``) are looked at once.

    Parameters
    ----------
    files : sequence of paths
        Files of images, in the order of the table's rows if it names no files; SerialEM logs (.mdoc) and angle files
        (.rawtlt, .tlt) among them. Those with the name of a stack are found in its folder.
    table : path, optional
        The sidecar table, see :mod:`aetlab.series.table`.
    microscope : path, optional
        YAML file of the microscope, see :func:`~aetlab.series.microscope.read_microscope`.
    elements : sequence of str
        Elements of the sample; those of the microscope's file if empty.
    region : (slice, slice), optional
        Part of each image to read, x and y.
    pixel_A : float, optional
        Pixel in Å; overrules that of the microscope's file, which overrules headers.

    Raises
    ------
    SeriesError
        If a file cannot be read; images and rows differ in number; a tilt angle, a defocus or the pixel is missing;
        there are two sizes of images or pixels; or images hold NaN, are saturated, or are of the wrong kind.
    """
    images, logs, angles = _sort_files([Path(file) for file in files])
    notes: list[str] = []
    sources = _open_all(images, notes)
    described = describe(sources, logs, angles)
    for item in described:
        notes += item.notes
    header = _join_headers(described, notes)
    infos = _all_infos(described, notes)
    if table is not None:
        infos, lines = apply_table(Path(table), read_table(Path(table)), infos)
        notes += lines
    _require(infos, "tilt_deg", "tilt angle", "a table, or a file of angles (.rawtlt)", notes)
    _require(infos, "defocus_nm", "defocus", "a table with the column defocus_nm", notes)
    notes += _doubt_units(infos)
    scope, named = _microscope(microscope, header, elements)
    notes += scope.notes if scope else ("no microscope is given",)
    side_A = _pixel(described, pixel_A, scope.pixel_A if scope else None, notes)
    shape_xy = sources[0].shape_xy
    if region is not None:
        region = check_region(region, shape_xy)
        shape_xy = (region[0].stop - region[0].start, region[1].stop - region[1].start)
        notes.append(f"of each image x {region[0].start} to {region[0].stop} and y {region[1].start} to "
                     f"{region[1].stop} are read")
    places = [(i, k) for i, source in enumerate(sources) for k in range(source.n_frames)]
    notes += _check_values(sources, places, infos, region)
    grid = order_frames(infos)
    return Collection(tuple(sources), tuple(places), tuple(infos), grid.index, grid.weight, grid.tilt_deg,
                      grid.defocus_A, grid.dose_e_A2, shape_xy, side_A, region, scope, named, header,
                      (*notes, *grid.notes))


def _sort_files(files: list[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    """Return the files of images, the logs and the files of angles."""
    for file in files:
        if not file.is_file():
            raise SeriesError(f"{file} is {'a folder; name its files' if file.is_dir() else 'not there'}")
        if file.suffix.lower() in (".csv", ".yaml", ".yml"):
            raise SeriesError(f"{file} is no file of images; give it as the table or the microscope")
    logs = [file for file in files if file.suffix.lower() == ".mdoc"]
    angles = [file for file in files if holds_angles(file)]
    images = [file for file in files if file not in logs and file not in angles]
    if not images:
        raise SeriesError("no file of images is given")
    names = [file.name for file in images]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SeriesError(f"{twice[0]} is given twice; files of images need different names")
    return images, logs, angles


def _open_all(images: list[Path], notes: list[str]) -> list[FrameSource]:
    stems = [file.stem for file in images if file.suffix.lower() == ".emi"]
    kept = [file for file in images if not (file.suffix.lower() == ".ser"
                                            and any(file.stem.startswith(f"{stem}_") for stem in stems))]
    notes += [f"{file.name} is read through its EMI file" for file in images if file not in kept]
    sources = [open_frames(file) for file in kept]
    first = sources[0]
    for source in sources:
        if source.header.get("mode") == "STEM":
            raise SeriesError(f"{source.path} holds images of a scanned probe (STEM), wanted images of TEM")
        if source.shape_xy != first.shape_xy:
            raise SeriesError(f"{source.path} holds images of {source.shape_xy[0]} x {source.shape_xy[1]} pixels, "
                              f"{first.path.name} of {first.shape_xy[0]} x {first.shape_xy[1]}")
    return sources


def _join_headers(described: list[Described], notes: list[str]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for item in described:
        if item.header.get("mode") == "STEM":
            raise SeriesError(f"{item.source.path}: its log describes images of a scanned probe (STEM), wanted images "
                              "of TEM")
        for key, value in item.header.items():
            if key in joined and joined[key] != value:
                notes.append(f"{item.source.path.name}: {key} is {value}; {joined[key]} of another file is used")
            joined.setdefault(key, value)
    return joined


def _all_infos(described: list[Described], notes: list[str]) -> list[FrameInfo]:
    """Facts of all images; ``order`` by the times of the exposures if all are known, else by files and numbers."""
    infos = [info for item in described for info in item.infos]
    times = [time for item in described for time in item.times]
    ranks = np.arange(len(infos))
    known = [time for time in times if time is not None]
    if len(known) == len(times) and len(set(known)) > 1:
        ranks = np.argsort(np.argsort(np.array(known), kind="stable"), kind="stable")
        notes.append("order of acquisition: by the times in the logs")
    elif len(described) > 1:
        notes.append("order of acquisition: the files as given")
    return [replace(info, order=int(rank)) for info, rank in zip(infos, ranks)]


def _doubt_units(infos: list[FrameInfo]) -> list[str]:
    """Return a line where angles seem to be radians, or defoci micrometres."""
    tilts = {info.tilt_deg for info in infos}
    tilt_deg = np.abs(np.array(list(tilts), float))
    defocus_nm = np.abs(np.array([info.defocus_nm for info in infos], float))
    lines = []
    if len(tilts) >= _SEVERAL and tilt_deg.max() < np.pi:
        lines.append(f"all tilts lie within {tilt_deg.max():.4g}° of 0: are the angles in radians? They count as "
                     "degrees")
    if 0 < defocus_nm.max() < _TINY_DEFOCUS_NM:
        lines.append(f"all defoci lie within {defocus_nm.max():.4g} nm of 0: are they in µm? They count as nm")
    return lines


def _require(infos: list[FrameInfo], field_name: str, words: str, remedy: str, notes: list[str]) -> None:
    missing = [info.name for info in infos if getattr(info, field_name) is None]
    if missing:
        raise SeriesError(f"the {words} of {len(missing)} of {len(infos)} images is not known ({_names(missing)}); "
                          f"give {remedy}" + "".join(f"; {note}" for note in notes if "left out" in note))


def _microscope(file: Path | str | None, header: dict[str, Any],
                elements: Sequence[str] | str) -> tuple[Microscope | None, tuple[str, ...]]:
    named = check_elements(elements if isinstance(elements, str) else tuple(elements))
    if file is None and header.get("energy_keV") is None:
        return None, named
    scope = read_microscope(file, header, named)
    return scope, scope.elements


def _pixel(described: list[Described], given_A: float | None, of_microscope_A: float | None,
           notes: list[str]) -> float:
    found = {item.source.path.name: item.pixel_A for item in described if item.pixel_A is not None}
    chosen_A = given_A if given_A is not None else of_microscope_A
    if chosen_A is not None:
        if not 0 < chosen_A < np.inf:
            raise SeriesError(f"pixel_A: {chosen_A}, wanted a number greater than 0")
        for name, sides in found.items():
            if max(abs(side / chosen_A - 1) for side in sides) > _TWO_PIXELS:
                notes.append(f"{name}: its pixel of {sides[0]:.5g} Å is overruled by the given {chosen_A:.5g} Å")
        return chosen_A
    if not found:
        raise SeriesError("the pixel is not known; give pixel_A in the microscope's file")
    least = min(found.items(), key=lambda item: min(item[1]))
    most = max(found.items(), key=lambda item: max(item[1]))
    low, high = min(least[1]), max(most[1])
    if high > low * (1 + _TWO_PIXELS):
        where = f"along x and y in {least[0]}" if least[0] == most[0] else f"in {least[0]} and {most[0]}"
        raise SeriesError(f"there are two sizes of pixels, {low:.5g} and {high:.5g} Å, {where}; images must have one")
    mean = float(np.mean([side for sides in found.values() for side in sides]))
    if high > low * (1 + _PIXEL_ROUNDING):
        notes.append(f"pixels of {low:.6g} and {high:.6g} Å count as {mean:.6g} Å")
    if mean == _PLACEHOLDER_A:
        notes.append(f"{PIXEL_DOUBT}it is exactly 1 Å, which programs write where they do not know it; if it is right, "
                     "give it (pixel_A in the microscope's file)")
    if len(found) < len(described):
        notes.append(f"the pixel of {len(described) - len(found)} files is not known and taken from the others")
    return mean


def _check_values(sources: Sequence[FrameSource], places: list[tuple[int, int]], infos: list[FrameInfo],
                  region: Region | None) -> list[str]:
    """Read every image that is used; raise SeriesError where some hold NaN or are saturated. Return a line on counts
    below 0."""
    not_numbers, saturated, lowest = [], [], []
    for (i, k), info in zip(places, infos):
        if info.exclude:
            continue
        image = sources[i].read(k, region)
        if not np.isfinite(float(image.sum(dtype=np.float64))):
            not_numbers.append(info.name)
            continue
        if image.min(initial=0) < 0:
            lowest.append(float(image.min()))
        highest = float(image.max())
        if highest in _CONVERTER_MAXIMA and float(image.min()) < highest:
            if (image == highest).mean() > _SATURATED_PART:
                saturated.append(info.name)
    if not_numbers:
        raise SeriesError(f"{len(not_numbers)} images hold NaN or infinity: {_names(not_numbers)}; exclude them in the "
                          "table, or save them again")
    if saturated:
        raise SeriesError(f"{len(saturated)} images are saturated, with more than {100 * _SATURATED_PART:g} % of their "
                          f"pixels at the greatest value: {_names(saturated)}; exclude them in the table")
    return [f"{len(lowest)} images hold counts below 0, down to {min(lowest):g}"] if lowest else []


def _names(names: list[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")
