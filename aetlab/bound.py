"""``python -m aetlab.bound``: the best precision of atoms that a planned experiment can reach.

Prints the Cramér–Rao bound of the mean position error, the least share of mistaken elements and the greatest share of
atoms that can be found for each plan, without a reconstruction.
"""

from __future__ import annotations

from aetlab.core import console

if __name__ == "__main__":
    console.stop_at_once()

import argparse
import csv
import dataclasses
import io
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aetlab import samples
from aetlab.cli.compose import Job, compose_jobs
from aetlab.cli.overrides import expand_file_patterns
from aetlab.core.files import StorageError, write_atomically, write_text
from aetlab.core.physics import SYMBOLS
from aetlab.core.seeds import generator
from aetlab.flow import electrons_per_pixel
from aetlab.reconstruction.bound import compute_bound
from aetlab.refinement.bound import Bound
from aetlab.spec import DoseSpec, RunSpec, SpecError, missing_wedge_deg, tilt_angles_deg
from aetlab.spec.bind import unbind
from aetlab.spec.folders import group_choices

#: Groups and keys that no bound depends on.
_UNREAD = ("data", "reg", "simulate", "engine", "align", "trace", "refine", "score", "validate", "tile", "outputs",
           "other_code")
_DESCRIPTION = """Print the best precision of atoms that a planned experiment can reach: the Cramér–Rao bound of the
mean position error, the least share of mistaken elements, and the share of the atoms that an ideal observer finds
with 1 % of false atoms. A plan is a list of settings as for aetlab.run; several
values of a setting, separated by commas, give several plans. Nothing is reconstructed."""
_EXAMPLES = """examples:
  python -m aetlab.bound scale=sparse tilts=15,30 dose=7k,50k
  python -m aetlab.bound dose=7k tilts=20 defocus=9 , tilts=60 defocus=3    two plans, separated by a comma
  python -m aetlab.bound sample=file sample.path=particle.xyz dose=7k --figure bound.pdf --csv bound.csv
"""
#: Doses in e/Å² of the curves in the figure.
_CURVE_E_A2 = np.geomspace(1e3, 1e6, 61)


@dataclasses.dataclass(frozen=True)
class PlanRow:
    """One row of the table: a plan at one dose. ``by_element`` is the bound of each element in pm."""

    label: str
    n_tilts: int
    n_defoci: int
    dose_e_A2: float
    electrons_per_pixel: float
    position_pm: float
    by_element: dict[str, float]
    confused_percent: float
    found_percent: float
    n_atoms: int


