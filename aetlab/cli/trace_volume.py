"""Trace the atoms of a volume from another program: ``python -m aetlab.trace VOLUME``."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import tempfile
from pathlib import Path

import numpy as np

from aetlab.core import console
from aetlab.core.files import StorageError, make_folder, writing
from aetlab.core.nouns import TracedAtoms, Volume
from aetlab.core.physics import SYMBOLS
from aetlab.exchange.atom_files import is_traced_from, write_csv, write_xyz
from aetlab.exchange.mrc import write_mrc
from aetlab.exchange.volume_files import FileError, read_volume
from aetlab.forward import expected_signals
from aetlab.spec import SpecError, TraceSpec
from aetlab.tracing import describe, describe_missing, explain_nothing, trace_atoms
from aetlab.tracing.summary import describe_contrast


def scale_lengths(spec: TraceSpec, factor: float) -> TraceSpec:
    """Return ``spec`` with all lengths multiplied by ``factor``, for other voxels or wider atoms.

    Raises
    ------
    SpecError
        If an atom would have too few voxels, or too many.
    """
    low, high = spec.width_bounds
    return dataclasses.replace(
        spec, width_bounds=(low * factor, high * factor), filter_sigma_narrow=spec.filter_sigma_narrow * factor,
        filter_sigma_wide=spec.filter_sigma_wide * factor, fit_radius=spec.fit_radius * factor,
        max_shift_per_fit=spec.max_shift_per_fit * factor, width_start=spec.width_start * factor,
        neighbour_radius=spec.neighbour_radius * factor, merge_distance=spec.merge_distance * factor,
        min_width=spec.min_width * factor, smoothing=spec.smoothing * factor)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m aetlab.trace",
        description="Find the atoms of a volume, fit a Gaussian to each, and write them as extended XYZ and CSV. "
                    "Positions are in Å about the centre of the volume.")
    parser.add_argument("volume", type=Path, help="MRC or CCP4 map, HDF5 file or NPY array")
    parser.add_argument("--voxel-A", type=float, help="voxel size in Å (default: the size in the file)")
    parser.add_argument("--dataset", default="", help="dataset of the HDF5 file (default: the only one that is 3D)")
    parser.add_argument("--axes", default="", metavar="AXES",
                        help="axes of the array in HDF5 and NPY files, slowest first (default: zyx; "
                        "zxy for records of aetlab)")
    parser.add_argument("--elements", default="X", help="elements in the volume, for example Si,O (default: X, "
                        "atoms are not named)")
    parser.add_argument("--min-intensity", type=float,
                        help="lowest peak that counts as an atom, in the unit of the volume "
                        "(default: a tenth of its maximum)")
    parser.add_argument("--width-A", type=float, default=0.35,
                        help="standard deviation of an atom's peak in Å; all lengths of the tracing scale with it "
                             "(default: %(default)s)")
    parser.add_argument("--out", type=Path, help="path of the output without suffix (default: that of the volume)")
    parser.add_argument("--mrc", action="store_true", help="also write the volume as MRC, with voxel size and origin")
    parser.add_argument("--overwrite", action="store_true",
                        help="write over results of another volume and over other files")
    return parser


@console.command
def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 1 if no atoms were found, 2 for input that cannot be used."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        elements = _read_elements(options.elements)
        for name, value in (("--min-intensity", options.min_intensity), ("--width-A", options.width_A)):
            if value is not None and not 0 < value < math.inf:
                raise FileError(f"{name}={value:g} cannot be used: it must be greater than 0 and finite")
        results = _check_results(options)
        volume = read_volume(options.volume, voxel_A=options.voxel_A, dataset=options.dataset, axes=options.axes)
        least = options.min_intensity if options.min_intensity is not None else 0.1 * _maximum(volume, options.volume)
        usual = TraceSpec()
        try:
            spec = scale_lengths(usual, options.width_A / volume.voxel_A / usual.width_start)
        except SpecError as error:
            raise FileError(f"voxels of {volume.voxel_A:.3g} Å cannot be traced with atoms of --width-A="
                            f"{options.width_A:g}: {error}; is the voxel in Å? Give --voxel-A") from None
        if min(volume.potential_V.shape) < 2 * spec.fit_radius:
            raise FileError(f"{options.volume} has {' x '.join(map(str, volume.potential_V.shape))} voxels along z, x, "
                            f"y; an atom needs {math.ceil(2 * spec.fit_radius)}: is it an image, or part of a volume?")
        spec = dataclasses.replace(spec, min_intensity_V=least)
        contrast = (*describe_missing(volume), *describe_contrast(volume))
        for line in (*volume.notes, *contrast):
            print(f"{parser.prog}: {options.volume}: {line}", file=sys.stderr)
        expected = None if 0 in elements else expected_signals(
            elements, volume.voxel_A, fit_radius=spec.fit_radius, blur_A=spec.smoothing * volume.voxel_A)
        # The unit of the volume and the power of its signals are those of another program.
        traced = trace_atoms(volume, spec, elements, _print_round, expected_signal=expected, in_volts=False)
        n_z, n_x, n_y = volume.potential_V.shape
        box = (n_x * volume.voxel_A, n_y * volume.voxel_A, n_z * volume.voxel_A)
        write_xyz(results[0], traced, box_A=box, traced_from=options.volume.name)
        write_csv(results[1], traced)
        if options.mrc:
            write_mrc(results[2], volume)
    except (FileError, SpecError, StorageError, OSError, MemoryError) as error:
        print(f"{parser.prog}: {str(error) or 'out of memory'}", file=sys.stderr)
        return 2
    print("\n".join([_summarise(traced), *describe(traced)]))
    print("\n".join(str(path) for path in results))
    if not len(traced):
        for line in explain_nothing(volume, spec):
            if line not in contrast:
                print(f"{parser.prog}: {options.volume}: {line}", file=sys.stderr)
        print(f"{parser.prog}: no atoms were found", file=sys.stderr)
        return 1
    return 0


def _check_results(options: argparse.Namespace) -> list[Path]:
    """Return the paths of the results, in a folder that can be written.

    Raises
    ------
    FileError
        If a result would replace the volume itself, or, without ``--overwrite``, files that were not traced in it.
    StorageError
        If the folder cannot be made or written.
    """
    out = options.out or options.volume.with_suffix("")
    endings = (".atoms.xyz", ".atoms.csv", *((".volume.mrc",) if options.mrc else ()))
    results = [Path(f"{out}{ending}") for ending in endings]
    again = options.overwrite or is_traced_from(results[0], options.volume.name)
    for path in results:
        if path.exists() and options.volume.exists() and path.samefile(options.volume):
            raise FileError(f"{path} is the volume itself: choose another path for the results with --out")
        if path.is_dir() or (path.exists() and not again):
            raise FileError(f"{path} is there already: choose another path with --out"
                            + ("" if path.is_dir() else ", or write over it with --overwrite"))
    folder = make_folder(results[0].parent)
    with writing(folder), tempfile.TemporaryFile(dir=folder):
        pass
    return results


def _maximum(volume: Volume, path: Path) -> float:
    """Return the greatest finite voxel, which must be positive.

    Raises
    ------
    FileError
        If it is not: nothing in the volume can be an atom. The message says what the matter is and what to try.
    """
    maximum = float(np.max(volume.potential_V, initial=-np.inf, where=np.isfinite(volume.potential_V)))
    if maximum > 0:
        return maximum
    reasons = describe_contrast(volume) if maximum > -math.inf else ["none of its voxels is finite"]
    raise FileError(f"{path} cannot be traced: {'; '.join(reasons)}")


def _read_elements(text: str) -> tuple[int, ...]:
    symbols = text.replace(",", " ").split()
    unknown = [symbol for symbol in symbols if symbol not in SYMBOLS]
    if unknown or not symbols or len(set(symbols)) < len(symbols) or ("X" in symbols and len(symbols) > 1):
        raise FileError(f"--elements={text} cannot be used: give chemical symbols, each once, for example Si,O, or X "
                        "alone if they are not known")
    return tuple(sorted(SYMBOLS.index(symbol) for symbol in symbols))


def _print_round(done: int, total: int, detail: str) -> None:
    print(f"round {done} of at most {total}: {detail}", flush=True)


def _summarise(traced: TracedAtoms) -> str:
    counts = ", ".join(f"{np.count_nonzero(traced.numbers == number)} {SYMBOLS[number]}"
                       for number in traced.species["elements"])
    sound = int((traced.flag == 0).sum())
    error = np.nanmedian(traced.position_error_A) * 100 if np.isfinite(traced.position_error_A).any() else float("nan")
    return f"{len(traced)} atoms ({counts}), {sound} without a flag, median standard error {error:.1f} pm along an axis"


if __name__ == "__main__":
    raise SystemExit(main())
