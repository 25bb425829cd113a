"""Atoms of a record for the page's 3D view: positions as small integers, with group and element of each atom."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from aetlab.reporting.figures.atoms import element_name, read_atoms
from aetlab.reporting.stored_run import StoredRun

#: Largest number of atoms of one record that the page holds; more found or traced atoms are thinned out.
MAX_ATOMS = 20_000
#: Groups of atoms, in the order of the numbers that the page holds. Records without a truth have traced atoms only.
GROUPS = ("found", "missing", "false positive", "traced")
_TRACED = GROUPS.index("traced")


def pack_atoms(run: StoredRun) -> dict[str, Any]:
    """Return the atoms of ``run`` by group (:data:`GROUPS`): positions as 16 bit integers of 0.01 Å, base64.

    ``counts`` holds the number of atoms of each group, None for groups that the record does not have. Found or traced
    atoms are thinned evenly where there are more than :data:`MAX_ATOMS`; the others are kept.
    """
    groups, counts = _groups(run)
    main = GROUPS[_TRACED] if _TRACED in groups else GROUPS[0]
    i_main = GROUPS.index(main)
    n_main = len(groups[i_main][0])
    room = max(MAX_ATOMS - sum(len(positions_A) for i, (positions_A, _) in groups.items() if i != i_main), 1)
    if n_main > room:
        keep = np.linspace(0, n_main - 1, room).astype(int)
        groups[i_main] = groups[i_main][0][keep], groups[i_main][1][keep]
    positions_A = np.concatenate([positions for positions, _ in groups.values()])
    numbers = np.concatenate([numbers for _, numbers in groups.values()])
    kinds = np.repeat(list(groups), [len(positions) for positions, _ in groups.values()])
    known, species = np.unique(numbers, return_inverse=True)
    return {
        "positions": _base64(np.clip(np.rint(positions_A * 100), -32768, 32767).astype("<i2")),
        "kinds": _base64(kinds.astype(np.uint8)),
        "species": _base64(species.astype(np.uint8)),
        "speciesNames": [element_name(int(number)) for number in known],
        "counts": counts,
        "note": f"{room} of the {main} atoms are drawn" if n_main > room else "",
    }


def no_atoms(reason: str) -> dict[str, Any]:
    """Return the place of a record whose atoms cannot be shown, with the ``reason``."""
    return {"positions": "", "kinds": "", "species": "", "speciesNames": [], "counts": [None] * len(GROUPS),
            "note": f"not shown: {reason}"}


def _groups(run: StoredRun) -> tuple[dict[int, tuple[np.ndarray, np.ndarray]], list[int | None]]:
    """Return positions and atomic numbers of each group of atoms by its index, and the counts of all groups."""
    atoms = read_atoms(run)
    truth = atoms.truth
    if truth is None:
        groups = {_TRACED: (atoms.positions_A, atoms.numbers)}
    else:
        groups = {
            0: (atoms.positions_A[truth.traced], atoms.numbers[truth.traced]),
            1: (truth.positions_A[truth.missing], truth.numbers[truth.missing]),
            2: (atoms.positions_A[truth.false], atoms.numbers[truth.false]),
        }
    return groups, [len(groups[i][0]) if i in groups else None for i in range(len(GROUPS))]


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
