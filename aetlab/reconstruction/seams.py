"""Join the sites that are found in tiles, and name and measure them as those of one volume.

An atom belongs to the tile whose core it is in. Two tiles find an atom near their seam at slightly different places,
which may lie on both sides of it. Two such sites, each the nearest to the other, are one atom, which belongs to the
side of their mean. Of sites of two tiles that are closer than two atoms can be, the weaker one is dropped.

Faint sites are dropped and all are named by the signals of all tiles together. Each site is then measured in the volume
of its tile, where all sites are subtracted, those of the neighbouring tiles among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from scipy.spatial import cKDTree

from aetlab import tracing
from aetlab.core.nouns import TracedAtoms, Volume
from aetlab.core.structure import least_distance_A
from aetlab.core.tiling import Tile, distance_to_nearest
from aetlab.reconstruction.device import choose_tracing
from aetlab.reconstruction.traced import tracing_of
from aetlab.spec import RunSpec
from aetlab.tracing import FoundSites, MeasuredSites
from aetlab.tracing.species import Species

#: Distance in voxels up to which sites of two tiles are the same atom, as those of one volume are.
SAME_ATOM = 1.0


@dataclass(frozen=True)
class Part:
    """Sites found in the rows of one tile that its record keeps; those of ``found`` are in voxels of these rows."""

    kept: Tile
    found: FoundSites

    @property
    def lowest_row(self) -> int:
        """Return the row of the whole volume that is the first of the tile."""
        return self.kept.first - self.kept.below


def join_found(parts: Sequence[Part], least: float) -> tuple[FoundSites, np.ndarray]:
    """Return the sites of all tiles in voxels of the whole volume, and the index of the tile of each (N,).

    Parameters
    ----------
    parts : sequence of Part
        In the order of their tiles.
    least : float
        Distance in voxels below which the weaker of two sites of different tiles is dropped.
    """
    placed = [part.found.sites + [0, 0, part.lowest_row, 0, 0] for part in parts]
    own = owned([part.kept for part in parts], placed)
    sites = np.concatenate([each[keep] for each, keep in zip(placed, own, strict=True)])
    status = np.concatenate([part.found.status[keep] for part, keep in zip(parts, own, strict=True)])
    owner = np.repeat(np.arange(len(parts)), [int(keep.sum()) for keep in own])
    seams = np.array([part.kept.stop - 0.5 for part in parts[:-1]])
    keep = far_from_stronger(sites[:, :3], sites[:, 3] * sites[:, 4], owner, least, seams)
    sites, status, owner = sites[keep], status[keep], owner[keep]
    order = np.lexsort(sites.T[::-1])
    n_found = sum(len(part.found.sites) for part in parts)
    removed = {rule: sum(part.found.removed[rule] for part in parts) for rule in parts[0].found.removed}
    removed["seam"] += n_found - len(sites)
    joined = FoundSites(sites[order], status[order], _join_rounds([part.found.rounds for part in parts]),
                        sum(part.found.n_candidates for part in parts), removed)
    return joined, owner[order]


def owned(tiles: Sequence[Tile], places: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return which of the ``places`` of each tile are its own, bool (N,).

    Places (N, 3 or more) begin with z, x, y in voxels of the whole volume.
    """
    own = [_in_core(tile, each[:, 2]) for tile, each in zip(tiles, places, strict=True)]
    for low in range(len(tiles) - 1):
        seam = tiles[low].stop - 0.5
        near = [np.flatnonzero(np.abs(places[i][:, 2] - seam) <= 2 * SAME_ATOM) for i in (low, low + 1)]
        one, other = (near[k][pair] for k, pair in enumerate(
            _pair(places[low][near[0], :3], places[low + 1][near[1], :3])))
        below = (places[low][one, 2] + places[low + 1][other, 2]) / 2 < seam
        own[low][one], own[low + 1][other] = below, ~below
    return own


def trace_tile(settings: RunSpec, volume: Volume, numbers: tuple[int, ...],
               report: Callable[[int, int, str], None]) -> tuple[FoundSites, TracedAtoms]:
    """Return the sites found in the rows of a tile that its record keeps, and the atoms that these rows alone give."""
    spec, expected = tracing_of(settings, numbers, volume.voxel_A)
    work = choose_tracing(settings, spec, volume, lambda text: None)
    found = tracing.find_sites(volume, spec, numbers, report, work=work)
    return found, tracing.name_found(volume, found, spec, numbers, expected_signal=expected, in_volts=True, work=work)


@dataclass(frozen=True)
class JoinedSites:
    """The sites of all tiles together, each once, before they are measured.

    ``found`` are in voxels of the whole volume, ``owner`` (N,) is the index of the tile that measures each, and
    ``species`` are the names of all.
    """

    found: FoundSites
    owner: np.ndarray
    species: Species

    def named(self, measured: Mapping[int, MeasuredSites]) -> TracedAtoms:
        """Return the traced atoms of some tiles, from the measured sites of each of them in their order."""
        columns: dict[str, np.ndarray] = {}
        for i, part in measured.items():
            for field in fields(MeasuredSites):
                values = getattr(part, field.name)
                column = columns.setdefault(field.name, np.zeros((len(self.owner), *values.shape[1:]), values.dtype))
                column[self.owner == i] = values
        return self.found.named(MeasuredSites(**columns), self.species).select(np.isin(self.owner, list(measured)))


