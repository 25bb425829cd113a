"""Continuous random network of four-fold coordinated sites by the bond switches of Wooten, Winer and Weaire.

Energy of Keating (Phys. Rev. 145 (1966) 637) with the numbers for silicon: bond length d = 2.35 Å, α = 2.965 eV/Å²,
β = 0.285 α,

    E = 3/16 α/d² Σ_bonds (r² - d²)²  +  3/8 β/d² Σ_angles (r_k·r_l + d²/3)².

A switch takes a chain a-b-c-d of bonds, breaks a-b and c-d and makes a-c and b-d (Phys. Rev. Lett. 54 (1985) 1392). The
sites near it are relaxed, and the switch is accepted or undone by the Metropolis rule; a relaxation that can no longer
reach the threshold is stopped early (Barkema and Mousseau, Phys. Rev. B 62 (2000) 4985). Chains that would
make a ring of three are not tried.

Along a search line each squared term is a quartic of the step, so that conjugate gradients find the minimum along the
line exactly.

The kernels are plain loops, since array expressions take three times as long to compile.
"""

from __future__ import annotations

import math

import numba
import numpy as np

BOND_A = 2.35
ALPHA_EV_A2 = 2.965
BETA_EV_A2 = 0.285 * ALPHA_EV_A2
_STRETCH = 3 / 16 * ALPHA_EV_A2 / BOND_A**2
_BEND = 3 / 8 * BETA_EV_A2 / BOND_A**2
_D2 = BOND_A**2


