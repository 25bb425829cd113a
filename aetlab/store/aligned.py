"""Poses of the tilts in a record: those found under ``alignment/``, the true ones under ``truth/poses/``."""

from __future__ import annotations

from aetlab.core.poses import Poses
from aetlab.store.record import Dataset, Record, read_array

#: Arrays of poses with their units. The nominal angles are ``tilt_series/tilt_deg``.
_UNITS = {"turn_deg": "degree", "shift_A": "Å", "defocus_A": "Å", "brightness": "1"}


def describe_poses(poses: Poses, where: str) -> dict[str, Dataset]:
    """Return every array of ``poses`` by its path under ``where``."""
    return {f"{where}/{name}": Dataset(getattr(poses, name), unit) for name, unit in _UNITS.items()}


def read_poses(record: Record, where: str = "alignment") -> Poses:
    """Return the poses that ``record`` holds under ``where``: those of the reconstruction unless said otherwise."""
    return Poses(read_array(record, "tilt_series/tilt_deg").values,
                 **{name: read_array(record, f"{where}/{name}").values for name in _UNITS})