def name_joined(settings: RunSpec, parts: Sequence[Part], numbers: tuple[int, ...]) -> JoinedSites:
    """Return the sites of all tiles with their names; ``numbers`` are the atomic numbers of the elements."""
    voxel_A = settings.scale.voxel_A
    spec, expected = tracing_of(settings, numbers, voxel_A)
    least = max(spec.merge_distance, least_distance_A(numbers, spec.min_bond_part) / voxel_A
                if spec.min_bond_part else 0.0)
    found, owner = join_found(parts, least)
    bright = found.bright(numbers, spec.min_signal, expected, True)
    found, owner = found.without("faint", bright), owner[bright]
    return JoinedSites(found, owner, tracing.name_species(found.signal, numbers, expected, in_volts=True))


def measure_part(settings: RunSpec, part: Part, joined: JoinedSites, volume: Volume,
                 numbers: tuple[int, ...]) -> MeasuredSites:
    """Return the final fits of the sites that a tile owns, in their order and the coordinates of the whole volume.

    ``volume`` has the rows of the tile that its record keeps. Its neighbours' sites in these rows are fitted as well.
    """
    voxel_A = settings.scale.voxel_A
    spec, _ = tracing_of(settings, numbers, voxel_A)
    local = joined.found.sites - [0, 0, part.lowest_row, 0, 0]
    own = joined.owner == part.kept.index
    inside = own | (local[:, 2] > -0.5) & (local[:, 2] < part.kept.n_rows - 0.5)
    work = choose_tracing(settings, spec, volume, lambda text: None)
    measured = tracing.measure_sites(volume, local[inside], joined.found.status[inside], spec, work=work)
    own = own[inside]
    moved = MeasuredSites(**{field.name: getattr(measured, field.name)[own] for field in fields(MeasuredSites)})
    return replace(moved, positions_A=moved.positions_A + [0, part.kept.offset_A(voxel_A), 0])


def _in_core(tile: Tile, row: np.ndarray) -> np.ndarray:
    """Return which of the places ``row`` (N,) along y, in voxels of the whole volume, are in the core of ``tile``."""
    return tile.owns(row + 0.5 - tile.n_whole / 2, 1.0)


def _pair(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of pairs of places (N, 3) and (M, 3), each the nearest to the other, at most SAME_ATOM apart.
    """
    if not len(one) or not len(other):
        return np.zeros(0, int), np.zeros(0, int)
    distance, partner = cKDTree(other).query(one)
    back = cKDTree(one).query(other)[1]
    pairs = np.flatnonzero((distance <= SAME_ATOM) & (back[partner] == np.arange(len(one))))
    return pairs, partner[pairs]


def far_from_stronger(places: np.ndarray, strength: np.ndarray, owner: np.ndarray, least: float,
                      seams: np.ndarray) -> np.ndarray:
    """Return which sites are kept, bool (N,): of two of different tiles nearer than ``least`` the stronger one.

    Parameters
    ----------
    places : (N, 3)
        z, x, y in voxels of the whole volume.
    strength, owner : (N,)
        Strength and tile of each site; the strongest are kept first.
    least : float
        Distance in voxels.
    seams : (M,)
        Rows between tiles; only sites near one are compared.
    """
    keep = np.ones(len(places), bool)
    if not len(seams):
        return keep
    near = np.flatnonzero(distance_to_nearest(places[:, 2], seams) <= least + 2 * SAME_ATOM)
    if not len(near):
        return keep
    pairs = near[cKDTree(places[near]).query_pairs(least, output_type="ndarray")]
    pairs = pairs[owner[pairs[:, 0]] != owner[pairs[:, 1]]]
    weaker_first = np.take_along_axis(pairs, np.argsort(strength[pairs], axis=1, kind="stable"), axis=1)
    for weaker, stronger in weaker_first[np.argsort(-strength[weaker_first[:, 1]], kind="stable")].tolist():
        if keep[stronger]:
            keep[weaker] = False
    return keep


def _join_rounds(rounds: Sequence[tuple[dict[str, float], ...]]) -> tuple[dict[str, float], ...]:
    """Return the rounds of all tiles together; a tile that has ended stays as it was in its last round."""
    joined = []
    for k in range(max(map(len, rounds), default=0)):
        here = [each[min(k, len(each) - 1)] for each in rounds if each]
        n_sites = sum(each["n_sites"] for each in here)
        square = sum(each["n_sites"] * each["shift_rms_voxels"] ** 2 for each in here) / max(n_sites, 1)
        n_gone = sum(each["n_gone"] for each, whole in zip(here, filter(None, rounds), strict=True) if k < len(whole))
        joined.append({"round": k + 1, "n_sites": n_sites, "n_gone": n_gone, "shift_rms_voxels": float(square**0.5)})
    return tuple(joined)
