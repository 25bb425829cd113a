"""Describe a setting where it is defined (its meaning, unit and range, and what reads it), and check its value.

:func:`setting` makes a field of a dataclass. Checks, refusals, docstrings and ``--help`` are made from it, so that a
range or a unit is written once. Each check raises :class:`SpecError` with one line that names setting, value and
choices. Settings that belong to one method of a table become settings of its group (:func:`with_own_settings`), which
are read with that method alone.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from aetlab.core.errors import AetlabError

T = TypeVar("T")
_INTERVAL = re.compile(r"([(\[])(\S+), (\S+)([)\]])")


@dataclass(frozen=True, kw_only=True)
class About:
    """Description of a setting.

    Attributes
    ----------
    meaning : str
        The setting in words, without unit and range.
    unit : str
        Its unit; empty for a pure number.
    within : str
        The interval of its values, ``(0, 1]`` for example; of each entry for a list. A round bracket excludes the end,
        so that ``(0, inf)`` refuses infinity and ``(0, inf]`` takes it.
    choices : tuple of str
        The only values, if there are few.
    reads : tuple of str
        Conditions on other settings, such as ``reg=tv|lasso`` or ``trace.smoothing>0``. Nothing reads the setting
        unless all of them hold (:mod:`aetlab.spec.unread`).
    """

    meaning: str
    unit: str = ""
    within: str = "(-inf, inf)"
    choices: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()

    @property
    def range(self) -> str:
        """The allowed values in words; empty if any finite number, or any text, is allowed."""
        if self.choices:
            return f"one of {', '.join(filter(None, self.choices))}"
        opening, low, high, closing = self._interval
        if math.isfinite(low) and math.isfinite(high):
            return f"{low:.16g} to {high:.16g}" if opening + closing == "[]" else f"in {self.within}"
        if math.isfinite(low):
            return f"{'greater than' if opening == '(' else 'at least'} {low:.16g}"
        return ""

    def allows(self, value: Any) -> bool:
        """Return whether ``value``, which has the type of the setting or of an entry of its list, is allowed."""
        if self.choices:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return True
        opening, low, high, closing = self._interval
        above = value > low or (value == low and opening == "[")
        return above and (value < high or (value == high and closing == "]"))

    def refusal(self, value: Any) -> str:
        """Return what the setting takes instead of ``value``, in words, with its unit and meaning."""
        if self.choices:
            return f"choose {self.range}"
        unit = f" {self.unit}" if self.unit else ""
        low, high = self._interval[1:3]
        if math.isfinite(low) and math.isfinite(high):
            return f"it must lie in {self.within}{unit} ({self.meaning})"
        finite = " and finite" if isinstance(value, float) and math.isinf(value) else ""
        return f"it must be {f'{self.range}{unit}{finite}' if self.range else 'finite'} ({self.meaning})"

    @property
    def _interval(self) -> tuple[str, float, float, str]:
        match = _INTERVAL.fullmatch(self.within)
        assert match is not None, self.within
        return match[1], float(match[2]), float(match[3]), match[4]


def setting(meaning: str, *, unit: str = "", within: str = "(-inf, inf)", choices: tuple[str, ...] = (),
            reads: tuple[str, ...] = (), default: Any = dataclasses.MISSING,
            factory: Any = dataclasses.MISSING) -> Any:
    """Return a field of a dataclass with its description :class:`About`, and a ``default`` or a ``factory`` of one."""
    metadata = {"about": About(meaning=meaning, unit=unit, within=within, choices=choices, reads=reads)}
    if factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def about(kind: type, name: str) -> About:
    """Return the description of field ``name`` of the dataclass ``kind``."""
    found: About = kind.__dataclass_fields__[name].metadata["about"]
    return found


def check_ranges(group: str, settings: Any) -> None:
    """Raise :class:`~aetlab.spec.SpecError` for the first value of the dataclass ``settings`` outside its range.

    ``group``, if not empty, stands before the name of the setting in the message.
    """
    for field in dataclasses.fields(settings):
        described = field.metadata.get("about")
        given = getattr(settings, field.name)
        for value in given if isinstance(given, tuple) else (given,):
            if described is not None and not described.allows(value):
                require(False, f"{group}.{field.name}".lstrip("."), value, described.refusal(value))


def documented(kind: type[T]) -> type[T]:
    """Return the dataclass ``kind`` with its settings added to its docstring, as a section of attributes."""
    if kind.__doc__ is not None:  # python -OO has none
        lines = [inspect.cleandoc(kind.__doc__), "", "Attributes", "----------"]
        for field in dataclasses.fields(kind):  # pyrefly: ignore[bad-argument-type]
            described = about(kind, field.name)
            allowed = ", ".join(filter(None, (described.unit, described.range)))
            lines.append(f"{field.name} : {field.type}{f', {allowed}' if allowed else ''}")
            lines += textwrap.wrap(f"{described.meaning[0].upper()}{described.meaning[1:]}.", 116,
                                   initial_indent="    ", subsequent_indent="    ")
        kind.__doc__ = "\n".join(lines)
    return kind


class SpecError(AetlabError, ValueError):
    """A setting that cannot be used; the message names the setting, its value and the allowed values."""


def require(ok: bool, setting: str, value: object, allowed: str) -> None:
    """Raise :class:`SpecError` unless ``ok``; ``allowed`` describes the allowed values."""
    if not ok:
        raise SpecError(f"{setting}={value!r} cannot be used: {allowed}")


def choice(setting: str, value: str, choices: tuple[str, ...]) -> None:
    """Require one of ``choices``."""
    require(value in choices, setting, value, f"choose one of {', '.join(choices)}")


def positive(setting: str, value: float, *, finite: bool = True) -> None:
    """Require a number above 0; infinity is allowed unless ``finite``."""
    ok = value > 0 and (math.isfinite(value) or not finite)
    require(ok, setting, value, "it must be greater than 0" + (" and finite" if finite else ""))


def not_negative(setting: str, value: float) -> None:
    """Require a finite number of at least 0."""
    require(value >= 0 and math.isfinite(value), setting, value, "it must be 0 or greater, and finite")


def fraction(setting: str, value: float) -> None:
    """Require a number from 0 to 1."""
    require(0 <= value <= 1, setting, value, "it must lie between 0 and 1")


class Constants(dict[str, float]):
    """A dictionary that nobody can change: settings are shared by all that bound them, and are part of an identity."""

    def _refuse(self, *_: object) -> None:
        raise TypeError("settings cannot be changed: make others, such as aetlab.settings(overrides={...})")

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse  # type: ignore[assignment]

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type, tuple[dict[str, float]]]:
        return Constants, (dict(self),)


def debye_waller(setting: str, values_A2: Mapping[str, float], symbols: Sequence[str]) -> Constants:
    """Return finite factors above 0 by element symbol, with the entry ``default``; refuse others."""
    for symbol, value_A2 in values_A2.items():
        require(symbol in (*symbols, "default"), setting, symbol, "name elements by symbol, or default")
        positive(f"{setting}.{symbol}", value_A2)
    require("default" in values_A2, setting, values_A2, "it needs the entry default")
    return Constants(values_A2)


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
