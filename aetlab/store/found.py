"""Keep the sites that tracing finds in a tile before they are named, which are joined with those of other tiles."""

from __future__ import annotations

import numpy as np

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
