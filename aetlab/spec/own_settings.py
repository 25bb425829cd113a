"""Settings that belong to one method of a table: they become settings of its group, read with that method alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TypeVar

from aetlab.core.setting import about, setting

T = TypeVar("T")


def owners(tables: Mapping[str, type]) -> dict[str, tuple[str, ...]]:
    """Return the methods that read each own setting, by its name; ``tables`` has the settings of each method."""
    found: dict[str, tuple[str, ...]] = {}
    for method, own in tables.items():
        for field in dataclasses.fields(own):
            found[field.name] = (*found.get(field.name, ()), method)
    return found


def with_own_settings(group: str, tables: Mapping[str, type]) -> Callable[[type[T]], type[T]]:
    """Return a decorator of a class, below ``@dataclass``, that adds the own settings of the methods of ``group``.

    Parameters
    ----------
    group : str
        Group whose setting ``kind`` chooses the method.
    tables : mapping
        For each method, the dataclass of its own settings, each with a default.

    Raises
    ------
    TypeError
        If two methods, or a method and the group, describe a setting of the same name differently.
    """
    methods = owners(tables)

    def add(kind: type[T]) -> type[T]:
        common = dict(kind.__annotations__)
        found: dict[str, tuple[object, ...]] = {}
        for method, own in tables.items():
            for field in dataclasses.fields(own):
                described, name = about(own, field.name), field.name
                facts = described, field.type, field.default
                if name in common or found.setdefault(name, facts) != facts:
                    raise TypeError(f"{group}.{name} of {group}={method} has another description elsewhere")
                reads = (f"{group}={'|'.join(methods[name])}", *described.reads)
                setattr(kind, name, setting(described.meaning, unit=described.unit, within=described.within,
                                            choices=described.choices, reads=reads, default=field.default))
        kind.__annotations__ = common | {name: str(facts[1]) for name, facts in found.items()}
        return kind

    return add
