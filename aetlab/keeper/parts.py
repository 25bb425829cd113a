"""Measure and refine the joined atoms tile by tile.

Each part is a shared stage: a job of a sweep computes it, any process that joins the tiles reads it or computes it
itself. Its key holds the sites of all tiles, so that a tile that was made again with other sites makes its parts again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from aetlab import flow, refinement
from aetlab.core.nouns import RefinedAtoms, TiltSeries, TracedAtoms
from aetlab.core.progress import NamedReporter, Reporter
from aetlab.core.tiling import Tile
from aetlab.reconstruction.refined_tiles import divide_atoms, join_refined, known_from, middle_of
from aetlab.reconstruction.seams import JoinedSites, Part, measure_part, name_joined
from aetlab.reconstruction.tiles import kept_tile, settings_of, tiles_of
from aetlab.spec import RunSpec
from aetlab.store import cache, record
from aetlab.store.found import pack_refined, read_found, unpack_refined
from aetlab.store.identity import identity
from aetlab.store.reading import read_reconstruction
from aetlab.tracing import MeasuredSites

#: Groups of settings that do not change the traced and the refined atoms.
_AFTER_TRACING, _AFTER_REFINEMENT = ("refine", "score", "validate"), ("score", "validate")


@dataclass(frozen=True)
class TileParts:
    """The parts of the joined run ``spec`` with the elements ``numbers``, from the ``records`` of its tiles.

    ``cut`` returns the images of a tile with their weights.
    """

    spec: RunSpec
    records: Sequence[record.Record]
    numbers: tuple[int, ...]
    places: record.Places
    reporter: Reporter
    cut: Callable[[Tile], TiltSeries]

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """The tiles of the run."""
        return tiles_of(self.spec)

    @cached_property
    def _found(self) -> list[Part]:
        return [Part(kept_tile(each.spec), read_found(each)) for each in self.records]

    @cached_property
    def joined(self) -> JoinedSites:
        """The sites of all tiles with their names."""
        with flow.computing(self.spec):
            return name_joined(self.spec, self._found, self.numbers)

    @cached_property
    def _sites_digest(self) -> str:
        sites = hashlib.sha256(np.ascontiguousarray(self.joined.found.sites).tobytes())
        sites.update(np.ascontiguousarray(self.joined.owner).tobytes())
        return sites.hexdigest()

    def measure(self, i_tile: int) -> MeasuredSites:
        """Return the final fits of the sites of one tile."""

        def compute() -> dict[str, np.ndarray]:
            volume = read_reconstruction(self.records[i_tile]).volume
            with flow.computing(self.spec):
                measured = measure_part(self.spec, self._found[i_tile], self.joined, volume, self.numbers)
            return {field.name: getattr(measured, field.name) for field in fields(MeasuredSites)}

        return MeasuredSites(**self._shared("tile_traced", i_tile, _AFTER_TRACING, compute))

    @cached_property
    def traced(self) -> TracedAtoms:
        """The traced atoms of all tiles."""
        return self._traced_in([tile.index for tile in self.tiles])

    def refine(self, i_tile: int) -> RefinedAtoms:
        """Return the refined atoms of one tile, in its coordinates.

        The middle tile is refined first where it finds what all tiles share, such as poses.
        """
        tile, middle = self.tiles[i_tile], middle_of(self.tiles)
        reporter = NamedReporter(self.reporter, f"tile {i_tile + 1}/{len(self.tiles)}")
        known = None
        if refinement.finds_unknowns(self.spec.refine) and tile is not middle:
            known = known_from(self.spec, middle, self.refine(middle.index), tile)

        def compute() -> dict[str, np.ndarray]:
            rows = set(tile.rows.tolist())
            traced = self._traced_in([each.index for each in self.tiles if rows & set(range(each.first, each.stop))])
            free, held = divide_atoms(self.spec, tile, traced)
            return pack_refined(flow.refine(
                settings_of(self.spec, tile), self.cut(tile), read_reconstruction(self.records[i_tile]), free,
                elements=self.numbers, progress=reporter, held=held, known=known))

        return unpack_refined(self._shared("tile_refined", i_tile, _AFTER_REFINEMENT, compute))

    @property
    def refined(self) -> RefinedAtoms | None:
        """The refined atoms of all tiles; None without refinement."""
        if self.spec.refine.kind == "none":
            return None
        return join_refined(self.spec, self.tiles, [self.refine(tile.index) for tile in self.tiles])

    def _traced_in(self, tiles: Sequence[int]) -> TracedAtoms:
        return self.joined.named({i: self.measure(i) for i in tiles})

    def _shared(self, stage: str, i_tile: int, after: Sequence[str],
                compute: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        settings = {group: values for group, values in identity(self.spec).items() if group not in after}
        key = {"run": settings, "sites": self._sites_digest, "tile": i_tile}
        return cache.shared_stage(self.places.cache, stage, key, compute)
