"""Three shears, each an exact shift of rows in Fourier space (:mod:`aetlab.methods.fourier_rotation`)."""

from __future__ import annotations

import numpy as np

from aetlab.methods.rotation import Rotation, RotationMethod


def _make(shape_zxy: tuple[int, int, int], n_layers: int, tilt_deg: np.ndarray, dtype: type,
          support: np.ndarray | None) -> Rotation:
    from aetlab.methods import simd_shear
    from aetlab.methods.fourier_rotation import FourierRotation

    if support is not None:
        raise ValueError("the Fourier rotation turns all positions: support must be None")
    if simd_shear.fits(shape_zxy, np.dtype(dtype)):
        return simd_shear.SimdFourierRotation(shape_zxy, n_layers, tilt_deg)
    return FourierRotation(shape_zxy, n_layers, tilt_deg, dtype=dtype)


ROW = RotationMethod(meaning="three shears in Fourier space", make=_make, gpu_kernel="shear_in", all_threads=True)
