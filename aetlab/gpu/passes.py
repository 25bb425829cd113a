"""Compute Nesterov's step on a GPU; the proximal operators are in :mod:`aetlab.methods.regularisers`."""

from __future__ import annotations

import numpy as np

from aetlab.gpu.device import Array, Device


def extrapolate(device: Device, volume: Array, proximal: Array, beta: float) -> None:
    """Take Nesterov's step in place.

    Add ``beta`` · (``volume`` - ``proximal``) to ``volume``, and replace ``proximal`` by the old ``volume``.
    """
    device.launch("extrapolate", (volume.size, 1, 1), np.float32(beta), np.int64(volume.size), volume, proximal)
