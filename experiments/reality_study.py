"""Measure what each difference between a microscope and its description costs, and whether the program says so.

    python -m experiments.reality_study --folder FOLDER                   # all series that have no result yet
    python -m experiments.reality_study --folder FOLDER --only shift_px dose_e_A2=10000
    python -m experiments.reality_study --table                           # the table of docs/robustness.md

Series of a small alloy particle, simulated by abTEM (:mod:`experiments.reality_series`, extra ``test``), are imported,
run and reported by the plain commands with their defaults: a base without any difference, one difference at a time in
rising sizes, and all of those of the first size together. Results go into results/reality.json after each series:

    found, false, species (%), error (pm)   after a rigid motion and a common scale, pairs within 0.6 Å
    error_over_sigma                        root of the summed squares of errors over those of standard errors
    scale                                   of the atoms over the true ones
    mirrored                                the atoms fit the mirror image of the true ones better
    import, doubts, images, refused         what the commands say: verdicts other than ok, doubts, outlying images
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from aetlab.core.doubts import SURE, doubts
from aetlab.core.pairing import fit_motion, pair_atoms, register_atoms

RESULTS = Path(__file__).parent / "results" / "reality.json"
#: Sizes of each reality, the first that of an ordinary experiment.
SIZES: dict[str, tuple[float, ...]] = {
    "shift_px": (6, 15, 25), "axis_deg": (2.7, 8, 30), "axis_jitter_deg": (0.1, 0.5, 2),
    "tilt_error_deg": (0.2, 0.5, 1, 2), "defocus_error_nm": (2, 5, 10), "defocus_offset_nm": (3, 10, 20),
    "brightness": (0.05, 0.2, 0.5), "illumination": (0.02, 0.1, 0.3), "gain_residue": (0.01, 0.03, 0.1),
    "bad_pixels": (20, 100, 500), "n_blank": (1, 5, 15), "n_double": (1, 5, 15),
    "magnification": (0.0015, 0.005, 0.015),
    "pixel_error": (0.004, 0.015, 0.04), "dose_e_A2": (5e4, 2e4, 1e4, 5e3), "max_tilt_deg": (60, 50, 40),
    "tilt_step_deg": (7, 10, 14), "focal_spread": (1.25, 1.75, 2.5), "convergence": (2, 4, 8),
    "mtf_power": (1.2, 1.6, 2.5), "thermal": (1.25, 1.75, 2.5), "blur_A": (0.4, 0.8, 1.5), "carbon_A": (5, 10),
    "n_swapped": (1, 3, 6), "absorption": (0.03, 0.1, 0.3), "astigmatism_nm": (1, 3, 8), "coma_nm": (30, 100, 300),
    "damage_A": (0.1, 0.3, 0.6)}
#: Series that are imported with a setting, as the refusal of the plain import advises.
IMPORTED_WITH = {"carbon_A=10": "vacuum=mean"}
#: Not part of "together": they are properties of a plan, not errors.
PLANNED = ("dose_e_A2", "max_tilt_deg", "tilt_step_deg", "carbon_A", "n_swapped")
UNITS = {"shift_px": "shift of each image (± px)", "axis_deg": "direction of the axis (°)",
         "axis_jitter_deg": "axis of each tilt (° rms)", "tilt_error_deg": "angle of each tilt (° rms)",
         "defocus_error_nm": "defocus of each image (nm rms)", "defocus_offset_nm": "defocus of all images (nm)",
         "brightness": "brightness of each tilt (±)", "illumination": "illumination (peak)",
         "gain_residue": "fixed pattern (rms)", "bad_pixels": "hot and dead pixels", "n_blank": "blank images of 58",
         "n_double": "doubled images of 58", "magnification": "magnification between defoci",
         "pixel_error": "pixel", "dose_e_A2": "dose (e/Å²)", "max_tilt_deg": "largest tilt (°)",
         "tilt_step_deg": "step of the tilts (°)", "focal_spread": "focal spread (true / stated)",
         "convergence": "convergence (true / stated)", "mtf_power": "MTF (power of the stated)",
         "thermal": "vibration (of 0.07 Å)", "blur_A": "drift in an exposure (Å)", "carbon_A": "carbon film (Å)",
         "n_swapped": "exchanged pairs of tilts", "absorption": "absorption (V''/V')",
         "astigmatism_nm": "astigmatism (nm)", "coma_nm": "coma (nm)", "damage_A": "atoms walk (Å rms, at the end)"}
#: Words for what the runs say, by a part of the line.
WORDS = {"explain the images worse than the volume": "worse than the volume", "atoms leave χ²": "χ²",
         "times the contrast of the model": "contrast", "of the contrast of the model": "contrast",
         "defoci that fit": "scale of the defocus", "scatter otherwise": "odd occupancies",
         "nearer than any bond": "too near", "mirror image": "hand", "before it melts": "vibration",
         "fit with astigmatism": "astigmatism", "fit with coma": "coma", "fit with three-fold": "A2",
         "element scatter by": "scatter of occupancies", "by their probabilities": "names",
         "neighbouring tilts": "neighbouring tilts"}


def cases() -> dict[str, dict[str, float]]:
    """Return the settings of each series by its name: all first sizes before all second ones."""
    found: dict[str, dict[str, float]] = {"base": {}}
    found["together"] = {name: sizes[0] for name, sizes in SIZES.items() if name not in PLANNED}
    for k in range(max(map(len, SIZES.values()))):
        found |= {f"{name}={sizes[k]:g}": {name: sizes[k]} for name, sizes in SIZES.items() if k < len(sizes)}
    return found | {f"{name} {setting}": found[name] for name, setting in IMPORTED_WITH.items()}


def run_case(settings: dict[str, float], here: Path, waves: Path) -> int:
    """Make, import, run and report one series in the folder ``here``; return the seconds of processor time.

    Words of the folder's name after the first are settings of the import.
    """
    from experiments.reality_series import Reality, write_series  # loads abTEM

    reality = Reality(**{field.name: type(field.default)(settings.get(field.name, field.default))  # type: ignore[arg-type]
                         for field in dataclasses.fields(Reality)})
    shutil.rmtree(here, ignore_errors=True)
    write_series(reality, here, waves)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    _command(here, "import", "series", "import", "x.mrc", "--table", "x.csv", "--microscope", "x.yaml",
             "--to", "x.series.h5", *(f"--set={word}" for word in here.name.split()[1:]))
    if (here / "x.series.h5").exists():
        _command(here, "run", "run", "data=measured", "data.path=x.series.h5", "align=true", "reg=atoms",
                 "refine=atoms", "outputs=out")
        if list((here / "out" / "records").glob("*/metrics.json")):
            _command(here, "report", "report", "--outputs", "out")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime)


def judge_case(here: Path) -> dict[str, Any]:
    """Return the row of the series in a folder: its scores, and what the commands said."""
    from experiments.reality_series import particle

    imported, run = ((here / f"{name}.log").read_text() if (here / f"{name}.log").exists() else ""
                     for name in ("import", "run"))
    records = sorted((here / "out" / "records").glob("*/metrics.json"))
    row: dict[str, Any] = {"import": _verdicts(imported)}
    return row | (_judge(records[0].parent, run, particle()) if records else
                  {"refused": (run or imported).strip().splitlines()[-1]})


def _command(here: Path, log: str, module: str, *words: str) -> None:
    """Run ``python -m aetlab.MODULE`` in a folder; what it prints goes to LOG.log there."""
    done = subprocess.run([sys.executable, "-m", f"aetlab.{module}", *words], cwd=here, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])})
    (here / f"{log}.log").write_text(done.stdout)


def _verdicts(said: str) -> list[str]:
    """Return the verdicts of an import that are not ok, and the images that it left out."""
    lines = [line for line in said.splitlines() if line.startswith(("look:", "cannot be used:"))]
    left_out = re.search(r"(\d+) of (\d+) images", said.split("series.h5: ")[-1])
    if left_out and left_out[1] != left_out[2]:
        lines.append(f"{int(left_out[2]) - int(left_out[1])} images left out")
    return lines


def _judge(record: Path, said: str, truth: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Return the scores of a record's atoms, and what its run said."""
    import h5py

    metrics = json.loads((record / "metrics.json").read_text())
    with h5py.File(record / "arrays.h5") as file:
        atoms = file["refined" if "refined" in file else "traced"]
        numbers, positions, sigma = (atoms[name][()] for name in ("numbers", "positions_A", "position_error_A"))
    row = score(numbers, positions, sigma, *truth)
    row |= {"refined": "refined_chi_square" in metrics, "doubts": doubts(metrics),
            "images": int(metrics.get("n_outlying_images", 0)),
            "weakened": int(metrics.get("refined_n_weakened_images", 0)),
            "chi_square": round(metrics.get("chi_square_reduced_atoms", np.nan), 3),
            "contrast": round(metrics.get("refined_contrast", np.nan), 3),
            "thermal_A2": [round(metrics.get(f"refined_thermal_{element}_A2", np.nan), 2) for element in ("Pd", "Pt")],
            "tilt_factor": round(metrics.get("refined_tilt_factor_position", np.nan), 2),
            "hand": round(metrics.get("refined_hand", np.nan), 1)}
    row["fitted_nm"] = {name: round(metrics[f"refined_lens_{name}_nm"], 2) for name in ("A1", "B2", "A2")
                        if f"refined_lens_{name}_nm" in metrics}
    spread, error = (metrics.get(f"refined_magnification_{name}_percent", 0.0) for name in ("spread", "error"))
    row["magnified"] = spread > SURE * error
    row["other_lines"] = [line for line in said.splitlines() if "are kept" in line or "well-traced" in line]
    return row


