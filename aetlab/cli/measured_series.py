"""Import, check, show and start measured series: ``python -m aetlab.series``."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from aetlab.core import console
from aetlab.core.errors import AetlabError
from aetlab.core.files import write_text
from aetlab.core.hdf5 import dataset_names
from aetlab.series.import_files import import_files
from aetlab.series.imported import ImportedSeries, read_imported, write_imported
from aetlab.series.prepare import PrepareSpec
from aetlab.series.readers import ENDINGS, open_frames
from aetlab.series.table import COLUMNS
from aetlab.spec.bind import bind

_DESCRIPTION = "Measured images in: from the files of a microscope to a checked tilt series."
_EXAMPLES = """examples:
  python -m aetlab.series init FOLDER
  python -m aetlab.series import pt.mrc --table pt.csv --microscope titan.yaml --elements Pt --to pt.series.h5
  python -m aetlab.series check pt.series.h5
  python -m aetlab.series show pt.series.h5
  python -m aetlab.run data=measured data.path=pt.series.h5 align=true reg=atoms refine=atoms

exit status of import and check: 0; 1 if the series is written but cannot be used; 2 if the input is refused
"""
_MICROSCOPE = """# The microscope; every key of the group microscope can stand here (python -m aetlab.run --help).
energy_keV: 300
Cs_mm: 0.001
aperture_mrad: 20
focal_spread_sigma_nm: 2.0
convergence_sigma_mrad: 0.1
# mtf: {cycles_per_pixel: [0, 0.25, 0.5], mtf: [1, 0.7, 0.35]}    # of the detector, its pixel included
# elements: [Pt]
# pixel_A: 0.42
# axis_deg: 85.3      # direction of the tilt axis in the images, from y counter-clockwise
# sense: right        # a positive tilt turns the sample right-handed about it, the beam along +z; or left
"""
_HEAD = ("# One row for each image, in the order of the files. defocus_nm: overfocus positive. exclude: any text "
         "leaves the image out.")


@console.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except AetlabError as error:
        print(f"aetlab: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m aetlab.series", description=_DESCRIPTION,
                                     epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="import | check | show | init")
    reads = commands.add_parser("import", help="read, check, order and normalise images", epilog=_settings_help(),
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    reads.add_argument("files", nargs="+", type=Path, metavar="FILE", help="stacks or single images, logs, angle files")
    reads.add_argument("--table", type=Path, help="CSV: file, frame, tilt_deg, defocus_nm, dose_e_A2, exclude")
    reads.add_argument("--microscope", type=Path, help="YAML with the keys of the group microscope")
    reads.add_argument("--elements", default="", help="elements that the sample may hold, for example Pt or Cu,Au")
    reads.add_argument("--pixel-A", type=float, help="pixel in Å; overrules the files")
    reads.add_argument("--to", type=Path, required=True, metavar="SERIES.h5", help="the series file")
    reads.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the preparation, "
                       "for example axis_deg=85 or bad_pixels=keep; all are listed below")
    _add_bound(reads)
    reads.set_defaults(command=_import)
    checks = commands.add_parser("check", help="write the check page of a series file: verdicts, spectra, and what it "
                                 "can reach")
    checks.add_argument("series", type=Path)
    checks.add_argument("--to", type=Path, metavar="PAGE.html", help="the page (default: next to the series file)")
    _add_bound(checks)
    checks.set_defaults(command=_check)
    shows = commands.add_parser("show", help="print what a series file holds and how it was made")
    shows.add_argument("series", type=Path)
    shows.set_defaults(command=_show)
    starts = commands.add_parser("init", help="write a table and a microscope file to fill in, with the files found")
    starts.add_argument("folder", type=Path)
    starts.set_defaults(command=_init)
    return parser


def _settings_help() -> str:
    """Return the settings of the preparation, one a paragraph: name, default, meaning and values."""
    lines = ["settings of the preparation (--set KEY=VALUE):"]
    for field in dataclasses.fields(PrepareSpec):
        about = field.metadata["about"]
        default = "" if field.default in (None, "", ()) else f"={field.default:g}" if isinstance(
            field.default, float) else f"={field.default}"
        text = f"{about.meaning}{f', {about.unit}' if about.unit else ''}{f' ({about.range})' if about.range else ''}"
        lines += textwrap.wrap(f"{field.name}{default}: {text}", 100, initial_indent="  ", subsequent_indent="      ")
    return "\n".join(lines)


def _import(arguments: argparse.Namespace) -> int:
    settings = _prepare_settings(arguments.set)
    _require_free(arguments.to)
    imported = import_files(arguments.files, table=arguments.table, microscope=arguments.microscope,
                            elements=arguments.elements, pixel_A=arguments.pixel_A, settings=settings, say=print)
    write_imported(arguments.to, imported)
    print(f"{arguments.to}: {_summary(imported)}")
    return _write_check(imported, arguments.to, page_of(arguments.to), bound=not arguments.no_bound)


def _require_free(series: Path) -> None:
    """Refuse a place for the series file that holds something else: images and tables are not written over."""
    if series.is_dir():
        raise AetlabError(f"--to {series} cannot be used: it is a folder; name a file, for example pt.series.h5")
    if series.exists():
        try:
            is_series = "imported" in dataset_names(series)
        except AetlabError:
            is_series = False
        if not is_series:
            raise AetlabError(f"--to {series} cannot be used: it is there and is no series of an earlier import; it is "
                              "not overwritten")


def _check(arguments: argparse.Namespace) -> int:
    if arguments.to is not None and arguments.to.suffix.lower() not in (".html", ".htm"):
        raise AetlabError(f"--to {arguments.to} cannot be used: the page is HTML; name it PAGE.html")
    imported = read_imported(arguments.series)
    return _write_check(imported, arguments.series, arguments.to or page_of(arguments.series),
                        bound=not arguments.no_bound)


def _write_check(imported: ImportedSeries, series: Path, page: Path, *, bound: bool) -> int:
    """Write the check page and print the verdicts; return the exit status: 1 where the series cannot be used."""
    from aetlab.reporting.check_page import make_check_page  # loads Matplotlib
    from aetlab.series.check.flow import check_series

    check = check_series(imported, bound=bound)
    write_text(page, make_check_page(check, series.name))
    for item in check.items:
        if item.verdict != "ok":
            print(f"{item.verdict}: {item.name}: {item.reason}" + (f". {item.advice}" if item.advice else ""))
    print(f"{page}: {check.verdict}")
    return 1 if check.verdict == "cannot be used" else 0


def page_of(series: Path) -> Path:
    """Return the place of the check page of a series file: next to it, with the ending .html."""
    return series.with_name(series.name.removesuffix(".h5").removesuffix(".series") + ".check.html")


def _add_bound(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-bound", action="store_true",
                        help="leave out what the series can reach, which takes most of the time of the check")


def _prepare_settings(words: Sequence[str]) -> PrepareSpec:
    import yaml

    with_choices = {field.name for field in dataclasses.fields(PrepareSpec) if field.metadata["about"].choices}
    given = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise AetlabError(f"--set {word} cannot be used: write KEY=VALUE, for example axis_deg=85")
        try:
            given[key] = value if key in with_choices else yaml.safe_load(value)  # YAML takes yes and off for booleans
        except yaml.YAMLError:
            raise AetlabError(f"--set {word} cannot be used: {value!r} is no number, text or list") from None
    return bind(PrepareSpec, given, "prepare")


def _show(arguments: argparse.Namespace) -> int:
    imported = read_imported(arguments.series)
    print(f"{arguments.series}: {_summary(imported)}")
    for step in imported.provenance.get("steps", []):
        print(f"{step['name']}: {step['line']}" + ("" if step["verdict"] == "ok" else f" ({step['verdict']})"))
    for name, reason in imported.provenance.get("excluded", {}).items():
        print(f"left out: {name}: {reason}")
    for note in imported.provenance.get("notes", []):
        print(f"note: {note}")
    return 0


def _summary(imported: ImportedSeries) -> str:
    series = imported.series
    present = int((series.weight > 0).sum())
    n_x, n_y = series.images.shape[2:]
    return (f"{present} of {series.weight.size} images, {series.n_tilts} tilts from {series.tilt_deg.min():g} to "
            f"{series.tilt_deg.max():g}°, {series.n_defoci} defoci, {n_x} x {n_y} pixels of {series.pixel_A:.4g} Å, "
            f"{series.mean_electrons_per_pixel:.4g} electrons per pixel, {imported.microscope.energy_keV:g} keV, "
            f"elements {', '.join(imported.elements) or 'not named'}")


def _init(arguments: argparse.Namespace) -> int:
    folder: Path = arguments.folder
    if not folder.is_dir():
        raise AetlabError(f"{folder} is not a folder: name the folder that holds the images")
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
    if not images:
        raise AetlabError(f"{folder} holds no images: their endings are {', '.join(ENDINGS)}")
    table, microscope = folder / "series.csv", folder / "microscope.yaml"
    for path in (table, microscope):
        if path.exists():
            raise AetlabError(f"{path} is there already; it is not overwritten")
    counts: dict[Path, int] = {}
    for image in images:
        try:
            counts[image] = open_frames(image).n_frames
        except AetlabError as error:
            print(f"left out: {error}")
    if not counts:
        raise AetlabError(f"{folder} holds no images that can be read")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [COLUMNS, *([image.name, index, "", "", "", ""] for image, n in counts.items() for index in range(n))])
    write_text(table, f"{_HEAD}\n{text.getvalue()}")
    write_text(microscope, _MICROSCOPE)
    shown = " ".join(shlex.quote(str(image)) for image in list(counts)[:3]) + (" ..." if len(counts) > 3 else "")
    there, scope, series = (shlex.quote(str(path)) for path in (table, microscope, folder / "measured.series.h5"))
    print(f"fill in {table} ({sum(counts.values())} images) and {microscope}, then: python -m aetlab.series import "
          f"{shown} --table {there} --microscope {scope} --to {series}")
    return 0
