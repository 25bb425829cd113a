"""Find reconstructions in other records: runs that differ only in tracing, refinement or scoring share theirs."""

from __future__ import annotations

from aetlab.core.files import StorageError
from aetlab.core.nouns import Reconstruction
from aetlab.spec import RunSpec, SpecError
from aetlab.store.index import records_with_reconstruction
from aetlab.store.reading import read_reconstruction
from aetlab.store.record import Places, Record, read_record


def find_reconstruction(places: Places, spec: RunSpec, *,
                        use_other_code: bool = False) -> tuple[Reconstruction, Record] | None:
    """Return the reconstruction of ``spec`` and the complete, verified record that holds it, or None.

    Damaged records, and records made by other code unless ``use_other_code``, are ignored.
    """
    for folder in records_with_reconstruction(places, spec):
        try:
            record = read_record(folder)
            if use_other_code or not record.made_by_other_code:
                return read_reconstruction(record), record
        except (StorageError, SpecError, LookupError, TypeError, ValueError):
            continue
    return None
