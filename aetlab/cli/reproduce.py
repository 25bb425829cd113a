"""Find the overrides that reproduce a run: the nearest choice of each group, and the settings that differ from it."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any

from aetlab.spec import RunSpec, SpecError
from aetlab.spec.bind import unbind
from aetlab.spec.choices import compose_choices
from aetlab.spec.folders import group_choices
from aetlab.store.listing import flatten


def reproducing_overrides(spec: RunSpec, default: RunSpec) -> tuple[str, ...]:
    """Return overrides of ``python -m aetlab.run`` that compose ``spec``; settings equal to ``default`` need none."""
    words = [f"seed={spec.seed}"] if spec.seed != default.seed else []
    for field in dataclasses.fields(spec):
        own, usual = getattr(spec, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(own) and own != usual:
            words += _group_words(field.name, own, usual)
    return tuple(words)


def _group_words(group: str, own: Any, default: Any) -> list[str]:
    """Return the shortest overrides that give ``own``: single settings alone, or a choice and single settings."""
    leaves = _differing(own, default)
    best = [_word(group, *leaf) for leaf in leaves]
    for choice, settings in _choices(group).items():
        leaves = _differing(own, settings)
        if len(leaves) + 1 < len(best) or (not leaves and len(best) == 1):
            best = [f"{group}={choice}", *(_word(group, *leaf) for leaf in leaves)]
    return best


@cache
def _choices(group: str) -> dict[str, Any]:
    """Return the choices of ``group`` as settings; choices that need more than their own file are omitted."""
    found: dict[str, Any] = {}
    for choice in group_choices().get(group, ()):
        try:
            found[choice] = getattr(compose_choices({group: choice}), group)
        except SpecError:
            continue
    return found


def _differing(own: Any, other: Any) -> list[tuple[str, Any]]:
    mine, theirs = flatten(unbind(own)), flatten(unbind(other))
    return [(name, value) for name, value in mine.items() if name not in theirs or theirs[name] != value]


def _word(group: str, name: str, value: Any) -> str:
    added = "+" if group == "sample" and name.startswith("debye_waller_A2.") and not name.endswith(".default") else ""
    return f"{added}{group}.{name}={_text(value)}"


def format_value(value: Any) -> str:
    """Return the value of a setting as it is written on the command line, in Hydra's override grammar."""
    return _text(unbind(value))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(_text(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str) and value not in ("inf", "-inf"):
        return (
            value if value.isidentifier() else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
        )
    if isinstance(value, float) and math.isfinite(value) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)
