"""Logs that SerialEM writes with a stack (.mdoc).

A section ``[ZValue = n]`` describes image n of the stack, ``[Image = name]`` a file of its own. SerialEM counts defocus
in µm, underfocus negative: the sign of this package. ``Defocus`` is the reading of the lens, from wherever it was set
to 0; ``TargetDefocus`` is what the focusing aimed at, and is taken where both are there. ``TiltAngle`` is in degrees,
``PixelSpacing`` in Å, ``ExposureDose`` in e/Å², 0 for not known. The angle of the tilt axis counts from the image's +y
counter-clockwise.
Source: the description of the .mdoc format of SerialEM.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from aetlab.core.errors import SeriesError
from aetlab.series.angles import read_text

_SECTION = re.compile(r"^\[\s*([A-Za-z]+)\s*=\s*(.*?)\s*\]\s*$")
_PAIR = re.compile(r"^\s*([A-Za-z0-9_]+)\s*=\s*(.*?)\s*$")
_AXIS = re.compile(r"tilt axis angle\s*=\s*(-?[0-9.]+)", re.IGNORECASE)
_TIMES = ("%d-%b-%y  %H:%M:%S", "%d-%b-%Y  %H:%M:%S", "%Y-%b-%d  %H:%M:%S")


@dataclass(frozen=True)
class MdocFrame:
    """The log of one image.

    ``index`` is its number in the stack (None: a file of its own, ``image``); the rest is as in FrameInfo. ``time`` is
    when it was taken, in seconds.
    """

    index: int | None
    image: str
    tilt_deg: float | None
    defocus_nm: float | None
    dose_e_A2: float | None
    time: float | None


@dataclass(frozen=True)
class Mdoc:
    """The log of a stack: its images, what holds for all (see FrameSource.header), the pixel, and what was found."""

    path: Path
    image_file: str
    frames: tuple[MdocFrame, ...]
    pixel_A: float | None
    size_xy: tuple[int, int] | None
    header: Mapping[str, Any]
    notes: tuple[str, ...]


def read_mdoc(path: Path) -> Mdoc:
    """Return what a .mdoc file says.

    Raises
    ------
    SeriesError
        If it has no sections, a number in it is none, or it describes a montage.
    """
    top: dict[str, str] = {}
    titles: list[str] = []
    sections: list[tuple[str, str, dict[str, str]]] = []
    place = top
    for line in read_text(path).splitlines():
        section, pair = _SECTION.match(line), _PAIR.match(line)
        if section and section[1] == "T":
            titles.append(section[2])
        elif section:
            place = {}
            sections.append((section[1], section[2], place))
        elif pair and not line.lstrip().startswith("["):
            place[pair[1]] = pair[2]
    described = [item for item in sections if item[0] in ("ZValue", "Image")]
    if not described:
        raise SeriesError(f"{path} is no log of SerialEM: it has no section [ZValue = …]")
    if any(item[0] == "MontSection" for item in sections) or any("PieceCoordinates" in item[2] for item in described):
        raise SeriesError(f"{path} describes the pieces of a montage, no images of a tilt series")
    notes: list[str] = []
    frames = tuple(_frame(path, *item) for item in described)
    indices = [frame.index for frame in frames if frame.index is not None]
    if len(set(indices)) != len(indices):
        raise SeriesError(f"{path} describes an image twice ([ZValue = …])")
    _compare_defoci(path, [item[2] for item in described], notes)
    pixels = {value for value in (_value(path, item, "PixelSpacing") for item in (top, *(s[2] for s in described)))
              if value}
    if pixels and max(pixels) > min(pixels) * 1.001:
        raise SeriesError(f"{path} has several pixel sizes, {min(pixels):g} to {max(pixels):g} Å")
    return Mdoc(path, top.get("ImageFile", ""), frames, min(pixels) if pixels else None, _size(top),
                _header(path, top, titles, [item[2] for item in described], notes), tuple(notes))


def _frame(path: Path, kind: str, name: str, section: dict[str, str]) -> MdocFrame:
    index = None
    if kind == "ZValue":
        if not name.isdecimal():
            raise SeriesError(f"{path}: [ZValue = {name[:20]}] is no number of an image")
        index = int(name)
    defocus_um = _value(path, section, "TargetDefocus")
    if defocus_um is None:
        defocus_um = _value(path, section, "Defocus")
    dose = _value(path, section, "ExposureDose")
    return MdocFrame(index, "" if kind == "ZValue" else name, _value(path, section, "TiltAngle"),
                     None if defocus_um is None else round(defocus_um * 1000, 6), dose if dose else None,
                     _time(section.get("DateTime", "")))


def _compare_defoci(path: Path, sections: list[dict[str, str]], notes: list[str]) -> None:
    pairs = [(_value(path, item, "Defocus"), _value(path, item, "TargetDefocus")) for item in sections]
    apart = [(a, b) for a, b in pairs if a is not None and b is not None and abs(a - b) > max(0.1 * abs(b), 1e-3)]
    if apart:
        notes.append(f"{path.name}: TargetDefocus is taken as the defocus; in {len(apart)} of {len(pairs)} images "
                     f"Defocus, the reading of the lens, differs (first: {apart[0][0]:g} against {apart[0][1]:g} µm)")
    elif any(a is not None and b is None for a, b in pairs):
        notes.append(f"{path.name}: no TargetDefocus; Defocus, the reading of the lens, is taken")


def _header(path: Path, top: dict[str, str], titles: list[str], sections: list[dict[str, str]],
            notes: list[str]) -> dict[str, Any]:
    header: dict[str, Any] = {}
    energy_keV = _value(path, top, "Voltage")
    if energy_keV:
        header["energy_keV"] = energy_keV
    axes = [float(found[1]) for title in titles if (found := _AXIS.search(title))]
    if axes:
        header["axis_deg"] = axes[-1]
    per_electron = {value for value in (_value(path, item, "CountsPerElectron") for item in (top, *sections)) if value}
    if len(per_electron) == 1:
        header["counts_per_electron"] = per_electron.pop()
    elif per_electron:
        notes.append(f"{path.name}: CountsPerElectron has {len(per_electron)} values and is not used")
    channels = {item["ChannelName"] for item in sections if item.get("ChannelName")}
    if channels and all(any(word in name.upper() for word in ("HAADF", "ADF", "BF", "STEM")) for name in channels):
        header["mode"] = "STEM"
    return header


def _size(top: dict[str, str]) -> tuple[int, int] | None:
    words = top.get("ImageSize", "").split()
    return (int(words[0]), int(words[1])) if len(words) == 2 and all(word.isdecimal() for word in words) else None


def _value(path: Path, section: Mapping[str, str], key: str) -> float | None:
    if key not in section:
        return None
    try:
        value = float(section[key])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SeriesError(f"{path}: {key} = {section[key][:40]} is no number")
    return value


def _time(text: str) -> float | None:
    for pattern in _TIMES:
        try:
            return datetime.strptime(" ".join(text.split()), pattern.replace("  ", " ")).timestamp()
        except ValueError:
            continue
    return None
