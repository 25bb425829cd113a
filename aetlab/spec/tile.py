"""Settings of the tiles along the tilt axis."""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.core.setting import check_ranges, documented, require, setting

#: The index of the run that joins all tiles.
JOINED = -1


@documented
@dataclass(frozen=True, kw_only=True)
class TileSpec:
    """Tiles along the tilt axis, in which a long sample is reconstructed."""

    n: int = setting("number of tiles; 1 reconstructs the whole volume at once", within="[1, inf)", default=1)
    rows: int = setting("greatest number of rows of a tile without its halo, in place of n; 0 for n tiles",
                        unit="voxels", within="[0, inf)", default=0)
    halo_A: float = setting(
        "least width of the halo, the rows of its neighbours that a tile has on each side; 0 for the width that "
        "follows from defocus, aperture, regulariser and tracing", unit="Å", within="[0, inf)", default=0.0)
    index: int = setting(
        "tile of this run, counted from 0 along +y; -1 for the run that reconstructs all tiles and joins them, which "
        "sets the index of the others itself", within="[-1, inf)", default=JOINED)

    def __post_init__(self) -> None:
        check_ranges("tile", self)
        require(self.n == 1 or self.rows == 0, "tile.rows", self.rows, f"tile.n={self.n} gives the number of tiles; "
                "give one of both")
        require(self.enabled or self.halo_A == 0, "tile.halo_A", self.halo_A,
                "a volume that is reconstructed at once has no halo; give tile.n above 1 or tile.rows as well")
        require(self.enabled or self.index == JOINED, "tile.index", self.index, "there is only one tile; give tile.n")

    @property
    def enabled(self) -> bool:
        """Return whether the volume is divided into tiles."""
        return self.n > 1 or self.rows > 0

    def count(self, n_rows: int) -> int:
        """Return the number of tiles of a volume of ``n_rows`` rows."""
        return -(-n_rows // self.rows) if self.rows else self.n
