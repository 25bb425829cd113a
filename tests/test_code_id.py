"""The identity of the code: it changes with code that decides a number of a record, and with no other code."""

from __future__ import annotations

import ast
import io
import shutil
import subprocess
import sys
import time
import tokenize
from pathlib import Path

import pytest

import aetlab
from aetlab.store.identity import DECIDING, NOT_DECIDING, code_digest, code_id, code_of, decides, package_files

PACKAGE = Path(aetlab.__file__).resolve().parent
FILES = sorted(package_files(PACKAGE))
SOURCES = [name for name in FILES if name.endswith(".py")]
#: What deciding code may import of code that does not decide: settings (their values are in the run's identity),
#: messages, the choice of the device, and names of arrays.
HARMLESS = ("aetlab.spec", "aetlab.core.errors", "aetlab.core.progress", "aetlab.gpu.choose", "aetlab.store.record",
            "aetlab.store.aligned", "aetlab.store.refined")


def docstrings(tree: ast.AST) -> dict[tuple[int, int], int]:
    """Return the start (line, column in bytes) of each docstring of a tree, and its number of lines."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, owners) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            found[first.lineno, first.col_offset] = (first.end_lineno or first.lineno) - first.lineno + 1
    return found


def tokens(source: str, without: set[tuple[int, int]] | None = None) -> list[str]:
    """Return the tokens of Python source except comments, layout, and those that begin at ``without``."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    return [token.string for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type not in layout and token.start not in (without or set())]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return a copy of the package to edit."""
    copy = tmp_path / "aetlab"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def test_every_file_is_classified_exactly_once() -> None:
    assert not set(DECIDING) & set(NOT_DECIDING)
    for name in FILES:
        entries = [entry for entry in DECIDING + NOT_DECIDING if f"{name}/".startswith(f"{entry}/")]
        assert entries, f"{name} stands in neither table"
        longest = max(entries, key=len)
        assert [len(entry) for entry in entries].count(len(longest)) == 1
        assert decides(name) == (longest in DECIDING)


def test_every_entry_of_the_tables_exists_and_is_needed() -> None:
    for entry in DECIDING + NOT_DECIDING:
        assert (PACKAGE / entry).exists(), entry
        outer = [other for other in DECIDING + NOT_DECIDING if other != entry and f"{entry}/".startswith(f"{other}/")]
        if outer:
            assert (max(outer, key=len) in DECIDING) != (entry in DECIDING), f"{entry} repeats what {outer} says"


def test_known_files_are_classified_correctly() -> None:
    deciding = ("core/grid.py", "forward/data/lobato_2014.csv", "gpu/volume.cu", "samples/data/silica.extxyz",
                "spec/derived.py", "store/contents.py", "tracing/tracer.py", "refinement/fisher.py",
                "solve/weight_rule.py", "scoring/match.py")
    not_deciding = ("bound.py", "cli/compose.py", "reporting/tables.py", "spec/acquisition.py", "core/hdf5.py",
                    "core/progress.py", "exchange/mrc.py", "reconstruction/memory.py")
    assert all(decides(name) for name in deciding) and not any(decides(name) for name in not_deciding)
    assert set(deciding) | set(not_deciding) <= set(FILES)


def test_code_is_the_source_without_comments_and_docstrings() -> None:
    """Compare with Python's own tokenizer and parser."""
    for name in SOURCES:
        source = (PACKAGE / name).read_text(encoding="utf-8")
        assert tokens(code_of(source)[1:]) == tokens(source, set(docstrings(ast.parse(source))))
        assert ":" == code_of(source)[0]


