"""Compute what a series can reach: the Cramér–Rao bound for a stand-in of its size, dose, defoci and tilts."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase.data import atomic_numbers, covalent_radii, reference_states
from scipy.spatial.transform import Rotation

from aetlab.core.nouns import Atoms, TiltSeries
from aetlab.core.physics import SYMBOLS
from aetlab.refinement.bound import compute_bound
from aetlab.series.check.nouns import Reach
from aetlab.spec import MicroscopeSpec

#: Tilts of the stand-in, evenly chosen; the information of the others is that of their neighbours.
_MOST_TILTS = 13
#: Greatest radius of the stand-in in Å, and thickness of its slices.
_MOST_RADIUS_A, _SLICE_A = 16.0, 2.0
#: Debye–Waller factor in Å² of metals at room temperature.
_DEBYE_WALLER_A2 = 0.4
#: Atoms of one kind touch: part of space that spheres of covalent radius fill.
_FILLING = 0.74


def find_reach(series: TiltSeries, radius_A: float, microscope: MicroscopeSpec, elements: tuple[str, ...]) -> Reach:
    """Return what a series of a sample of ``radius_A`` and ``elements`` can reach.

    The stand-in is a sphere of an fcc lattice with the mean volume per atom of the elements, in no special orientation,
    the elements at random sites in equal parts. A larger sample than 16 Å is represented by its middle: each atom then
    overlaps with fewer others than in the sample, and the bound is the least that it can be.
    """
    radius = min(radius_A, _MOST_RADIUS_A)
    atoms = stand_in(radius, elements)
    present = np.flatnonzero((series.weight > 0).any(axis=1))
    chosen = present[np.unique(np.linspace(0, len(present) - 1, min(_MOST_TILTS, len(present))).round().astype(int))]
    defocus_A = np.array([series.defocus_A[series.weight[:, j] > 0, j].mean() if (series.weight[:, j] > 0).any()
                          else series.defocus_A[:, j].mean() for j in range(series.n_defoci)])
    pixel_A, wave_room_A = series.pixel_A, 12.0
    n_side = int(2 * np.ceil((radius + wave_room_A) / pixel_A))
    n_layers = max(int(_SLICE_A / pixel_A), 1)
    n_z = int(np.ceil((2 * radius + 4) / pixel_A / n_layers) * n_layers)
    bound = compute_bound(
        atoms, (n_z, n_side, n_side), pixel_A, series.tilt_deg[chosen], defocus_A, microscope=microscope,
        n_layers_per_slice=n_layers, parametrization="lobato", debye_waller_A2={"default": _DEBYE_WALLER_A2},
        n_passes=1, seed=1)
    # Electrons of all images, spread over those of the stand-in.
    electrons = float((series.electrons_per_pixel * series.weight).sum()) / (len(chosen) * series.n_defoci)
    position = {SYMBOLS[int(Z)]: bound.position_pm(electrons, int(Z)) for Z in np.unique(atoms.numbers)}
    return Reach(len(atoms), radius, position, bound.confused_percent(electrons))


def stand_in(radius_A: float, elements: tuple[str, ...]) -> Atoms:
    """Return atoms of ``elements`` on an fcc lattice within ``radius_A`` of the middle."""
    rng = np.random.default_rng(0)
    numbers = [atomic_numbers[symbol] for symbol in elements]
    side = (4 * float(np.mean([_volume_A3(number) for number in numbers]))) ** (1 / 3)
    n = int(np.ceil(radius_A / side)) + 1
    cells = np.stack(np.meshgrid(*(np.arange(-n, n + 1),) * 3, indexing="ij"), -1).reshape(-1, 3)
    basis = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    sites = side * (cells[:, None] + basis).reshape(-1, 3) + rng.uniform(-0.5, 0.5, 3) * side
    sites = sites[np.linalg.norm(sites, axis=1) < radius_A] @ Rotation.random(random_state=1).as_matrix().T
    return Atoms(rng.choice(numbers, len(sites)), sites, np.zeros(len(sites), int))


def _volume_A3(number: int) -> float:
    """Return the volume of an atom in the element's crystal, or that of its covalent sphere."""
    state: dict[str, Any] = reference_states[number] or {}
    a, per_cell = state.get("a"), {"fcc": 4, "bcc": 2, "diamond": 8, "sc": 1}.get(state.get("symmetry", ""))
    if a and per_cell:
        return float(a) ** 3 / per_cell
    if a and state.get("symmetry") == "hcp":
        return float(np.sqrt(3) / 4 * a**3 * state["c/a"])
    return float(4 / 3 * np.pi * covalent_radii[number] ** 3 / _FILLING)
