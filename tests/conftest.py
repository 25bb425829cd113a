"""Shared fixtures: small settings, command lines in new processes, and the profile of hypothesis."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

from aetlab.spec import RunSpec
from aetlab.spec.folders import group_choices
from tests.commands import perform
from tests.words import spec_of

settings.register_profile("aetlab", deadline=None, derandomize=True, print_blob=False)
settings.load_profile("aetlab")

#: Type of the fixture ``once``.
Once = Callable[[str, Callable[[Path], str]], tuple[Path, str]]
#: Overrides of a run that takes about a second.
TINY = ("scale=smoke", "tilts.n_tilts=6", "engine.n_iterations=2", "simulate.n_layers=8", "engine.n_threads=1")

#: Fixtures that all processes share and that take several seconds, and how long a test that makes one takes.
SLOW_FIXTURES, SLOW_FIXTURE_S = frozenset({"made", "swept", "unbroken"}), 20
#: Seconds of a test that is marked ``slow`` without a number.
SLOW_S = 10

#: Resolution of the figures of ``coarse_figures``, instead of 300.
COARSE_DPI = 60


class Lazily:
    """A module that is imported at the first use of one of its attributes."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest looks for fixtures among all objects of a module
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)


def pytest_configure() -> None:
    """Set the threads of this process and its children as the commands set theirs; no library is loaded yet."""
    for name, value in (("OMP_WAIT_POLICY", "PASSIVE"), ("OPENBLAS_NUM_THREADS", "1"), ("MKL_NUM_THREADS", "1")):
        os.environ.setdefault(name, value)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deal the longest tests first, so that several processes end together.

    ``slow(seconds)`` orders them. With ``--dist worksteal`` each process first receives one run of neighbouring tests,
    of equal number; each run therefore begins with its share of the long ones. Of the tests of a slow fixture one is
    long, the one that makes it; the others follow where they are, since they would wait for it.
    """
    made: set[str] = set()

    def seconds(item: pytest.Item) -> float:
        marker = item.get_closest_marker("slow")
        fixtures = (SLOW_FIXTURES & set(getattr(item, "fixturenames", ()))) - made
        made.update(fixtures)
        return max([SLOW_FIXTURE_S] * len(fixtures) + [(marker.args or [SLOW_S])[0] if marker else 0])

    cost_s = {item: seconds(item) for item in items}
    items.sort(key=lambda item: -cost_s[item])
    n_long = sum(cost > 0 for cost in cost_s.values())
    deal(items, n_long, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def deal(items: list[Any], n_long: int, n_runs: int) -> None:
    """Order ``items``, of which the first ``n_long`` are long, so that ``n_runs`` equal runs begin with long ones."""
    long, rest, total = items[:n_long], items[n_long:], len(items)
    items.clear()
    for i_run in range(n_runs):
        own = long[i_run::n_runs]
        n_others = max(0, (total - len(items)) // (n_runs - i_run) - len(own))
        items += own + rest[:n_others]
        del rest[:n_others]


def pytest_collection_finish() -> None:
    """Interpret kernels of doubles; collect garbage less often and no imported objects, a tenth of the tests' time."""
    if "numba" in sys.modules:
        importlib.import_module("tests.interpreted").interpret_doubles()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def pytest_runtest_setup() -> None:
    """Let kernels that were interpreted often be compiled from this test on."""
    if "tests.interpreted" in sys.modules:
        sys.modules["tests.interpreted"].begin_test()


@pytest.fixture(scope="session")
def smoke_spec() -> RunSpec:
    """Return the settings of ``scale=smoke``."""
    return spec_of("scale=smoke")


@pytest.fixture(scope="session")
def default() -> RunSpec:
    """Return the settings of a run without other words."""
    return spec_of()


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """``once("sweep", fill)``: return a folder filled by ``fill``, and the text that ``fill`` returned.

    The folder is filled once for all processes of the tests: the first one fills it while the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the folder of each process lies in a common one
        base = base.parent

    def filled(name: str, fill: Callable[[Path], str]) -> tuple[Path, str]:
        folder, given = base / name, base / f"{name}.txt"
        with FileLock(base / f"{name}.lock"):
            if not given.exists():
                folder.mkdir()
                given.write_text(fill(folder), encoding="utf-8")
        return folder, given.read_text(encoding="utf-8")

    return filled


@pytest.fixture(scope="session")
def experiments() -> dict[str, RunSpec]:
    """Return the settings of the paper's rows and panels by the names of their experiments."""
    return {name: spec_of(f"experiment={name}") for name in group_choices()["experiment"]
            if name.startswith(("fig", "atoms"))}


def make_figures_coarse(patch: pytest.MonkeyPatch) -> None:
    """Save figures in a fifth of the time: few pixels, panels as first placed, and a PDF without content.

    The figures of tests/test_paper.py, of every kind, have their PDF.
    """
    style = importlib.import_module("aetlab.reporting.figures.style")
    pdf = importlib.import_module("matplotlib.backends.backend_pdf")
    patch.setattr(style, "PNG_DPI", COARSE_DPI)
    patch.setattr(pdf.FigureCanvasPdf, "print_pdf", lambda canvas, path, **settings: Path(path).write_bytes(b"%PDF"))
    patch.setattr(style.ConstrainedLayoutEngine, "execute", lambda engine, figure: None)


@pytest.fixture
def coarse_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save coarse figures; tests/test_figures.py tests those of print quality."""
    make_figures_coarse(monkeypatch)


@pytest.fixture
def change() -> Callable[..., RunSpec]:
    """``change(spec, "engine", device="cpu")``: return a copy with other settings in one group."""

    def changed(spec: RunSpec, group: str, **values: object) -> RunSpec:
        return dataclasses.replace(spec, **{group: dataclasses.replace(getattr(spec, group), **values)})

    return changed


@pytest.fixture
def aetlab(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``aetlab("run", "dose=50k", ...)``: run a command line in a prepared process, in an empty folder."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), "COLUMNS": "200"}

    def call(module: str, *words: str, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        return perform(module, words, tmp_path, environment, timeout_s)

    return call
