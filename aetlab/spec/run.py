"""All settings of a run as frozen dataclasses that check their values on construction.

A :class:`RunSpec` holds every setting that decides the numbers of a run; its canonical JSON is the run's identity
(:mod:`aetlab.store.identity`). Exceptions are ``engine.device``, ``engine.devices`` and ``engine.n_threads``, which
decide where and how fast a run is computed.

Every check raises :class:`SpecError`, whose message is one line that names the setting, the value and the choices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from aetlab.core.setting import require, setting
from aetlab.methods.likelihoods import LIKELIHOODS
from aetlab.spec.acquisition import (
    OF_SERIES,
    DataSpec,
    DefocusSpec,
    DoseSpec,
    MicroscopeSpec,
    SimulateSpec,
    TiltsSpec,
    WedgeSpec,
)
from aetlab.spec.atoms import RefineSpec, ScoreSpec, TraceSpec, ValidateSpec
from aetlab.spec.derived import tilt_angles_deg
from aetlab.spec.reconstruction import AlignSpec, BinningSpec, EngineSpec, RegSpec
from aetlab.spec.sample import SampleSpec, ScaleSpec
from aetlab.spec.tile import JOINED, TileSpec

#: The most electrons of a vacuum pixel in one image. Counts are 64-bit numbers, up to 9e18, and a bright pixel has
#: several times the electrons of vacuum.
MOST_ELECTRONS = 1e17


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Settings of one run, a dataclass for each group."""

    seed: int = setting("seed of all random numbers of the run; each purpose has a generator of its own",
                        within="[0, inf)")
    data: DataSpec = field(default_factory=DataSpec)
    sample: SampleSpec
    scale: ScaleSpec
    dose: DoseSpec
    tilts: TiltsSpec
    defocus: DefocusSpec
    wedge: WedgeSpec
    reg: RegSpec
    binning: BinningSpec
    simulate: SimulateSpec
    microscope: MicroscopeSpec
    engine: EngineSpec
    align: AlignSpec = field(default_factory=AlignSpec)
    trace: TraceSpec
    refine: RefineSpec = field(default_factory=RefineSpec)
    score: ScoreSpec
    validate: ValidateSpec = field(default_factory=ValidateSpec)
    tile: TileSpec = field(default_factory=TileSpec)

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, "seed", self.seed, "it must be a whole number from 0 to 2^63 - 1")
        able = " or ".join(name for name, row in LIKELIHOODS.items() if row.refines)
        require(self.refine.kind == "none" or LIKELIHOODS[self.engine.likelihood].refines, "engine.likelihood",
                self.engine.likelihood, f"refine={self.refine.kind} compares by {able}; choose that, or refine=none")
        if self.align.enabled:
            self._check_alignment()
        if self.data.kind != "measured" or self.scale.name == OF_SERIES:
            self._check_series()

    def _check_series(self) -> None:
        """Check what a measured series decides; such settings are checked when they are joined with it."""
        n_z = self.scale.shape_zxy[0]
        require(self.sample.kind == "file" or (n_z > 0 and self.scale.voxel_A > 0), "scale", self.scale.name,
                "it fits the volume to a structure; add sample=file sample.path=FILE, or choose another scale")
        require(self.binning.n_layers <= n_z or n_z == 0, "binning.n_layers", self.binning.n_layers,
                f"the volume of scale={self.scale.name} has only {n_z} layers")
        require(self.tilts.n_tilts is not None or self.wedge.missing_deg == 0, "wedge.missing_deg",
                self.wedge.missing_deg, "it leaves out the end of equal steps (tilts.n_tilts); a list or a range says "
                "itself which tilts there are; give wedge=0")
        n_left = len(tilt_angles_deg(self.tilts, self.wedge))
        require(n_left >= 2, "wedge.missing_deg", self.wedge.missing_deg,
                f"it leaves {n_left} of {self.tilts.n_tilts} tilts; at least 2 are needed")
        n_defoci = len(self.defocus.planes_nm)
        electrons = self.dose.total_e_A2 / (n_left * n_defoci) * self.scale.voxel_A**2 * self.microscope.dqe
        require(electrons <= MOST_ELECTRONS or math.isinf(self.dose.total_e_A2), "dose.total_e_A2",
                self.dose.total_e_A2, f"it gives {electrons:.2g} electrons to each pixel of an image, and counts are "
                f"drawn up to {MOST_ELECTRONS:g}; give less, or inf for images without noise")
        require(self.data.held_out == 0 or n_defoci > 1 or not (self.align.enabled or self.refine.poses),
                "data.held_out", self.data.held_out, "a tilt whose only image is left out has no pose; "
                "validate=halves needs none")
        require(self.validate.split != "counts" or math.isfinite(self.dose.total_e_A2), "validate.split",
                self.validate.split, "images without noise have no counts to split; choose auto or images")
        if self.tile.enabled:
            self._check_tiles()

    def _check_alignment(self) -> None:
        require(self.engine.n_iterations > self.align.at[0], "engine.n_iterations", self.engine.n_iterations,
                f"align=true aligns before iteration {self.align.at[0]} for the first time; give more, or align=false")
        require(self.reg.weight != "auto", "reg.weight", self.reg.weight,
                "tilts held out before they are aligned predict nothing; give a number or rule with align=true")
        require(self.refine.kind == "none" or self.refine.poses, "refine.poses", self.refine.poses,
                "the images lie where align=true finds them; refine.poses=true lets the atoms find them as well")

    def _check_tiles(self) -> None:
        n_y = self.scale.shape_zxy[2]
        n_tiles = self.tile.count(n_y)
        require(self.tile.index < max(n_tiles, 1), "tile.index", self.tile.index, f"there are {n_tiles} tiles")
        require(self.tile.index == JOINED or self.refine.kind == "none", "refine.kind", self.refine.kind,
                "atoms are refined once they are joined; leave out tile.index, or choose refine=none")
        require(self.validate.kind != "halves", "validate.kind", self.validate.kind, "halves of a series are not "
                "reconstructed in tiles; leave out tile.n and tile.rows, or choose validate=images")
