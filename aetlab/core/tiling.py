"""Divide the rows of a volume along the tilt axis y into overlapping tiles.

Rows far enough apart along y never meet in an image, so that a long sample can be reconstructed in tiles. Each row
belongs to the core of one tile. A tile has rows of its neighbours on both sides, its halo. The wave is periodic in y,
and so are tiles: the halo at a face of the volume holds rows of the other end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft

from aetlab.core.nouns import Atoms
from aetlab.core.poses import Poses, turn_matrix
from aetlab.core.tilt_series import TiltSeries


@dataclass(frozen=True)
class Tile:
    """Rows ``first`` to ``stop`` (excluded) of a volume of ``n_whole`` rows, the core, with a halo on both sides.

    ``below`` and ``above`` are the numbers of rows of the halo before and behind the core, ``index`` counts tiles along
    +y.
    """

    index: int
    first: int
    stop: int
    below: int
    above: int
    n_whole: int

    @property
    def n_core(self) -> int:
        """Return the number of rows of the core."""
        return self.stop - self.first

    @property
    def n_rows(self) -> int:
        """Return the number of rows of the tile."""
        return self.below + self.n_core + self.above

    @property
    def rows(self) -> np.ndarray:
        """Return the rows of the volume (n_rows,) that are the rows of the tile."""
        return np.arange(self.first - self.below, self.stop + self.above) % self.n_whole

    @property
    def core(self) -> slice:
        """Return the rows of the tile that are its core."""
        return slice(self.below, self.below + self.n_core)

    def offset_A(self, voxel_A: float) -> float:
        """Return the y of the tile's centre in Å about the centre of the volume."""
        return ((self.first - self.below + self.stop + self.above - 1) / 2 - (self.n_whole - 1) / 2) * voxel_A

    def faces_A(self, voxel_A: float) -> tuple[float, float]:
        """Return the lower and the upper y of the core in Å about the centre of the volume."""
        return (self.first - self.n_whole / 2) * voxel_A, (self.stop - self.n_whole / 2) * voxel_A

    def owns(self, y_A: np.ndarray, voxel_A: float) -> np.ndarray:
        """Return which of ``y_A`` (N,), about the centre of the volume, lie in the core, bool (N,).

        The core of the first tile has no lower end, that of the last tile no upper end.
        """
        low_A, high_A = self.faces_A(voxel_A)
        above = y_A >= low_A if self.first > 0 else np.ones(len(y_A), bool)
        below = y_A < high_A if self.stop < self.n_whole else np.ones(len(y_A), bool)
        return above & below

    def within(self, margin: int) -> Tile:
        """Return the tile of the same core with a halo of at most ``margin`` rows that does not leave the volume."""
        return replace(self, below=min(self.below, margin, self.first),
                       above=min(self.above, margin, self.n_whole - self.stop))

    def part_of(self, larger: Tile) -> slice:
        """Return the rows of ``larger``, a tile of the same core with more halo, that are those of this tile."""
        start = larger.below - self.below
        return slice(start, start + self.n_rows)


def divide_rows(n_rows: int, n_tiles: int, halo: int) -> tuple[Tile, ...]:
    """Return ``n_tiles`` tiles of ``n_rows`` rows, with a halo of at least ``halo`` rows on both sides.

    The cores differ by at most one row. A halo is extended until the tile has a number of rows with prime factors of at
    most 5 that is a multiple of 4, as fast Fourier transforms want it.

    Raises
    ------
    ValueError
        If there are more tiles than rows, or a tile would have more rows than the volume.
    """
    if not 1 <= n_tiles <= n_rows:
        raise ValueError(f"{n_rows} rows cannot be divided into {n_tiles} tiles")
    ends = [i * n_rows // n_tiles for i in range(n_tiles + 1)]
    tiles = []
    for index, (first, stop) in enumerate(zip(ends, ends[1:], strict=False)):
        n_all = 4 * scipy.fft.next_fast_len(-(-(stop - first + 2 * halo) // 4), real=True)
        n_halo = n_all - (stop - first)
        tiles.append(Tile(index, first, stop, n_halo // 2, n_halo - n_halo // 2, n_rows))
    if n_tiles > 1 and max(tile.n_rows for tile in tiles) >= n_rows:
        raise ValueError(f"a tile with its halo has {max(tile.n_rows for tile in tiles)} rows, the volume {n_rows}")
    return tuple(tiles)


def distance_to_nearest(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the distance of each of ``values`` (N,) to the nearest of rising ``places`` (M,), at least one."""
    above = np.searchsorted(places, values)
    low, high = np.clip(above - 1, 0, None), np.clip(above, None, len(places) - 1)
    return np.minimum(np.abs(values - places[low]), np.abs(values - places[high]))


def cut_series(series: TiltSeries, tile: Tile, *, weight: np.ndarray | None = None) -> TiltSeries:
    """Return the rows of ``series`` that a tile has.

    ``weight`` (T, F, R), if given, multiplies the weight of every pixel of row r of an image.
    """
    cut = series.cut(tile.rows)
    return cut if weight is None else weigh_rows(cut, weight)


def weigh_rows(series: TiltSeries, weight: np.ndarray) -> TiltSeries:
    """Return ``series`` with the weight of every pixel of row r of an image multiplied by ``weight`` (T, F, Y)."""
    by_row = weight.astype(np.float32)[:, :, None, :]
    by_pixel = np.broadcast_to(by_row, series.images.shape) if series.pixel_weight is None else (
        series.pixel_weight * by_row)
    return replace(series, pixel_weight=by_pixel)


def cut_poses(poses: Poses, offset_A: float) -> Poses:
    """Return the poses that a tile whose centre lies at y = ``offset_A`` has in images that are cut to its rows.

    A point p of the sample is p_t + c in coordinates of the tile, c = (0, ``offset_A``, 0). Its place
    exp([ω]×) R (p_t + c) + d, less the place c of the middle of the cut image, is that of p_t at the same turn and the
    shift d + exp([ω]×) c - c, for R leaves c where it is. Its third component is a change of the height. An image of
    magnification m has this place at m times it, which shifts the cut image by c - c / m.
    """
    centre_A = np.array([0.0, offset_A, 0.0])
    moved_A = np.array([turn_matrix(turn_deg) @ centre_A - centre_A for turn_deg in poses.turn_deg]).reshape(-1, 3)
    return replace(poses, shift_A=poses.shift_A + moved_A,
                   image_shift_A=poses.image_shift_A + (1 - 1 / poses.magnification)[:, None] * centre_A[:2])


def cut_atoms(atoms: Atoms, tile: Tile, voxel_A: float) -> Atoms:
    """Return the atoms that lie in the rows of a tile, in its coordinates; the volume is periodic in y."""
    half_A, length_A = tile.n_rows * voxel_A / 2, tile.n_whole * voxel_A
    y_A = atoms.positions_A[:, 1] - tile.offset_A(voxel_A)
    y_A -= length_A * np.round(y_A / length_A)
    inside = (y_A >= -half_A) & (y_A < half_A)
    cut = atoms.select(inside)
    positions_A = cut.positions_A.copy()
    positions_A[:, 1] = y_A[inside]
    return replace(cut, positions_A=positions_A)
