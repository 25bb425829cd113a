"""The shape of the code: which room imports which, and how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "aetlab").rglob("*.py"))
#: Modules with a command line. They and ``cli`` may import Hydra and OmegaConf.
COMMANDS = {"run", "report", "runs", "doctor", "bound", "trace"}
#: Rooms of the numerics: arrays and plain values in, arrays out. None imports another.
NUMERICS = {"samples", "forward", "solve", "tracing", "scoring", "exchange"}
#: Rooms that may import ``scoring``, the only room of the numerics that takes true atoms.
MAY_SCORE = {"scoring", "flow", "keeper", "store", "reporting", "cli", *COMMANDS}
#: Rooms that a report does without: it reads records only.
NOT_FOR_REPORTS = {"flow", "keeper", "reconstruction", "refinement", "gpu", "samples", "forward", "solve", "tracing"}
#: Rooms that a simulated run on the CPU without refinement and validation does not import.
NOT_IN_A_PLAIN_RUN = ("gpu", "refinement", "validation", "series", "exchange", "reporting")
#: The Python interface of the package, which is in no room.
PACKAGE = "__init__"


def room_of(path: Path) -> str:
    """Return the first part of a file's path inside the package, without the suffix.

    A room's ``__main__`` is a command, which nothing imports, and belongs to ``cli``.
    """
    if path.name == "__main__.py":
        return "cli"
    return Path(path.relative_to(ROOT / "aetlab").parts[0]).stem


def imported(path: Path) -> set[str]:
    """Return the names of all modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def within(names: set[str], module: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for name in names)


def rooms_in(names: set[str], rooms: set[str]) -> set[str]:
    """Return those of ``rooms`` that ``names`` reach into."""
    return {room for room in rooms if within(names, f"aetlab.{room}")}


def test_hydra_is_entered_by_public_names_and_is_not_patched() -> None:
    for path in (*FILES, *(ROOT / "hydra_plugins").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        names = {name for name in imported(path) if within({name}, "hydra") or within({name}, "hydra_plugins")}
        assert not any(part.startswith("_") for name in names for part in name.split(".")), path
        assert "hydra._internal" not in text and not (names and "setattr(" in text), path
        if "hydra_plugins" in path.parts:  # Hydra imports it in every process
            assert not within(imported(path), "aetlab"), path


def test_a_file_imports_only_what_its_room_may() -> None:
    for path in FILES:
        room, names = room_of(path), imported(path)
        if room not in {*COMMANDS, "cli"}:
            assert not within(names, "hydra") and not within(names, "omegaconf"), path
            assert not rooms_in(names, {*COMMANDS, "cli"}), path
        if room in NUMERICS:
            assert not rooms_in(names, {*NUMERICS, "store", "flow", "keeper"} - {room}), path
        if room not in {*MAY_SCORE, PACKAGE}:
            assert not rooms_in(names, {"scoring"}), path
        if room == "reporting":
            assert not rooms_in(names, NOT_FOR_REPORTS), path
        if path != ROOT / "aetlab" / "core" / "backend.py" and not path.name.endswith("cuda.py"):
            assert not within(names, "cupy"), path
        assert not any(within(names, name) for name in ("pickle", "dill", "shelve", "marshal"))


def test_the_contracts_of_the_import_linter_list_every_room() -> None:
    rooms = {room_of(path) for path in FILES} - {*COMMANDS, "cli", PACKAGE}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = {contract["type"]: contract for contract in project["tool"]["importlinter"]["contracts"]}
    layers = [name.strip() for layer in contracts["layers"]["layers"] for name in layer.split("|")]
    assert sorted(layers) == sorted(rooms | {*COMMANDS, "cli"})
    assert sorted(contracts["forbidden"]["source_modules"]) == sorted(f"aetlab.{room}" for room in rooms)
    assert set(contracts["forbidden"]["forbidden_modules"]) == {"hydra", "omegaconf"}


def test_files_are_short_and_functions_take_no_arbitrary_keywords() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 400, path
        assert path.name not in ("utils.py", "helpers.py")
        module = ast.parse(text)
        classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
        functions = [node for place in (module, *classes) for node in place.body if isinstance(node, ast.FunctionDef)]
        assert not [function.name for function in functions if function.args.kwarg], path


def test_the_entry_point_loads_no_numerics_before_it_needs_them() -> None:
    code = ("import sys, aetlab.run, aetlab.cli.compose, aetlab.cli.help\n"
            "late = ('numba', 'scipy', 'h5py', 'matplotlib', 'pandas', 'ase')\n"
            "print([name for name in late if name in sys.modules])")
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.slow(6)
def test_a_run_imports_no_rooms_that_it_does_not_use(tmp_path: Path) -> None:
    """Make the record of a small run, and look at the modules of its process."""
    unused = tuple(f"aetlab.{room}" for room in NOT_IN_A_PLAIN_RUN)
    code = ("import sys; from pathlib import Path; from tests.conftest import TINY; from tests.words import spec_of\n"
            "from aetlab import keeper; from aetlab.core import backend; from aetlab.store.places import Places\n"
            "backend.gpu_problem = lambda: 'there is no GPU'\n"
            f"made = keeper.run(spec_of(*TINY, 'engine.device=auto'), places=Places(Path({str(tmp_path)!r})))\n"
            "assert made.status == 'done'\n"
            f"print([name for name in sys.modules if name.startswith({unused!r})])")
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert result.stdout.strip() == "[]"
