"""Silica from a four-fold network: oxygen on the bonds, relaxed on springs and then on a pair potential.

The pair potential is that of A. Carré, J. Horbach, S. Ispas, W. Kob, EPL 82 (2008) 17001 (CHIK), fitted to ab initio
silica melts: Coulomb forces truncated after Wolf, Buckingham terms and a wall r⁻²⁴ in place of their collapse at small
distances, each brought to 0 at its cut-off by the factor exp(-γ²/(r - r_c)²).
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
from scipy.optimize import minimize
from scipy.spatial import cKDTree

COULOMB_EV_A = 14.3996454785
SILICON_CHARGE = 1.910418
#: A (eV), B (1/Å), C (eV Å⁶), D (eV Å²⁴) of Si-Si, Si-O and O-O.
CHIK = np.array([(3150.462646, 2.851451, 626.751953, 3423200.0),
                 (27029.419922, 5.158606, 148.099091, 29.0),
                 (659.595398, 2.590066, 26.836679, 113.0)])
COULOMB_CUTOFF_A = 10.17
SHORT_CUTOFF_A = 6.5
SMOOTHING_A = 0.5

#: Rest length in Å and stiffness in eV/Å² of the springs Si-O, O-O in a tetrahedron, Si-Si over an oxygen.
SPRINGS = {"SiO": (1.61, 20.0), "OO": (2.63, 5.0), "SiSi": (3.10, 1.0)}


def decorate(silicon_A: np.ndarray, neighbours: np.ndarray, side_A: float, offset_A: float,
             rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Put an oxygen on each bond, ``offset_A`` off its middle in a random direction across the bond.

    Returns positions (3N, 3) in Å, silicon first, and the bonds (2N, 2) of silicon indices in the order of the oxygen.
    """
    bonds = np.array([(i, j) for i in range(len(neighbours)) for j in neighbours[i] if i < j])
    along = silicon_A[bonds[:, 1]] - silicon_A[bonds[:, 0]]
    along -= side_A * np.round(along / side_A)
    across = np.cross(along, rng.normal(size=along.shape))
    across *= offset_A / np.linalg.norm(across, axis=1, keepdims=True)
    return np.vstack([silicon_A, silicon_A[bonds[:, 0]] + along / 2 + across]), bonds


def relax_on_springs(positions_A: np.ndarray, bonds: np.ndarray, side_A: float) -> np.ndarray:
    """Return positions (3N, 3) in Å at the least energy of the springs between bonded atoms and across tetrahedra."""
    n_silicon = len(positions_A) - len(bonds)
    oxygen = n_silicon + np.arange(len(bonds))
    corners: list[list[int]] = [[] for _ in range(n_silicon)]
    for i_oxygen, pair in zip(oxygen, bonds, strict=True):
        for i_silicon in pair:
            corners[i_silicon].append(int(i_oxygen))
    edges = np.array([(c[k], c[m]) for c in corners for k in range(4) for m in range(k)])
    groups = [(np.column_stack([bonds[:, 0], oxygen]), "SiO"), (np.column_stack([bonds[:, 1], oxygen]), "SiO"),
              (edges, "OO"), (bonds, "SiSi")]
    pairs = np.vstack([group for group, _ in groups])
    length = np.concatenate([np.full(len(group), SPRINGS[name][0]) for group, name in groups])
    stiffness = np.concatenate([np.full(len(group), SPRINGS[name][1]) for group, name in groups])

    def energy(flat: np.ndarray) -> tuple[float, np.ndarray]:
        x = flat.reshape(-1, 3)
        offset = x[pairs[:, 1]] - x[pairs[:, 0]]
        offset -= side_A * np.round(offset / side_A)
        r = np.linalg.norm(offset, axis=1)
        stretch = r - length
        pull = (2 * stiffness * stretch / r)[:, None] * offset
        gradient = np.empty_like(x)
        for axis in range(3):
            gradient[:, axis] = (np.bincount(pairs[:, 1], pull[:, axis], len(x))
                                 - np.bincount(pairs[:, 0], pull[:, axis], len(x)))
        return float((stiffness * stretch**2).sum()), gradient.ravel()

    return _minimise(energy, positions_A, 1e-3)


