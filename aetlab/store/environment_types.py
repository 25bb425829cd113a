"""Check the types in the ``environment.json`` of a record before they are used; any program may have written it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NUMBER, _TEXT, _LIST, _MAPPING = (int, float), (str,), (list,), (dict,)
#: Types of the entries that are used. An entry may be missing or null.
_TYPES: dict[str, tuple[type, ...]] = {
    "code": _TEXT, "started": _TEXT, "finished": _TEXT, "device": _TEXT, "processor": _TEXT, "stopped": _TEXT,
    "commit": _TEXT, "python": _TEXT, "platform": _TEXT, "reconstruction_of": _TEXT, "seconds": _NUMBER,
    "peak_memory_MB": _NUMBER, "n_cores": _NUMBER, "candidates": _NUMBER, "restarts": _LIST, "halvings": _LIST,
    "rounds": _LIST, "seconds_by_stage": _MAPPING, "versions": _MAPPING, "species": _MAPPING, "removed": _MAPPING,
    "refined": _MAPPING,
}
#: Types inside lists and mappings.
_INNER: dict[str, tuple[type, ...]] = {"restarts": _NUMBER, "halvings": _NUMBER, "seconds_by_stage": _NUMBER,
                                       "versions": _TEXT, "rounds": _MAPPING}
_NAMES: dict[tuple[type, ...], str] = {_NUMBER: "a number", _TEXT: "text", _LIST: "a list", _MAPPING: "a mapping"}


def wrong_type(environment: Mapping[str, Any]) -> str:
    """Return which entry has a wrong type and what it should be, in one line; empty if there is none."""
    for name, wanted in _TYPES.items():
        value = environment.get(name)
        if value is None:
            continue
        if not _fits(value, wanted):
            return f"{name} is not {_NAMES[wanted]}"
        inner = _INNER.get(name)
        if inner and not all(_fits(item, inner) for item in (value.values() if isinstance(value, dict) else value)):
            return f"an entry of {name} is not {_NAMES[inner]}"
    thresholds = (environment.get("species") or {}).get("threshold")
    if thresholds is not None and not (isinstance(thresholds, list)
                                       and all(item is None or _fits(item, _NUMBER) for item in thresholds)):
        return "species.threshold is not a list of numbers"
    return ""


def _fits(value: object, wanted: tuple[type, ...]) -> bool:
    return isinstance(value, wanted) and not isinstance(value, bool)