def test_deciding_code_imports_only_deciding_or_harmless_code() -> None:
    for name in filter(decides, SOURCES):
        for node in ast.walk(ast.parse((PACKAGE / name).read_text(encoding="utf-8"))):
            modules = [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
            for module in modules:
                path = PACKAGE.parent.joinpath(*module.split("."))
                if path.with_suffix(".py").exists() or path.is_dir():
                    place = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
                    ours = place.is_relative_to(PACKAGE) and decides(place.relative_to(PACKAGE).as_posix())
                    assert ours or module.startswith(HARMLESS) or not module.startswith("aetlab"), f"{name}: {module}"


def test_settings_derive_quantities_only_in_deciding_files() -> None:
    """Otherwise a change of a derived quantity would not change the identity."""
    for name in (name for name in SOURCES if name.startswith("spec/") and not decides(name)):
        nodes = list(ast.walk(ast.parse((PACKAGE / name).read_text(encoding="utf-8"))))
        defines_settings = any(isinstance(node, ast.ClassDef) and node.name.endswith("Spec") for node in nodes)
        if defines_settings:
            functions = [node.name for node in nodes if isinstance(node, ast.FunctionDef)]
            allowed = ("__post_init__", "_azimuth", "_check", "_has", "_short", "format_ending", "refuse_")
            assert all(function.startswith(allowed) for function in functions), f"{name}: {functions}"


def test_docstrings_and_comments_do_not_change_the_identity(package: Path) -> None:
    before = code_digest(package)
    for name in SOURCES:
        lines = (package / name).read_text(encoding="utf-8").splitlines()
        for (line, column), n_lines in sorted(docstrings(ast.parse("\n".join(lines))).items(), reverse=True):
            lines[line - 1:line - 1 + n_lines] = [f'{" " * column}"""Something else: "quoted", it\'s # no comment.',
                                                  "", f'{" " * column}"""  # and more']
        edited = "\n".join(["# A first line.", *lines, "", "# The end: \"\"\"", ""])
        (package / name).write_text(edited, encoding="utf-8")
        ast.parse(edited)
    assert code_digest(package) == before == code_id()


@pytest.mark.parametrize("name", [
    "core/physics.py", "forward/imaging.py", "gpu/model.py", "methods/regularisers/tv.py", "flow.py",
    "reconstruction/weight.py", "refinement/naming.py", "samples/needle.py", "scoring/match.py",
    "solve/weight_rule.py", "spec/derived.py", "spec/tile.py", "store/contents.py", "tracing/tracer.py"])
def test_a_constant_of_deciding_code_changes_the_identity(package: Path, name: str) -> None:
    before, path = code_digest(package), package / name
    lines = path.read_text(encoding="utf-8").splitlines()
    number = next(node for node in ast.walk(ast.parse("\n".join(lines)))
                  if isinstance(node, ast.Constant) and type(node.value) in (int, float))
    line = lines[number.lineno - 1].encode()
    lines[number.lineno - 1] = (line[:number.col_offset] + b"7" + line[number.col_offset:]).decode()
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    assert code_digest(package) != before


@pytest.mark.parametrize(("name", "old", "new"), [
    ("scoring/errors.py", "** 0.5", "** 1.0"),
    ("gpu/volume.cu", "0.0f", "0.1f"),
    ("forward/data/kirkland_2010.csv", "1", "2"),
    ("forward/data/lobato_2014.csv", "1", "2"),
    ("samples/data/silica.extxyz", "1", "2"),
])
def test_scores_gpu_kernels_and_data_files_change_the_identity(package: Path, name: str, old: str, new: str) -> None:
    before, path = code_digest(package), package / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert code_digest(package) != before


@pytest.mark.parametrize("entry", DECIDING)
def test_a_change_in_each_deciding_entry_changes_the_identity(package: Path, entry: str) -> None:
    before = code_digest(package)
    path = package / entry if entry.endswith(".py") else next(
        path for path in sorted((package / entry).glob("*.py")) if decides(path.relative_to(package).as_posix()))
    path.write_text(path.read_text(encoding="utf-8") + "\nONE_MORE = 1\n", encoding="utf-8")
    assert code_digest(package) != before


def test_adding_renaming_or_removing_a_file_changes_the_identity(package: Path) -> None:
    before = code_digest(package)
    (package / "forward" / "more.py").write_text("x = 1\n", encoding="utf-8")
    added = code_digest(package)
    (package / "forward" / "more.py").rename(package / "forward" / "most.py")
    renamed = code_digest(package)
    (package / "forward" / "most.py").unlink()
    assert len({before, added, renamed}) == 3 and code_digest(package) == before


def test_other_code_does_not_change_the_identity(package: Path) -> None:
    before = code_digest(package)
    for name in FILES:
        if not decides(name):
            path = package / name
            path.write_bytes(path.read_bytes() + b"\nONE_MORE = 1\n")
    assert code_digest(package) == before


def test_the_code_id_takes_little_time() -> None:
    """Measure processor time, which other work on the machine does not change, in a new process."""
    code = ("import time; from aetlab.store.identity import code_id; start = time.process_time(); code_id(); "
            "print(time.process_time() - start)")
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, text=True, capture_output=True,
                            check=True)
    assert float(result.stdout) < 0.15, f"after {time.perf_counter() - start:.1f} s"


def test_code_of_keeps_executed_code() -> None:
    source = '''# comment
"""Module: doc."""  # behind it
import re
x = {"a":
     "# no comment"}  # comment
def f(a: int = 1) -> str:  # "comment"

    # more
    r"""Doc with "quotes" and \\d."""

    return 'it is # "no" \\' comment' + """a
# kept
b"""


class C:
    """Only a docstring."""
'''
    assert code_of(source) == (':\nimport re\nx = {"a":\n     "# no comment"}\ndef f(a: int = 1) -> str:\n'
                               '    return \'it is # "no" \\\' comment\' + """a\n# kept\nb"""\nclass C:\n')
