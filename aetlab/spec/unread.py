"""Refuse settings that are given but that nothing reads under the other settings of the run.

The conditions are those of each setting (``reads`` of :func:`aetlab.core.setting.setting`), one place for all of them.
A condition is ``key=value|value``, ``key!=value``, ``key<number`` or ``key>number``. A group in place of a key, as in
``reg=tv`` and ``align=true``, is its setting ``kind`` or ``enabled``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from aetlab.core.setting import SpecError
from aetlab.spec.acquisition import refuse_settings_of_series
from aetlab.spec.run import RunSpec

_CONDITION = re.compile(r"([\w.]+)(=|!=|<|>)(.*)")


def refuse_unread(settings: RunSpec, keys: Iterable[str]) -> None:
    """Raise :class:`SpecError` for the first of ``keys`` (groups or dotted keys) that nothing reads in ``settings``."""
    keys = list(keys)
    if settings.data.kind == "measured":
        refuse_settings_of_series(keys)
    for key in keys:
        reason = why_unread(settings, key)
        if reason:
            raise SpecError(reason)


def why_unread(settings: RunSpec, key: str) -> str:
    """Return why nothing reads the setting ``key`` in ``settings``, in one line; empty if something reads it."""
    for condition in conditions(settings, key):
        needed, operator, wanted = _parse(condition)
        if not _holds(_value(settings, needed), operator, wanted):
            return (f"{key} cannot be set with {needed}={_text(_value(settings, needed))}, for nothing reads it then: "
                    f"it needs {condition.replace('|', ' or ')}")
    return ""


def conditions(settings: RunSpec, key: str) -> tuple[str, ...]:
    """Return the conditions under which the setting ``key`` is read; none for a group, the seed or an unknown key."""
    group, *path = key.split(".")
    fields = getattr(getattr(settings, group, None), "__dataclass_fields__", {})
    if not path or path[0] not in fields:
        return ()
    reads: tuple[str, ...] = fields[path[0]].metadata["about"].reads
    return reads


def _parse(condition: str) -> tuple[str, str, str]:
    """Return the setting, the operator and the value of a condition."""
    match = _CONDITION.fullmatch(condition)
    assert match is not None, condition
    key, operator, wanted = match.groups()
    if "." not in key:
        key += ".enabled" if key == "align" else ".kind"
    return key, operator, wanted


def _value(settings: RunSpec, key: str) -> Any:
    group, name = key.split(".")
    return getattr(getattr(settings, group), name)


def _holds(value: Any, operator: str, wanted: str) -> bool:
    if operator == "<":
        return bool(value < float(wanted))
    if operator == ">":
        return bool(value > float(wanted))
    return (_text(value) in wanted.split("|")) == (operator == "=")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{','.join(_text(entry) for entry in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
