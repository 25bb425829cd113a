"""Input files that change: no result is filed under settings that its run did not use."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aetlab import keeper
from aetlab.cli.ledger import Order, RequestedJob, add_job, input_digests, open_ledger, read_order, require_inputs
from aetlab.core.files import StorageError, unchanged
from aetlab.spec import RunSpec, SpecError
from aetlab.spec.bind import bind_inputs
from aetlab.store.identity import record_id
from aetlab.store.record import list_records, read_array
from tests.commands import perform
from tests.conftest import TINY
from tests.test_sweep import ENVIRONMENT

FIRST, SECOND, THIRD = (f"4\n\nSi 0 0 0\nSi 3 0 0\nSi 0 3 0\nSi 0 0 {z_A}\n" for z_A in (3, 4, 5))


def edit_after_the_first() -> None:
    """Replace the structure after the first run."""
    run = keeper.run

    def editing(spec: RunSpec, **rest: Any) -> Any:
        result = run(spec, **rest)
        Path("a.xyz").write_text(SECOND, encoding="utf-8")
        return result

    keeper.run = editing


def edit_during_the_run() -> None:
    """Replace the structure between the simulation and the reconstruction of a run."""
    reconstruct = keeper.flow.reconstruct

    def editing(*words: Any, **rest: Any) -> Any:
        Path("a.xyz").write_text(THIRD, encoding="utf-8")
        return reconstruct(*words, **rest)

    keeper.flow.reconstruct = editing


@pytest.mark.slow
def test_a_structure_edited_during_a_sweep_or_run_is_never_filed_under_another_id(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(FIRST, encoding="utf-8")
    for first in (edit_after_the_first, edit_during_the_run):
        words = ("-m", "sample=file", "sample.path=a.xyz", "seed=0,1", *TINY)
        printed = perform("run", words, tmp_path, ENVIRONMENT, 240, first).stdout
        assert re.search(r"seed=0: done in", printed) and "shared, read from record" not in printed
        assert re.search(r"seed=1: FAILED .*sample\.path='a\.xyz' cannot be used: the file has changed since", printed)
    records, errors = list_records(tmp_path / "outputs" / "records", verify=True)
    assert errors == []
    heights_A = {}
    for record in records:
        assert record.id == record_id(record.spec)
        heights_A[record.spec.sample.digest] = np.ptp(read_array(record, "truth/positions_A").values[:, 2])
    assert heights_A == pytest.approx({hashlib.sha256(text.encode()).hexdigest(): height_A
                                       for text, height_A in ((FIRST, 3), (SECOND, 4))})


def test_a_worker_gets_the_planned_settings_or_refuses(tmp_path: Path, smoke_spec: RunSpec,
                                                       change: Callable[..., RunSpec]) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(SECOND, encoding="utf-8")
    planned = bind_inputs(change(smoke_spec, "sample", kind="file", path=str(path)))
    infinite = change(planned, "dose", total_e_A2=np.inf)
    ledger = open_ledger(tmp_path, [RequestedJob("run", record_id(planned), ("seed=0",)), RequestedJob("out", "", ())],
                         [Order(planned, "/outputs", True), None], input_digests(planned), is_search=True)
    add_job(ledger, 2, RequestedJob("later", record_id(infinite), ()), Order(infinite, "/outputs", False))
    assert read_order(ledger, 0) == (RequestedJob("run", record_id(planned), ("seed=0",)),
                                     Order(planned, "/outputs", True))
    assert read_order(ledger, 2)[1] == Order(infinite, "/outputs", False)
    settings = ledger / "settings.jsonl"
    for number, damage in ((0, settings.read_text(encoding="utf-8").replace('"seed": 0', '"seed": 1')), (2, "{}\n")):
        settings.write_text(damage, encoding="utf-8")
        with pytest.raises(StorageError, match="is damaged: repeat the command"):
            read_order(ledger, number)
    require_inputs(ledger, planned)
    path.write_text(THIRD, encoding="utf-8")
    changed = bind_inputs(change(smoke_spec, "sample", kind="file", path=str(path)))
    with pytest.raises(SpecError, match=r"a\.xyz has changed since the search started; start the search again"):
        require_inputs(ledger, changed)


@pytest.mark.parametrize("edit", [
    lambda path: path.write_text("other", encoding="utf-8"), lambda path: path.unlink(),
    lambda path: (path.with_suffix(".b").write_text("text", encoding="utf-8"), path.with_suffix(".b").replace(path)),
])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, edit: Callable[[Path], object]) -> None:
    path = tmp_path / "a"
    path.write_text("text", encoding="utf-8")
    with unchanged(path) as digests:
        assert digests[path].startswith("982d9e3e")
    with pytest.raises(StorageError, match="was changed while it was read: start again"), unchanged(path):
        edit(path)
