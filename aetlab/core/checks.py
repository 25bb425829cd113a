"""Check settings: each function raises :class:`SpecError` with one line that names setting, value and choices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from aetlab.core.errors import AetlabError


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


def debye_waller(setting: str, values_A2: Mapping[str, float], symbols: Sequence[str]) -> None:
    """Require finite factors above 0 by element symbol, with the entry ``default``."""
    for symbol, value_A2 in values_A2.items():
        require(symbol in (*symbols, "default"), setting, symbol, "name elements by symbol, or default")
        positive(f"{setting}.{symbol}", value_A2)
    require("default" in values_A2, setting, values_A2, "it needs the entry default")