def score(numbers: np.ndarray, positions_A: np.ndarray, sigma_A: np.ndarray, true_numbers: np.ndarray,
          true_A: np.ndarray) -> dict[str, Any]:
    """Return scores of atoms against the true ones, as they are and mirrored, whichever finds more."""
    tries = [(*_register(positions_A, true_A * [1, 1, mirror], turned), mirror)
             for mirror in (1, -1) for turned in np.arange(-8, 8.1, 2)]
    i, j, moved, scale, mirror = max(tries, key=lambda one: len(one[0]))
    row: dict[str, Any] = {"found": 100 * len(i) / len(true_A), "false": 100 * (1 - len(i) / max(len(positions_A), 1))}
    if len(i):
        error, sigma = positions_A[i] - moved[j], sigma_A[i]
        over = np.sqrt((error**2).sum(axis=0) / (sigma**2).sum(axis=0))
        row |= {"species": 100 * float((numbers[i] == true_numbers[j]).mean()),
                "error": 100 * float(np.linalg.norm(error, axis=1).mean()),
                "error_over_sigma": float(np.sqrt((error**2).sum() / (sigma**2).sum())),
                "error_over_sigma_xyz": over.round(2).tolist(),
                "beyond_4_sigma": 100 * float((np.abs(error) > 4 * sigma).any(axis=1).mean())}
    row = {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}
    return row | {"scale": round(scale, 5), "mirrored": mirror < 0}


