"""Compose the settings of many jobs from few compositions of Hydra, which takes a fifth of a second for each.

The first job of a sweep is composed as a whole, and once more for every other choice of a group. Such a choice changes
the settings of its own group only, which is checked; settings of single keys are then put in place. Whatever does not
fit this scheme (experiments, added or deleted keys, references between settings) is composed as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: An override ``group=choice`` or ``key=value`` that changes an existing key.
_PLAIN = re.compile(r"(?P<key>[A-Za-z_][\w.]*)=(?P<value>.*)", re.DOTALL)
_WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,15})")
#: The group whose choices change other groups.
_EXPERIMENT = "experiment"


@dataclass(frozen=True)
class Composition:
    """Composed settings as plain values, and whether a setting refers to another one."""

    settings: Mapping[str, Any]
    refers: bool


class SweepSettings:
    """Compose the settings of the jobs of one sweep.

    Parameters
    ----------
    compose : callable
        Returns the :class:`Composition` of the overrides of one job.
    value_of : callable
        Returns the value of an override ``key=value``.
    groups : collection of str
        Names of the groups of settings.
    """

    def __init__(self, compose: Callable[[Sequence[str]], Composition], value_of: Callable[[str], Any],
                 groups: Mapping[str, object]) -> None:
        self._compose = compose
        self._value_of = value_of
        self._groups = groups
        self._values: dict[str, Any] = {}
        self._bases: dict[tuple[str, ...], _Base] = {}

    def compose(self, words: Sequence[str]) -> Composition:
        """Return the composition of the overrides ``words`` of a job."""
        parts = [_PLAIN.fullmatch(word) for word in words]
        if None in parts or not _are_separate([part["key"] for part in parts if part]):
            return self._compose(words)
        group = tuple(part["key"] if part and not self._is_whole(part["key"]) else word
                      for part, word in zip(parts, words, strict=True))
        base = self._bases.get(group)
        if base is None:
            base = self._bases[group] = _Base(tuple(words), self._compose(words))
        return self._changed(base, words) or self._compose(words)

    def _is_whole(self, key: str) -> bool:
        return key == _EXPERIMENT or key.split(".")[0] == "hydra"

    def _changed(self, base: _Base, words: Sequence[str]) -> Composition | None:
        """Return the composition of ``words`` made from ``base``; None if it must be composed as a whole."""
        if tuple(words) == base.words:
            return base.composed
        if base.composed.refers:
            return None
        settings = dict(base.composed.settings)
        own: list[tuple[str, str]] = []
        for i, word in enumerate(words):
            if word == base.words[i]:
                continue
            key, value = word.split("=", 1)
            if key not in self._groups:
                own.append((key, word))
                continue
            if value.lstrip().startswith("{"):
                return None
            part = base.group(i, word, self._compose)
            if part is None:
                return None
            settings[key] = part
        for key, word in own:
            if not _put(settings, key.split("."), self._value(word)):
                return None
        return Composition(settings, False)

    def _value(self, word: str) -> Any:
        value = word.split("=", 1)[1]
        if _WHOLE_NUMBER.fullmatch(value):
            return int(value)
        if word not in self._values:
            self._values[word] = self._value_of(word)
        return self._values[word]


@dataclass
class _Base:
    """A job that was composed as a whole, and the settings of groups with other choices."""

    words: tuple[str, ...]
    composed: Composition
    groups: dict[str, Any] = field(default_factory=dict)

    def group(self, i: int, word: str, compose: Callable[[Sequence[str]], Composition]) -> Any:
        """Return the settings of the group of ``word``, which replaces word ``i``; None if other groups change."""
        if word not in self.groups:
            key = word.split("=", 1)[0]
            other = compose([*self.words[:i], word, *self.words[i + 1:]])
            same = {**other.settings, key: None} == {**self.composed.settings, key: None}
            self.groups[word] = other.settings.get(key) if same and not other.refers else None
        return self.groups[word]


def _are_separate(keys: Sequence[str]) -> bool:
    """Return whether no key of a single setting is another one or lies above it."""
    dotted = sorted(key for key in keys if "." in key)
    return len(set(keys)) == len(keys) and not any(
        later.startswith(f"{earlier}.") for earlier, later in zip(dotted, dotted[1:], strict=False))


def _put(settings: dict[str, Any], path: Sequence[str], value: Any) -> bool:
    """Set one existing setting; return False if it does not exist or is, or becomes, a group of settings.

    Mappings along the path are copied: compositions share them.
    """
    place = settings
    for part in path[:-1]:
        inner = place.get(part)
        if not isinstance(inner, Mapping):
            return False
        place[part] = place = dict(inner)
    last = path[-1]
    if last not in place or isinstance(value, Mapping) or "${" in str(value):
        return False
    place[last] = value
    return True
