"""Describe the content of a record: the arrays of a run by name, with their units.

Arrays under ``truth/``, ``match/``, ``refined_match/``, ``profiles/``, ``structure/`` and ``views/``, and the
noise-free images, need the truth. The record of a run without a truth does not hold them.

The local structure of all pairs of elements is in a few arrays, one row for each pair. A record holds
``structure/pairs/elements`` (P, 2), atomic numbers of centre and end, and ``structure/pairs/<quantity>`` (P, ...).
Readers name one row ``structure/Si-O/<quantity>``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aetlab.core.grid import coordinates_A
from aetlab.core.nouns import (
    Comparison,
    Match,
    Reconstruction,
    RefinedAtoms,
    TiltSeries,
    TracedAtoms,
    Validation,
    Volume,
)
from aetlab.core.physics import SYMBOLS
from aetlab.core.poses import Poses
from aetlab.spec import RunSpec
from aetlab.store.record import Dataset

#: Thickness of the central cuts of the potential, in Å.
CUT_A = 1.0
_TRACED_UNITS = {"positions_A": "Å", "intensity_V": "V", "width_A": "Å", "signal": "V voxel", "position_error_A": "Å",
                 "intensity_error_V": "V", "width_error_A": "Å", "residual_V": "V"}
TRACED = ("positions_A", "intensity_V", "width_A", "signal", "numbers", "position_error_A", "intensity_error_V",
           "width_error_A", "probability", "flag", "residual_V", "posterior", "not_atom_probability")
_REFINED_UNITS = {"positions_A": "Å", "scattering_V_A3": "V Å³", "position_error_A": "Å", "thermal_A2": "Å²",
                  "thermal_error_A2": "Å²"}
REFINED = ("positions_A", "occupancy", "scattering_V_A3", "numbers", "position_error_A", "occupancy_error",
           "probability", "posterior", "not_atom_probability", "thermal_A2", "thermal_error_A2", "cost")
#: Arrays of poses with their units. The nominal angles are ``tilt_series/tilt_deg``.
POSES = {"turn_deg": "degree", "shift_A": "Å", "defocus_A": "Å", "brightness": "1", "image_shift_A": "Å",
         "magnification": "1"}
_MATCHED = ("traced", "true", "unmatched_traced", "unmatched_true", "strict_traced", "strict_true", "confusion",
            "confusion_numbers")
PLACE = "structure/pairs"
ELEMENTS = f"{PLACE}/elements"


@dataclass(frozen=True)
class RunContent:
    """All results of a run; ``comparison`` is None for a run without a truth."""

    spec: RunSpec
    series: TiltSeries
    reconstruction: Reconstruction
    traced: TracedAtoms
    refined: RefinedAtoms | None = None
    comparison: Comparison | None = None
    validation: Validation | None = None


def describe_arrays(content: RunContent) -> dict[str, Dataset]:
    """Return all arrays of the record by their paths in the HDF5 file."""
    series = content.series
    kept = kept_tilts(len(series.tilt_deg))
    arrays = {
        "volume/potential_V": Dataset(np.asarray(content.reconstruction.volume.potential_V), "V",
                                      _geometry(content.reconstruction.volume)),
        "tilt_series/tilt_deg": Dataset(series.tilt_deg, "degree"),
        "tilt_series/defocus_nm": Dataset(series.defocus_A / 10, "nm", {"axes": "tilt, image"}),
        "tilt_series/electrons_per_pixel": Dataset(series.electrons_per_pixel, "1", {"axes": "tilt, image"}),
        "tilt_series/weight": Dataset(series.weight, "1", {"axes": "tilt, image"}),
        "tilt_series/kept_tilts": Dataset(kept, "1", {"meaning": "indices of the tilts whose images are kept"}),
        "tilt_series/images_of_kept_tilts": Dataset(np.asarray(series.images)[kept], "vacuum intensity",
                                                    {"electrons_per_pixel": series.mean_electrons_per_pixel}),
    }
    arrays |= {f"traced/{name}": Dataset(getattr(content.traced, name), _TRACED_UNITS.get(name, "1"))
               for name in TRACED}
    if content.reconstruction.poses is not None:
        arrays |= describe_poses(content.reconstruction.poses, "alignment")
    if content.reconstruction.image_weights is not None:
        arrays["alignment/image_weight"] = Dataset(content.reconstruction.image_weights, "1", {"axes": "tilt, image"})
    if content.refined is not None:
        arrays |= describe_refined(content.refined)
    if content.validation is not None:
        arrays |= {f"validation/{name}": Dataset(values, unit_of(name))
                   for name, values in content.validation.arrays.items()}
    if content.comparison is not None:
        arrays |= _describe_comparison(content.comparison, series, kept)
    return arrays


def _describe_comparison(comparison: Comparison, series: TiltSeries, kept: np.ndarray) -> dict[str, Dataset]:
    score, views, voxel_A = comparison.score, comparison.views, comparison.potential.voxel_A
    arrays = {
        "truth/positions_A": Dataset(score.atoms.positions_A, "Å", {"columns": "x, y, z"}),
        "truth/numbers": Dataset(score.atoms.numbers, "1"),
        "truth/part": Dataset(score.atoms.part, "1", {"names": ", ".join(score.atoms.part_names)}),
        "truth/in_scoring_region": Dataset(score.inside, "1"),
        "views/tilt_deg": Dataset(np.array(views.tilt_deg), "degree"),
        "views/projected_V_A": Dataset(views.projected_V_A, "V Å", {"voxel_A": voxel_A}),
        "views/ideal": Dataset(views.ideal, "vacuum intensity", {"defocus_nm": views.defocus_nm}),
        "views/recorded": Dataset(views.recorded, "vacuum intensity",
                                  {"defocus_nm": views.defocus_nm,
                                   "electrons_per_pixel": series.mean_electrons_per_pixel}),
    }
    if comparison.ideal is not None:
        ideal = np.asarray(comparison.ideal.images)[kept]
        arrays["tilt_series/ideal_of_kept_tilts"] = Dataset(ideal, "vacuum intensity")
    for axes, cut in central_cuts(np.asarray(comparison.potential.potential_V), voxel_A).items():
        attributes: dict[str, float | int | str] = {"voxel_A": voxel_A, "thickness_A": CUT_A, "axes": axes}
        arrays[f"truth/potential_{axes}_V"] = Dataset(cut, "V", attributes)
    arrays |= describe_match(score.match, "match")
    for name, profile in score.profiles.items():
        arrays |= {f"profiles/{name}/{quantity}": Dataset(values, unit_of(quantity))
                   for quantity, values in profile.items()}
    arrays |= {name: Dataset(values, unit_of(name)) for name, values in pack_pairs(score.structure).items()}
    if comparison.poses is not None:
        arrays |= describe_poses(comparison.poses, "truth/poses")
    if score.refined is not None:
        arrays |= describe_match(score.refined, "refined_match")
    if score.refined_motion is not None:
        rotation, shift_A = score.refined_motion
        arrays |= {"refined_match/rotation": Dataset(rotation, "1"), "refined_match/shift_A": Dataset(shift_A, "Å")}
    return arrays


def describe_refined(atoms: RefinedAtoms) -> dict[str, Dataset]:
    """Return all arrays of refined atoms by their paths under ``refined/``."""
    arrays = {f"refined/{name}": Dataset(getattr(atoms, name), _REFINED_UNITS.get(name, "1")) for name in REFINED}
    return arrays | describe_poses(atoms.poses, "refined")


def describe_poses(poses: Poses, where: str) -> dict[str, Dataset]:
    """Return all arrays of ``poses`` by their paths under ``where``."""
    return {f"{where}/{name}": Dataset(getattr(poses, name), unit) for name, unit in POSES.items()}


def describe_match(match: Match, where: str) -> dict[str, Dataset]:
    """Return all arrays of a match by their paths under ``where``."""
    return {f"{where}/{name}": Dataset(getattr(match, name), "1") for name in _MATCHED}


def _geometry(volume: Volume) -> Mapping[str, float | int | str]:
    return {"voxel_A": volume.voxel_A, "axes": "z, x, y", "origin": "centre of the volume"}


def unit_of(name: str) -> str:
    """Return the unit given by the suffix of a quantity's name; ``"1"`` for none.

    Names of the bounds of a confidence interval (``*_low``, ``*_high``) are included.
    """
    words = name.removesuffix("_low").removesuffix("_high").rsplit("_", 1)
    return {"A": "Å", "pm": "pm", "percent": "%", "deg": "degree"}.get(words[-1], "1")


def kept_tilts(n_tilts: int) -> np.ndarray:
    """Return the indices of the tilts whose images a record keeps: the first and the middle one of the series."""
    return np.array([0, n_tilts // 2])


def central_cuts(potential_V: np.ndarray, voxel_A: float) -> dict[str, np.ndarray]:
    """Return the mean over the middle :data:`CUT_A` of each axis: ``zx`` (Z, X), ``zy`` (Z, Y), ``xy`` (X, Y)."""
    cuts = {}
    for axis, name in ((2, "zx"), (1, "zy"), (0, "xy")):
        near = np.abs(coordinates_A(potential_V.shape[axis], voxel_A)) < max(CUT_A, voxel_A) / 2
        cuts[name] = np.compress(near, potential_V, axis=axis).mean(axis=axis, dtype=np.float32)
    return cuts


def plain(value: Any) -> Any:
    """Return ``value`` ready for JSON: arrays as lists, NumPy scalars as numbers, non-finite numbers as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def pack_pairs(structure: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return ``structure``, whose names are such as ``Si-O/length_true``, with the arrays of all pairs stacked.

    Names without a pair of elements are kept.
    """
    pairs: dict[str, list[int]] = {}
    stacks: dict[str, list[np.ndarray]] = {}
    others: dict[str, np.ndarray] = {}
    for name, values in structure.items():
        pair, _, quantity = name.partition("/")
        numbers = _numbers(pair)
        if not numbers or not quantity:
            others[f"structure/{name}"] = values
            continue
        pairs[pair] = numbers
        stacks.setdefault(f"{PLACE}/{quantity}", []).append(values)
    packed = {ELEMENTS: np.array(list(pairs.values()), dtype=np.int16)} if pairs else {}
    return others | packed | {name: np.stack(rows) for name, rows in stacks.items()}


def pair_names(names: Iterable[str], elements: np.ndarray) -> tuple[str, ...]:
    """Return stored ``names`` with a name for each row of the arrays of pairs, whose ``elements`` are (P, 2)."""
    pairs = [f"{SYMBOLS[centre]}-{SYMBOLS[end]}" for centre, end in elements.tolist()]
    return tuple(row for name in names if name != ELEMENTS for row in (
        [f"structure/{pair}/{name.removeprefix(f'{PLACE}/')}" for pair in pairs]
        if name.startswith(f"{PLACE}/") else [name]))


def pair_place(name: str) -> tuple[str, Sequence[int]]:
    """Return the stored array and the elements of the row ``name``, or ``name`` and nothing if it is no row."""
    parts = name.split("/")
    numbers = _numbers(parts[1]) if len(parts) == 3 and parts[0] == "structure" else []
    return (f"{PLACE}/{parts[2]}", numbers) if numbers else (name, [])


def _numbers(pair: str) -> list[int]:
    """Return the atomic numbers of a pair such as ``Si-O``; an empty list for other text."""
    symbols = pair.split("-")
    return [SYMBOLS.index(symbol) for symbol in symbols] if len(symbols) == 2 and set(symbols) <= set(SYMBOLS) else []
