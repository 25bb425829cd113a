"""Every setting of a run, once: its unit, range and meaning, checked on construction.

:mod:`~aetlab.spec.run` joins the groups; :mod:`~aetlab.spec.bind` makes them from plain dictionaries and back.
"""

from aetlab.core.checks import SpecError
from aetlab.spec.acquisition import DefocusSpec, DoseSpec, TiltsSpec, WedgeSpec
from aetlab.spec.align import AlignSpec
from aetlab.spec.data import DataSpec
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
from aetlab.spec.engine import BinningSpec, EngineSpec
from aetlab.spec.microscope import MicroscopeSpec
from aetlab.spec.refine import RefineSpec
from aetlab.spec.reg import RegSpec
from aetlab.spec.run import RunSpec
from aetlab.spec.sample import SampleSpec, ScaleSpec, VacancyRegion
from aetlab.spec.score import ScoreSpec
from aetlab.spec.simulate import TILT_ERRORS, SimulateSpec
from aetlab.spec.tile import TileSpec
from aetlab.spec.trace import TraceSpec
from aetlab.spec.validate import ValidateSpec

__all__ = ["TILT_ERRORS", "AlignSpec", "BinningSpec", "DataSpec", "DefocusSpec", "DoseSpec", "EngineSpec",
           "MicroscopeSpec", "RefineSpec", "RegSpec", "RunSpec", "SampleSpec", "ScaleSpec", "ScoreSpec", "SimulateSpec",
           "SpecError", "TileSpec", "TiltsSpec", "TraceSpec", "VacancyRegion", "ValidateSpec", "WedgeSpec",
           "coarse_layers", "coarse_refinement_layers", "dose_per_image_e_A2", "leaves_counts_out",
           "missing_wedge_deg", "refinement_layers", "tilt_angles_deg", "tilt_span_deg",
           "with_fewer_tilts"]
