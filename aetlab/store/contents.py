"""What a record holds of a run: the arrays by name with units, and the metrics by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aetlab.core.grid import coordinates_A
from aetlab.core.nouns import Atoms, Match, Reconstruction, TiltOffsets, TiltSeries, TracedAtoms, Volume
from aetlab.spec import RunSpec
from aetlab.store.aligned import describe_offsets, offset_errors
from aetlab.store.record import Dataset
from aetlab.store.refined import Refinement, describe_refined_arrays, describe_refined_metrics

#: Tilts at which the record keeps the projected potential and images at the greatest defocus, in degrees: those of the
#: paper's figure 2. They need not be tilts of the series.
VIEWS_DEG = (0.0, 5.0)
#: Thickness of the central cuts of the potential, in Å.
CUT_A = 1.0


@dataclass(frozen=True)
class Views:
    """The sample at the tilts :data:`VIEWS_DEG` and the greatest defocus of the series, each (2, X, Y).

    ``projected_V_A`` is the projected potential in V Å; ``ideal`` and ``recorded`` are images with vacuum 1, the latter
    at the dose of one image of the series.
    """

    defocus_nm: float
    projected_V_A: np.ndarray
    ideal: np.ndarray
    recorded: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """All that a run made, the truth included; ``inside`` marks the true atoms of the scoring region.

    ``views`` are what :data:`VIEWS_DEG` show; ``profiles`` the scores against distances by name, ``structure`` arrays
    of bonds, angles and the like with ``structure_metrics``; ``refinement`` the refined atoms where there are any;
    ``offsets`` where the tilts truly lie, None where they lie as asked for.
    """

    spec: RunSpec
    atoms: Atoms
    inside: np.ndarray
    truth: Volume
    views: Views
    ideal: TiltSeries
    series: TiltSeries
    reconstruction: Reconstruction
    traced: TracedAtoms
    match: Match
    profiles: Mapping[str, Mapping[str, np.ndarray]]
    structure: Mapping[str, np.ndarray]
    structure_metrics: Mapping[str, float]
    refinement: Refinement | None = None
    offsets: TiltOffsets | None = None


def describe_metrics(outcome: Outcome, scored_rows: np.ndarray) -> dict[str, float]:
    """Scores of the match, counts of the sample, and the relative error of the potential.

    ``potential_error`` is |V - V_true| / |V_true| in the Euclidean norm over the y rows ``scored_rows`` (Y,) bool.
    """
    difference2 = norm2 = 0.0
    for layer, true_layer in zip(outcome.reconstruction.volume.potential_V, outcome.truth.potential_V, strict=True):
        true = true_layer[:, scored_rows].astype(np.float64)
        difference2 += float(((layer[:, scored_rows] - true) ** 2).sum())
        norm2 += float((true**2).sum())
    counts = {f"{name}_atoms": count for name, count in outcome.atoms.counts.items()}
    refined = describe_refined_metrics(outcome.refinement, outcome.atoms) if outcome.refinement else {}
    aligned = _offset_metrics(outcome)
    return dict(outcome.match.metrics) | dict(outcome.structure_metrics) | counts | refined | aligned | {
        "potential_error": (difference2 / norm2) ** 0.5 if norm2 else float("nan"),
        "final_cost": float(outcome.reconstruction.cost[-1]),
        "held_out_cost": outcome.reconstruction.held_out_cost,
        "weight_per_V": outcome.reconstruction.weight_per_V,
    }


def _offset_metrics(outcome: Outcome) -> dict[str, float]:
    """How far the tilts lie from where the reconstruction took them to be; nothing where nobody asked or moved them."""
    found, true, tilt_deg = outcome.reconstruction.offsets, outcome.offsets, outcome.series.tilt_deg
    if found is None and true is None:
        return {}
    nominal = TiltOffsets.none(len(tilt_deg))
    return offset_errors(found or nominal, true or nominal, tilt_deg)


def describe_arrays(outcome: Outcome) -> dict[str, Dataset]:
    """Every array of the record, by its path in the HDF5 file."""
    voxel_A = outcome.spec.scale.voxel_A
    geometry: Mapping[str, float | int | str] = {"voxel_A": voxel_A, "axes": "z, x, y",
                                                 "origin": "centre of the volume"}
    traced, match, series, views = outcome.traced, outcome.match, outcome.series, outcome.views
    kept = kept_tilts(len(series.tilt_deg))
    arrays = {
        "volume/potential_V": Dataset(np.asarray(outcome.reconstruction.volume.potential_V), "V", geometry),
        "truth/positions_A": Dataset(outcome.atoms.positions_A, "Å", {"columns": "x, y, z"}),
        "truth/numbers": Dataset(outcome.atoms.numbers, "1"),
        "truth/part": Dataset(outcome.atoms.part, "1", {"names": ", ".join(outcome.atoms.part_names)}),
        "truth/in_scoring_region": Dataset(outcome.inside, "1"),
        "tilt_series/tilt_deg": Dataset(series.tilt_deg, "degree"),
        "tilt_series/defocus_nm": Dataset(series.defocus_A / 10, "nm", {"axes": "tilt, image"}),
        "tilt_series/electrons_per_pixel": Dataset(series.electrons_per_pixel, "1", {"axes": "tilt, image"}),
        "tilt_series/weight": Dataset(series.weight, "1", {"axes": "tilt, image"}),
        "tilt_series/kept_tilts": Dataset(kept, "1", {"meaning": "indices of the tilts whose images are kept"}),
        "tilt_series/images_of_kept_tilts": Dataset(np.asarray(series.images)[kept], "vacuum intensity",
                                                    {"electrons_per_pixel": series.mean_electrons_per_pixel}),
        "tilt_series/ideal_of_kept_tilts": Dataset(np.asarray(outcome.ideal.images)[kept], "vacuum intensity"),
        "views/tilt_deg": Dataset(np.array(VIEWS_DEG), "degree"),
        "views/projected_V_A": Dataset(views.projected_V_A, "V Å", {"voxel_A": voxel_A}),
        "views/ideal": Dataset(views.ideal, "vacuum intensity", {"defocus_nm": views.defocus_nm}),
        "views/recorded": Dataset(views.recorded, "vacuum intensity",
                                  {"defocus_nm": views.defocus_nm,
                                   "electrons_per_pixel": series.mean_electrons_per_pixel}),
    }
    for axes, cut in central_cuts(np.asarray(outcome.truth.potential_V), voxel_A).items():
        attributes: dict[str, float | int | str] = {"voxel_A": voxel_A, "thickness_A": CUT_A, "axes": axes}
        arrays[f"truth/potential_{axes}_V"] = Dataset(cut, "V", attributes)
    units = {"positions_A": "Å", "intensity_V": "V", "width_A": "Å", "signal": "V voxel", "position_error_A": "Å",
             "intensity_error_V": "V", "width_error_A": "Å", "residual_V": "V"}
    for name in ("positions_A", "intensity_V", "width_A", "signal", "numbers", "position_error_A", "intensity_error_V",
                 "width_error_A", "probability", "flag", "residual_V", "posterior", "not_atom_probability"):
        arrays[f"traced/{name}"] = Dataset(getattr(traced, name), units.get(name, "1"))
    for name in ("traced", "true", "unmatched_traced", "unmatched_true", "strict_traced", "strict_true", "confusion",
                 "confusion_numbers"):
        arrays[f"match/{name}"] = Dataset(getattr(match, name), "1")
    for name, profile in outcome.profiles.items():
        for quantity, values in profile.items():
            arrays[f"profiles/{name}/{quantity}"] = Dataset(values, unit_of(quantity))
    arrays |= {f"structure/{name}": Dataset(values, unit_of(name)) for name, values in outcome.structure.items()}
    if outcome.offsets is not None:
        arrays |= describe_offsets(outcome.offsets, "truth/offsets")
    if outcome.reconstruction.offsets is not None:
        arrays |= describe_offsets(outcome.reconstruction.offsets, "alignment")
    if outcome.refinement:
        arrays |= describe_refined_arrays(outcome.refinement)
    return arrays


def unit_of(name: str) -> str:
    """Unit that the end of a quantity's name tells, bounds of its interval included; ``"1"`` for none."""
    words = name.removesuffix("_low").removesuffix("_high").rsplit("_", 1)
    return {"A": "Å", "pm": "pm", "percent": "%", "deg": "degree"}.get(words[-1], "1")


def kept_tilts(n_tilts: int) -> np.ndarray:
    """Indices of the tilts whose images a record keeps: the first, and one in the middle of the series."""
    return np.array([0, n_tilts // 2])


def central_cuts(potential_V: np.ndarray, voxel_A: float) -> dict[str, np.ndarray]:
    """Mean over the middle :data:`CUT_A` of each axis: ``zx`` (Z, X), ``zy`` (Z, Y), ``xy`` (X, Y)."""
    cuts = {}
    for axis, name in ((2, "zx"), (1, "zy"), (0, "xy")):
        near = np.abs(coordinates_A(potential_V.shape[axis], voxel_A)) < max(CUT_A, voxel_A) / 2
        cuts[name] = np.compress(near, potential_V, axis=axis).mean(axis=axis, dtype=np.float32)
    return cuts


def plain(value: Any) -> Any:
    """``value`` as JSON takes it: arrays as lists, NumPy scalars as numbers, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
