"""Find reconstructions in other records: runs that differ only in tracing, refinement or scoring share theirs.

An index of the records with the same settings before tracing spares a run reading all of them.

The text file ``outputs/index.txt`` has one line for each record: its id, and the digest of those settings. Both follow
from the settings alone, so that a line never becomes wrong. Lines of records that are gone are ignored. Records without
a line are read and their lines appended. A file that is missing, or that another version wrote, is written again. The
index only proposes records; whoever uses one reads and checks it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from aetlab.core.files import StorageError, append_text, open_regular, write_text
from aetlab.core.hand import mirror_reconstruction
from aetlab.core.nouns import Reconstruction
from aetlab.spec import RunSpec, SpecError
from aetlab.store.identity import digest, identity, identity_of, is_id
from aetlab.store.reading import read_reconstruction
from aetlab.store.record import Places, Record, RecordError, read_record, read_settings

#: Groups of settings that come after the reconstruction.
AFTER = ("trace", "refine", "score", "validate")
_HEADER = f"aetlab index 1 of settings before {', '.join(AFTER)}"
_LINE = re.compile(r"([0-9a-f]{16}) ([0-9a-f]{16})")


def find_reconstruction(places: Places, spec: RunSpec, *,
                        use_other_code: bool = False) -> tuple[Reconstruction, Record] | None:
    """Return the reconstruction of ``spec`` and the complete, verified record that holds it, or None.

    Damaged records, and records made by other code unless ``use_other_code``, are ignored. A record whose refinement
    took the mirror image holds the mirrored reconstruction, which is mirrored back.
    """
    for folder in records_with_reconstruction(places, spec):
        try:
            record = read_record(folder)
            if use_other_code or not record.made_by_other_code:
                found = read_reconstruction(record)
                return (mirror_reconstruction(found) if record.metrics.get("refined_mirrored", 0) else found), record
        except (StorageError, SpecError, LookupError, TypeError, ValueError):
            continue
    return None


def records_with_reconstruction(places: Places, spec: RunSpec) -> list[Path]:
    """Return the folders of the records whose settings before tracing are those of ``spec``, sorted by id."""
    wanted = _key(identity(spec))
    return [places.records / name for name, key in sorted(_keys(places).items()) if key == wanted]


def _keys(places: Places) -> dict[str, str]:
    """Return the keys of all records by their ids, and bring the index up to date."""
    try:
        names = [entry.name for entry in os.scandir(places.records) if is_id(entry.name)]
    except OSError:
        return {}
    known, usable = _read(places.index)
    found = {name: key for name in names if name not in known and (key := _key_of(places.records / name))}
    known |= found
    if not usable:
        _write(places.index, {name: known[name] for name in names if name in known})
    elif found:
        _append(places.index, found)
    return {name: known[name] for name in names if name in known}


def _key(settings: Mapping[str, Any]) -> str:
    return digest({group: values for group, values in settings.items() if group not in AFTER})


def _key_of(folder: Path) -> str:
    """Return the key of the record in ``folder``; "" if its settings cannot be read or are not those of its id."""
    try:
        settings = identity_of(read_settings(folder))
        return _key(settings) if digest(settings) == folder.name else ""
    except (RecordError, SpecError, KeyError, TypeError, AttributeError):
        return ""


def _read(path: Path) -> tuple[dict[str, str], bool]:
    """Return the lines of the index, and whether lines can be appended to it."""
    try:
        with open_regular(path) as file:
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return {}, False
    if lines[0] != _HEADER or lines[-1]:
        return {}, False
    return {match[1]: match[2] for line in lines if (match := _LINE.fullmatch(line))}, True


def _write(path: Path, keys: Mapping[str, str]) -> None:
    with suppress(StorageError):  # the next run tries again
        write_text(path, "\n".join([_HEADER, *(f"{name} {key}" for name, key in keys.items())]) + "\n")


def _append(path: Path, keys: Mapping[str, str]) -> None:
    with suppress(OSError):
        append_text(path, "".join(f"{name} {key}\n" for name, key in keys.items()))
