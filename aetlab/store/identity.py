"""Compute the identity of a run, a hash of its settings, and the identity of the code that computes it.

Canonical JSON has sorted keys, no spaces, tuples as lists, whole numbers without a decimal point (1000 and 1000.0 are
equal) and infinity as the word ``inf``. The identity of a run leaves out labels and settings that decide only where it
is computed. Input files enter by the digests that were taken when the settings were bound; no file is read here.

The identity of the code covers the files of :data:`DECIDING`: Python files without comments and docstrings, other
files byte by byte. Default values and ranges of settings are not covered: the identity of the run holds the values, and
a range only refuses some of them. Quantities derived from settings are covered (:mod:`aetlab.spec.derived`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from aetlab.spec import RunSpec, SpecError
from aetlab.spec.bind import unbind
from aetlab.spec.reconstruction import OWNERS
from aetlab.spec.sample import format_ending

#: Settings that do not change the result.
NOT_IN_IDENTITY = {"scale": ("name",), "microscope": ("name",), "engine": ("device", "devices", "n_threads")}
#: Folders (with all their contents) and files of the package that decide a number of a record.
DECIDING = (
    "core", "flow.py", "forward", "gpu", "methods", "reconstruction", "refinement", "samples", "scoring", "solve",
    "spec/derived.py", "spec/tile.py", "store/contents.py", "tracing", "validation",
)
#: Folders and files that do not. A file belongs to the longest entry of both tables that contains it.
NOT_DECIDING = (
    # Commands, settings, file formats and reports.
    "__init__.py", "bound.py", "cli", "doctor.py", "exchange", "keeper", "py.typed", "report.py", "reporting",
    "run.py", "runs.py", "series", "spec", "store", "trace.py",
    # In deciding folders: messages, labels, choice of the device, estimates, and results of the command bound alone.
    "core/console.py", "core/errors.py", "core/files.py", "core/hdf5.py", "core/inert.py",
    "core/kernel_cache.py", "core/metrics.py", "core/progress.py", "core/progress_bar.py", "core/scratch.py",
    "core/setting.py", "core/yaml_file.py",
    "gpu/choose.py", "reconstruction/bound.py", "reconstruction/estimate.py", "reconstruction/memory.py",
    "reconstruction/trials.py",
    "refinement/bound.py",
)
#: In Python source: a colon and the docstring behind it, any other string, or the end of a line with its comment, the
#: lines of comments that follow it and the next indent.
_TRIPLE, _SINGLE = r'"""[^"\\]*+(?:(?:\\.|"(?!""))[^"\\]*+)*+"""', r'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"'
_BLANK = r"[ \t]*+(?:#[^\n]*+)?\n"
_TOKEN = re.compile(
    rf"""(?=[:"'\n #])(?:(:)(?:{_BLANK})*+[ \t]*+r?{_TRIPLE}[ \t]*+(?=[\n#])|({_TRIPLE}|{_SINGLE}|"""
    rf"""{_TRIPLE.replace('"', "'")}|{_SINGLE.replace('"', "'")})|(?:\n| ++(?:#[^\n]*+)?\n|#[^\n]*+\n)"""
    rf"""(?:{_BLANK})*+([ \t]*+))""", re.DOTALL)


_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)


def canonical_json(value: Any) -> str:
    """Return JSON text that is equal for equal values; ``value`` may hold dataclasses and nested containers."""
    return json.dumps(_canonical(unbind(value)), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any, n_digits: int = 16) -> str:
    """Return hex digits of the SHA-256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:n_digits]


def record_id(spec: RunSpec) -> str:
    """Return the 16 hex digits that name the record of ``spec``.

    Raise :class:`SpecError` if the digest of an input file is missing.
    """
    return digest(identity(spec))


def is_id(name: str) -> bool:
    """Return whether ``name`` has the form of a run's id."""
    return _ID.fullmatch(name) is not None


def identity(spec: RunSpec) -> dict[str, Any]:
    """Return the settings of ``spec`` that change its result, as plain values; raise as :func:`record_id`."""
    return identity_of(unbind(spec))


