"""Atoms of a record for the page's 3D view: positions, groups, elements and errors as small integers."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np

from aetlab.reporting.figures.atoms import element_name
from aetlab.reporting.figures.style import element_colours
from aetlab.reporting.stored_run import StoredRun

#: Largest number of atoms of one record that the page holds; more found or traced atoms are thinned out.
MAX_ATOMS = 20_000
#: Groups of atoms, in the order of the numbers that the page holds. Records without a truth have traced atoms only.
GROUPS = ("found", "missing", "false positive", "traced")
FOUND, MISSING, FALSE, TRACED = range(4)
#: Number that stands for an atom without an error or an error bar, and the unit of the others in pm.
NO_VALUE, UNIT_PM = 65535, 0.1


@dataclass(frozen=True)
class _Group:
    """Atoms of one group: positions (N, 3) in Å, atomic numbers, errors and error bars in pm, NaN where unknown."""

    positions_A: np.ndarray
    numbers: np.ndarray
    error_pm: np.ndarray
    sigma_pm: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def taken(self, index: np.ndarray) -> _Group:
        """Return the atoms at ``index``."""
        return _Group(self.positions_A[index], self.numbers[index], self.error_pm[index], self.sigma_pm[index])


def pack_atoms(run: StoredRun) -> dict[str, Any]:
    """Return the atoms of ``run`` by group (:data:`GROUPS`), refined ones where the record has any, base64.

    Positions are 16 bit integers of 0.01 Å; ``errors`` (distance to the true atom) and ``sigmas`` (root mean square
    standard error of x, y and z) are 16 bit integers of :data:`UNIT_PM`, :data:`NO_VALUE` where there is none.
    ``counts`` holds the number of atoms of each group, None for groups that the record does not have. Found or traced
    atoms are thinned evenly where there are more than :data:`MAX_ATOMS`; the others are kept.
    """
    source = _source(run)
    groups = _groups(run, source)
    counts = [len(groups[i]) if i in groups else None for i in range(len(GROUPS))]
    i_main = TRACED if TRACED in groups else FOUND
    n_main = len(groups[i_main])
    room = max(MAX_ATOMS - sum(len(group) for i, group in groups.items() if i != i_main), 1)
    if n_main > room:
        groups[i_main] = groups[i_main].taken(np.linspace(0, n_main - 1, room).astype(int))
    positions_A, numbers, error_pm, sigma_pm = (
        np.concatenate([getattr(group, name) for group in groups.values()])
        for name in ("positions_A", "numbers", "error_pm", "sigma_pm")
    )
    kinds = np.repeat(list(groups), [len(group) for group in groups.values()])
    known, species = np.unique(numbers, return_inverse=True)
    return {
        "positions": _base64(np.clip(np.rint(positions_A * 100), -32768, 32767).astype("<i2")),
        "kinds": _base64(kinds.astype(np.uint8)),
        "species": _base64(species.astype(np.uint8)),
        "speciesNames": [element_name(int(number)) for number in known],
        "speciesColours": list(element_colours(known).values()),
        "errors": _base64(_in_units(error_pm)),
        "sigmas": _base64(_in_units(sigma_pm)),
        "counts": counts,
        "source": source,
        "note": f"{room} of the {GROUPS[i_main]} atoms are drawn" if n_main > room else "",
    }


def no_atoms(reason: str) -> dict[str, Any]:
    """Return the place of a record whose atoms cannot be shown, with the ``reason``."""
    return {"positions": "", "kinds": "", "species": "", "speciesNames": [], "speciesColours": [], "errors": "",
            "sigmas": "", "counts": [None] * len(GROUPS), "source": "traced", "note": f"not shown: {reason}"}


def _source(run: StoredRun) -> str:
    """Return whether the atoms shown are the refined or the traced ones of ``run``."""
    names = run.array_names
    matched = not run.has_truth or "refined_match/unmatched_true" in names
    return "refined" if "refined/positions_A" in names and matched else "traced"


def _groups(run: StoredRun, source: str) -> dict[int, _Group]:
    """Return the atoms of each group by its index."""
    positions_A, numbers = run.array(f"{source}/positions_A"), run.array(f"{source}/numbers")
    sigma_A = run.array(f"{source}/position_error_A")
    sigma_pm = np.where((sigma_A > 0).all(axis=1), 100 * np.sqrt((sigma_A**2).mean(axis=1)), np.nan)
    if not run.has_truth:
        return {TRACED: _Group(positions_A, numbers, np.full(len(numbers), np.nan), sigma_pm)}
    where = "refined_match" if source == "refined" else "match"
    if f"{where}/rotation" in run.array_names:
        positions_A = positions_A @ run.array(f"{where}/rotation").T + run.array(f"{where}/shift_A")
    found, true, false, missing = (
        run.array(f"{where}/{name}") for name in ("traced", "true", "unmatched_traced", "unmatched_true")
    )
    true_A, true_numbers = run.array("truth/positions_A"), run.array("truth/numbers")
    error_pm = np.full(len(numbers), np.nan)
    error_pm[found] = 100 * np.linalg.norm(positions_A[found] - true_A[true], axis=1)
    atoms = _Group(positions_A, numbers, error_pm, sigma_pm)
    unknown = np.full(len(missing), np.nan)
    return {FOUND: atoms.taken(found), MISSING: _Group(true_A[missing], true_numbers[missing], unknown, unknown),
            FALSE: atoms.taken(false)}


def _in_units(values_pm: np.ndarray) -> np.ndarray:
    units = np.clip(np.rint(np.nan_to_num(values_pm, nan=NO_VALUE) / UNIT_PM), 0, NO_VALUE - 1)
    return np.where(np.isfinite(values_pm), units, NO_VALUE).astype("<u2")


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
