"""Divide joined atoms among the tiles of the images for their refinement, and join what the tiles return.

In a tile the atoms of its core and margin are refined. Those farther out, which few of the weighted rows of its images
determine, are in the model as they were traced. The atoms of the core are kept, each once, as sites are joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from aetlab.core.nouns import RefinedAtoms, TracedAtoms
from aetlab.core.tiling import Tile, cut_poses
from aetlab.reconstruction.seams import far_from_stronger, owned
from aetlab.reconstruction.tiles import margin_rows
from aetlab.refinement import Known, found_lens
from aetlab.spec import RunSpec

_PER_ATOM = ("positions_A", "occupancy", "scattering_V_A3", "numbers", "position_error_A", "occupancy_error",
             "probability", "posterior", "not_atom_probability")
#: Numbers of the summary that count something, and those that say that something happened.
_COUNTS = ("passes", "traced_lost", "sampled_moved", "sampled_renamed", "sampled_gone", "sampled_cooled")
_FLAGS = ("sampled_unstable",)


def divide_atoms(spec: RunSpec, tile: Tile, traced: TracedAtoms) -> tuple[TracedAtoms, TracedAtoms]:
    """Return the joined atoms that a tile refines, and those that it holds, both in the coordinates of the tile."""
    voxel_A = spec.scale.voxel_A
    kept, length_A = tile.within(margin_rows(spec)), tile.n_whole * voxel_A
    y_A = traced.positions_A[:, 1]
    here_A = y_A - tile.offset_A(voxel_A)
    here_A = here_A - length_A * np.round(here_A / length_A)
    row = y_A / voxel_A + (tile.n_whole - 1) / 2
    free = (row >= kept.first - kept.below - 0.5) & (row < kept.stop + kept.above - 0.5)
    if kept.first == 0:
        free |= row < 0
    if kept.stop == kept.n_whole:
        free |= row > kept.n_whole - 1
    held = ~free & (np.abs(here_A) <= tile.n_rows * voxel_A / 2) & (traced.numbers > 0)
    moved = replace(traced, positions_A=np.column_stack([traced.positions_A[:, 0], here_A, traced.positions_A[:, 2]]))
    return moved.select(free), moved.select(held)


def join_refined(spec: RunSpec, tiles: Sequence[Tile], parts: Sequence[RefinedAtoms]) -> RefinedAtoms:
    """Return the atoms that each tile has in its core, in the coordinates of the whole volume and in their order.

    ``cost``, the rounds and counts are sums over the tiles, which count the halos as well. Means of the summary are
    weighted by the atoms of each tile. What all tiles share is that of the middle one.
    """
    voxel_A = spec.scale.voxel_A
    middle = middle_of(tiles)
    shared = parts[middle.index]
    centre = (np.array(spec.scale.shape_zxy) - 1) / 2
    moved = [replace(part, positions_A=part.positions_A + [0, tile.offset_A(voxel_A), 0])
             for tile, part in zip(tiles, parts, strict=True)]
    places = [part.positions_A[:, [2, 0, 1]] / voxel_A + centre for part in moved]
    own = owned(tiles, places)
    columns = {name: np.concatenate([getattr(part, name)[keep] for part, keep in zip(moved, own, strict=True)])
               for name in _PER_ATOM}
    owner = np.repeat(np.arange(len(parts)), [int(keep.sum()) for keep in own])
    place = np.concatenate([each[keep] for each, keep in zip(places, own, strict=True)])
    keep = far_from_stronger(place, columns["scattering_V_A3"], owner, spec.refine.min_distance_A / voxel_A,
                             np.array([tile.stop - 0.5 for tile in tiles[:-1]]))
    positions_A = columns["positions_A"]
    order = np.lexsort((positions_A[:, 1], positions_A[:, 0], positions_A[:, 2]))
    order = order[keep[order]]
    n_passes = max(len(part.cost) for part in parts)
    cost = sum(np.pad(part.cost, (0, n_passes - len(part.cost)), mode="edge") for part in parts)
    return replace(shared, **{name: values[order] for name, values in columns.items()}, cost=np.asarray(cost),
                   poses=cut_poses(shared.poses, -middle.offset_A(voxel_A)),
                   rounds=_join_rounds([part.rounds for part in parts]), summary=_join_summaries(parts, shared))


def cut_refined(spec: RunSpec, tile: Tile, refined: RefinedAtoms) -> RefinedAtoms:
    """Return the joined refined atoms that lie in the rows of a tile, with their poses, in its coordinates."""
    voxel_A = spec.scale.voxel_A
    offset_A, length_A = tile.offset_A(voxel_A), tile.n_whole * voxel_A
    y_A = refined.positions_A[:, 1] - offset_A
    y_A = y_A - length_A * np.round(y_A / length_A)
    here = np.abs(y_A) <= tile.n_rows * voxel_A / 2
    moved = replace(refined, positions_A=np.column_stack([refined.positions_A[:, 0], y_A, refined.positions_A[:, 2]]))
    return replace(moved, **{name: getattr(moved, name)[here] for name in _PER_ATOM},
                   poses=cut_poses(refined.poses, offset_A))


def middle_of(tiles: Sequence[Tile]) -> Tile:
    """Return the tile that finds what all tiles share."""
    return tiles[len(tiles) // 2]


def known_from(spec: RunSpec, middle: Tile, found: RefinedAtoms, tile: Tile) -> Known:
    """Return what the refined atoms ``found`` in the ``middle`` tile tell of the images of another ``tile``."""
    distance_A = tile.offset_A(spec.scale.voxel_A) - middle.offset_A(spec.scale.voxel_A)
    return Known(cut_poses(found.poses, distance_A), found.thermal_A2, float(found.summary.get("contrast", 1.0)),
                 found_lens(spec.microscope, found.summary))


def _join_summaries(parts: Sequence[RefinedAtoms], shared: RefinedAtoms) -> dict[str, object]:
    """Return the sums of what the tiles count, why they stopped, and the means of the other numbers.

    What happened in one tile has happened. Numbers that ``shared`` alone has are its own.
    """
    weights = [max(len(part), 1) for part in parts]
    stopped = "; ".join(sorted({str(part.summary["stopped"]) for part in parts}))
    summary: dict[str, object] = {"stopped": f"{len(parts)} tiles: {stopped}"}
    for name in shared.summary:
        values = [part.summary[name] for part in parts if name in part.summary]
        if name in _COUNTS:
            summary[name] = sum(values)
        elif name in _FLAGS:
            summary[name] = max(values)
        elif name != "stopped" and len(values) == len(parts):
            summary[name] = float(np.average(values, weights=weights))
        elif name != "stopped":
            summary[name] = shared.summary[name]
    return summary


def _join_rounds(rounds: Sequence[tuple[dict[str, float], ...]]) -> tuple[dict[str, float], ...]:
    """Return the rounds of all tiles together; a tile that has ended stays as it was in its last round."""
    joined = []
    for k in range(max(map(len, rounds), default=0)):
        here = [each[min(k, len(each) - 1)] for each in rounds if each]
        now = [each[k] for each in rounds if k < len(each)]
        joined.append({"round": k + 1, "n_sites": sum(each["n_sites"] for each in here),
                       "n_gone": sum(each["n_gone"] for each in now), "n_new": sum(each["n_new"] for each in now),
                       "passes": sum(each["passes"] for each in here), "cost": sum(each["cost"] for each in here),
                       "remaining_standard_errors": max(each["remaining_standard_errors"] for each in now)})
    return tuple(joined)
