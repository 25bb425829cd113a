"""Columns of the tables of records: settings, metrics, times and device, each with its unit and meaning.

Metrics are described by :mod:`aetlab.core.metrics`. Units are part of the column names.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import pandas as pd

from aetlab.core.metrics import find_metric
from aetlab.core.setting import About
from aetlab.spec import RunSpec, missing_wedge_deg, tilt_angles_deg, tilt_span_deg
from aetlab.spec.bind import unbind
from aetlab.store.identity import NOT_IN_IDENTITY
from aetlab.store.listing import flatten

#: Suffixes of the columns with the ends of the 95 % confidence interval of a mean over seeds.
LOW95, HIGH95 = "_low95", "_high95"
#: Settings that do not change the result, by their dotted names.
LABELS = {"data.path", "sample.path",
          *(f"{group}.{name}" for group, names in NOT_IN_IDENTITY.items() for name in names)}
#: Prefix of the columns with the wall time of a stage.
SECONDS = "seconds_"


@dataclass(frozen=True)
class SettingColumn:
    """A column that holds a setting; ``heading`` is short, for readers, and carries the unit."""

    name: str
    heading: str
    unit: str
    meaning: str
    value: Callable[[RunSpec], Any]


def _n_tilts(spec: RunSpec) -> int:
    return len(tilt_angles_deg(spec.tilts, spec.wedge))


def _data(spec: RunSpec) -> str:
    return f"{spec.data.kind} {spec.data.digest[:6]}".strip()


def sample_name(spec: RunSpec) -> str:
    """Return the name of a sample for readers: its file, its kind, or the file or digest of its tilt series."""
    if spec.data.kind != "simulated":
        return Path(spec.data.path).name.removesuffix(".series.h5") or f"series {spec.data.digest[:6]}"
    if spec.sample.kind != "file":
        return spec.sample.kind
    path, frame = Path(spec.sample.path), spec.sample.frame
    return f"{path.stem}[{frame}]{path.suffix}" if frame else path.name


def _sample(spec: RunSpec) -> str:
    return f"{sample_name(spec)} {spec.sample.digest[:6] if spec.sample.kind == 'file' else ''}".strip()


def _vacancies(spec: RunSpec) -> str:
    return " ".join(f"{region.part}:{region.fraction:g}" for region in spec.sample.vacancies) or "none"


#: Columns of settings, in the order of the table.
SETTINGS = (
    SettingColumn("data", "data", "1", "origin of the tilt series; a given one with its first digits", _data),
    SettingColumn("sample", "sample", "1", "kind of sample, or the name of its series, or of its file with its first "
                  "digits", _sample),
    SettingColumn("vacancies", "vacancies", "1", "fraction of removed atoms by part of the sample", _vacancies),
    SettingColumn("scale", "scale", "1", "name of the volume's size", lambda spec: spec.scale.name),
    SettingColumn("n_voxels", "voxels", "1", "voxels of the volume", lambda spec: math.prod(spec.scale.shape_zxy)),
    SettingColumn("voxel_A", "voxel (Å)", "Å", "side of a voxel", lambda spec: spec.scale.voxel_A),
    SettingColumn("dose_e_A2", "dose (e/Å²)", "e/Å²", "total dose of the series; inf without noise",
                  lambda spec: spec.dose.total_e_A2),
    SettingColumn("n_tilts", "tilts", "1", "tilts outside the missing wedge", _n_tilts),
    SettingColumn("n_defoci", "defoci", "1", "images of each tilt", lambda spec: len(spec.defocus.planes_nm)),
    SettingColumn("tilt_span_deg", "tilt span (°)", "°", "tilt range without the missing wedge",
                  lambda spec: tilt_span_deg(spec.tilts, spec.wedge)),
    SettingColumn("missing_wedge_deg", "missing wedge (°)", "°", "angle of the missing wedge",
                  lambda spec: missing_wedge_deg(spec.tilts, spec.wedge)),
    SettingColumn("reg", "reg.", "1", "regulariser", lambda spec: spec.reg.kind),
    SettingColumn("n_binned_layers", "N_B", "1", "layers of voxels in one slice", lambda spec: spec.binning.n_layers),
    SettingColumn("simulate", "simulate", "1", "how images are simulated", lambda spec: spec.simulate.kind),
    SettingColumn("microscope", "microscope", "1", "name of the microscope", lambda spec: spec.microscope.name),
    SettingColumn("energy_keV", "energy (keV)", "keV", "beam energy", lambda spec: spec.microscope.energy_keV),
    SettingColumn("rotation", "rotation", "1", "how the volume is rotated", lambda spec: spec.engine.rotation),
    SettingColumn("n_iterations", "iterations", "1", "largest number of iterations",
                  lambda spec: spec.engine.n_iterations),
    SettingColumn("n_tiles", "tiles", "1", "tiles along the tilt axis that were joined; 1 for a volume made at once",
                  lambda spec: spec.tile.count(spec.scale.shape_zxy[2])),
    SettingColumn("align", "align", "1", "whether tilts are aligned", lambda spec: spec.align.enabled),
    SettingColumn("refine", "refine", "1", "how atoms are refined against the images", lambda spec: spec.refine.kind),
    SettingColumn("seed", "seed", "1", "seed of all random numbers", lambda spec: spec.seed),
)

#: Numbers that JSON cannot hold, as :func:`~aetlab.spec.bind.unbind` writes them.
_NUMBERS: dict[Any, float] = {text: float(text) for text in ("inf", "-inf", "nan")}
#: Description of a column that another version wrote.
_UNKNOWN = ("1", "neither", False, "unknown to this version")
_OTHERS = {
    "record": ("1", "identity of the run, which is the name of its folder under records"),
    "records": ("1", "identities of the averaged records"),
    "n_seeds": ("1", "records that differ in the seed only and are averaged"),
    f"{SECONDS}total": ("s", "wall time of all stages"),
    "peak_memory_MB": ("MB", "largest memory in use"),
    "device": ("1", "device that computed the run"),
}


def settings_row(spec: RunSpec) -> dict[str, Any]:
    """Return the columns of settings of one run."""
    return {column.name: column.value(spec) for column in SETTINGS}


def all_settings(spec: RunSpec) -> dict[str, Any]:
    """Return all settings by their dotted names: ``{"dose.total_e_A2": 50000.0, ...}``; lists are JSON text."""
    return {name: json.dumps(value) if isinstance(value, list) else _NUMBERS.get(value, value)
            for name, value in flatten(unbind(spec)).items() if "." in name}


def settings_columns(frame: pd.DataFrame) -> list[str]:
    """Return the names of the columns of ``frame`` that hold settings: those of :data:`SETTINGS`, then dotted names."""
    named = [column.name for column in SETTINGS if column.name in frame.columns]
    return named + [name for name in map(str, frame.columns) if _about_setting(name)]


def truth_columns(frame: pd.DataFrame) -> list[str]:
    """Return the names of the columns of ``frame`` that need the truth."""
    return [str(name) for name in frame.columns if _describe(str(name))[2]]


def describe_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each column of ``frame``: column, unit, better (lower, higher, neither), needs_truth, meaning.

    ``needs_truth`` is true for metrics that are computed from the true atoms, potential or tilts. Records of measured
    images have none of these.
    """
    rows = [(name, *_describe(str(name))) for name in frame.columns]
    return pd.DataFrame(rows, columns=["column", "unit", "better", "needs_truth", "meaning"])


