"""Phase-contrast atomic electron tomography, from settings or measured images to atoms with error bars.

A run in Python, without a file on the disk::

    import aetlab
    settings = aetlab.settings(scale="small", dose="50k", reg="tv")
    atoms = aetlab.sample(settings)
    series = aetlab.simulate(settings, atoms)
    reconstruction = aetlab.reconstruct(settings, series)
    traced = aetlab.trace(settings, reconstruction)
    aetlab.score(settings, traced, atoms).metrics["position_error_pm"]

The same settings give the same numbers as on the command line (``python -m aetlab.run``). Importing aetlab changes
nothing outside it, and what computes is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aetlab.core.errors import AetlabError as AetlabError
    from aetlab.core.nouns import Atoms as Atoms
    from aetlab.core.nouns import Reconstruction as Reconstruction
    from aetlab.core.nouns import RefinedAtoms as RefinedAtoms
    from aetlab.core.nouns import Score as Score
    from aetlab.core.nouns import TiltSeries as TiltSeries
    from aetlab.core.nouns import TracedAtoms as TracedAtoms
    from aetlab.core.nouns import Truth as Truth
    from aetlab.core.nouns import Validation as Validation
    from aetlab.core.nouns import Volume as Volume
    from aetlab.core.poses import Poses as Poses
    from aetlab.core.progress import open_reporter as open_reporter
    from aetlab.exchange.abtem_arrays import from_abtem as from_abtem
    from aetlab.exchange.abtem_arrays import to_abtem as to_abtem
    from aetlab.exchange.ase_atoms import from_ase as from_ase
    from aetlab.exchange.ase_atoms import to_ase as to_ase
    from aetlab.exchange.atom_files import read_atoms as read_atoms
    from aetlab.exchange.atom_files import write_atoms as write_atoms
    from aetlab.exchange.hyperspy_signals import to_hyperspy as to_hyperspy
    from aetlab.exchange.series_file import read_series as read_series
    from aetlab.exchange.series_file import write_series as write_series
    from aetlab.exchange.volume_files import read_volume as read_volume
    from aetlab.exchange.volume_files import write_volume as write_volume
    from aetlab.flow import electrons_per_pixel as electrons_per_pixel
    from aetlab.flow import reconstruct as reconstruct
    from aetlab.flow import refine as refine
    from aetlab.flow import sample as sample
    from aetlab.flow import score as score
    from aetlab.flow import simulate as simulate
    from aetlab.flow import trace as trace
    from aetlab.keeper import save_record as save_record
    from aetlab.reconstruction.bound import compute_bound as compute_bound
    from aetlab.reconstruction.estimate import estimate as estimate
    from aetlab.reporting.check_page import make_check_page as make_check_page
    from aetlab.reporting.stored_run import load_record as load_record
    from aetlab.reporting.tables import load_records as load_records
    from aetlab.reporting.viewer import view as view
    from aetlab.samples.fit_box import fit_scale as fit_scale
    from aetlab.series.check.flow import check_series as check_series
    from aetlab.series.import_files import import_files as import_files
    from aetlab.series.imported import bind_measured as bind_measured
    from aetlab.series.imported import load_measured as load_measured
    from aetlab.series.imported import read_imported as read_imported
    from aetlab.series.imported import write_imported as write_imported
    from aetlab.spec.choices import settings as settings
    from aetlab.validation.flow import validate as validate

#: Where each public name is defined, as ``module:name``; the order is the table of contents.
_PUBLIC = {
    "settings": "aetlab.spec.choices:settings",
    "fit_scale": "aetlab.samples.fit_box:fit_scale",
    "sample": "aetlab.flow:sample",
    "compute_bound": "aetlab.reconstruction.bound:compute_bound",
    "electrons_per_pixel": "aetlab.flow:electrons_per_pixel",
    "estimate": "aetlab.reconstruction.estimate:estimate",
    "simulate": "aetlab.flow:simulate",
    "reconstruct": "aetlab.flow:reconstruct",
    "trace": "aetlab.flow:trace",
    "refine": "aetlab.flow:refine",
    "bind_measured": "aetlab.series.imported:bind_measured",
    "load_measured": "aetlab.series.imported:load_measured",
    "import_files": "aetlab.series.import_files:import_files",
    "read_imported": "aetlab.series.imported:read_imported",
    "write_imported": "aetlab.series.imported:write_imported",
    "check_series": "aetlab.series.check.flow:check_series",
    "make_check_page": "aetlab.reporting.check_page:make_check_page",
    "score": "aetlab.flow:score",
    "validate": "aetlab.validation.flow:validate",
    "save_record": "aetlab.keeper:save_record",
    "load_record": "aetlab.reporting.stored_run:load_record",
    "load_records": "aetlab.reporting.tables:load_records",
    "read_series": "aetlab.exchange.series_file:read_series",
    "write_series": "aetlab.exchange.series_file:write_series",
    "read_volume": "aetlab.exchange.volume_files:read_volume",
    "write_volume": "aetlab.exchange.volume_files:write_volume",
    "read_atoms": "aetlab.exchange.atom_files:read_atoms",
    "write_atoms": "aetlab.exchange.atom_files:write_atoms",
    "from_ase": "aetlab.exchange.ase_atoms:from_ase",
    "to_ase": "aetlab.exchange.ase_atoms:to_ase",
    "from_abtem": "aetlab.exchange.abtem_arrays:from_abtem",
    "to_abtem": "aetlab.exchange.abtem_arrays:to_abtem",
    "to_hyperspy": "aetlab.exchange.hyperspy_signals:to_hyperspy",
    "view": "aetlab.reporting.viewer:view",
    "open_reporter": "aetlab.core.progress:open_reporter",
    "Atoms": "aetlab.core.nouns:Atoms",
    "TiltSeries": "aetlab.core.nouns:TiltSeries",
    "Poses": "aetlab.core.poses:Poses",
    "Volume": "aetlab.core.nouns:Volume",
    "Reconstruction": "aetlab.core.nouns:Reconstruction",
    "TracedAtoms": "aetlab.core.nouns:TracedAtoms",
    "RefinedAtoms": "aetlab.core.nouns:RefinedAtoms",
    "Truth": "aetlab.core.nouns:Truth",
    "Score": "aetlab.core.nouns:Score",
    "Validation": "aetlab.core.nouns:Validation",
    "AetlabError": "aetlab.core.errors:AetlabError",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata  # takes longer than the rest of this file

        return metadata.version("aetlab")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'aetlab' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    value = getattr(import_module(module), attribute)
    if isinstance(value, FunctionType):
        from aetlab.core.arguments import checked

        value = checked(value, f"aetlab.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