def diamond(n_cells: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return sites (N, 3) in Å of n_cells³ cubic cells of the diamond structure, neighbours (N, 4) and side in Å."""
    cell_A = 4 * BOND_A / math.sqrt(3)
    basis = np.array([(0, 0, 0), (0, 2, 2), (2, 0, 2), (2, 2, 0), (1, 1, 1), (1, 3, 3), (3, 1, 3), (3, 3, 1)]) / 4
    cells = np.stack(np.meshgrid(*[np.arange(n_cells)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    positions_A = ((cells + basis) * cell_A).reshape(-1, 3)
    side_A = n_cells * cell_A
    neighbours = np.empty((len(positions_A), 4), np.int64)
    for i, position in enumerate(positions_A):
        offset = positions_A - position
        offset -= side_A * np.round(offset / side_A)
        neighbours[i] = np.argsort((offset**2).sum(1), kind="stable")[1:5]
    return positions_A, neighbours, side_A


@numba.njit(cache=True)
def _cluster(neighbours: np.ndarray, seeds: np.ndarray, depth: int, mark: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Find sites within ``depth`` bonds of ``seeds`` (the movable ones), then their other neighbours; two counts.

    ``mark`` (N,) becomes the place of each site in the list; it is -1 everywhere before and must be reset after.
    """
    sites = np.empty(neighbours.shape[0], np.int64)
    n = 0
    for i in range(seeds.shape[0]):
        sites[n] = seeds[i]
        mark[seeds[i]] = n
        n += 1
    first, n_movable = 0, n
    for shell in range(depth + 1):
        last = n
        for place in range(first, last):
            for k in range(4):
                neighbour = neighbours[sites[place], k]
                if mark[neighbour] < 0:
                    sites[n] = neighbour
                    mark[neighbour] = n
                    n += 1
        first = last
        if shell < depth:
            n_movable = n
    return sites[:n], n_movable, n


@numba.njit(cache=True)
def _quartic(bonds: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return coefficients (5,) in eV of the energy of ``bonds + t · steps`` (n, 4, 3) as a polynomial of t."""
    out = np.zeros(5)
    for i in range(bonds.shape[0]):
        for k in range(4):
            for m in range(k, 4):
                a = (bonds[i, k, 0] * bonds[i, m, 0] + bonds[i, k, 1] * bonds[i, m, 1]
                     + bonds[i, k, 2] * bonds[i, m, 2])
                b = (bonds[i, k, 0] * steps[i, m, 0] + bonds[i, k, 1] * steps[i, m, 1] + bonds[i, k, 2] * steps[i, m, 2]
                     + bonds[i, m, 0] * steps[i, k, 0] + bonds[i, m, 1] * steps[i, k, 1]
                     + bonds[i, m, 2] * steps[i, k, 2])
                c = (steps[i, k, 0] * steps[i, m, 0] + steps[i, k, 1] * steps[i, m, 1]
                     + steps[i, k, 2] * steps[i, m, 2])
                if k == m:
                    a -= _D2
                    factor = 0.5 * _STRETCH
                else:
                    a += _D2 / 3
                    factor = _BEND
                out[0] += factor * a * a
                out[1] += factor * 2 * a * b
                out[2] += factor * (b * b + 2 * a * c)
                out[3] += factor * 2 * b * c
                out[4] += factor * c * c
    return out


@numba.njit(cache=True)
def _gradient(bonds: np.ndarray, places: np.ndarray, n_movable: int) -> np.ndarray:
    """Return the gradient (n_movable, 3) in eV/Å; ``places`` (n, 4) index each bond's far site in the list, or -1."""
    out = np.zeros((n_movable, 3))
    for i in range(bonds.shape[0]):
        for k in range(4):
            pull_0 = pull_1 = pull_2 = 0.0
            for m in range(4):
                product = (bonds[i, k, 0] * bonds[i, m, 0] + bonds[i, k, 1] * bonds[i, m, 1]
                           + bonds[i, k, 2] * bonds[i, m, 2])
                if k == m:
                    factor = 2 * _STRETCH * (product - _D2)
                else:
                    factor = 2 * _BEND * (product + _D2 / 3)
                pull_0 += factor * bonds[i, m, 0]
                pull_1 += factor * bonds[i, m, 1]
                pull_2 += factor * bonds[i, m, 2]
            far = places[i, k]
            if 0 <= far < n_movable:
                out[far, 0] += pull_0
                out[far, 1] += pull_1
                out[far, 2] += pull_2
            if i < n_movable:
                out[i, 0] -= pull_0
                out[i, 1] -= pull_1
                out[i, 2] -= pull_2
    return out


@numba.njit(cache=True)
def _dot(one: np.ndarray, other: np.ndarray) -> float:
    total = 0.0
    for i in range(one.shape[0]):
        for axis in range(3):
            total += one[i, axis] * other[i, axis]
    return total


@numba.njit(cache=True)
def _line_minimum(quartic: np.ndarray) -> float:
    """Return the step to the first minimum of a quartic that falls at 0; Newton's method, steps doubled uphill."""
    t = 0.0
    for _ in range(30):
        slope = quartic[1] + t * (2 * quartic[2] + t * (3 * quartic[3] + t * 4 * quartic[4]))
        curve = 2 * quartic[2] + t * (6 * quartic[3] + t * 12 * quartic[4])
        change = -slope / curve if curve > 0 else 0.1 / (1 + abs(quartic[1]))
        t += change
        if abs(change) < 1e-9 * (1 + abs(t)):
            break
    return t


@numba.njit(cache=True)
def relax(positions: np.ndarray, neighbours: np.ndarray, side: float, sites: np.ndarray, n_movable: int,
          mark: np.ndarray, threshold: float, tolerance: float, max_iterations: int) -> float:
    """Relax the movable sites in place by conjugate gradients; return the energy in eV of all terms they are in.

    Gives up, with the positions as they are, once five times the last gain would not bring the energy under
    ``threshold``; stops when an iteration gains less than ``tolerance`` eV.
    """
    n = sites.shape[0]
    bonds, places = np.empty((n, 4, 3)), np.empty((n, 4), np.int64)
    for i in range(n):
        for k in range(4):
            far = neighbours[sites[i], k]
            places[i, k] = mark[far]
            for axis in range(3):
                offset = positions[far, axis] - positions[sites[i], axis]
                bonds[i, k, axis] = offset - side * np.rint(offset / side)
    steps = np.zeros((n, 4, 3))
    direction = np.zeros((n_movable, 3))
    gradient = _gradient(bonds, places, n_movable)
    squared = _dot(gradient, gradient)
    energy = _quartic(bonds, steps)[0]
    conjugate = 0.0
    for iteration in range(max_iterations):
        for i in range(n_movable):
            for axis in range(3):
                direction[i, axis] = conjugate * direction[i, axis] - gradient[i, axis]
        if _dot(direction, gradient) >= 0:
            for i in range(n_movable):
                for axis in range(3):
                    direction[i, axis] = -gradient[i, axis]
        for i in range(n):
            for k in range(4):
                far = places[i, k]
                for axis in range(3):
                    ahead = direction[far, axis] if 0 <= far < n_movable else 0.0
                    here = direction[i, axis] if i < n_movable else 0.0
                    steps[i, k, axis] = ahead - here
        quartic = _quartic(bonds, steps)
        t = _line_minimum(quartic)
        new_energy = quartic[0] + t * (quartic[1] + t * (quartic[2] + t * (quartic[3] + t * quartic[4])))
        for i in range(n):
            for k in range(4):
                for axis in range(3):
                    bonds[i, k, axis] += t * steps[i, k, axis]
        for i in range(n_movable):
            for axis in range(3):
                positions[sites[i], axis] += t * direction[i, axis]
        gain = energy - new_energy
        energy = new_energy
        if gain < tolerance or (iteration >= 4 and energy - 5 * gain > threshold):
            break
        old_squared, old_gradient = squared, gradient
        gradient = _gradient(bonds, places, n_movable)
        squared = _dot(gradient, gradient)
        conjugate = max(0.0, (squared - _dot(gradient, old_gradient)) / old_squared)
    return energy


@numba.njit(cache=True)
def _bonded(neighbours: np.ndarray, one: int, other: int) -> bool:
    for k in range(4):
        if neighbours[one, k] == other:
            return True
    return False


@numba.njit(cache=True)
def _shares_neighbour(neighbours: np.ndarray, one: int, other: int) -> bool:
    for k in range(4):
        if _bonded(neighbours, other, neighbours[one, k]):
            return True
    return False


@numba.njit(cache=True)
def _replace(neighbours: np.ndarray, site: int, old: int, new: int) -> None:
    for k in range(4):
        if neighbours[site, k] == old:
            neighbours[site, k] = new
            return


@numba.njit(cache=True)
def _switch(neighbours: np.ndarray, a: int, b: int, c: int, d: int) -> None:
    _replace(neighbours, a, b, c)
    _replace(neighbours, b, a, d)
    _replace(neighbours, c, d, a)
    _replace(neighbours, d, c, b)


@numba.njit(cache=True)
def try_switches(positions: np.ndarray, neighbours: np.ndarray, side: float, kT_eV: float, n_attempts: int,
                 n_wanted: int, rng: np.random.Generator) -> int:
    """Try ``n_attempts`` switches at ``kT_eV`` in place, or until ``n_wanted`` are accepted; return that number."""
    n_sites = positions.shape[0]
    mark = np.full(n_sites, -1, np.int64)
    seeds = np.empty(4, np.int64)
    saved = np.empty((n_sites, 3))
    n_accepted = 0
    for _ in range(n_attempts):
        b = int(rng.random() * n_sites)
        c = neighbours[b, int(rng.random() * 4)]
        a = neighbours[b, int(rng.random() * 4)]
        d = neighbours[c, int(rng.random() * 4)]
        chance = rng.random()
        if a == c or d == b or a == d or _bonded(neighbours, a, c) or _bonded(neighbours, b, d):
            continue
        seeds[0], seeds[1], seeds[2], seeds[3] = a, b, c, d
        sites, n_movable, _ = _cluster(neighbours, seeds, 3, mark)
        before = relax(positions, neighbours, side, sites, n_movable, mark, -1e30, 1e30, np.int64(0))
        _switch(neighbours, a, b, c, d)
        accepted = False
        for i in range(n_movable):
            for axis in range(3):
                saved[i, axis] = positions[sites[i], axis]
        if not (_shares_neighbour(neighbours, a, c) or _shares_neighbour(neighbours, b, d)):
            threshold = before - kT_eV * math.log(1 - chance)
            after = relax(positions, neighbours, side, sites, n_movable, mark, threshold, 1e-3, np.int64(60))
            accepted = after <= threshold
        if accepted:
            n_accepted += 1
        else:
            _switch(neighbours, a, c, b, d)
            for i in range(n_movable):
                for axis in range(3):
                    positions[sites[i], axis] = saved[i, axis]
        for i in range(sites.shape[0]):
            mark[sites[i]] = -1
        if n_accepted >= n_wanted:
            break
    return n_accepted


@numba.njit(cache=True)
def relax_all(positions: np.ndarray, neighbours: np.ndarray, side: float) -> float:
    """Relax every site in place; return the energy of the network in eV."""
    sites = np.arange(positions.shape[0])
    return relax(positions, neighbours, side, sites, sites.shape[0], sites, -1e30, 1e-4, np.int64(300))


def random_network(n_cells: int, n_sweeps: int, kT_eV: tuple[float, float], rng: np.random.Generator,
                   ) -> tuple[np.ndarray, np.ndarray, float]:
    """Return sites (N, 3) in Å, neighbours (N, 4) and side in Å of a random network of 8 n_cells³ sites.

    1.5 N switches at a temperature of 5 eV forget the crystal; then ``n_sweeps`` sweeps, each of one try for every
    bond, cool it from ``kT_eV[0]`` to ``kT_eV[1]``, geometrically.
    """
    positions, neighbours, side = diamond(n_cells)
    n_sites = len(positions)
    try_switches(positions, neighbours, side, 5.0, 10**7, 3 * n_sites // 2, rng)
    relax_all(positions, neighbours, side)
    for i_sweep, temperature in enumerate(np.geomspace(*kT_eV, n_sweeps)):
        n_accepted = try_switches(positions, neighbours, side, temperature, 2 * n_sites, 2 * n_sites, rng)
        energy = relax_all(positions, neighbours, side)
        if i_sweep % 50 == 0 or i_sweep == n_sweeps - 1:
            print(f"sweep {i_sweep}: kT {temperature:.3f} eV, {n_accepted} of {2 * n_sites} accepted, "
                  f"{energy / n_sites:.4f} eV a site", flush=True)
    return positions, neighbours, side