def identity_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of plain ``settings``, such as those of a record, that changes the result of their run.

    A structure file enters by its digest, the ending of its name, which gives the format, and the structure that is
    chosen of several. Settings that belong to other regularisers than that of the run are left out, so that a new
    regulariser does not change it. Tiles enter by their number, and not at all where there is one.

    Raises
    ------
    SpecError
        If the digest of an input file is missing.
    KeyError, TypeError
        If ``settings`` are not those of a run.
    """
    left = {**settings, "data": {**settings["data"]}, "sample": {**settings["sample"]}}
    _settle_tiles(left)
    for group, labels in NOT_IN_IDENTITY.items():
        left[group] = {name: value for name, value in settings[group].items() if name not in labels}
    kind = settings["reg"]["kind"]
    left["reg"] = {name: value for name, value in settings["reg"].items() if kind in OWNERS.get(name, (kind,))}
    path, sample_digest = left["sample"].pop("path"), left["sample"].pop("digest", "")
    frame = left["sample"].pop("frame", 0)
    del left["data"]["path"]
    if left["sample"]["kind"] == "file":
        _require_digest("sample", sample_digest)
        left["sample"]["path"] = sample_digest + format_ending(path) + (f":{frame}" if frame else "")
    if left["data"]["kind"] == "measured":
        _require_digest("data", left["data"]["digest"])
    return left


def _settle_tiles(settings: dict[str, Any]) -> None:
    """Replace the group of the tiles of plain ``settings`` by what decides them; remove it where there is one tile."""
    tile = settings.pop("tile", {"n": 1, "rows": 0})
    n_tiles = -(-settings["scale"]["shape_zxy"][2] // tile["rows"]) if tile["rows"] else tile["n"]
    if tile["rows"] or n_tiles > 1:
        settings["tile"] = {"n": n_tiles, "halo_A": tile["halo_A"], "index": tile["index"]}


def _require_digest(group: str, found: str) -> None:
    if not found:
        raise SpecError(f"{group}.digest='' cannot be used: the digest of {group}.path is taken when settings are "
                        "bound (by aetlab.settings, and for a measured series by aetlab.bind_measured)")


@cache
def code_id() -> str:
    """Return 12 hex digits of the SHA-256 of the code and data files that decide the numbers of a record."""
    return code_digest(Path(__file__).resolve().parents[1])


def code_digest(package: Path) -> str:
    """Return 12 hex digits of the SHA-256 of the deciding files of ``package``: their names and contents."""
    sources = hashlib.sha256()
    for name in sorted(package_files(package)):
        if decides(name):
            content = (package / name).read_bytes()
            if name.endswith(".py"):
                content = code_of(content.decode()).encode()
            sources.update(f"{name}\0".encode() + hashlib.sha256(content).digest())
    return sources.hexdigest()[:12]


def package_files(package: Path) -> Iterator[str]:
    """Yield the names of all source and data files of ``package``, relative to it, with forward slashes."""
    for folder, inner, names in os.walk(package):
        inner[:] = [name for name in inner if not name.startswith((".", "_"))]
        for name in names:
            if not name.startswith("."):
                yield Path(folder, name).relative_to(package).as_posix()


def decides(name: str) -> bool:
    """Return whether the file ``name`` of the package decides a number of a record; True for one in neither table."""
    places = [name, *(parent.as_posix() for parent in Path(name).parents)]
    return next((place in DECIDING for place in places if place in DECIDING or place in NOT_DECIDING), True)


def code_of(source: str) -> str:
    """Return Python ``source`` without comments, docstrings and blank lines.

    A docstring is a string in three double quotes that stands alone on its lines at the start of the file or after a
    colon. Parsing each file would take ten times as long.
    """
    # With the colon in front, the docstring of the file matches like the others.
    return _TOKEN.sub(_kept, ":\n" + source.replace("\r\n", "\n") + "\n")


def _kept(token: re.Match[str]) -> str:
    return token[1] or token[2] or f"\n{token[3]}"


def _canonical(value: Any) -> Any:
    kind = type(value)
    if kind is float:
        return int(value) if value.is_integer() else value
    if kind is dict:
        return {key: _canonical(item) for key, item in value.items()}
    if kind is list:
        return [_canonical(item) for item in value]
    return value
