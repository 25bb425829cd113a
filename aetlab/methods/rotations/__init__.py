"""The table of rotations: every file of this folder is one, and its name is a value of ``engine.rotation``."""

from __future__ import annotations

import numpy as np

from aetlab.core.grid import n_slices
from aetlab.methods import find_rows
from aetlab.methods.rotation import Rotation, RotationMethod

#: Rotations by name.
ROTATIONS = find_rows(__name__, __path__, RotationMethod)


def make_rotation(kind: str, shape_zxy: tuple[int, int, int], n_layers: int, tilt_deg: np.ndarray, *,
                  dtype: type = np.float32, support: np.ndarray | None = None) -> Rotation:
    """Return the rotation ``kind`` of volumes of ``shape_zxy`` by ``tilt_deg``; only ``support`` (Z, X) is turned."""
    if kind not in ROTATIONS:
        raise ValueError(f"rotation={kind!r} is unknown: choose one of {', '.join(ROTATIONS)}")
    return ROTATIONS[kind].make(shape_zxy, n_layers, tilt_deg, dtype, support)


def rotate_and_bin(volume: np.ndarray, tilt_deg: float, n_layers: int = 1, *, kind: str = "linear") -> np.ndarray:
    """Return slices (S, X, Y) of ``volume`` (Z, X, Y) turned by ``tilt_deg``: sums over ``n_layers`` layers."""
    rotation = make_rotation(kind, volume.shape, n_layers, np.array([tilt_deg]), dtype=volume.dtype.type)
    slices = np.empty((n_slices(volume.shape[0], n_layers), *volume.shape[1:]), volume.dtype)
    rotation.rotate_and_bin(volume, 0, slices)
    return slices
