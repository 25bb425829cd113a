"""Facts and measures that the import found of each image, kept in the series file for the check page."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from aetlab.core.hdf5 import dataset_names, read_dataset

_FOLDER = "check"
_UNITS = {"mean_counts": "1", "level_counts": "1", "level_error": "1", "illumination_peak": "1",
          "sharpness_per_A": "1/Å", "drift_A": "Å"}


@dataclass(frozen=True)
class ImageFacts:
    """Facts of the images of T tilts at F defoci; NaN, -1 and empty names where a cell has no image.

    Attributes
    ----------
    names : tuple of tuple of str
        File and number of each image.
    order : int (T, F)
        Place in the order of acquisition.
    tilt_deg, defocus_nm, dose_e_A2 : float (T, F)
        Tilt and nominal defocus of each image, and the dose as table or headers say.
    measures : Measures
        Level, sharpness and drift.
    position_A : float (T, F, 2)
        Where the sample lies in each image as recorded, from its middle.
    thumbnails : float16 (T, F, x, y)
        Small images as recorded, over the median of their series.
    axis_curve : float (2, N)
        Directions of the axis that were compared, and the agreement of the common lines at each.
    pictures : dict
        Pictures (x, y) of steps by ``<step>/before`` and ``<step>/after``.
    """

    names: tuple[tuple[str, ...], ...]
    order: np.ndarray
    tilt_deg: np.ndarray
    defocus_nm: np.ndarray
    dose_e_A2: np.ndarray
    measures: Measures
    position_A: np.ndarray
    thumbnails: np.ndarray
    axis_curve: np.ndarray
    pictures: dict[str, np.ndarray]


def describe_facts(facts: ImageFacts) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """Return the datasets of ``facts`` with their attributes by name."""
    arrays: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
        "order": (facts.order, {}), "tilt_deg": (facts.tilt_deg, {"unit": "degree"}),
        "defocus_nm": (facts.defocus_nm, {"unit": "nm"}), "dose_e_A2": (facts.dose_e_A2, {"unit": "1/Å²"}),
        "position_A": (facts.position_A, {"unit": "Å"}), "thumbnails": (facts.thumbnails, {"unit": "1"}),
        "axis_curve": (facts.axis_curve, {"unit": "degree, 1"}), "names": (text_bytes(json.dumps(facts.names)), {})}
    arrays |= {name: (getattr(facts.measures, name), {"unit": unit}) for name, unit in _UNITS.items()}
    arrays |= {f"pictures/{name}": (picture, {}) for name, picture in facts.pictures.items()}
    return {f"{_FOLDER}/{name}": described for name, described in arrays.items()}


def read_facts(path: Path) -> ImageFacts | None:
    """Return the facts in a series file, None where it has none.

    Raises
    ------
    StorageError, ValueError
        If they are damaged.
    """
    names = [name.removeprefix(f"{_FOLDER}/") for name in dataset_names(path) if name.startswith(f"{_FOLDER}/")]
    if not names:
        return None
    arrays = {name: read_dataset(path, f"{_FOLDER}/{name}")[0] for name in names}
    table = json.loads(bytes_text(arrays["names"]))
    measures = Measures(**{item.name: np.asarray(arrays[item.name], float) for item in fields(Measures)})
    shape = arrays["order"].shape
    wrong = [name for name in ("tilt_deg", "defocus_nm", "dose_e_A2", *_UNITS) if arrays[name].shape != shape]
    if wrong or len(shape) != 2 or [len(row) for row in table] != [shape[1]] * shape[0]:
        raise ValueError(f"facts of the images differ in their number ({', '.join(wrong) or 'names'})")
    return ImageFacts(tuple(tuple(str(name) for name in row) for row in table), arrays["order"].astype(int),
                      arrays["tilt_deg"], arrays["defocus_nm"], arrays["dose_e_A2"], measures, arrays["position_A"],
                      arrays["thumbnails"].astype(float), arrays["axis_curve"],
                      {name.removeprefix("pictures/"): values for name, values in arrays.items()
                       if name.startswith("pictures/")})


def text_bytes(text: str) -> np.ndarray:
    """Return a text as an array of bytes: an attribute of HDF5 holds at most 64 KiB."""
    return np.frombuffer(text.encode(), np.uint8)


def bytes_text(array: np.ndarray) -> str:
    """Return the text of :func:`text_bytes`; raises ValueError for what is none."""
    if array.dtype != np.uint8 or array.ndim != 1:
        raise ValueError("no text")
    return array.tobytes().decode()


@dataclass(frozen=True)
class Measures:
    """Measures of the images of T tilts at F defoci, each (T, F), NaN where an image is missing or left out early.

    Attributes
    ----------
    mean_counts, level_counts : float
        Mean over the image, and level of the vacuum, in counts.
    level_error : float
        Relative standard error of the level.
    illumination_peak : float
        Greatest relative deviation of the illumination from its mean.
    sharpness_per_A : float
        Root mean square frequency of the signal in 1/Å, noise subtracted.
    drift_A : float
        Motion while the image was recorded, beyond that of most images at its defocus, in Å.
    """

    mean_counts: np.ndarray
    level_counts: np.ndarray
    level_error: np.ndarray
    illumination_peak: np.ndarray
    sharpness_per_A: np.ndarray
    drift_A: np.ndarray
