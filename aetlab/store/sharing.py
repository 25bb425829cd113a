"""Find reconstructions in other records: runs that differ only in tracing, refinement or scoring share theirs."""

from __future__ import annotations

from aetlab.core.files import StorageError
from aetlab.core.hand import mirror_reconstruction
from aetlab.core.nouns import Reconstruction
from aetlab.spec import RunSpec, SpecError
from aetlab.store.index import records_with_reconstruction
from aetlab.store.reading import read_reconstruction
from aetlab.store.record import Places, Record, read_record


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
