"""The report from records: its files, its page, and the records and experiments that it names as missing."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import re
import shutil
from multiprocessing import forkserver
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest

from aetlab.cli.compose import compose_spec
from aetlab.cli.reproduce import reproducing_overrides
from aetlab.report import main
from aetlab.reporting.figures.choose import common_tasks
from aetlab.reporting.figures.make import make_figure, make_figures
from aetlab.reporting.figures.slices import average_slab
from aetlab.reporting.figures.style import style
from aetlab.reporting.html import script_data, table
from aetlab.reporting.page import describe_records
from aetlab.reporting.page_viewer import MAX_ATOMS, pack_atoms, pack_slices
from aetlab.reporting.stored_run import read_runs
from aetlab.reporting.tables import summary_frame
from aetlab.spec import RunSpec, ScaleSpec
from aetlab.spec.bind import bind_inputs
from tests.conftest import Once, make_figures_coarse
from tests.fake_records import fake_spec, tiny, write_fake_record
from tests.words import spec_of


@pytest.fixture(scope="session")
def made(once: Once, experiments: dict[str, RunSpec]) -> tuple[Path, str]:
    """Return a report of some experiments, a second seed and damaged records, and its printed output."""

    def fill(folder: Path) -> str:
        outputs = folder / "outputs"
        for name in ("fig4a", "fig4b", "fig8b", "atoms4b"):
            write_fake_record(outputs, tiny(experiments[name]))
        write_fake_record(outputs, dataclasses.replace(tiny(experiments["fig4b"]), seed=5))
        half_made = write_fake_record(outputs, tiny(experiments["fig7b"]))
        (half_made / "metrics.json").unlink()
        damaged = write_fake_record(outputs, tiny(experiments["fig7c"]))
        with open(damaged / "arrays.h5", "r+b") as file:
            file.truncate(1000)
        (outputs / "records" / ".partial-0123456789abcdef").mkdir()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
            patch.setattr("aetlab.report._experiments", lambda: experiments)
            make_figures_coarse(patch)
            main(["--outputs", str(outputs), "--processes", "1"])
        return printed.getvalue()

    folder, printed = once("report", fill)
    return folder / "outputs", printed


def page_of(made) -> str:
    return (made[0] / "report" / "report.html").read_text(encoding="utf-8")


def test_report_writes_all_files(made):
    report = made[0] / "report"
    for name in ("summary", "table_one", "table_one_atoms", "summary_seeds", "summary_columns"):
        for suffix in ("csv", "md", "tex", "parquet"):
            assert (report / f"{name}.{suffix}").stat().st_size > 0
    figures = {path.name for path in (report / "figures").iterdir()}
    for name in ("figure_04", "figure_08"):
        assert {f"{name}.png", f"{name}.pdf"} <= figures
    assert any(name.startswith("convergence_") for name in figures)
    assert not {f"figure_{number:02d}.png" for number in (3, 6, 7, 10)} & figures
    assert len(pd.read_csv(report / "summary.csv")) == 5


def test_broken_records_and_missing_experiments_are_named(made):
    outputs, printed = made
    page = page_of(made)
    broken = [path.name for path in (outputs / "records").iterdir() if not (path / "metrics.json").exists()]
    assert len(broken) == 2
    for name in broken:
        assert name in printed and name in page
    assert "is damaged" in page and "is incomplete" in page
    assert "Figure 6: no record of fig6a, fig6c" in page
    assert "Figure 3: no record of fig3a, fig3b, fig3c" in page


def test_means_over_seeds_are_printed_with_their_intervals_and_are_those_of_the_page(made):
    outputs, printed = made
    table = printed[printed.index("Means over the seeds of records that differ in nothing else"):].split("\n\n")[1]
    heads, _, row = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.strip().split("\n"))
    means = dict(zip(heads, row, strict=True))
    written = pd.read_csv(outputs / "report" / "summary_seeds.csv").query("n_seeds > 1").iloc[0]
    assert means["seeds"] == str(written["n_seeds"]) != "1"
    low, high = written["position_error_pm_low95"], written["position_error_pm_high95"]
    cell = next(cell for head, cell in means.items() if "position" in head or "pm" in head)
    assert cell == f"{written['position_error_pm']:.2f} ({low:.2f} to {high:.2f})"
    assert cell in page_of(made)


def test_page_is_one_file_that_needs_no_network(made):
    page = page_of(made)
    assert not re.search(r"""<[^>]*\b(src|href)\s*=\s*(?!"data:|"#)""", page)
    assert "@import" not in page and "url(" not in page and "fetch(" not in page
    n_records = len(read_runs(made[0])[0])  # each has one picture of its slices
    assert page.count("data:image/webp") == page.count("<figure ") + n_records
    assert "{{" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_page_shows_each_run_in_full(made):
    outputs, _ = made
    page = page_of(made)
    runs, _ = read_runs(outputs)
    assert len(runs) == 5
    for run in runs:
        assert f'id="run-{run.identity}"' in page
    assert "python -m aetlab.run" in page and "dose=inf" in page
    assert "fake processor" in page and "0.0.fake" in page and "reconstruct" in page
    anchors = set(re.findall(r'id="([^"]+)"', page))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= anchors
    assert "Means over seeds" in page


def test_equal_rows_share_one_record(made):
    table_one = pd.read_csv(made[0] / "report" / "table_one.csv").set_index("figure")
    columns = [name for name in table_one if name.endswith("_ours")]
    for figure in ("6(b)", "7(a)", "8(c)"):
        assert table_one.loc[figure, columns].equals(table_one.loc["4(b)", columns])
    assert table_one.loc["4(b)", "n_runs"] == 2
    with_atoms = pd.read_csv(made[0] / "report" / "table_one_atoms.csv")
    assert list(with_atoms["figure"]) == ["4(b)"] and with_atoms["n_runs"][0] == 1
    assert with_atoms["found_percent_paper"][0] == table_one.loc["4(b)", "found_percent_paper"]
    assert math.isnan(table_one.loc["7(b)", "found_percent_ours"])


@pytest.mark.slow
@pytest.mark.usefixtures("coarse_figures")
def test_select_and_by_restrict_the_report(made, experiments, tmp_path, capsys, monkeypatch):
    few = {name: spec for name, spec in experiments.items() if name.startswith("fig8")}  # the others are drawn above
    monkeypatch.setattr("aetlab.report._experiments", lambda: few)
    outputs = tmp_path / "outputs"
    shutil.copytree(made[0] / "records", outputs / "records")
    main(
        [
            "--outputs",
            str(outputs),
            "--select",
            'reg in ("tv", "lasso") and dose_e_A2 == 5e4 and n_tilts == 60 and seed == 0 and vacancies == "none"',
            "--by",
            "reg",
            "--processes",
            "1",
        ]
    )
    assert "2 records" in capsys.readouterr().out
    assert len(pd.read_csv(outputs / "report" / "summary.csv")) == 2
    assert pd.read_csv(outputs / "report" / "summary.csv")["reg"].tolist() == ["lasso", "tv"]
    by = [path for path in (outputs / "report" / "figures").glob("reg_*.png")]
    assert len(by) == 1
    compared = pd.read_csv(outputs / "report" / "summary.csv")["record"]
    main(["--outputs", str(outputs), "--compare", *compared, "--processes", "1"])
    assert "reg.kind" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--select", "reg = 'tv'"], "is not an expression"),
        (["--select", "__import__('os')"], "cannot hold"),
        (["--select", "n_tilts == 7"], "matches none of"),
        (["--by", "colour"], "no column 'colour'"),
        (["--compare", "0", "zzz"], "matches"),
    ],
)
def test_invalid_options_are_refused_in_one_line(made, words, says, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--outputs", str(made[0]), *words])
    printed = capsys.readouterr()
    assert caught.value.code == 2 and printed.out == ""
    assert printed.err.startswith("aetlab: ") and says in printed.err and printed.err.count("\n") == 1


def test_nothing_to_report_ends_in_one_line(tmp_path, capsys):
    for outputs, says in ((tmp_path / "no", "the folder does not exist"), (tmp_path, "holds no records")):
        with pytest.raises(SystemExit, match="2"):
            main(["--outputs", str(outputs)])
        assert says in capsys.readouterr().err


@pytest.mark.usefixtures("coarse_figures")
def test_a_figure_that_cannot_be_made_stops_no_other(tmp_path):
    folder = write_fake_record(tmp_path, fake_spec(n_voxels=24))
    run = read_runs(tmp_path)[0][0]
    (folder / "arrays.h5").write_bytes(b"\0" * (folder / "arrays.h5").stat().st_size)
    tasks = common_tasks([run], summary_frame([run]), set(), "dose_e_A2")
    made = list(make_figures(tasks, tmp_path / "figures", 1))
    assert [figure.png is None for figure in made] == [False, True]
    assert "not drawn" in made[1].problem and run.identity in made[1].problem


@pytest.mark.usefixtures("coarse_figures")
def test_a_run_whose_species_were_not_told_apart_is_drawn(tmp_path):
    write_fake_record(tmp_path, fake_spec(n_voxels=24))
    run = read_runs(tmp_path)[0][0]
    untold = {**run.environment, "species": {"rule": "none", "threshold": [None], "mean": [None, None]}}
    run = dataclasses.replace(run, record=dataclasses.replace(run.record, environment=untold))
    tasks = common_tasks([run], summary_frame([run]), set(), "dose_e_A2")
    assert [figure.problem for figure in make_figures(tasks, tmp_path / "figures", 1)] == ["", ""]


@pytest.mark.slow
def test_several_processes_draw_the_same(tmp_path):
    write_fake_record(tmp_path, fake_spec(n_voxels=24))
    write_fake_record(tmp_path, fake_spec(n_voxels=24, dose_e_A2=7e3))
    runs = read_runs(tmp_path)[0]
    convergence = common_tasks(runs, summary_frame(runs), set(), "dose_e_A2")[0]
    tasks = [dataclasses.replace(convergence, name=f"{convergence.name}_{i}") for i in range(3)]
    forkserver.ensure_running()  # with what conftest names: the first use in a process decides what its forks share
    made = list(make_figures(tasks, tmp_path / "many", 2))
    alone = make_figure(convergence, tmp_path / "one")
    assert [figure.task.name for figure in made] == [task.name for task in tasks]
    assert {figure.png.read_bytes() for figure in made} == {alone.png.read_bytes()}

@pytest.mark.slow
def test_remaking_command_composes_the_same_settings(experiments, default, tmp_path):
    odd = dataclasses.replace(
        default,
        seed=7,
        scale=ScaleSpec(
            name="own", shape_zxy=(40, 42, 44), voxel_A=0.4, core_radius_A=4, shell_thickness_A=2.5, length_A=15
        ),
        dose=dataclasses.replace(default.dose, total_e_A2=12345.6),
        defocus=dataclasses.replace(default.defocus, planes_nm=(-10.0, 33.5)),
        sample=fake_spec(vacancies=0.3).sample,
        reg=dataclasses.replace(default.reg, warm_start=not default.reg.warm_start),
    )
    path = tmp_path / "a b's.xyz"
    path.write_text("1\n\nSi 0 0 0\n", encoding="utf-8")
    named = bind_inputs(dataclasses.replace(default, sample=dataclasses.replace(
        default.sample, kind="file", path=str(path))))
    paper = spec_of("scale=paper", "microscope=uncorrected_200kV")
    for spec in (*experiments.values(), odd, named, paper):
        words = reproducing_overrides(spec, default)
        by_hydra = spec in (odd, named, paper, experiments["atoms6c"])
        composed = compose_spec(list(words)) if by_hydra else spec_of(*words)
        assert dataclasses.replace(composed, scale=spec.scale) == spec
        assert dataclasses.replace(composed.scale, name="") == dataclasses.replace(spec.scale, name="")
    assert reproducing_overrides(default, default) == ()
    assert reproducing_overrides(experiments["fig4a"], default) == ("dose=inf",)


def test_atoms_are_packed_for_the_page_and_thinned_evenly(tmp_path, monkeypatch):
    import base64

    import numpy as np

    write_fake_record(tmp_path, fake_spec(dose_e_A2=7e3))
    run = read_runs(tmp_path)[0][0]
    packed = pack_atoms(run)
    positions_A = np.frombuffer(base64.b64decode(packed["positions"]), "<i2").reshape(-1, 3) / 100
    kinds = np.frombuffer(base64.b64decode(packed["kinds"]), np.uint8)
    assert len(kinds) == len(positions_A) < MAX_ATOMS
    assert np.bincount(kinds, minlength=3).tolist() == packed["counts"][:3]
    assert packed["counts"][3] is None and packed["note"] == ""
    found = run.array("traced/positions_A")[run.array("match/traced")]
    np.testing.assert_allclose(positions_A[kinds == 0], found, atol=0.0051)
    monkeypatch.setattr("aetlab.reporting.page_viewer.MAX_ATOMS", sum(packed["counts"][:3]) - 10)
    fewer = pack_atoms(run)
    kept = np.bincount(np.frombuffer(base64.b64decode(fewer["kinds"]), np.uint8), minlength=3)
    assert kept.tolist() == [packed["counts"][0] - 10, *packed["counts"][1:3]]
    assert fewer["counts"] == packed["counts"] and "are drawn" in fewer["note"]


def test_slices_of_the_page_are_those_of_the_reconstruction(tmp_path):
    import base64
    import io

    import numpy as np
    from PIL import Image

    write_fake_record(tmp_path, fake_spec(n_voxels=24))
    run = read_runs(tmp_path)[0][0]
    packed = pack_slices(run)
    picture = Image.open(io.BytesIO(base64.b64decode(packed["picture"].split(",")[1]))).convert("L")
    width, height, index = packed["width"], packed["height"], packed["n"] // 2
    left, top = index % packed["columns"] * width, index // packed["columns"] * height
    shown = np.asarray(picture.crop((left, top, left + width, top + height)), float)
    plane = average_slab(run.array("volume/potential_V"), 0.5, "z", packed["firstA"] + index * packed["stepA"])
    # Voxels whose left and lower faces lie at xA and yA; x to the right, y upwards.
    x, y = (slice(*(round((end + 6) / 0.5) for end in packed[name])) for name in ("xA", "yA"))
    expected = 255 * np.sqrt(np.clip(plane[x, y] / packed["highV"], 0, 1)).T[::-1]
    assert shown.shape == expected.shape and np.corrcoef(shown.ravel(), expected.ravel())[0, 1] > 0.95
    for turned in (expected[::-1], expected[:, ::-1], expected.T):
        assert np.corrcoef(shown.ravel(), turned.ravel())[0, 1] < 0.9
    z_A = run.array("truth/positions_A")[:, 2]
    assert packed["firstA"] <= z_A.min() and packed["firstA"] + (packed["n"] - 1) * packed["stepA"] >= z_A.max()


def test_the_first_line_says_what_the_report_holds(tmp_path):
    for dose in (math.inf, 5e4):
        for reg in ("tv", "lasso"):
            write_fake_record(tmp_path, fake_spec(n_voxels=24, dose_e_A2=dose, reg=reg))
    frame = summary_frame(read_runs(tmp_path)[0])
    errors = sorted(frame["position_error_pm"])
    assert describe_records(frame) == (
        "4 records of 1 sample (needle); 2 priors (lasso, tv); 2 doses (50 000, no noise) in e/Å²; position errors "
        f"{errors[0]:.2f} to {errors[-1]:.2f} pm; computed on cpu.")
    assert describe_records(frame[:1]).startswith("1 record of 1 sample (needle); 1 prior (lasso); 1 dose (no noise)")
    assert describe_records(frame[:0]) == "No records."


def test_text_from_records_cannot_become_markup():
    hostile = "</script><img src=x onerror=alert(1)>"
    assert "</script" not in script_data({"a": hostile})
    assert json.loads(script_data({"a": hostile})) == {"a": hostile}
    assert "<img" not in table(pd.DataFrame({hostile: [hostile]}))


def test_the_users_settings_of_matplotlib_do_not_reach_figures() -> None:
    foreign = {"text.usetex": True, "figure.autolayout": True, "axes.grid": True, "savefig.dpi": 30,
               "savefig.bbox": "tight", "lines.marker": "o", "font.weight": "bold", "figure.facecolor": "black"}
    with mpl.rc_context(foreign), style():
        assert {name: mpl.rcParams[name] for name in foreign} == {name: mpl.rcParamsDefault[name] for name in foreign}
        assert mpl.rcParams["font.size"] == 7.5
    with mpl.rc_context(foreign):
        backend = mpl.get_backend()
        with style():
            assert mpl.get_backend() == backend