@numba.njit(cache=True)
def chik_pair(r: float, kind: int, table: np.ndarray) -> tuple[float, float]:
    """Return the energy in eV and its derivative in eV/Å of a pair at distance r; ``kind`` 0 Si-Si, 1 Si-O, 2 O-O."""
    value, slope = 0.0, 0.0
    if r < COULOMB_CUTOFF_A:
        charge = COULOMB_EV_A * SILICON_CHARGE**2 * (1.0, -0.5, 0.25)[kind]
        gap = r - COULOMB_CUTOFF_A
        factor = np.exp(-((SMOOTHING_A / gap) ** 2))
        plain = charge * (1 / r - 1 / COULOMB_CUTOFF_A + gap / COULOMB_CUTOFF_A**2)
        value += plain * factor
        slope += charge * (1 / COULOMB_CUTOFF_A**2 - 1 / r**2) * factor + plain * factor * 2 * SMOOTHING_A**2 / gap**3
    if r < SHORT_CUTOFF_A:
        a, b, c, d = table[kind]
        gap = r - SHORT_CUTOFF_A
        factor = np.exp(-((SMOOTHING_A / gap) ** 2))
        repulsion = a * np.exp(-b * r)
        plain = repulsion - c / r**6 + d / r**24
        value += plain * factor
        slope += ((-b * repulsion + 6 * c / r**7 - 24 * d / r**25) * factor
                  + plain * factor * 2 * SMOOTHING_A**2 / gap**3)
    return value, slope


@numba.njit(cache=True)
def _chik_energy(x: np.ndarray, pairs: np.ndarray, side: float, n_silicon: int, table: np.ndarray,
                 ) -> tuple[float, np.ndarray]:
    gradient = np.zeros_like(x)
    total = 0.0
    offset = np.empty(3)
    for i_pair in range(pairs.shape[0]):
        i, j = pairs[i_pair, 0], pairs[i_pair, 1]
        r2 = 0.0
        for axis in range(3):
            difference = x[j, axis] - x[i, axis]
            offset[axis] = difference - side * np.round(difference / side)
            r2 += offset[axis] ** 2
        if r2 >= COULOMB_CUTOFF_A**2:
            continue
        r = np.sqrt(r2)
        value, slope = chik_pair(r, int(i >= n_silicon) + int(j >= n_silicon), table)
        total += value
        for axis in range(3):
            pull = slope * offset[axis] / r
            gradient[j, axis] += pull
            gradient[i, axis] -= pull
    return total, gradient


def relax_on_chik(positions_A: np.ndarray, n_silicon: int, side_A: float) -> tuple[np.ndarray, float]:
    """Return positions (N, 3) in Å at a minimum of the CHIK potential near the start, and its energy in eV."""
    skin_A = 1.5
    while True:
        start_A = positions_A
        tree = cKDTree(start_A % side_A, boxsize=side_A)
        pairs = np.sort(tree.query_pairs(COULOMB_CUTOFF_A + skin_A, output_type="ndarray"), axis=1)
        pairs = pairs[np.lexsort(pairs.T)]

        def energy(flat: np.ndarray, pairs: np.ndarray = pairs) -> tuple[float, np.ndarray]:
            value, gradient = _chik_energy(flat.reshape(-1, 3), pairs, side_A, n_silicon, CHIK)
            return value, gradient.ravel()

        positions_A = _minimise(energy, start_A, 1e-3)
        if np.linalg.norm(positions_A - start_A, axis=1).max() < skin_A / 2:
            return positions_A, energy(positions_A.ravel())[0]


def _minimise(energy: Callable[[np.ndarray], tuple[float, np.ndarray]], start_A: np.ndarray, force_eV_A: float,
              ) -> np.ndarray:
    """Run L-BFGS until no component of a force exceeds ``force_eV_A``."""
    found = minimize(energy, start_A.ravel(), jac=True, method="L-BFGS-B",
                     options={"maxiter": 20000, "maxfun": 40000, "maxcor": 20, "ftol": 1e-15, "gtol": force_eV_A})
    return found.x.reshape(-1, 3)
