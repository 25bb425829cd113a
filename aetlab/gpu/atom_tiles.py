"""Lists of the atoms that reach each tile of the slices of a tilt, computed on the CPU."""

from __future__ import annotations

import math

import numpy as np

from aetlab.core.kernel_cache import njit
from aetlab.gpu.kernels import TILE_X, TILE_Y


def list_atoms(centres: np.ndarray, kinds: np.ndarray, reach: np.ndarray, window: int, shape_zxy: tuple[int, int, int],
               n_layers: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the atoms of each tile, in the order of the atoms.

    Parameters
    ----------
    centres : (N, 3)
        z, x, y of the atoms in voxels.
    kinds : int (N,)
        Indices into ``reach``.
    reach : (K,)
        Half-width of the atoms of each element in voxels.
    window : int
        Voxels of an atom along y; 0: those within its reach.
    shape_zxy, n_layers
        The volume, and N_B.

    Returns
    -------
    starts : int32 (number of tiles + 1,)
        The atoms of tile b are ``members[starts[b]:starts[b + 1]]``. Tiles are ordered by slice, x and y.
    members : int32
        Indices of atoms.
    """
    starts: np.ndarray = np.zeros(n_tiles(shape_zxy, n_layers) + 1, np.int32)
    _visit(centres, kinds, reach, window, *shape_zxy, n_layers, starts[1:], np.empty(0, np.int32))
    members: np.ndarray = np.empty(int(starts.sum(dtype=np.int64)), np.int32)
    np.cumsum(starts, out=starts)
    _visit(centres, kinds, reach, window, *shape_zxy, n_layers, starts[:-1].copy(), members)
    return starts, members


def n_tiles(shape_zxy: tuple[int, int, int], n_layers: int) -> int:
    """Return the number of tiles of all slices."""
    n_z, n_x, n_y = shape_zxy
    return -(-n_z // n_layers) * -(-n_x // TILE_X) * -(-n_y // TILE_Y)


@njit(error_model="numpy")
def _visit(centres, kinds, reach, window, n_z, n_x, n_y, n_layers, places, members):
    """Add 1 to ``places`` of each tile for each of its atoms; write the atom at the place before, if there is room."""
    rows, columns = (n_x + TILE_X - 1) // TILE_X, (n_y + TILE_Y - 1) // TILE_Y
    for i in range(centres.shape[0]):
        r, z, x, y = reach[kinds[i]], centres[i, 0], centres[i, 1], centres[i, 2]
        if y < -r or y > n_y - 1 + r:
            continue
        first_z, last_z = max(int(math.ceil(z - r)), 0), min(int(math.floor(z + r)), n_z - 1)
        first_x, last_x = max(int(math.ceil(x - r)), 0), min(int(math.floor(x + r)), n_x - 1)
        if window > 0:
            first_y = min(max(int(math.floor(y)) - window // 2 + 1, 0), n_y - window)
            last_y = first_y + window - 1
        else:
            first_y, last_y = max(int(math.ceil(y - r)), 0), min(int(math.floor(y + r)), n_y - 1)
        if last_z < first_z or last_x < first_x or last_y < first_y:
            continue
        for i_slice in range(first_z // n_layers, last_z // n_layers + 1):
            for row in range(first_x // TILE_X, last_x // TILE_X + 1):
                for column in range(first_y // TILE_Y, last_y // TILE_Y + 1):
                    tile = (i_slice * rows + row) * columns + column
                    if members.size > 0:
                        members[places[tile]] = i
                    places[tile] += 1
