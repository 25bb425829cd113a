"""Reconstructions that other records hold: runs that differ in tracing, refinement or scoring alone share theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aetlab.core.files import StorageError
from aetlab.core.nouns import Reconstruction
from aetlab.spec import RunSpec, SpecError
from aetlab.store.identity import canonical_json, identity
from aetlab.store.reading import read_reconstruction
from aetlab.store.record import Places, Record, read_record

#: Groups of settings that come after the reconstruction.
AFTER = ("trace", "refine", "score")


def find_reconstruction(places: Places, spec: RunSpec, *,
                        use_other_code: bool = False) -> tuple[Reconstruction, Record] | None:
    """The reconstruction that ``spec`` asks for and the whole record that holds it, or None.

    A record that is damaged, or was made by other code (unless ``use_other_code``), holds none.
    """
    wanted = _before_tracing(identity(spec))
    folders = sorted(places.records.iterdir()) if places.records.is_dir() else []
    for folder in folders:
        if folder.name.startswith(".") or not _may_hold(folder, spec):
            continue
        try:
            record = read_record(folder)
            if _before_tracing(identity(record.spec)) != wanted or (record.made_by_other_code and not use_other_code):
                continue
            return read_reconstruction(record), record
        except (StorageError, SpecError, LookupError, TypeError):
            continue
    return None


def _before_tracing(settings: dict[str, Any]) -> str:
    return canonical_json({group: values for group, values in settings.items() if group not in AFTER})


def _may_hold(folder: Path, spec: RunSpec) -> bool:
    """Whether a glance at the settings lets the record be read in full."""
    try:
        settings = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
        return bool(settings["seed"] == spec.seed and settings["reg"]["kind"] == spec.reg.kind)
    except (OSError, ValueError, LookupError, TypeError):
        return False
