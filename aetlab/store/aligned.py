"""What a record holds of where its tilts lie: what was found under ``alignment/``, what is true under ``truth/``."""

from __future__ import annotations

from aetlab.core.nouns import TiltOffsets
from aetlab.store.record import Dataset, Record, read_array

#: Arrays of offsets with their units.
_UNITS = {"tilt_deg": "degree", "axis_deg": "degree", "shift_A": "Å", "defocus_A": "Å", "brightness": "1"}


def describe_offsets(offsets: TiltOffsets, where: str) -> dict[str, Dataset]:
    """Every array of ``offsets`` by its path under ``where``."""
    return {f"{where}/{name}": Dataset(getattr(offsets, name), unit) for name, unit in _UNITS.items()}


def read_offsets(record: Record) -> TiltOffsets:
    """The offsets that the reconstruction of ``record`` found."""
    return TiltOffsets(**{name: read_array(record, f"alignment/{name}").values for name in _UNITS})
