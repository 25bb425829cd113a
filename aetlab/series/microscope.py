"""The microscope of a measured series, from a YAML file or the headers of the images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from aetlab.core.errors import SeriesError
from aetlab.core.files import StorageError
from aetlab.core.physics import wavelength_A
from aetlab.core.setting import SpecError, choice
from aetlab.core.yaml_file import parse_mapping, read_text
from aetlab.series.frames import one_line
from aetlab.spec.acquisition import MicroscopeSpec
from aetlab.spec.bind import bind

#: Keys of the file that are not settings of MicroscopeSpec.
_OWN_KEYS = ("mtf", "elements", "pixel_A", "aperture_mrad", "axis_deg", "sense")
#: Settings on which images depend most: a note names those that are left at their default.
_IMPORTANT = ("aperture_per_A", "Cs_mm", "focal_spread_sigma_nm", "convergence_sigma_mrad")
_FROM_HEADER = {"energy_keV": 1e-3, "Cs_mm": 1e-2}
#: Right-handed about the direction of the tilt axis, the beam along +z, or left-handed.
SENSES = ("right", "left")
#: Name of the step of a preparation that tells the sense, and its setting where nothing states it.
SENSE_STEP, NO_SENSE = "sense of the tilt", "not given"


@dataclass(frozen=True)
class MtfTable:
    """MTF of the detector, the area of its pixel included.

    Parameters
    ----------
    cycles_per_pixel : float (N,)
        Spatial frequency, rising from 0; 0.5 is half the sampling frequency.
    mtf : float (N,)
        Modulation transfer, in (0, 1], 1 at frequency 0.
    """

    cycles_per_pixel: np.ndarray
    mtf: np.ndarray

    def __post_init__(self) -> None:
        u, mtf = (np.array(value, float) for value in (self.cycles_per_pixel, self.mtf))
        if u.ndim != 1 or u.shape != mtf.shape or len(u) < 2:
            raise SeriesError(f"mtf: {u.shape} frequencies and {mtf.shape} values, wanted two lists of one length")
        if not (u[0] == 0 and (np.diff(u) > 0).all() and u[-1] >= 0.5 and np.isfinite(u[-1])):
            raise SeriesError("mtf: cycles_per_pixel must rise from 0 to at least 0.5")
        if not (abs(mtf[0] - 1) < 1e-3 and (mtf > 0).all() and (mtf <= 1.001).all()):
            raise SeriesError("mtf: values must lie in (0, 1] and start at 1")
        object.__setattr__(self, "cycles_per_pixel", u)
        object.__setattr__(self, "mtf", mtf)


@dataclass(frozen=True)
class Microscope:
    """The microscope and what its file says of detector and sample.

    Parameters
    ----------
    spec : MicroscopeSpec
        Energy, pupil, aberrations, envelopes.
    mtf : MtfTable or None
        The detector's MTF where it is a table; else ``spec.mtf_half`` is its formula.
    elements : tuple of str
        Elements of the sample; empty: not given.
    pixel_A : float or None
        Pixel in Å where the file gives one; it overrules headers.
    axis_deg : float or None
        Direction of the tilt axis in the images, from +y counter-clockwise, where the file gives it.
    sense : str
        Sense of the tilt angles about that direction, ``right`` or ``left`` handed; empty: not known.
    notes : tuple of str
        What was taken from headers or left at its default.
    """

    spec: MicroscopeSpec
    mtf: MtfTable | None = None
    elements: tuple[str, ...] = ()
    pixel_A: float | None = None
    axis_deg: float | None = None
    sense: str = ""
    notes: tuple[str, ...] = ()

    def turned(self, angle_deg: float) -> Microscope:
        """Return the microscope for images that were rotated by ``angle_deg``, counter-clockwise, with aberrations."""
        given = vars(self.spec)
        azimuths = {name: (value + angle_deg) % 360 for name, value in given.items()
                    if name.endswith("_deg") and any(given.get(name.replace("deg", u)) for u in ("nm", "um", "mm"))}
        return dataclasses.replace(self, spec=dataclasses.replace(self.spec, **azimuths)) if angle_deg else self

    def in_pixels(self, ratio: float) -> Microscope:
        """Return the microscope for images whose pixels are ``ratio`` times as large: the MTF of a frequency stays."""
        if abs(ratio - 1) < 1e-9:
            return self
        table = self.mtf and MtfTable(self.mtf.cycles_per_pixel * ratio, self.mtf.mtf)
        return dataclasses.replace(self, mtf=table, spec=dataclasses.replace(
            self.spec, mtf_half=self.spec.mtf_half ** (1 / ratio**2)))


def read_microscope(file: Path | str | None, header: Mapping[str, Any], elements: Sequence[str] = ()) -> Microscope:
    """Return the microscope of a YAML ``file``, completed by the ``header`` of the images.

    The file has the keys of the group ``microscope``, at its top or under ``microscope:``, and may have ``mtf`` (lists
    ``cycles_per_pixel`` and ``mtf``), ``elements``, ``pixel_A``, ``aperture_mrad`` in the place of ``aperture_per_A``,
    ``axis_deg`` and ``sense`` of the tilt. ``elements`` overrule those of the file.

    Raises
    ------
    SeriesError
        If the file cannot be read, a key or value is wrong, or neither file nor header gives the energy.
    """
    given = {} if file is None else _read_yaml(Path(file))
    own = {key: given.pop(key) for key in _OWN_KEYS if key in given}
    notes, where = [], file or "microscope"
    for key, tolerance in _FROM_HEADER.items():
        found = header.get(key)
        if found is None:
            continue
        if given.get(key) is None:
            given[key] = found
            notes.append(f"microscope: {key} {found:g} from the headers")
        elif isinstance(given[key], (int, float)) and not math.isclose(given[key], found, rel_tol=tolerance):
            notes.append(f"microscope: {key} {given[key]:g} from {where} is used; the headers say {found:g}")
    if given.get("energy_keV") is None:
        raise SeriesError(f"{where}: energy_keV is missing, and no header gives it")
    try:
        if "aperture_mrad" in own:
            if "aperture_per_A" in given:
                raise SeriesError("give aperture_mrad or aperture_per_A, not both")
            energy_keV = bind(MicroscopeSpec, {"energy_keV": given["energy_keV"]}, "microscope").energy_keV
            given["aperture_per_A"] = _number("aperture_mrad", own["aperture_mrad"]) * 1e-3 / wavelength_A(energy_keV)
        spec = bind(MicroscopeSpec, given, "microscope")
        mtf = _mtf(own["mtf"]) if own.get("mtf") is not None else None
        pixel_A = _number("pixel_A", own["pixel_A"]) if own.get("pixel_A") is not None else None
        named = check_elements(elements or own.get("elements") or ())
        axis_deg = _direction(own["axis_deg"]) if own.get("axis_deg") is not None else None
        sense = str(own.get("sense") or "")
        choice("sense", sense, ("", *SENSES))
    except (SpecError, SeriesError) as error:
        raise SeriesError(f"{where}: {one_line(error)}") from None
    if mtf is not None and "mtf_half" in given:
        raise SeriesError(f"{where}: give mtf as a table or mtf_half, not both")
    missing = [f"{key} {getattr(spec, key):g}" for key in _IMPORTANT if key not in given]
    if missing:
        notes.append(f"microscope: not given and left at the default: {', '.join(missing)}")
    if mtf is None and "mtf_half" not in given:
        notes.append("microscope: no MTF given; the detector counts as ideal")
    return Microscope(spec, mtf, named, pixel_A, axis_deg, sense, tuple(notes))


def check_elements(elements: object) -> tuple[str, ...]:
    """Return chemical symbols from a list or a text such as "Cu, Au"; raises SeriesError for what is none."""
    if isinstance(elements, str):
        elements = elements.replace(",", " ").split()
    if not isinstance(elements, (list, tuple)):
        raise SeriesError(f"elements: {elements!r}, wanted a list of chemical symbols")
    if any(isinstance(symbol, bool) for symbol in elements):
        raise SeriesError('elements: YAML takes No, Y and N for yes and no: write them in quotes, for example ["No"]')
    for symbol in elements:
        if not isinstance(symbol, str) or atomic_numbers.get(symbol, 0) < 1:
            raise SeriesError(f"elements: {symbol!r} is no chemical symbol")
    return tuple(dict.fromkeys(elements))


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = parse_mapping(read_text(file), file)
    except StorageError as error:
        raise SeriesError(str(error)) from None
    if isinstance(content.get("microscope"), Mapping):
        top = {key: value for key, value in content.items() if key != "microscope"}
        content = {**content["microscope"], **top}
    if not content:
        names = ", ".join(field.name for field in dataclasses.fields(MicroscopeSpec)[:3])
        raise SeriesError(f"{file} holds no settings of a microscope, such as {names}")
    return {str(key): value for key, value in content.items()}


def _mtf(value: object) -> MtfTable:
    if not isinstance(value, Mapping) or set(value) != {"cycles_per_pixel", "mtf"}:
        raise SeriesError("mtf: wanted the lists cycles_per_pixel and mtf")
    try:
        return MtfTable(np.array(value["cycles_per_pixel"], float), np.array(value["mtf"], float))
    except (TypeError, ValueError) as error:
        raise SeriesError(f"mtf: {one_line(error)}" if not isinstance(error, SeriesError) else str(error)) from None


def _direction(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 360:
        raise SeriesError(f"axis_deg: {value!r}, wanted an angle between -360 and 360")
    return float(value)


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise SeriesError(f"{name}: {value!r}, wanted a number greater than 0")
    return float(value)