@console.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line of ``python -m aetlab.bound``."""
    arguments = _parser().parse_args(argv)
    if arguments.passes < 1:
        console.refuse(f"--passes={arguments.passes} cannot be used: it must be at least 1")
    try:
        settings = expand_file_patterns(arguments.settings, group_choices())
        refuse_unread(settings)
        jobs = [job for words in split_plans(settings) for job in compose_jobs(words, multirun=True)]
        _print_bounds(jobs, arguments)
    except SpecError as error:
        console.refuse(error)


def _print_bounds(jobs: Sequence[Job], arguments: argparse.Namespace) -> None:
    """Compute the bound of each plan, print the table, and write the files that are asked for."""
    rows: list[PlanRow] = []
    bounds: dict[str, tuple[Job, Bound]] = {}
    for job in jobs:
        key = _without_dose(job.spec)
        if key not in bounds:
            start = time.perf_counter()
            bounds[key] = (job, bound_of(job.spec, arguments.passes, joint=not arguments.single))
            print(f"{_plan(job.spec)}: {len(bounds[key][1].numbers)} atoms, {time.perf_counter() - start:.1f} s",
                  file=sys.stderr)
        rows.append(row_of(job, bounds[key][1]))
    _print(rows)
    try:
        if arguments.csv:
            _write(rows, Path(arguments.csv))
        if arguments.figure:
            _draw(rows, bounds, Path(arguments.figure))
    except (StorageError, ValueError) as error:  # a full disk, or a figure format that does not exist
        console.refuse(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m aetlab.bound", description=_DESCRIPTION,
                                     epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="settings as for aetlab.run; a separate comma starts another plan")
    parser.add_argument("--passes", type=int, default=4,
                        help="random passes that sample the Fisher information (default: 4)")
    parser.add_argument("--single", action="store_true",
                        help="take all other atoms as known: faster, but gives a lower bound")
    parser.add_argument("--csv", help="write the table to this file")
    parser.add_argument("--figure", help="draw the bound against dose to this file (.pdf, .png or .svg)")
    return parser


def refuse_unread(words: Sequence[str]) -> None:
    """Raise :class:`SpecError` for the first word that sets what no bound depends on."""
    for word in words:
        key = word.lstrip("+~").split("=")[0]
        if "=" in word and key.split(".")[0] in _UNREAD and key != "simulate.parametrization":
            raise SpecError(f"{key} cannot be set: nothing is simulated, reconstructed, traced or kept for a bound; it "
                            "depends on sample, scale, dose, tilts, wedge, defocus, binning, microscope and seed")


def split_plans(words: Sequence[str]) -> list[list[str]]:
    """Split ``words`` at separate commas into the settings of each plan.

    A later plan has the settings of the first, with its own in place of those with the same key.
    """
    plans: list[list[str]] = [[]]
    for word in words:
        if word == ",":
            plans.append([])
        else:
            plans[-1].append(word)
    first = plans[0]
    joined = [first]
    for plan in plans[1:]:
        keys = {word.split("=")[0] for word in plan}
        joined.append([word for word in first if word.split("=")[0] not in keys] + plan)
    return joined


def bound_of(spec: RunSpec, n_passes: int, *, joint: bool) -> Bound:
    """Compute the bound of the sample of ``spec`` at one electron per pixel; ``joint`` treats all atoms as unknown."""
    atoms = samples.build_sample(spec.sample, spec.scale, generator(spec.seed, "sample"))
    for line in samples.describe_reading(atoms, spec.sample, spec.seed):
        print(line, file=sys.stderr)
    return compute_bound(spec, atoms, n_passes=n_passes, joint=joint)


def row_of(job: Job, bound: Bound) -> PlanRow:
    """Return the row of the plan of ``job`` at its dose."""
    spec, n = job.spec, electrons_per_pixel(job.spec)
    by_element = {SYMBOLS[int(Z)]: bound.position_pm(n, int(Z)) for Z in np.unique(bound.numbers)}
    return PlanRow(_plan(spec), len(tilt_angles_deg(spec.tilts, spec.wedge)), len(spec.defocus.planes_nm),
                   spec.dose.total_e_A2, n, bound.position_pm(n), by_element, bound.confused_percent(n),
                   bound.found_percent(n), len(bound.numbers))


def _plan(spec: RunSpec) -> str:
    n_tilts = len(tilt_angles_deg(spec.tilts, spec.wedge))
    missing_deg = missing_wedge_deg(spec.tilts, spec.wedge)
    wedge = f", wedge {missing_deg:g}°" if missing_deg else ""
    return f"{spec.scale.name} {n_tilts} × {len(spec.defocus.planes_nm)}{wedge}"


def _without_dose(spec: RunSpec) -> str:
    """Return the settings that determine the information at one electron per pixel, as text."""
    groups = ("seed", "sample", "scale", "tilts", "wedge", "defocus", "microscope", "binning", "simulate")
    return json.dumps({group: unbind(getattr(spec, group)) for group in groups}, sort_keys=True)


def _print(rows: Sequence[PlanRow]) -> None:
    symbols = sorted({symbol for row in rows for symbol in row.by_element})
    header = ["plan", "tilts", "defoci", "dose (e/Å²)", "e/pixel", "error (pm)", *(f"{s} (pm)" for s in symbols),
              "mistaken (%)", "found (%)"]
    table = [header]
    for row in rows:
        table.append([row.label, str(row.n_tilts), str(row.n_defoci), f"{row.dose_e_A2:g}",
                      f"{row.electrons_per_pixel:.4g}", f"{row.position_pm:.2f}",
                      *(f"{row.by_element[s]:.2f}" if s in row.by_element else "" for s in symbols),
                      "" if math.isnan(row.confused_percent) else f"{row.confused_percent:.3f}",
                      f"{row.found_percent:.2f}"])
    widths = [max(len(line[i]) for line in table) for i in range(len(header))]
    for line in table:
        print("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w)
                        for i, (cell, w) in enumerate(zip(line, widths, strict=True))).rstrip())


def _write(rows: Sequence[PlanRow], path: Path) -> None:
    with io.StringIO() as file:
        writer = csv.writer(file, lineterminator="\n")
        symbols = sorted({symbol for row in rows for symbol in row.by_element})
        writer.writerow(["plan", "n_tilts", "n_defoci", "dose_e_A2", "electrons_per_pixel", "position_pm",
                         *(f"position_pm_{s}" for s in symbols), "confused_percent", "found_percent",
                         "n_atoms"])
        for row in rows:
            writer.writerow([row.label, row.n_tilts, row.n_defoci, row.dose_e_A2, row.electrons_per_pixel,
                             row.position_pm, *(row.by_element.get(s, "") for s in symbols), row.confused_percent,
                             row.found_percent, row.n_atoms])
        write_text(path, file.getvalue())


def _draw(rows: Sequence[PlanRow], bounds: dict[str, tuple[Job, Bound]], path: Path) -> None:
    from aetlab.reporting.figures.bound import PlanCurve, plot_bound

    curves = []
    for job, bound in bounds.values():
        at = [electrons_per_pixel(dataclasses.replace(job.spec, dose=DoseSpec(total_e_A2=float(dose))))
              for dose in _CURVE_E_A2]
        doses = [row.dose_e_A2 for row in rows if row.label == _plan(job.spec)]
        curves.append(PlanCurve(_plan(job.spec), _CURVE_E_A2, np.array([bound.position_pm(n) for n in at]),
                                np.array([bound.confused_percent(n) for n in at]), doses))
    figure, kind = plot_bound(curves), path.suffix.removeprefix(".") or "png"
    write_atomically(path, lambda partial: figure.savefig(partial, format=kind))


if __name__ == "__main__":
    main()
