"""Keep the local structure of all pairs of elements in a few arrays, one row for each pair.

A record holds ``structure/pairs/elements`` (P, 2), atomic numbers of centre and end, and ``structure/pairs/<quantity>``
(P, ...). Readers name one row ``structure/Si-O/<quantity>``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from aetlab.core.physics import SYMBOLS

PLACE = "structure/pairs"
ELEMENTS = f"{PLACE}/elements"


def pack_pairs(structure: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return ``structure``, whose names are such as ``Si-O/length_true``, with the arrays of all pairs stacked.

    Names without a pair of elements are kept.
    """
    pairs: dict[str, list[int]] = {}
    stacks: dict[str, list[np.ndarray]] = {}
    others: dict[str, np.ndarray] = {}
    for name, values in structure.items():
        pair, _, quantity = name.partition("/")
        numbers = _numbers(pair)
        if not numbers or not quantity:
            others[f"structure/{name}"] = values
            continue
        pairs[pair] = numbers
        stacks.setdefault(f"{PLACE}/{quantity}", []).append(values)
    packed = {ELEMENTS: np.array(list(pairs.values()), dtype=np.int16)} if pairs else {}
    return others | packed | {name: np.stack(rows) for name, rows in stacks.items()}


def pair_names(names: Iterable[str], elements: np.ndarray) -> tuple[str, ...]:
    """Return stored ``names`` with a name for each row of the arrays of pairs, whose ``elements`` are (P, 2)."""
    pairs = [f"{SYMBOLS[centre]}-{SYMBOLS[end]}" for centre, end in elements.tolist()]
    return tuple(row for name in names if name != ELEMENTS for row in (
        [f"structure/{pair}/{name.removeprefix(f'{PLACE}/')}" for pair in pairs]
        if name.startswith(f"{PLACE}/") else [name]))


def pair_place(name: str) -> tuple[str, Sequence[int]]:
    """Return the stored array and the elements of the row ``name``, or ``name`` and nothing if it is no row."""
    parts = name.split("/")
    numbers = _numbers(parts[1]) if len(parts) == 3 and parts[0] == "structure" else []
    return (f"{PLACE}/{parts[2]}", numbers) if numbers else (name, [])


def _numbers(pair: str) -> list[int]:
    """Return the atomic numbers of a pair such as ``Si-O``; an empty list for other text."""
    symbols = pair.split("-")
    return [SYMBOLS.index(symbol) for symbol in symbols] if len(symbols) == 2 and set(symbols) <= set(SYMBOLS) else []
