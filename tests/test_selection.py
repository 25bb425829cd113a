"""One grammar of expressions: the answers of pandas, and nothing that runs code."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aetlab import load_records
from aetlab.core.errors import AetlabError
from aetlab.reporting.choose_runs import choose_runs
from aetlab.reporting.selection import SelectError, select_rows
from aetlab.reporting.tables import fold_seeds, reader_frame
from aetlab.store.listing import list_entries
from aetlab.store.record import Places
from tests.fake_records import fake_spec, write_fake_record

FRAME = pd.DataFrame({
    "record": ["a", "b", "c", "d"], "reg": ["tv", "lasso", "pos", "tv"], "dose_e_A2": [math.inf, 5e4, 7e3, 5e4],
    "found_percent": [100.0, 99.5, np.nan, 97.0], "reg.weight": [1e-4, 2e-4, None, 3e-4],
    "align": [True, False, True, False], "defocus.planes_nm": ["[100.0]", "[20.0, 45.0]", "[100.0]", "[]"]})


@pytest.mark.parametrize(("expression", "rows"), [
    ('reg == "tv"', "ad"), ("reg in ('tv', 'pos')", "acd"), ("reg not in ['tv']", "bc"), ("dose_e_A2 == inf", "a"),
    ("dose_e_A2 < inf and found_percent > 98", "b"), ("7e3 <= dose_e_A2 <= 5e4", "bcd"), ("not (reg == 'tv')", "bc"),
    ("`reg.weight` > 1.5e-4", "bd"), ("reg.weight > 1.5e-4 or reg == 'pos'", "bcd"), ("align == True", "ac"),
    ("found_percent * 2 - 100 > 99", "a"), ("found_percent != found_percent", "c"), ("-dose_e_A2 < -6e4", "a"),
])
def test_the_rows_are_those_of_pandas(expression: str, rows: str) -> None:
    assert "".join(FRAME["record"][select_rows(FRAME, expression)]) == rows
    quoted = expression if "`" in expression else expression.replace("reg.weight", "`reg.weight`")
    assert "".join(FRAME.query(quoted)["record"]) == rows


@pytest.mark.parametrize(("expression", "rows"), [
    ("defocus.planes_nm == [100]", "ac"), ('defocus.planes_nm == "[100]"', "ac"),
    ("[20, 45] == defocus.planes_nm", "b"),
    ("`defocus.planes_nm` != [100.0]", "bd"), ("defocus.planes_nm == []", "d"), ("not align or reg == 'tv'", "abd"),
])
def test_lists_are_compared_by_their_numbers(expression: str, rows: str) -> None:
    assert "".join(FRAME["record"][select_rows(FRAME, expression)]) == rows


@pytest.mark.parametrize(("expression", "says"), [
    ("reg = 'tv'", "equality is =="), ("colour == 1", "no column 'colour'; the columns are record, reg"),
    ("regg == 'tv'", "did you mean reg"), ("__import__('os').system('id')", "cannot hold \"__import__"),
    ("reg.str.contains('t')", "cannot hold"), ("@x == 1", "is not an expression"), ("reg[0] == 't'", "cannot hold"),
    ("9 ** 9 ** 9 > found_percent", "cannot hold '9 ** 9 ** 9'"), ("'a' * 999999999 == reg", "cannot hold"),
    ("[x for x in reg]", "cannot hold"), ("reg < 5", "reg holds texts"),
    ("dose_e_A2 == '50k'", "dose_e_A2 holds numbers; it cannot be compared with '50k'"),
    ("reg == 3", "reg holds texts"), ("reg == 'tv' or 1", "1 is not a condition"),
    ("not 0", "0 is not a condition"), ("found_percent > 1/0", "cannot be computed: divi"),
    ("defocus.planes_nm == 100", "defocus.planes_nm holds lists, such as [100.0]; it cannot be compared with 100"),
    ("dose_e_A2 in (5e4, 'inf')", "holds numbers"), ("found_percent", "is not a condition"),
    ("1 == 1", "is not a condition"), ("(lambda: 1)()", "cannot hold"), ("", "is not an expression"),
    ("`reg\n` == 1", "no column"), ("reg == f'{align}'", "cannot hold"), ("x" * 3000, "longer than 2000"),
    ("reg == '`align`'", "cannot hold"), ("(" * 300 + ")" * 300, "is not an expression"),
    ("reg.__class__ == 1", "no column"),
    ("(y := 5) == found_percent", "cannot hold"), ("reg == None", "cannot hold"), ("reg is 'tv'", "cannot hold"),
])
def test_what_pandas_might_run_is_refused_in_one_line(expression: str, says: str) -> None:
    with pytest.raises(SelectError) as refused:
        select_rows(FRAME, expression)
    assert says in str(refused.value) and "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    for reg in ("tv", "lasso"):
        write_fake_record(folder, fake_spec(n_voxels=24, reg=reg))
    return folder


def test_runs_and_tables_select_the_same(outputs: Path, tmp_path: Path) -> None:
    outputs = shutil.copytree(outputs, tmp_path / "outputs")
    (outputs / "records" / ("0" * 16)).mkdir()
    entries = list_entries(Places(outputs))
    for expression in ("reg == 'tv'", "reg.kind in ['lasso', 'pos']", "n_tilts > 1", "trace.smoothing > 1e3"):
        chosen = {entry.id for entry in choose_runs(entries, [expression])}
        with pytest.warns(UserWarning, match="1 records or runs of .* cannot be used"):
            frame = load_records(outputs)
        assert chosen == set(frame["record"][select_rows(frame, expression)])
        assert "0" * 16 not in chosen
    assert [entry.status for entry in choose_runs(entries, ["status != 'complete'"])] == ["damaged"]
    assert choose_runs(entries, ["0000", "status == 'complete'"]) == []
    for wrong in ("status == 'done'", "status in ('complete', 'done')", "status != 'done'"):
        with pytest.raises(SelectError, match="status is never 'done'; it is one of complete, damaged, cut"):
            choose_runs(entries, [wrong])
    with pytest.raises(SelectError, match="no run's id starts with 'ffff'"):
        choose_runs(entries, ["ffff"])


def test_every_setting_is_a_described_column(outputs: Path) -> None:
    frame = load_records(outputs)
    assert set(frame["reg.kind"]) == {"tv", "lasso"} and frame.query("`reg.kind` == 'tv'")["reg"].tolist() == ["tv"]
    described = frame.attrs["columns"]
    assert described["dose.total_e_A2"].endswith("(e/Å²)") and "unknown to this version" not in described.values()


def test_records_that_differ_in_any_setting_but_the_seed_are_not_averaged(outputs: Path) -> None:
    frame = load_records(outputs)
    both = pd.concat([frame, frame.assign(seed=1), frame.assign(**{"seed": 2, "reg.weight": 0.5})], ignore_index=True)
    assert sorted(fold_seeds(both)["n_seeds"]) == [1, 1, 2, 2]
    alike = pd.concat([frame, frame.assign(**{"reg.weight": 0.5})], ignore_index=True)
    assert "reg.weight" not in reader_frame(frame) and reader_frame(alike)["reg.weight"].nunique() == 2


def test_a_folder_that_is_missing_is_no_empty_table(tmp_path: Path) -> None:
    with pytest.raises(AetlabError, match="there is no such folder"):
        load_records(tmp_path / "nothing")


def test_settings_of_other_regularisers_are_no_values_of_a_record(outputs: Path) -> None:
    assert "reg.edge_V" not in load_records(outputs) and "reg.weight" in load_records(outputs)