def _register(positions_A: np.ndarray, true_A: np.ndarray,
              turned_deg: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return pairs within 0.6 Å, the true atoms moved and scaled onto the found ones, and the scale.

    The search begins with the true atoms turned about the tilt axis.
    """
    c, s = np.cos(np.deg2rad(turned_deg)), np.sin(np.deg2rad(turned_deg))
    fixed = true_A @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T
    fixed = fixed - fixed.mean(axis=0) + positions_A.mean(axis=0)
    rotation, shift = register_atoms(fixed, positions_A, 1.2)
    moved, scale = fixed @ rotation.T + shift, 1.0
    for _ in range(3):
        i, j = pair_atoms(positions_A, moved, 0.6)
        if len(i) < 10:
            break
        rotation, _ = fit_motion(fixed[j], positions_A[i])
        rotated = fixed @ rotation.T
        about, found = rotated[j] - rotated[j].mean(axis=0), positions_A[i] - positions_A[i].mean(axis=0)
        scale = float((about * found).sum() / (about * about).sum())
        moved = scale * (rotated - rotated[j].mean(axis=0)) + positions_A[i].mean(axis=0)
    return *pair_atoms(positions_A, moved, 0.6), moved, scale


def bad_numbers(row: dict[str, Any]) -> bool:
    """Return whether atoms, elements, hand, scale or standard errors are wrong."""
    if "refused" in row:
        return False
    return bool(row["found"] < 99 or row["false"] > 1 or (row.get("species", 0)) < 98 or row["mirrored"]
                or abs(row["scale"] - 1) > 0.002 or not 0.85 <= (row.get("error_over_sigma", 0)) <= 1.15)


def said_words(row: dict[str, Any]) -> str:
    """Return what the commands said, in the words of the table."""
    if "refused" in row:
        return f"refused: {row['refused']}"
    words = [f"import: {re.sub('^look: ', '', line).split(': ')[0]}" if not line.startswith("cannot")
             else f"import: {line.split(': ')[1]} cannot be used" for line in row["import"]]
    words += sorted({next((word for part, word in WORDS.items() if part in line), line) for line in row["doubts"]})
    words += [f"outlying images: {row['images']}"] if row["images"] else []
    words += [] if row["refined"] else ["refinement rejected"]
    words += ["fitted: magnifications"] if row.get("magnified") else []
    words += [f"fitted: {name} of {nm:.3g} nm" for name, nm in row.get("fitted_nm", {}).items()]
    return "; ".join(words)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the Markdown table; wrong numbers of which no command says anything are bold."""
    columns = {"found": 1, "false": 1, "species": 1, "error": 1, "error_over_sigma": 2}
    lines = ["| reality | size | found (%) | false (%) | species (%) | error (pm) | error over σ | said |",
             "|---|---|---|---|---|---|---|---|"]
    ordered = [f"{name}={size:g}" for name, sizes in SIZES.items() for size in sizes]
    ordered = ["base", *(both for name in ordered for both in (name, f"{name} {IMPORTED_WITH.get(name)}")), "together"]
    for name in (name for name in ordered if name in rows):
        row, (field, _, size) = rows[name], name.replace(" ", ", ").partition("=")
        said = said_words(row) or ("**nothing**" if bad_numbers(row) else "-")
        numbers = [f"{row[key]:.{n}f}" if key in row else "-" for key, n in columns.items()]
        lines.append(f"| {UNITS.get(field, field)} | {size} | {' | '.join(numbers)} | {said} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="series, records and exit waves")
    parser.add_argument("--only", nargs="+", default=[], help="realities, or series such as dose_e_A2=10000")
    parser.add_argument("--again", action="store_true", help="also series that have a result")
    parser.add_argument("--judge", action="store_true", help="judge the records of earlier series again")
    parser.add_argument("--count", type=int, default=10**6, help="stop after so many series")
    parser.add_argument("--table", action="store_true", help="print the table and stop")
    options = parser.parse_args()
    rows = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    if options.table:
        print(table(rows))
        return
    if options.folder is None:
        parser.error("--folder is needed")
    chosen = {name: settings for name, settings in cases().items()
              if (not options.only or name in options.only or name.partition("=")[0] in options.only)
              and (name in rows if options.judge else options.again or name not in rows)}
    for name, settings in list(chosen.items())[:options.count]:
        start = time.monotonic()
        here = options.folder.resolve() / name
        used = rows[name]["processor_s"] if options.judge else run_case(settings, here, here.parent / "waves")
        row = {"settings": settings, **judge_case(here), "processor_s": used}
        rows = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
        rows[name] = row
        RESULTS.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{name}: {time.monotonic() - start:.0f} s", json.dumps(row, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
