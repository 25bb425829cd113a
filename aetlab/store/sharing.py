"""Find reconstructions in other records: runs that differ only in tracing, refinement or scoring share theirs."""

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
    """Return the reconstruction of ``spec`` and the complete record that holds it, or None.

    Damaged records, and records made by other code unless ``use_other_code``, are ignored.
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
    """Return whether seed and regulariser agree, so that reading the whole record is worthwhile."""
    try:
        settings = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
        return bool(settings["seed"] == spec.seed and settings["reg"]["kind"] == spec.reg.kind)
    except (OSError, ValueError, LookupError, TypeError):
        return False
