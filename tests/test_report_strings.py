"""Strings of records that would be markup, a script or a path: the page shows them and does nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from aetlab.reporting.figures.labels import run_labels
from aetlab.reporting.page import Report, _template, build_page
from aetlab.reporting.stored_run import read_runs
from aetlab.reporting.studies import find_studies
from aetlab.reporting.tables import fold_seeds, summary_frame
from aetlab.store.record import MANIFEST
from tests.fake_records import fake_spec, write_fake_record
from tests.test_report_browser import browser, console, open_page  # noqa: F401  (a fixture)

EVIL = """"'><img src=x onerror="document.title='evil'"></script><script>document.title='evil'</script>\u202e<!--"""


def change(folder: Path, name: str, edits: dict[str, object]) -> None:
    """Change a JSON file of a record as one would who can write a record."""
    content = json.loads((folder / name).read_text(encoding="utf-8")) | edits
    text = json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    manifest["files"][name] = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text.encode())}
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("strings")
    usual = fake_spec(n_voxels=24)
    spec = dataclasses.replace(usual, scale=dataclasses.replace(usual.scale, name=EVIL),
                               microscope=dataclasses.replace(usual.microscope, name=EVIL))
    for seed in range(2):
        made = write_fake_record(folder, dataclasses.replace(spec, seed=seed))
        change(made, "environment.json", {"device": EVIL, "platform": EVIL, "commit": EVIL, "versions": {EVIL: EVIL},
                                          "seconds_by_stage": {EVIL: 1.0}, "stopped": EVIL})
        change(made, "metrics.json", {EVIL: 1.0})
    runs, problems = read_runs(folder)
    assert len(runs) == 2 and not problems
    frame = summary_frame(runs)
    return build_page(Report(
        runs=runs, frame=frame, folded=fold_seeds(frame), labels=run_labels(frame), tables_one=[], figures=[],
        problems=[EVIL], missing=[EVIL], default=usual, remake={run.identity: [EVIL] for run in runs}, choice=EVIL,
        title=EVIL))


def test_no_string_of_a_record_is_markup(page: str) -> None:
    class Elements(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []
            self.attributes: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.names.append(tag)
            self.attributes += [name for name, _ in attrs]

    elements = Elements()
    elements.feed(page)
    assert elements.names.count("script") == _template("report.html").count("<script") and "img" not in elements.names
    assert not [name for name in elements.attributes if name.startswith("on")]
    assert "\u202e" not in page.split("<script")[0] and page.count("&lt;img src=x") > 10


def test_no_string_of_a_record_runs_in_a_browser(browser: str, page: str, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    done = open_page(browser, path, "--virtual-time-budget=5000", "--dump-dom")
    assert console(done) == [] and 'data-ready="yes"' in done.stdout
    assert "<title>evil" not in done.stdout and "<img" not in done.stdout.split("<body")[1]


def test_the_name_of_a_scale_cannot_leave_the_folder_of_the_report(tmp_path: Path) -> None:
    spec = fake_spec(n_voxels=24)
    for name in ("../../../elsewhere", "a/b"):
        scale = dataclasses.replace(spec.scale, name=name, voxel_A=0.5 + len(name) / 1000)
        write_fake_record(tmp_path, dataclasses.replace(spec, scale=scale))
    names = [study.name for study in find_studies(read_runs(tmp_path)[0], {"fig4b": spec}, spec)]
    assert sorted(names) == ["__.._.._elsewhere", "a_b"]