def _describe(name: str) -> tuple[str, str, bool, str]:
    for column in SETTINGS:
        if column.name == name:
            return column.unit, "neither", False, column.meaning
    if described := _about_setting(name):
        return described.unit or "1", "neither", False, described.meaning
    if name in _OTHERS:
        return _OTHERS[name][0], "neither", False, _OTHERS[name][1]
    for suffix, end in ((LOW95, "lower"), (HIGH95, "upper")):
        if name.endswith(suffix):
            unit, better, needs_truth, meaning = _describe(name.removesuffix(suffix))
            return unit, better, needs_truth, f"{end} end of the 95 % confidence interval of the mean: {meaning}"
    if name.startswith(SECONDS):
        return "s", "lower", False, f"wall time of the stage {name.removeprefix(SECONDS).replace('_', ' ')}"
    try:
        score = find_metric(name)
    except KeyError:  # a record that another version wrote
        return _UNKNOWN
    return score.unit, score.better, score.needs_truth, score.meaning


def _about_setting(name: str) -> About | None:
    """Return the description of the setting with this dotted name, or of the table that it is an entry of."""
    return _described_settings().get(".".join(name.split(".")[:2]))


@cache
def _described_settings() -> dict[str, About]:
    """Return the descriptions of all settings by their dotted names."""
    return {f"{group}.{field.name}": field.metadata["about"] for group, kind in get_type_hints(RunSpec).items()
            if dataclasses.is_dataclass(kind) for field in dataclasses.fields(kind) if "about" in field.metadata}
