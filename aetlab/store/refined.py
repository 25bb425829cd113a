"""Refined atoms in a record: arrays under ``refined/``."""

from __future__ import annotations

from aetlab.core.nouns import RefinedAtoms
from aetlab.store.aligned import describe_poses
from aetlab.store.record import Dataset

_UNITS = {"positions_A": "Å", "scattering_V_A3": "V Å³", "position_error_A": "Å", "thermal_A2": "Å²",
          "thermal_error_A2": "Å²"}
_NAMES = ("positions_A", "occupancy", "scattering_V_A3", "numbers", "position_error_A", "occupancy_error",
          "probability", "posterior", "not_atom_probability", "thermal_A2", "thermal_error_A2", "cost")


def describe_refined_arrays(atoms: RefinedAtoms) -> dict[str, Dataset]:
    """Return every array of refined atoms by its path."""
    arrays = {f"refined/{name}": Dataset(getattr(atoms, name), _UNITS.get(name, "1")) for name in _NAMES}
    return arrays | describe_poses(atoms.poses, "refined")
