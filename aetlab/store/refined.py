"""Refined atoms in a record: arrays under ``refined/``."""

from __future__ import annotations

from aetlab.core.nouns import RefinedAtoms
from aetlab.store.record import Dataset

_UNITS = {"positions_A": "Å", "scattering_V_A3": "V Å³", "position_error_A": "Å", "turn_deg": "degree", "shift_A": "Å",
          "thermal_A2": "Å²", "thermal_error_A2": "Å²", "defocus_offset_A": "Å"}
_NAMES = ("positions_A", "occupancy", "scattering_V_A3", "numbers", "position_error_A", "occupancy_error",
          "probability", "posterior", "not_atom_probability", "turn_deg", "shift_A", "thermal_A2", "thermal_error_A2",
          "defocus_offset_A", "brightness", "cost")


def describe_refined_arrays(atoms: RefinedAtoms) -> dict[str, Dataset]:
    """Return every array of refined atoms by its path."""
    return {f"refined/{name}": Dataset(getattr(atoms, name), _UNITS.get(name, "1")) for name in _NAMES}
