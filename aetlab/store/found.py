"""Keep what is found in a tile until all tiles are joined: decisions for all, sites without names, refined atoms."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from aetlab.core.nouns import RefinedAtoms
from aetlab.core.poses import Poses
from aetlab.reconstruction.decided import Decisions
from aetlab.store.contents import POSES, REFINED, plain
from aetlab.store.record import Dataset, Record, read_array
from aetlab.tracing import FoundSites


def describe_found(found: FoundSites) -> dict[str, Dataset]:
    """Return the arrays of ``found`` by their paths in the record; the record of the traced atoms holds the rest."""
    return {"sites/place": Dataset(found.sites[:, :3], "voxel", {"columns": "z, x, y"}),
            "sites/intensity_V": Dataset(found.sites[:, 3], "V"), "sites/width": Dataset(found.sites[:, 4], "voxel"),
            "sites/status": Dataset(found.status, "1")}


def read_found(record: Record) -> FoundSites:
    """Return the sites of the record of a tile."""
    place, intensity_V, width, status = (read_array(record, f"sites/{name}").values
                                         for name in ("place", "intensity_V", "width", "status"))
    environment = record.environment
    removed = {str(rule): int(count) for rule, count in environment["removed"].items()} | {"faint": 0}
    return FoundSites(np.column_stack([place, intensity_V, width]), status, tuple(environment["rounds"]),
                      int(environment["candidates"]), removed)


def pack_refined(refined: RefinedAtoms) -> dict[str, np.ndarray]:
    """Return ``refined`` as arrays of a shared stage; rounds and summary are text in JSON, as bytes."""
    text = json.dumps(plain({"rounds": refined.rounds, "summary": refined.summary}), allow_nan=False)
    return ({name: getattr(refined, name) for name in REFINED}
            | {name: getattr(refined.poses, name) for name in ("tilt_deg", *POSES)}
            | {"text": np.frombuffer(text.encode(), np.uint8)})


def unpack_refined(arrays: Mapping[str, np.ndarray]) -> RefinedAtoms:
    """Return the refined atoms of :func:`pack_refined`."""
    content = json.loads(arrays["text"].tobytes(), object_hook=_with_nan)
    return RefinedAtoms(**{name: arrays[name] for name in REFINED},
                        poses=Poses.from_arrays(arrays["tilt_deg"], arrays),
                        rounds=tuple(content["rounds"]), summary=content["summary"])


def pack_decisions(decided: Decisions) -> dict[str, np.ndarray]:
    """Return ``decided`` as arrays of a shared stage."""
    arrays = {"weight_per_V": np.array(decided.weight_per_V), "n_iterations": np.array(decided.n_iterations)}
    poses = decided.poses
    return arrays | ({name: getattr(poses, name) for name in ("tilt_deg", *POSES)} if poses is not None else {})


def unpack_decisions(arrays: Mapping[str, np.ndarray]) -> Decisions:
    """Return the decisions of :func:`pack_decisions`."""
    poses = Poses.from_arrays(arrays["tilt_deg"], arrays) if "tilt_deg" in arrays else None
    return Decisions(float(arrays["weight_per_V"]), int(arrays["n_iterations"]), poses)


def _with_nan(values: dict[str, Any]) -> dict[str, Any]:
    """Return ``values`` with NaN for null, as which numbers that are not finite are written."""
    return {name: math.nan if value is None else value for name, value in values.items()}
