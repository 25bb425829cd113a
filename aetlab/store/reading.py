"""Read the results of a run back from its record."""

from __future__ import annotations

from typing import Any

from aetlab.core.nouns import Atoms, Reconstruction, RefinedAtoms, TracedAtoms, Volume
from aetlab.core.poses import OF_IMAGES, Poses
from aetlab.store.contents import POSES, REFINED, TRACED
from aetlab.store.record import Record, RecordError, array_names, read_array, read_history

_WEIGHTS = "alignment/image_weight"


def read_reconstruction(record: Record) -> Reconstruction:
    """Return the reconstruction of ``record``."""
    history, environment = read_history(record), record.environment
    volume = Volume(read_array(record, "volume/potential_V").values, record.spec.scale.voxel_A)
    return Reconstruction(volume, history.cost, history.seconds, tuple(environment["restarts"]),
                          tuple(environment["halvings"]), str(environment["stopped"]), record.metrics["weight_per_V"],
                          record.metrics["held_out_cost"], str(environment["device"]),
                          read_poses(record) if record.spec.align.enabled else None,
                          read_array(record, _WEIGHTS).values if _WEIGHTS in array_names(record) else None)


def read_traced(record: Record) -> TracedAtoms:
    """Return the traced atoms of ``record``."""
    columns: dict[str, Any] = {name: read_array(record, f"traced/{name}").values for name in TRACED}
    return TracedAtoms(**columns, species=dict(record.environment.get("species") or {}),
                       rounds=tuple(record.environment.get("rounds") or ()),
                       n_candidates=int(record.environment.get("candidates") or 0),
                       removed=dict(record.environment.get("removed") or {}))


def read_refined(record: Record) -> RefinedAtoms | None:
    """Return the refined atoms of ``record``; None if it has none."""
    if "refined/positions_A" not in array_names(record):
        return None
    columns: dict[str, Any] = {name: read_array(record, f"refined/{name}").values for name in REFINED}
    summary = dict(record.environment.get("refined") or {})
    rounds = tuple(summary.pop("rounds", ()))
    return RefinedAtoms(**columns, poses=read_poses(record, "refined"), rounds=rounds, summary=summary)


def read_true_atoms(record: Record) -> Atoms:
    """Return the true atoms of ``record`` in the frame of the traced ones.

    Raise :class:`RecordError` if the record has no truth.
    """
    if "truth/positions_A" not in array_names(record):
        raise RecordError(f"record {record.folder} has no truth")
    part = read_array(record, "truth/part")
    names = tuple(str(part.attributes.get("names", "all")).split(", "))
    return Atoms(read_array(record, "truth/numbers").values, read_array(record, "truth/positions_A").values,
                 part.values, names)


def read_poses(record: Record, where: str = "alignment") -> Poses:
    """Return the poses of ``record`` under ``where``, by default those of the reconstruction."""
    there = set(array_names(record))
    return Poses.from_arrays(read_array(record, "tilt_series/tilt_deg").values,
                             {name: read_array(record, f"{where}/{name}").values for name in POSES
                              if name not in OF_IMAGES or f"{where}/{name}" in there})
