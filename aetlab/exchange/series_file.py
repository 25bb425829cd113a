"""Tilt series as HDF5 files: the images with all that is known of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from aetlab.core.backend import to_numpy
from aetlab.core.files import StorageError, write_atomically
from aetlab.core.hdf5 import dataset_names, read_dataset, write_datasets
from aetlab.core.nouns import TiltSeries
from aetlab.exchange.volume_files import FileError

#: Per-image quantities (T, F) of a file with their units, and their fields in the series.
_PER_IMAGE = {"defocus_A": "Å", "electrons_per_pixel": "1", "weight": "1"}


def write_series(path: Path | str, series: TiltSeries) -> None:
    """Write a tilt series to the HDF5 file ``path``, whole or not at all.

    ``images`` (tilt, defocus, x, y) are intensities with vacuum 1 and carry ``pixel_A``; ``tilt_deg`` (tilt),
    ``defocus_A``, ``electrons_per_pixel`` and ``weight`` (tilt, defocus) stand next to them, and ``pixel_weight`` if
    the series has one.

    Raises
    ------
    StorageError
        If the disk refuses.
    """
    write_atomically(Path(path), lambda partial: write_datasets(partial, describe_series(series)))


def describe_series(series: TiltSeries) -> dict[str, tuple[np.ndarray, Mapping[str, Any]]]:
    """Return the datasets of a series file: arrays with their attributes by name."""
    axes = {"axes": "tilt, defocus, x, y"}
    of_images = {"unit": "vacuum intensity", "pixel_A": float(series.pixel_A), **axes}
    arrays: dict[str, tuple[np.ndarray, Mapping[str, Any]]] = {"images": (to_numpy(series.images), of_images),
                                                               "tilt_deg": (series.tilt_deg, {"unit": "degree"})}
    arrays |= {name: (getattr(series, name), {"unit": unit, "axes": "tilt, defocus"})
               for name, unit in _PER_IMAGE.items()}
    if series.pixel_weight is not None:
        arrays["pixel_weight"] = (to_numpy(series.pixel_weight), {"unit": "1", **axes})
    return arrays


def read_series(path: Path | str, rows: np.ndarray | None = None) -> TiltSeries:
    """Return the tilt series of a file of :func:`write_series`, or some ``rows`` (indices along y) of all its images.

    Raises
    ------
    FileError
        If the file is missing, damaged or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{path} is {'a folder; name a file' if path.is_dir() else 'not there'}")
    if not h5py.is_hdf5(path):
        raise FileError(f"{path} is no tilt series of aetlab, which is an HDF5 file: files of a microscope are read by "
                        "aetlab.import_files (python -m aetlab.series import)")
    try:
        images, attributes = read_dataset(path, "images", rows)
        values = {name: read_dataset(path, name)[0] for name in ("tilt_deg", *_PER_IMAGE)}
        by_pixel = (read_dataset(path, "pixel_weight", rows)[0] if "pixel_weight" in dataset_names(path)
                    else None)
        return TiltSeries(np.asarray(images, np.float32), pixel_A=float(attributes["pixel_A"]), pixel_weight=by_pixel,
                          **values)
    except (StorageError, KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path} is no tilt series: {' '.join(str(error).split())[:300]}") from None
