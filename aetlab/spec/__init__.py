"""Every setting of a run, once: its unit, range and meaning, checked on construction.

:mod:`~aetlab.spec.run` joins the groups; :mod:`~aetlab.spec.bind` makes them from plain dictionaries and back.
"""

from aetlab.core.setting import SpecError
from aetlab.spec.acquisition import (
    TILT_ERRORS,
    DataSpec,
    DefocusSpec,
    DoseSpec,
    MicroscopeSpec,
    SimulateSpec,
    TiltsSpec,
    WedgeSpec,
)
from aetlab.spec.atoms import RefineSpec, ScoreSpec, TraceSpec, ValidateSpec
from aetlab.spec.derived import (
    coarse_layers,
    coarse_refinement_layers,
    dose_per_image_e_A2,
    leaves_counts_out,
    missing_wedge_deg,
    refinement_layers,
    tilt_angles_deg,
    tilt_span_deg,
    with_fewer_tilts,
)
from aetlab.spec.reconstruction import AlignSpec, BinningSpec, EngineSpec, RegSpec
from aetlab.spec.run import RunSpec
from aetlab.spec.sample import SampleSpec, ScaleSpec, VacancyRegion
from aetlab.spec.tile import TileSpec

__all__ = ["TILT_ERRORS", "AlignSpec", "BinningSpec", "DataSpec", "DefocusSpec", "DoseSpec", "EngineSpec",
           "MicroscopeSpec", "RefineSpec", "RegSpec", "RunSpec", "SampleSpec", "ScaleSpec", "ScoreSpec", "SimulateSpec",
           "SpecError", "TileSpec", "TiltsSpec", "TraceSpec", "VacancyRegion", "ValidateSpec", "WedgeSpec",
           "coarse_layers", "coarse_refinement_layers", "dose_per_image_e_A2", "leaves_counts_out",
           "missing_wedge_deg", "refinement_layers", "tilt_angles_deg", "tilt_span_deg",
           "with_fewer_tilts"]
