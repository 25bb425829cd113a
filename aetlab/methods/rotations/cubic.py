"""Cubic interpolation (Keys, a = -1/2) between the sixteen nearest positions (z, x)."""

from __future__ import annotations

import numpy as np

from aetlab.methods.rotation import Matrix, Rotation, RotationMethod

MATRIX = Matrix(cubic=True, capacity=32, bytes_per_column=120.0)


def _make(shape_zxy: tuple[int, int, int], n_layers: int, tilt_deg: np.ndarray, dtype: type,
          support: np.ndarray | None) -> Rotation:
    from aetlab.methods.sparse_rotation import SparseRotation

    return SparseRotation(MATRIX, shape_zxy, n_layers, tilt_deg, dtype=dtype, support=support)


ROW = RotationMethod(meaning="cubic interpolation", make=_make, matrix=MATRIX, gpu_kernel="rotate_cubic")
