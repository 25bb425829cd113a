"""Plain values in place of a choice of a group: ``dose=3e4``, ``tilts=-70:70:2``, ``defocus=[-50,0,50]``.

A plain value binds to the same settings as a choice with these numbers, so that ``dose=50000`` and ``dose=50k`` name
the same run. The name of a choice comes first: ``defocus=3`` is the choice of three planes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aetlab.core.checks import SpecError

_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_THOUSANDS = {"k": 1e3, "M": 1e6}
#: Settings of the tilts that each way of giving them leaves out.
_NO_TILTS = {"n_tilts": None, "span_deg": 180, "angles_deg": None, "start_deg": None, "stop_deg": None,
             "step_deg": None}


@dataclass(frozen=True)
class Plain:
    """The plain values of a group: how they are written, and the function that returns their settings or None."""

    written: str
    read: Callable[[str], dict[str, Any] | None]


def plain_choice(group: str, text: str) -> dict[str, Any] | None:
    """Return the settings of ``group`` that the plain value ``text`` stands for; None if it is no plain value of it."""
    plain = PLAIN.get(group)
    return plain.read(text.strip()) if plain else None


def no_choice(group: str, name: str, choices: Sequence[str]) -> SpecError:
    """Return the refusal of ``name``, which is neither one of ``choices`` of ``group`` nor a plain value of it."""
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    plain = f"; or give {PLAIN[group].written}" if group in PLAIN else ""
    return SpecError(f"{group}={name} is not a choice: {hint}choose from {', '.join(choices)}{plain}")


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None


def _count(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d[\d_]*", text) else None


def _list(text: str) -> list[float] | None:
    if not (text.startswith("[") and text.endswith("]")):
        return None
    numbers = [_number(entry.strip()) for entry in text[1:-1].split(",")]
    return None if None in numbers else [number for number in numbers if number is not None]


def _dose(text: str) -> dict[str, Any] | None:
    number = _number(text[:-1] if text[-1:] in _THOUSANDS else text)
    return None if number is None else {"total_e_A2": number * _THOUSANDS.get(text[-1:], 1)}


def _tilts(text: str) -> dict[str, Any] | None:
    n_tilts, angles_deg = _count(text), _list(text)
    steps = [_number(part.strip()) for part in text.split(":")]
    if n_tilts is not None:
        return _NO_TILTS | {"n_tilts": n_tilts}
    if angles_deg is not None:
        return _NO_TILTS | {"angles_deg": angles_deg}
    if len(steps) == 3 and None not in steps:
        return _NO_TILTS | dict(zip(("start_deg", "stop_deg", "step_deg"), steps, strict=True))
    return None


def _planes(text: str) -> dict[str, Any] | None:
    planes_nm = _list(text)
    return None if planes_nm is None else {"planes_nm": planes_nm}


def _wedge(text: str) -> dict[str, Any] | None:
    number = _number(text)
    return None if number is None else {"missing_deg": number}


def _layers(text: str) -> dict[str, Any] | None:
    n_layers = _count(text)
    return None if n_layers is None else {"n_layers": n_layers}


#: Groups that take plain values in addition to their choices.
PLAIN = {
    "dose": Plain("electrons per Å² over all images, such as 3e4 or 20k", _dose),
    "tilts": Plain("a number of equal steps such as 71, a range -70:70:2 or a list [-70,0,70] of angles in degrees",
                   _tilts),
    "defocus": Plain("a list of planes in nm such as [-50,0,50]; a bare number is the choice of that name", _planes),
    "wedge": Plain("degrees such as 45", _wedge),
    "binning": Plain("a number of layers such as 5", _layers),
}
