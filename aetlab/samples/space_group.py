"""Symmetry operations of a crystal from the items of a CIF file.

The list of operations in the file counts above all. Without one, the space group must be in a setting of ASE's tables:
settings 1 and 2 are origin choices 1 and 2, or hexagonal and rhombohedral axes. Where the file does not say which of
two origins it means, both are returned.
Source of the groups with two origins: International Tables for Crystallography A.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

#: Rotations (M, 3, 3) and translations (M, 3) in fractions of the cell.
Operations = tuple[np.ndarray, np.ndarray]

_TWO_ORIGINS = {48, 50, 59, 68, 70, 85, 86, 88, 125, 126, 129, 130, 133, 134, 137, 138, 141, 142, 201, 203, 222, 224,
                227, 228}
_MONOCLINIC = range(3, 16)
_RHOMBOHEDRAL = {146, 148, 155, 160, 161, 166, 167}
_OPERATIONS = ("_space_group_symop_operation_xyz", "_space_group_symop.operation_xyz", "_symmetry_equiv_pos_as_xyz",
               "_symmetry_equiv.pos_as_xyz")
_NUMBER = ("_space_group_it_number", "_space_group.it_number", "_symmetry_int_tables_number",
           "_symmetry.int_tables_number")
_NAME = ("_space_group_name_h-m_alt", "_space_group.name_h-m_alt", "_symmetry_space_group_name_h-m",
         "_symmetry.space_group_name_h-m", "_space_group_name_h-m_full")
_HALL = ("_space_group_name_hall", "_space_group.name_hall", "_symmetry_space_group_name_hall",
         "_symmetry.space_group_name_hall")
#: Greatest change by an operation of the metric of a cell, relative to it: sides are rounded.
_SAME_METRIC = 0.02
_UNKNOWN = ("", ".", "?")
_TERM = r"(?:[+-]?(?:\d+(?:\.\d*)?(?:/\d+(?:\.\d*)?)?|\.\d+)|[+-]?[xyz])"
_OPERATION = re.compile(rf"{_TERM}(?:[+-](?:[xyz]|\d+(?:\.\d*)?(?:/\d+(?:\.\d*)?)?|\.\d+))*")


def find_operations(tags: Mapping[str, Any], cellpar: list[float]) -> list[tuple[str, Operations]]:
    """Return the possible symmetry operations of a crystal, each with the name of its setting.

    There is one entry, or two where the file leaves the origin open.

    Raises
    ------
    ValueError
        If an operation cannot be read, or there is none and the setting of the space group is not known.
    """
    words = _listed(tags)
    if words:
        return [("", _parse_operations(words))]
    number, name = _first(tags, _NUMBER), _first(tags, _NAME)
    if number is None and name is None:
        return [("", _parse_operations(["x,y,z"]))]
    return _tabulated(None if number is None else int(number), None if name is None else str(name), tags, cellpar)


def describe_symmetry(tags: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a line where a file states no symmetry, or lists fewer operations than its space group has."""
    words, number, name = _listed(tags), _first(tags, _NUMBER), _first(tags, _NAME)
    if number is None and name is None:
        return () if words else ("it states no symmetry: its sites are taken as all atoms of the cell",)
    if not words:
        return ()
    try:
        group = _look_up(None if number is None else int(number), _split_setting(name and str(name))[0], name)
    except ValueError:
        return ()
    # A rhombohedral group has three times as many operations on hexagonal axes.
    n_group = len(group.get_symop()) // (3 if group.no in _RHOMBOHEDRAL else 1)
    if len(words) >= n_group:
        return ()
    return (f"it lists {len(words)} symmetry operations, and its space group {name or number} has {n_group}: those "
            "listed are used",)


def check_metric(operations: Operations, cell_A: np.ndarray) -> None:
    """Raise ValueError if one of the ``operations`` changes lengths in the cell with the rows ``cell_A``."""
    metric = cell_A @ cell_A.T
    turned = np.swapaxes(operations[0], 1, 2) @ metric @ operations[0]
    if np.abs(turned - metric).max() > _SAME_METRIC * np.abs(metric).max():
        raise ValueError("its symmetry operations do not go with the sides and angles of its cell")


def _listed(tags: Mapping[str, Any]) -> list[str]:
    listed = _first(tags, _OPERATIONS)
    return [] if listed is None else [str(word) for word in (listed if isinstance(listed, list) else [listed])]


