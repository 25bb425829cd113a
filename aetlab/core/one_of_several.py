"""Choose one of the structures of a file by its number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from aetlab.core.checks import SpecError

T = TypeVar("T")


def one_of_several(structures: Sequence[T], number: int, setting: str, path: object) -> tuple[T, tuple[str, ...]]:
    """Return the structure with the ``number`` from 1, and a note that says which of how many it is.

    The number 0 stands for the only structure: there is no note then.

    Raises
    ------
    SpecError
        If the number is 0 and there are several structures, or if there are fewer. The message names the ``setting``
        that gives the number and the ``path`` of the file.
    """
    n = len(structures)
    if number == 0 and n > 1:
        raise SpecError(f"{setting}=0 cannot be used: {path} holds {n} structures; choose one of them by its number, "
                        f"{setting}=1 to {setting}={n}")
    if number > n:
        raise SpecError(f"{setting}={number} cannot be used: {path} holds {n} structure{'s' if n > 1 else ''}")
    notes = (f"structure {number} of {n} is taken",) if number and n > 1 else ()
    return structures[max(number, 1) - 1], notes
