"""Sites of a structure file: atoms that are there for certain, and those that its occupancies leave to chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

#: Largest number of atoms of a structure.
MAX_ATOMS = 20_000_000


@dataclass(frozen=True)
class Sites:
    """N sites of a structure and the cell that repeats them.

    Parameters
    ----------
    numbers : ndarray of int, (N,)
        Atomic numbers.
    positions_A : ndarray, (N, 3)
        Positions in Å.
    occupancy : ndarray, (N,)
        Probability that the atom is there, 0 to 1.
    choice, option : ndarray of int, (N,)
        Sites of one ``choice`` and different ``option`` exclude each other, and those of one option come together
        (alternate locations). -1: the file states no choice.
    cell_A : ndarray, (3, 3), or None
        Vectors of the cell, one a row; None: no cell.
    notes : tuple of str
        What a reader decided, one line each.
    """

    numbers: np.ndarray
    positions_A: np.ndarray
    occupancy: np.ndarray
    choice: np.ndarray
    option: np.ndarray
    cell_A: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers)


#: Reads the sites of one structure of a file that can hold several.
ReadSites: TypeAlias = Callable[[], Sites]


def make_sites(numbers: np.ndarray, positions_A: np.ndarray, occupancy: np.ndarray | None = None, *,
               choice: np.ndarray | None = None, option: np.ndarray | None = None, cell_A: np.ndarray | None = None,
               notes: tuple[str, ...] = ()) -> Sites:
    """Return :class:`Sites`, full and without choices where these are not given.

    Raises
    ------
    ValueError
        If an occupancy does not lie between 0 and 1.
    """
    n = len(numbers)
    full = np.ones(n) if occupancy is None else np.asarray(occupancy, dtype=np.float64)
    out_of_range = ~((full >= 0) & (full <= 1))  # nan included
    if out_of_range.any():
        i = int(np.flatnonzero(out_of_range)[0])
        raise ValueError(f"site {i + 1} of {n} has an occupancy of {full[i]:g}; it must lie between 0 and 1 "
                         "(without occupancies all sites are full)")
    none = np.full(n, -1, dtype=np.int64)
    return Sites(np.asarray(numbers, dtype=np.int64), np.asarray(positions_A, dtype=np.float64).reshape(n, 3), full,
                 none if choice is None else choice, none if option is None else option, cell_A, notes)


def repeat_cell(sites: Sites, repeat: tuple[int, int, int]) -> Sites:
    """Return the sites repeated along the vectors of their cell; every copy makes its own choices.

    Raises
    ------
    ValueError
        If there is no cell, or more than :data:`MAX_ATOMS` sites.
    """
    n_cells = repeat[0] * repeat[1] * repeat[2]
    if len(sites) * n_cells > MAX_ATOMS:
        raise ValueError(f"it makes more than {MAX_ATOMS} atoms")
    if n_cells == 1:
        return sites
    if sites.cell_A is None:
        raise ValueError("the file has no unit cell")
    shifts_A = np.array(list(np.ndindex(*repeat))) @ sites.cell_A
    positions_A = (sites.positions_A[None] + shifts_A[:, None]).reshape(-1, 3)
    n_choices = int(sites.choice.max(initial=-1)) + 1
    copy = np.repeat(np.arange(n_cells), len(sites))
    choice = np.tile(sites.choice, n_cells)
    choice = np.where(choice < 0, -1, choice + n_choices * copy)
    return Sites(np.tile(sites.numbers, n_cells), positions_A, np.tile(sites.occupancy, n_cells), choice,
                 np.tile(sites.option, n_cells), sites.cell_A, sites.notes)