def _first(tags: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        value = tags.get(name)
        if isinstance(value, list) and value and not all(str(item).strip() in _UNKNOWN for item in value):
            return value
        if value is not None and not isinstance(value, list) and str(value).strip() not in _UNKNOWN:
            return value
    return None


def _parse_operations(words: list[str]) -> Operations:
    from ase.spacegroup.spacegroup import parse_sitesym

    clean = [re.sub(r"[\s'\"]", "", word).lower() for word in words]
    for word in clean:
        parts = word.split(",")
        if len(parts) != 3 or not all(_OPERATION.fullmatch(part) for part in parts):
            raise ValueError(f"{word[:40]!r} is no symmetry operation")
    rotations, translations = parse_sitesym(clean)
    if not (np.abs(np.linalg.det(rotations)).round(6) == 1).all():
        raise ValueError("one of its symmetry operations does not keep volumes")
    return rotations, translations


def _tabulated(number: int | None, name: str | None, tags: Mapping[str, Any],
               cellpar: list[float]) -> list[tuple[str, Operations]]:
    from ase.spacegroup import Spacegroup

    plain, stated = _split_setting(name)
    found = _look_up(number, plain, name)
    if found.no in _MONOCLINIC and max(abs(cellpar[3] - 90), abs(cellpar[5] - 90)) > 0.5:
        raise ValueError(f"its space group {name or number!r} does not go with the angles of its cell; save it with "
                         "its operations")
    setting = tags.get("_symmetry_space_group_setting")
    if setting is not None and str(setting) in ("1", "2"):
        return [(f"setting {setting}", _operations(Spacegroup(found.no, int(setting))))]
    if found.no in _RHOMBOHEDRAL:
        hexagonal = abs(cellpar[5] - 120) < 0.5 and abs(cellpar[3] - 90) < 0.5
        if stated and stated != ("h" if hexagonal else "r"):
            raise ValueError(f"its space group {name!r} does not go with the angles of its cell")
        return [("hexagonal axes" if hexagonal else "rhombohedral axes",
                 _operations(Spacegroup(found.no, 1 if hexagonal else 2)))]
    hall = str(_first(tags, _HALL) or "").strip("'\" ")
    if found.no in _TWO_ORIGINS:
        if hall:  # the second origin lies at a centre of inversion, which Hall's symbol says by its sign
            stated = "2" if hall.startswith("-") else "1"
        choices = [{"s": 1, "1": 1, "z": 2, "2": 2}[stated]] if stated in ("1", "2", "s", "z") else [1, 2]
        return [(f"origin choice {choice}", _operations(Spacegroup(found.no, choice))) for choice in choices]
    if stated or (hall and not plain):
        raise ValueError(f"it lists no symmetry operations, and the setting of {name or hall!r} is not tabulated here: "
                         "save it with its operations")
    return [("", _operations(found))]


def _look_up(number: int | None, plain: str, name: str | None) -> Any:
    """Return ASE's space group; a name of ASE's second setting, such as P 21/n, is one of b as the unique axis."""
    from ase.spacegroup import Spacegroup
    from ase.spacegroup.spacegroup import SpacegroupNotFoundError

    tries: list[tuple[str | int, int]] = [(plain, 1), (plain, 2)] if plain else [(number or 1, 1)]
    for key, setting in tries:
        try:
            found = Spacegroup(key, setting)
        except SpacegroupNotFoundError:
            continue
        if number not in (None, found.no):
            raise ValueError(f"its space group is {number} by number and {name!r} by name")
        return found
    raise ValueError(f"it lists no symmetry operations, and its space group {name or number!r} is in a setting that is "
                     "not tabulated here: save it with its operations")


def _split_setting(name: str | None) -> tuple[str, str]:
    """Return a Hermann-Mauguin symbol as ASE's table writes it, and its setting (1, 2, h, r; empty: not stated)."""
    if name is None:
        return "", ""
    text = name.replace("_", " ").strip().strip("'\"")
    match = re.fullmatch(r"(.*?)(?:\s*:\s*(\w+)|\s+([SZHR]))?", text)
    assert match is not None
    words = match[1].split()
    if len(words) == 4 and words[1] == words[3] == "1":  # P 1 21/c 1 in full, b unique
        words = [words[0], words[2]]
    return " ".join(words), (match[2] or match[3] or "").lower()


def _operations(group: Any) -> Operations:
    rotations, translations = zip(*group.get_symop())
    return np.array(rotations), np.array(translations)
