"""Tiles of a run: their rows by the rule of the halo, and the settings, images and weights of each.

The halo must be so wide that what a tile finds in its core does not depend on what it lacks. An image at the defocus
Δf shows waves that come from rows up to R away (:func:`aetlab.forward.reach.lateral_reach_A`). At the ends of a tile,
where these rows are on one side only, images count less: the weight of a row of pixels at the distance d from the end
is sin²(π d / 2R) up to d = R. The halo is the greatest R of all images, and a margin in which the volume must be as
good as in the core: tracing fits atoms of the core to it and subtracts their neighbours, and the regulariser looks as
far as its own reach.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from aetlab.core.nouns import TiltSeries
from aetlab.core.tiling import Tile, divide_rows
from aetlab.forward.reach import lateral_reach_A
from aetlab.methods.regularisers import REGULARISERS
from aetlab.reconstruction.fit import blur_A
from aetlab.spec import RefineSpec, RunSpec, SpecError, TileSpec, ValidateSpec
from aetlab.spec.derived import blurs_images

#: Reach of a Gaussian in standard deviations.
_GAUSSIAN = 4.0
#: Rows over which the proximal step of a regulariser without a peak carries an error of the volume.
_PRIOR_ROWS = 8
#: Reach of the detector's MTF in pixels, if it has one.
_MTF_PIXELS = 4
#: Rows by which a site may move while it is fitted.
_MOVE_ROWS = 2


def tiles_of(spec: RunSpec) -> tuple[Tile, ...]:
    """Return the tiles of ``spec`` along +y.

    Raises
    ------
    SpecError
        If the tiles with their halos would not be smaller than the volume.
    """
    n_y, voxel_A = spec.scale.shape_zxy[2], spec.scale.voxel_A
    n_tiles = spec.tile.count(n_y)
    halo = halo_rows(spec)
    try:
        return divide_rows(n_y, n_tiles, halo)
    except ValueError as error:
        name, value = ("rows", spec.tile.rows) if spec.tile.rows else ("n", n_tiles)
        raise SpecError(f"tile.{name}={value} cannot be used: {error}; with a halo of {halo} rows "
                        f"({halo * voxel_A:g} Å) on each side {_advice(n_y, halo, name)}") from None


def _advice(n_rows: int, halo: int, name: str) -> str:
    """Return which numbers of tiles are possible: from the first that is, since more tiles are shorter."""
    least = next((n for n in range(2, n_rows + 1) if _is_possible(n_rows, n, halo)), None)
    if least is None:
        return (f"no number of tiles is shorter than the volume: leave out tile.{name}, or shorten the halo "
                "(tile.halo_A)")
    return f"choose {least} to {n_rows} tiles (tile.n), or leave out tile.{name}"


def _is_possible(n_rows: int, n_tiles: int, halo: int) -> bool:
    try:
        divide_rows(n_rows, n_tiles, halo)
    except ValueError:
        return False
    return True


def tile_of(spec: RunSpec) -> Tile:
    """Return the tile of a run of one tile."""
    return tiles_of(spec)[spec.tile.index]


def halo_rows(spec: RunSpec) -> int:
    """Return the least width of the halo in rows: ``spec.tile.halo_A``, or by the rule."""
    if spec.tile.halo_A > 0:
        return math.ceil(spec.tile.halo_A / spec.scale.voxel_A - 1e-9)
    reach_A = max(reach_of_image_A(spec, 10.0 * plane_nm) for plane_nm in spec.defocus.planes_nm)
    return math.ceil(reach_A / spec.scale.voxel_A) + margin_rows(spec)


def reach_of_image_A(spec: RunSpec, defocus_A: float) -> float:
    """Return how far in Å a row of an image at ``defocus_A`` sees along y; an alignment may shift it as well."""
    n_z, voxel_A = spec.scale.shape_zxy[0], spec.scale.voxel_A
    microscope = spec.microscope
    has_mtf = blurs_images(microscope)
    return (lateral_reach_A(microscope, defocus_A, n_z * voxel_A, voxel_A) + _GAUSSIAN * blur_A(spec)
            + has_mtf * _MTF_PIXELS * voxel_A + spec.align.enabled * spec.align.reach_A)


def margin_rows(spec: RunSpec) -> int:
    """Return the rows next to the core in which the volume must be as good as in the core; a record keeps them."""
    trace, per_half_A = spec.trace, 0.5 / spec.scale.voxel_A
    traced = (trace.neighbour_radius + trace.fit_radius + _GAUSSIAN * trace.smoothing) * max(per_half_A, 1.0)
    peaked = REGULARISERS[spec.reg.kind].blur_A is not None
    prior = _GAUSSIAN * blur_A(spec) / spec.scale.voxel_A if peaked else _PRIOR_ROWS
    return math.ceil(max(traced + _MOVE_ROWS, prior))


def kept_tile(spec: RunSpec) -> Tile:
    """Return the part of the tile of ``spec`` that its record keeps: the core and the margin."""
    return tile_of(spec).within(margin_rows(spec))


def tile_runs(spec: RunSpec) -> tuple[RunSpec, ...]:
    """Return the settings of the run of each tile of the joined run ``spec``.

    The joined atoms are refined and validated, not those of a tile. Images that are left out for the validation are
    left out in each tile.
    """
    validate = spec.validate if spec.data.held_out > 0 else ValidateSpec()
    return tuple(replace(spec, tile=replace(spec.tile, index=tile.index), refine=RefineSpec(), validate=validate)
                 for tile in tiles_of(spec))


def settings_of(spec: RunSpec, tile: Tile) -> RunSpec:
    """Return settings of a run whose volume is that of ``tile``; they fit, trace and cost what ``tile`` does."""
    n_z, n_x, _ = spec.scale.shape_zxy
    return replace(spec, scale=replace(spec.scale, shape_zxy=(n_z, n_x, tile.n_rows)), tile=TileSpec())


def seams_A(spec: RunSpec) -> tuple[float, ...]:
    """Return the y in Å of the seams between tiles, about the centre of the volume; none without tiles."""
    if not spec.tile.enabled:
        return ()
    return tuple(tile.faces_A(spec.scale.voxel_A)[0] for tile in tiles_of(spec)[1:])


def largest_part(spec: RunSpec) -> RunSpec:
    """Return the settings of the largest volume that a run of ``spec`` fits: of a tile, or of the whole."""
    return settings_of(spec, max(tiles_of(spec), key=lambda tile: tile.n_rows)) if spec.tile.enabled else spec


def row_weights(spec: RunSpec, series: TiltSeries, tile: Tile) -> np.ndarray:
    """Return the weight (T, F, R) of the R rows of a tile in each image of ``series``."""
    rows = np.arange(tile.n_rows) + 0.5
    distance_A = np.minimum(rows, tile.n_rows - rows) * spec.scale.voxel_A
    planes_A, place = np.unique(series.defocus_A, return_inverse=True)
    room_A = min(tile.below, tile.above) * spec.scale.voxel_A
    reach_A = np.minimum([reach_of_image_A(spec, float(plane_A)) for plane_A in planes_A], room_A)
    weights = np.sin(0.5 * np.pi * np.minimum(distance_A / np.maximum(reach_A[:, None], 1e-9), 1)) ** 2
    return np.asarray(weights[place.reshape(series.defocus_A.shape)])
