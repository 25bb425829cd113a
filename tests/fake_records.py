"""FAKE records for tests of tables, figures and report: the stored format with invented numbers, without physics.

A fake needle of diamond Si in cristobalite SiO2 is "reconstructed" by placing Gaussians and "traced" by displacing the
true atoms at random. The numbers look plausible and have no meaning.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from aetlab.core.metrics import find_metric
from aetlab.flow import VIEWS_DEG
from aetlab.spec import (
    BinningSpec,
    DataSpec,
    DefocusSpec,
    DoseSpec,
    EngineSpec,
    MicroscopeSpec,
    RegSpec,
    RunSpec,
    SampleSpec,
    ScaleSpec,
    ScoreSpec,
    SimulateSpec,
    TiltsSpec,
    TraceSpec,
    VacancyRegion,
    WedgeSpec,
    dose_per_image_e_A2,
    tilt_angles_deg,
)
from aetlab.store.contents import kept_tilts, pack_pairs
from aetlab.store.record import Dataset, History, write_record

PLANES_NM = {1: (100.0,), 3: (20.0, 45.0, 100.0), 9: tuple(20.0 + 10 * i for i in range(9))}
DIAMOND = np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0], [1, 1, 1], [1, 3, 3], [3, 1, 3], [3, 3, 1]]) / 4
SI, O = 14, 8


def fake_spec(
    *,
    n_voxels: int = 32,
    dose_e_A2: float = 5e4,
    n_tilts: int = 60,
    n_defoci: int = 3,
    missing_deg: float = 0.0,
    reg: str = "tv",
    n_layers: int = 10,
    vacancies: float = 0.0,
    seed: int = 0,
    n_iterations: int = 40,
) -> RunSpec:
    """Return bound settings like those of a run at a small scale."""
    half_A = n_voxels * 0.5 / 2
    return RunSpec(
        seed=seed,
        sample=SampleSpec(vacancies=(VacancyRegion(fraction=vacancies),) if vacancies else ()),
        scale=ScaleSpec(
            name=f"fake{n_voxels}",
            shape_zxy=(n_voxels, n_voxels, n_voxels),
            voxel_A=0.5,
            core_radius_A=0.5 * half_A,
            shell_thickness_A=0.3 * half_A,
            length_A=1.7 * half_A,
        ),
        dose=DoseSpec(total_e_A2=dose_e_A2),
        tilts=TiltsSpec(n_tilts=n_tilts),
        defocus=DefocusSpec(planes_nm=PLANES_NM[n_defoci]),
        wedge=WedgeSpec(missing_deg=missing_deg),
        reg=RegSpec(kind=reg, rule_factor=1.0 if reg in ("tv", "lasso") else 0.0),
        binning=BinningSpec(n_layers=n_layers),
        simulate=SimulateSpec(),
        microscope=MicroscopeSpec(),
        engine=EngineSpec(n_iterations=n_iterations),
        trace=TraceSpec(),
        score=ScoreSpec(),
    )


def paper_specs(n_voxels: int = 32) -> dict[str, RunSpec]:
    """Return the settings of all rows and panels of the paper, by the names of their experiments."""
    base = {"n_voxels": n_voxels}
    deltas: dict[str, dict[str, Any]] = {
        "fig4a": {"dose_e_A2": math.inf},
        "fig4b": {},
        "fig4c": {"dose_e_A2": 7e3},
        "fig6a": {"n_tilts": 20, "n_defoci": 9},
        "fig6c": {"n_tilts": 180, "n_defoci": 1},
        "fig7b": {"missing_deg": 30.0},
        "fig7c": {"missing_deg": 60.0},
        "fig8a": {"reg": "pos", "n_iterations": 60},
        "fig8b": {"reg": "lasso"},
        "fig9_vacancies": {"vacancies": 0.05},
    }
    for n_layers in (1, 2, 4, 8, 10, 16, 32, 64):
        if n_layers <= n_voxels:
            deltas[f"fig10_nb{n_layers}"] = {
                "dose_e_A2": math.inf,
                "reg": "pos",
                "n_layers": n_layers,
                "n_iterations": 80,
            }
    return {name: fake_spec(**base, **delta) for name, delta in deltas.items()}


def _needle(spec: RunSpec, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scale = spec.scale
    half_A = scale.shape_zxy[0] * scale.voxel_A / 2

    def lattice(fractions: np.ndarray, a_A: float) -> np.ndarray:
        n = math.ceil(half_A / a_A) + 1
        cells = np.stack(np.meshgrid(*3 * [np.arange(-n, n)], indexing="ij"), -1).reshape(-1, 1, 3)
        return ((cells + fractions) * a_A).reshape(-1, 3)

    def inside(positions_A: np.ndarray, radius_A: float) -> np.ndarray:
        top_A = scale.length_A / 2 - radius_A
        beyond = np.maximum(positions_A[:, 1] - top_A, 0)
        return (np.hypot(np.hypot(positions_A[:, 0], positions_A[:, 2]), beyond) <= radius_A) & (
            positions_A[:, 1] > -scale.length_A / 2
        )

    core = lattice(DIAMOND, 5.431)
    core = core[inside(core, scale.core_radius_A)]
    neighbours = 0.125 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    shell = np.concatenate([lattice(DIAMOND, 7.39), lattice((DIAMOND[:4, None] + neighbours).reshape(-1, 3), 7.39)])
    numbers = np.repeat([SI, O], [len(shell) // 3, len(shell) - len(shell) // 3])
    keep = inside(shell, scale.core_radius_A + scale.shell_thickness_A) & ~inside(shell, scale.core_radius_A + 1)
    shell, numbers = shell[keep] + rng.normal(0, 0.03, (keep.sum(), 3)), numbers[keep]
    part = np.repeat([0, 1], [len(core), len(shell)])
    positions_A, numbers = np.concatenate([core, shell]), np.concatenate([np.full(len(core), SI), numbers])
    fraction = sum(region.fraction for region in spec.sample.vacancies)
    stay = rng.random(len(numbers)) >= fraction
    return positions_A[stay], numbers[stay], part[stay]


def _place(positions_A: np.ndarray, heights_V: np.ndarray, spec: RunSpec, width: float) -> np.ndarray:
    n_z, n_x, n_y = spec.scale.shape_zxy
    volume = np.zeros((n_z, n_x, n_y), np.float32)
    centre = (np.array([n_z, n_x, n_y]) - 1) / 2
    index = np.rint(positions_A[:, [2, 0, 1]] / spec.scale.voxel_A + centre).astype(int)
    ok = ((index >= 0) & (index < (n_z, n_x, n_y))).all(axis=1)
    np.add.at(volume, tuple(index[ok].T), heights_V[ok])
    return gaussian_filter(volume, width) * (2 * np.pi * width**2) ** 1.5


def _slab(volume: np.ndarray, axis: int) -> np.ndarray:
    middle = volume.shape[axis] // 2
    return volume.take(range(middle - 1, middle + 1), axis).mean(axis)


#: Beginnings of the names of arrays that need the truth.
OF_THE_TRUTH = ("truth/", "match/", "refined_match/", "profiles/", "structure/", "views/",
                "tilt_series/ideal_of_kept_tilts")


def tiny(spec: RunSpec) -> RunSpec:
    """Return ``spec`` with the small volume of the fake records."""
    return dataclasses.replace(spec, scale=fake_spec(n_voxels=24).scale)


def _put_validation(put: Callable[..., None], shape: tuple[int, int], image: tuple[int, ...], *,
                    refined: bool) -> dict[str, float]:
    """Put the arrays of a validation with halves and one pair of atoms that are too near; return its metrics."""
    rng = np.random.default_rng(4)
    metrics: dict[str, float] = {}
    for model in ("volume", *(["atoms"] if refined else [])):
        put(f"validation/images/chi_square_{model}", 1 + 0.1 * rng.random(shape), dtype=float)
        put(f"validation/images/r_factor_{model}", 0.04 + 0.01 * rng.random(shape), dtype=float)
        metrics |= {f"r_factor_{model}": 0.0412, f"r_factor_counts_{model}": 0.0391, f"chi_square_{model}": 1.25}
    put("validation/images/held_out", np.arange(np.prod(shape)).reshape(shape) == 4, dtype=bool)
    put("validation/images/outlying", np.arange(np.prod(shape)).reshape(shape) == 1, dtype=bool)
    put("validation/images/worst", [[1, 0], [0, 1]], dtype=np.int64)
    put("validation/images/worst_measured", 1 + 0.1 * rng.standard_normal((2, *image)))
    put("validation/images/worst_residual", rng.standard_normal((2, *image)))
    q = np.linspace(0.05, 1, 20)
    put("validation/fsc/frequency_per_A", q, "1/Å", float)
    for name in ("all", "axis", "wedge", "across", "half_bit"):
        put(f"validation/fsc/{name}", np.exp(-q), dtype=float)
    put("validation/halves/difference_A", rng.normal(0, 0.1, (50, 3)), "Å", float)
    put("validation/chemistry/distance_edges_A", np.linspace(0, 6, 25), "Å", float)
    put("validation/chemistry/distances/Si-O", np.arange(24), dtype=np.int64)
    put("validation/chemistry/coordination/Si", np.arange(17), dtype=np.int64)
    put("validation/chemistry/pair_distribution/r_A", q, "Å", float)
    put("validation/chemistry/pair_distribution/g", q, dtype=float)
    put("validation/broken/atoms", [[2, 0, 5]], dtype=np.int64)
    put("validation/broken/distance_A", [1.07], "Å", float)
    metrics |= {f"resolution_{name}{end}_A": 1.25 for name in ("0143", "05") for end in ("", "_wedge")}
    return metrics | {"halves_n_common": 50, "halves_distance_pm": 17.5, "halves_found_percent": 97.53,
                      "halves_position_error_pm": 8.25, "n_too_near": 1, "n_isolated": 0}


def write_fake_record(
    outputs: Path, spec: RunSpec, *, found_nothing: bool = False, truth: bool = True, refined: bool = False,
    validated: bool = False, seams: bool = False
) -> Path:
    """Write one fake record under ``outputs/records`` and return its folder.

    With ``seams`` it has scores by the distance from the seams of tiles. Without a ``truth`` the tilt series is a given
    one, and all arrays and metrics that need the truth are absent.
    """
    if not truth:
        digest = hashlib.sha256(str(spec.seed).encode()).hexdigest()
        spec = dataclasses.replace(spec, data=DataSpec(kind="given", digest=digest))
    rng = np.random.default_rng(spec.seed + 17)
    positions_A, numbers, part = _needle(spec, rng)
    n_images = len(tilt_angles_deg(spec.tilts, spec.wedge)) * len(spec.defocus.planes_nm)
    noise = (
        0.0
        if math.isinf(spec.dose.total_e_A2)
        else (1e4 / spec.dose.total_e_A2) ** 0.5 * ({"pos": 2.0, "lasso": 1.1}.get(spec.reg.kind, 1.0))
    )
    blur = np.array([0.03, 0.03, 0.03 + 0.001 * spec.wedge.missing_deg]) * (1 + 2 * noise)
    n_true = len(numbers)
    found = np.flatnonzero(rng.random(n_true) >= (2.0 if found_nothing else 0.04 * noise))
    missing = np.setdiff1d(np.arange(n_true), found)
    heights_V = np.where(numbers == SI, 280.0, 170.0)
    true_volume = _place(positions_A, heights_V, spec, 0.7)
    volume = 0.9 * true_volume + np.abs(rng.normal(0, 6 * noise, true_volume.shape)).astype(np.float32)

    n_false = 0 if found_nothing else int(0.05 * noise * n_true)
    extra_A = positions_A[rng.integers(0, n_true, n_false)] + rng.normal(0, 1.5, (n_false, 3))
    traced_A = np.concatenate([positions_A[found] + rng.normal(0, blur, (len(found), 3)), extra_A])
    intensity_V = np.concatenate(
        [heights_V[found] * rng.normal(0.9, 0.05 + 0.1 * noise, len(found)), rng.normal(60, 10, n_false)]
    )
    width_A = rng.normal(0.35, 0.01, len(traced_A))
    signal = intensity_V * width_A / spec.scale.voxel_A
    threshold = 140.0
    traced_numbers = np.where(signal > threshold, SI, O)
    error_A = traced_A[: len(found)] - positions_A[found]
    sigma_pm = 100 * error_A.std(axis=0) if len(found) else np.full(3, math.nan)
    percent = 100 / n_true
    metrics = {
        "position_error_pm": _mean(100 * np.linalg.norm(error_A, axis=1)),
        "sigma_x_pm": sigma_pm[0],
        "sigma_y_pm": sigma_pm[1],
        "sigma_z_pm": sigma_pm[2],
        "found_percent": percent * len(found),
        "false_positive_percent": percent * n_false,
        "correct_species_percent": 100.0 * _mean(traced_numbers[: len(found)] == numbers[found]),
        "n_true": n_true,
        "n_traced": len(traced_A),
        "n_found": len(found),
        "final_cost": 20.0 * (1 + noise),
        "potential_error": 0.1 + 0.004 * spec.binning.n_layers**1.2 + 0.05 * noise,
    }

    seconds = 10 / spec.binning.n_layers + 2
    stages = {"sample": 0.3, "simulate": 2.0, "reconstruct": seconds, "trace": 1.0, "score": 0.1}
    environment = {
        "device": "cpu",
        "processor": "fake processor",
        "n_cores": 2,
        "peak_memory_MB": 512.0,
        "commit": "f" * 12,
        "python": "3.0.fake",
        "versions": {"aetlab": "0.0.fake", "numpy": np.__version__},
        "started": f"2026-01-01T00:00:{spec.seed % 60:02d}+00:00",
        "finished": f"2026-01-01T00:01:{spec.seed % 60:02d}.000+00:00",
        "seconds_by_stage": stages,
        "seconds": sum(stages.values()),
    }
    iterations = np.arange(1, spec.engine.n_iterations + 1)
    floor = 0.0 if math.isinf(spec.dose.total_e_A2) else n_images / spec.dose.total_e_A2 * 1e3
    cost = 1e3 * np.exp(-iterations / 6) + 2.0 * spec.binning.n_layers**0.5 + 20 / iterations + floor

    arrays: dict[str, Dataset] = {}

    def put(name: str, values: Any, unit: str = "1", dtype: Any = np.float32, **attributes: float) -> None:
        arrays[name] = Dataset(np.asarray(values, dtype), unit, attributes)

    put("volume/potential_V", volume, "V", voxel_A=spec.scale.voxel_A)
    put("truth/positions_A", positions_A, "Å")
    put("truth/numbers", numbers, dtype=np.int16)
    put("truth/part", part, dtype=np.int16)
    put("truth/in_scoring_region", np.ones(n_true), dtype=bool)
    for plane, axis in (("xy", 0), ("zy", 1), ("zx", 2)):
        put(f"truth/potential_{plane}_V", _slab(true_volume, axis), "V")
    put("tilt_series/tilt_deg", tilt_angles_deg(spec.tilts, spec.wedge), "deg", float)
    n_images = (len(tilt_angles_deg(spec.tilts, spec.wedge)), len(spec.defocus.planes_nm))
    put("tilt_series/defocus_nm", np.tile(spec.defocus.planes_nm, (n_images[0], 1)), "nm", float)
    put("tilt_series/weight", np.ones(n_images), dtype=float)
    projected = 0.5 * np.stack([true_volume.sum(0), np.roll(true_volume, 1, 1).sum(0)])
    ideal = np.stack(
        [[1 - 2e-4 * (p - gaussian_filter(p, 1 + d / 30)) for d in spec.defocus.planes_nm] for p in projected]
    )
    electrons = dose_per_image_e_A2(spec) * spec.scale.voxel_A**2
    images = ideal if math.isinf(electrons) else rng.poisson(np.maximum(ideal, 0) * electrons) / electrons
    put("tilt_series/electrons_per_pixel", np.full(n_images, electrons), dtype=float)
    put("tilt_series/kept_tilts", kept_tilts(len(tilt_angles_deg(spec.tilts, spec.wedge))), dtype=np.int64)
    put("tilt_series/ideal_of_kept_tilts", ideal, "vacuum intensity")
    put("tilt_series/images_of_kept_tilts", images, "vacuum intensity")
    i_plane = int(np.argmax(spec.defocus.planes_nm))
    put("views/tilt_deg", VIEWS_DEG, "degree", float)
    put("views/projected_V_A", projected, "V Å")
    for name, shown in (("ideal", ideal), ("recorded", images)):
        put(f"views/{name}", shown[:, i_plane], "vacuum intensity", defocus_nm=spec.defocus.planes_nm[i_plane])
    put("traced/positions_A", traced_A, "Å")
    put("traced/intensity_V", intensity_V, "V")
    put("traced/width_A", width_A, "Å")
    put("traced/signal", signal, "V voxel")
    put("traced/numbers", traced_numbers, dtype=np.int16)
    put("traced/position_error_A", np.broadcast_to(blur, traced_A.shape), "Å")
    _put_details(put, len(found) / n_true, ("axis", "surface", *(("seam",) if seams else ())))
    put("traced/flag", np.zeros(len(traced_A)), dtype=np.int8)
    put("match/traced", np.arange(len(found)), dtype=np.int64)
    put("match/true", found, dtype=np.int64)
    put("match/unmatched_traced", np.arange(len(found), len(traced_A)), dtype=np.int64)
    put("match/unmatched_true", missing, dtype=np.int64)
    if refined:
        _put_refined(put, positions_A[found], numbers[found], rng, turned=truth)
        put("refined_match/true", found, dtype=np.int64)
    if validated:
        metrics |= _put_validation(put, n_images, images[0, 0].shape, refined=refined)
    structure = {name.removeprefix("structure/"): arrays.pop(name).values
                 for name in list(arrays) if name.startswith("structure/")}
    arrays |= {name: Dataset(values, "1") for name, values in pack_pairs(structure).items()}
    if not truth:
        arrays = {name: data for name, data in arrays.items() if not name.startswith(OF_THE_TRUTH)}
        metrics = {name: value for name, value in metrics.items() if not find_metric(name).needs_truth}
    return write_record(
        outputs / "records",
        spec,
        metrics=metrics,
        history=History(cost, np.full(len(iterations), seconds / len(iterations))),
        arrays=arrays,
        environment=environment,
        log="fake\n",
    )


def _put_refined(
    put: Callable[..., None], positions_A: np.ndarray, numbers: np.ndarray, rng: np.random.Generator, *, turned: bool
) -> None:
    """Put refined atoms near ``positions_A`` (N, 3), rotated by 90° about y and shifted as a whole where ``turned``."""
    n = len(numbers)
    sigma_A = rng.uniform(0.02, 0.04, (n, 3))
    rotation = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]) if turned else np.eye(3)
    shift_A = np.array([0.1, 0.2, 0.3]) if turned else np.zeros(3)
    put("refined/positions_A", (positions_A + sigma_A * rng.normal(size=(n, 3)) - shift_A) @ rotation, "Å", float)
    put("refined/position_error_A", sigma_A, "Å")
    put("refined/occupancy", rng.normal(np.where(numbers == SI, 1.0, 0.95), 0.05))
    put("refined/numbers", numbers, dtype=np.int16)
    put("refined/probability", rng.uniform(0.9, 1.0, n))
    put("refined_match/traced", np.arange(n), dtype=np.int64)
    put("refined_match/rotation", rotation, dtype=float)
    put("refined_match/shift_A", shift_A, "Å", float)


def _put_details(put: Callable[..., None], found: float, places: Sequence[str]) -> None:
    """Put invented scores by place and invented measures of local structure."""
    edges_A = np.linspace(0, 8, 5)
    for place in places:
        put(f"profiles/{place}/edges_A", edges_A, "Å")
        scores = {"found_percent": 100 * found, "position_error_pm": 10.0, "false_positive_percent": 2.0}
        for name, value in scores.items():
            for bound, shift in (("_low", -1.0), ("", 0.0), ("_high", 1.0)):
                put(f"profiles/{place}/{name}{bound}", value + shift + 0.1 * edges_A[:-1])
    angles_deg = np.linspace(40, 180, 71)
    put("structure/angle_edges_deg", angles_deg, "degree")
    for pair, n_bonds, n_angles in (("Si-O", 400, 600), ("O-Si", 400, 150), ("Si-Si", 900, 2000)):
        lengths_A = np.linspace(1.2, 2.6, 61)
        put(f"structure/{pair}/length_edges_A", lengths_A, "Å")
        for kind, width in (("true", 1.0), ("traced", 1.5)):
            put(f"structure/{pair}/length_{kind}", n_bonds * np.exp(-(((lengths_A[1:] - 1.7) / 0.1 / width) ** 2)))
            put(f"structure/{pair}/angle_{kind}", n_angles * np.exp(-(((angles_deg[1:] - 110) / 10 / width) ** 2)))
            put(f"structure/{pair}/coordination_{kind}", 100 * (np.arange(13) == 4))
    r_A = np.arange(0.05, 8, 0.1)
    put("structure/pair_distribution/r_A", r_A, "Å")
    for kind in ("true", "traced"):
        put(f"structure/pair_distribution/g_{kind}", 1 + np.sin(3 * r_A) * (r_A > 1.5) - (r_A <= 1.5))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def write_fake_paper(outputs: Path, n_voxels: int = 32) -> dict[str, Path]:
    """Write fake records of all rows and panels of the paper; return the folders by experiment."""
    return {name: write_fake_record(outputs, spec) for name, spec in paper_specs(n_voxels).items()}
