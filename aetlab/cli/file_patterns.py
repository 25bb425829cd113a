"""Patterns of file names in a sweep: ``-m sample.path=glob(*.xyz)`` is a run for each file."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from glob import glob
from pathlib import Path

from aetlab.spec import SpecError

#: Settings that name a file.
FILES = ("sample.path", "data.path")
_PATTERN = re.compile(r"(?P<key>[A-Za-z_][\w.]*)=\s*glob\((?P<pattern>.*)\)\s*", re.DOTALL)


def expand_file_patterns(words: Sequence[str], groups: Collection[str]) -> list[str]:
    """Return ``words`` with the matching files, sorted by name and quoted for Hydra, in place of a pattern.

    Hydra itself matches choices of ``groups`` alone, and would run nothing for a setting.

    Raises
    ------
    SpecError
        If nothing matches, or the setting names no file.
    """
    return [_expand(word, groups) for word in words]


def _expand(word: str, groups: Collection[str]) -> str:
    match = _PATTERN.fullmatch(word)
    if match is None or match["key"] in groups or match["key"].startswith("hydra"):
        return word
    key, pattern = match["key"], match["pattern"].strip().strip("'\"")
    if key not in FILES:
        raise SpecError(f"{word} cannot be used: glob(...) takes choices of a group, or files for "
                        f"{' and '.join(FILES)}")
    found = glob(str(Path(pattern).expanduser()), recursive=True)
    paths = sorted(path for path in found if Path(path).is_file())
    if not paths:
        raise SpecError(f"{word} matches no file")
    return f"{key}={','.join(_quoted(path) for path in paths)}"


def _quoted(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${")
    return f"'{escaped}'"
