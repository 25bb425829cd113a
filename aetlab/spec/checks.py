"""Checks of settings: each raises :class:`SpecError`, one line that names the setting, the value and the choices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from aetlab.core.errors import AetlabError


class SpecError(AetlabError, ValueError):
    """A setting that cannot be used; the message names the setting, its value and what is allowed."""


def require(ok: bool, setting: str, value: object, allowed: str) -> None:
    """Refuses ``value`` unless ``ok``; ``allowed`` says what would do."""
    if not ok:
        raise SpecError(f"{setting}={value!r} cannot be used: {allowed}")


def choice(setting: str, value: str, choices: tuple[str, ...]) -> None:
    """Takes one of ``choices``."""
    require(value in choices, setting, value, f"choose one of {', '.join(choices)}")


def positive(setting: str, value: float, *, finite: bool = True) -> None:
    """Takes numbers above 0, and infinity unless ``finite``."""
    ok = value > 0 and (math.isfinite(value) or not finite)
    require(ok, setting, value, "it must be greater than 0" + (" and finite" if finite else ""))


def not_negative(setting: str, value: float) -> None:
    """Takes finite numbers from 0."""
    require(value >= 0 and math.isfinite(value), setting, value, "it must be 0 or greater, and finite")


def fraction(setting: str, value: float) -> None:
    """Takes numbers from 0 to 1."""
    require(0 <= value <= 1, setting, value, "it must lie between 0 and 1")


def debye_waller(setting: str, values_A2: Mapping[str, float], symbols: Sequence[str]) -> None:
    """Takes factors above 0 by element symbol, with the entry ``default``."""
    for symbol, value_A2 in values_A2.items():
        require(symbol in (*symbols, "default"), setting, symbol, "name elements by symbol, or default")
        positive(f"{setting}.{symbol}", value_A2)
    require("default" in values_A2, setting, values_A2, "it needs the entry default")
