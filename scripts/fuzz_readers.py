"""Give every reader of foreign files damaged inputs, and count what it makes of them.

    python -m scripts.fuzz_readers --inputs 100000 --seed 0 --to experiments/results/fuzz_readers.json

Each input is a small valid file with a few edits. A reader may return what the file holds or raise its error of one
line. Counted for each reader:

    refused              its error, in one line
    unchanged            the result of the valid file
    other                another result: an edited number is another number
    shortened            another result of a file that was only cut off at its end, in a format that announces its size
    tracebacks           any other error, or an error of several lines
    crashes, hangs       the process died, or took more than --seconds of processor time
    over_allocations     more than --megabytes beyond the memory before, asked for or taken

The exit status is 1 if any of the last four, or shortened, is not 0.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.build
import ase.io
import h5py
import numpy as np

from aetlab.core.errors import AetlabError
from aetlab.core.nouns import Atoms, TiltSeries, Volume
from aetlab.exchange.atom_files import read_atoms, write_atoms
from aetlab.exchange.series_file import read_series, write_series
from aetlab.exchange.volume_files import read_volume, write_volume
from aetlab.samples.structure_file import read_structure
from aetlab.series.angles import read_angles
from aetlab.series.readers import open_frames
from aetlab.series.serialem import read_mdoc
from aetlab.series.table import read_table
from aetlab.spec import SampleSpec
from tests import series_files
from tests.structure_files import cif, pdb_line

OUTCOMES = ("refused", "unchanged", "other", "shortened", "tracebacks", "crashes", "hangs", "over_allocations")
BAD = OUTCOMES[3:]
#: Formats whose files announce how much they hold: a shortened file must be refused.
ANNOUNCED = (".xyz", ".gen", ".poscar", ".mol", ".sdf", ".cube", ".cfg", ".mrc", ".st", ".npy", ".h5", ".emd", ".ser",
             ".tif", ".dm4")
_TOKENS = [b"0", b"-1", b"1", b"nan", b"inf", b"1e400", b"99999999999", b"99999999999999999999", b"\n", b"\x00", b" ",
           b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\x00\x00\x00\x40", b"Si", b"Zz", b"loop_",
           b"Lattice=", b"Properties=species:S:1:pos:R:3:a:R:99999999", b"'", b'"', b";", b"data_", b"../..", b"["]


class _TooLong(BaseException):
    """The time of one input is over; no reader catches it."""


@dataclass(frozen=True)
class Reader:
    """A reader: its name, the name and content of a valid file, and the call that reads a file."""

    name: str
    file: str
    content: bytes
    read: Callable[[Path], Any]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of the names of the readers")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--to", type=Path, help="the JSON file of the result")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        readers = [reader for reader in make_readers(Path(folder)) if arguments.only in reader.name]
        results = {}
        for reader in readers:
            n_inputs = -(-arguments.inputs // len(readers))
            results[reader.name] = _study(reader, n_inputs, arguments, Path(folder))
            print(f"{reader.name:24s} {_in_words(results[reader.name])}", flush=True)
    total = {key: sum(result[key] for result in results.values()) for key in ("inputs", *OUTCOMES)}
    print(f"{'in all':24s} {_in_words(total)}")
    if arguments.to:
        content = {"seed": arguments.seed, "seconds_limit": arguments.seconds, "megabytes_limit": arguments.megabytes,
                   "total": total, "readers": results}
        arguments.to.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(any(total[key] for key in BAD))


def make_readers(folder: Path) -> Iterator[Reader]:
    """Yield every reader with a valid file."""
    def structure(path: Path) -> list[np.ndarray]:
        atoms = read_structure(SampleSpec(kind="file", path=str(path)), np.random.default_rng(1))
        assert len(atoms) and np.isfinite(atoms.positions_A).all()
        assert 0 < atoms.numbers.min() <= atoms.numbers.max() < 99
        return [atoms.numbers, atoms.positions_A]

    def atoms_of(path: Path) -> list[np.ndarray]:
        atoms = read_atoms(path)
        return [atoms.numbers, atoms.positions_A, atoms.part]

    def volume(path: Path) -> list[np.ndarray]:
        return [read_volume(path, voxel_A=0.5).potential_V]

    def images(path: Path) -> list[np.ndarray]:
        source = open_frames(path)
        angles = [np.nan if info.tilt_deg is None else info.tilt_deg for info in source.infos]
        return [np.array(angles), *(source.read(i) for i in range(min(source.n_frames, 8)))]

    for name, content in _structures(folder):
        yield Reader(f"structure {name}", name, content, structure)
    positions_A = np.array([[0, 0, 0], [1.5, 0, 0], [0, 3, 0.25]])
    some = Atoms(np.array([14, 8, 79]), positions_A, np.array([0, 1, 0]), ("a", "b"))
    for name in ("atoms.xyz", "atoms.csv"):
        write_atoms(folder / name, some)
        yield Reader(f"atoms {name[6:]}", name, (folder / name).read_bytes(), atoms_of)
    array = np.random.default_rng(1).normal(0, 30, (4, 5, 6)).astype(np.float32)
    for name in ("v.mrc", "v.h5", "v.npy"):
        write_volume(folder / name, Volume(array, 0.5))
        yield Reader(f"volume {name[2:]}", name, (folder / name).read_bytes(), volume)
    yield Reader("volume packed h5", "packed.h5", _packed(folder / "packed.h5", array), volume)
    yield Reader("volume emd", "v.emd", _emd_volume(folder / "v.emd", array), volume)
    for name, content in _stacks(folder):
        yield Reader(f"images {name}", name, content, images)
    series = TiltSeries(np.ones((2, 1, 4, 5), np.float32), np.array([0.0, 3.0]), np.array([500.0]), 0.5)
    write_series(folder / "series.h5", series)
    yield Reader("series h5", "series.h5", (folder / "series.h5").read_bytes(),
                 lambda path: [np.asarray(read_series(path).images), read_series(path).tilt_deg])
    yield Reader("angles", "a.rawtlt", b"-3.0\n0.0\n3.0\n", lambda path: [np.array(read_angles(path))])
    yield Reader("table", "a.csv", b"file,frame,tilt_deg,defocus_nm\na.mrc,0,-3,50\na.mrc,1,0,50\n",
                 lambda path: [repr(read_table(path))])
    yield Reader("mdoc", "a.mdoc", b"PixelSpacing = 0.5\nImageSize = 4 5\n[ZValue = 0]\nTiltAngle = -3\nDefocus = -2\n"
                 b"[ZValue = 1]\nTiltAngle = 0\nDefocus = -2\n", lambda path: [repr(read_mdoc(path))])


def _structures(folder: Path) -> Iterator[tuple[str, bytes]]:
    salt = ase.build.bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    for name, ase_format in (("a.xyz", "extxyz"), ("b.cif", "cif"), ("POSCAR", "vasp"), ("a.gen", "gen"),
                             ("a.xsf", "xsf"), ("a.cfg", "cfg"), ("a.cube", "cube"), ("a.sdf", "sdf")):
        ase.io.write(folder / name, salt, format=ase_format)
        yield name, (folder / name).read_bytes()
    yield "plain.xyz", b"3\nwater\nO 0 0 0\nH 0 0 0.96\nH 0 0.93 -0.24\n"
    yield "kirkland.xyz", b"gold in silicon\n 4 4 4\n79 0 0 0 0.5 0.08\n14 2 2 2 1 0.08\n-1\n"
    yield "a.cif", cif(["A Au 0 0 0 0.5", "B Cu 0 0 0 0.5", "C Mg 0.5 0.5 0.5 1"], a=4.0,
                       columns="label type_symbol fract_x fract_y fract_z occupancy",
                       symmetry="_symmetry_space_group_name_H-M 'P m -3 m'\nloop_\n_symmetry_equiv_pos_as_xyz\n"
                                "'x,y,z'\n'-x,-y,-z'\n'1/2+x,1/2+y,z'\n").encode()
    yield "group.cif", cif(["Mg .125 .125 .125", "Al .5 .5 .5", "O .2624 .2624 .2624"], a=8.08,
                           symmetry="_symmetry_space_group_name_H-M 'F d -3 m'\n").encode()
    yield "a.pdb", "".join(pdb_line(name, x=2.0 * i, number=i // 2, altloc="AB"[i % 2], occupancy=0.5)
                           for i, name in enumerate((" CA ", " CA ", " ND1", " ND1", "AU  ", "AU  "))).encode()


def _packed(path: Path, array: np.ndarray) -> bytes:
    with h5py.File(path, "w") as file:
        file.create_dataset("v", data=array, chunks=(2, 2, 2), compression="gzip", shuffle=True)
    return path.read_bytes()


def _emd_volume(path: Path, array: np.ndarray) -> bytes:
    with h5py.File(path, "w") as file:
        group = file.create_group("data/tomogram")
        group.attrs["emd_group_type"] = 1
        group["data"] = array
        for k, axis in enumerate("xyz"):
            group[f"dim{k + 1}"] = np.arange(array.shape[k]) * 0.05
            group[f"dim{k + 1}"].attrs["name"], group[f"dim{k + 1}"].attrs["units"] = axis, "[n_m]"
    return path.read_bytes()


def _stacks(folder: Path) -> Iterator[tuple[str, bytes]]:
    stack = series_files.chiral_images()
    writers: tuple[tuple[str, Callable[[Path], None]], ...] = (
        ("i.mrc", lambda path: series_files.write_mrc(path, stack)),
        ("i.st", lambda path: series_files.write_mrc(path, stack)),
        ("i.emd", lambda path: series_files.write_berkeley(path, stack)),
        ("tomviz.emd", lambda path: series_files.write_tomviz(path, stack, [-3.0, 0.0, 3.0])),
        ("velox.emd", lambda path: series_files.write_velox(path, stack, [-0.05, 0.0, 0.05])),
        ("i.ser", lambda path: series_files.write_ser(path, stack)),
        ("i.tif", lambda path: series_files.write_tiff(path, stack)),
        ("lzw.tif", lambda path: series_files.write_tiff(path, stack, compression="zlib")),
        ("i.dm4", lambda path: series_files.write_dm(path, stack, 4)), ("i.npy", lambda path: np.save(path, stack)))
    for name, write in writers:
        write(folder / name)
        yield name, (folder / name).read_bytes()


def damage(content: bytes, rng: np.random.Generator) -> tuple[bytes, bool]:
    """Return ``content`` with one to four edits, and whether it was only cut off (a text before its last line)."""
    if rng.random() < 0.15:
        at = int(rng.integers(0, len(content)))
        return content[:at], b"\0" in content or b"\n" in content[at:].rstrip(b"\n")
    for _ in range(int(rng.integers(1, 5))):
        # Half of the edits fall into the first bytes, where binary formats have their headers.
        reach = len(content) if rng.random() < 0.5 else min(len(content), 1100)
        at = int(rng.integers(0, max(reach, 1)))
        piece = _TOKENS[int(rng.integers(len(_TOKENS)))] if rng.random() < 0.6 else rng.bytes(int(rng.integers(1, 9)))
        kind = int(rng.integers(5))
        if kind == 0:
            content = content[:at] + piece + content[at + len(piece):]
        elif kind == 1:
            content = content[:at] + piece + content[at:]
        elif kind == 2:
            content = content[:at] + content[at + len(piece):]
        elif kind == 3:
            content = content[:at] + content[max(0, at - 40):at] + content[at:]
        else:
            content = content[:at] + bytes([content[at] ^ 1 << int(rng.integers(8))] if at < len(content) else b"") + (
                content[at + 1:])
    return content, False


def _study(reader: Reader, n_inputs: int, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the counts of one reader; processes that die or hang are replaced."""
    result: dict[str, Any] = {"inputs": n_inputs, **dict.fromkeys(OUTCOMES, 0), "slowest_s": 0.0, "examples": []}
    done = 0
    while done < n_inputs:
        receive, send = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(receive)
            _work(reader, range(done, n_inputs), arguments, folder, send)
        os.close(send)
        done = _collect(receive, child, done, result, arguments.seconds)
    result["slowest_s"] = round(result["slowest_s"], 2)
    return result


def _collect(receive: int, child: int, done: int, result: dict[str, Any], seconds: float) -> int:
    """Count what a process reports until it ends; return the number of the next input."""
    with os.fdopen(receive, encoding="utf-8") as lines:
        while True:
            ready, _, _ = select.select([lines], [], [], 4 * seconds)
            line = lines.readline() if ready else ""
            if line:
                outcome, spent, example = json.loads(line)
                result[outcome] += 1
                result["slowest_s"] = max(result["slowest_s"], spent)
                if example and len(result["examples"]) < 5:
                    result["examples"].append(f"input {done}: {outcome}: {example}")
                done += 1
                continue
            if not ready:
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if status == 0:
                return done
            outcome = "crashes" if ready else "hangs"
            result[outcome] += 1
            result["examples"].append(f"input {done}: {outcome}: status {status}")
            return done + 1


def _work(reader: Reader, numbers: range, arguments: argparse.Namespace, folder: Path, send: int) -> None:
    """Read inputs in this process and report each; end the process."""
    warnings.simplefilter("ignore")
    sys.stderr = open(os.devnull, "w", encoding="utf-8")
    path = folder / "input" / reader.file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(reader.content)
    expected = _digest(reader.read(path))
    limit = _memory_bytes() + arguments.megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, _stop)
    announced = path.suffix.lower() in ANNOUNCED or path.name == "POSCAR"
    for number in numbers:
        rng = np.random.default_rng([arguments.seed, number, *reader.name.encode()])
        content, cut = damage(reader.content, rng)
        path.write_bytes(content)
        started = time.monotonic()
        outcome, example = _try(reader, path, expected, cut and announced, arguments.seconds)
        os.write(send, (json.dumps([outcome, time.monotonic() - started, example]) + "\n").encode())
    os._exit(0)


def _try(reader: Reader, path: Path, expected: str, must_be_whole: bool, seconds: float) -> tuple[str, str]:
    """Return the outcome of one input, and a line about it if it is a bad one."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        found = _digest(reader.read(path))
    except _TooLong:
        return "hangs", "too long"
    except AetlabError as error:
        memory = _memory_error(error)
        if memory:
            return "over_allocations", memory
        return ("tracebacks", "several lines") if "\n" in str(error) or not str(error) else ("refused", "")
    except MemoryError as error:
        return "over_allocations", str(error)[:200]
    except Exception as error:
        return "tracebacks", "".join(traceback.format_exception_only(error)).strip()[:200]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if found == expected:
        return "unchanged", ""
    return ("shortened", f"{path.stat().st_size} of {len(reader.content)} bytes") if must_be_whole else ("other", "")


def _memory_error(error: BaseException | None) -> str:
    """Return the message of a refused allocation behind an error; empty if there is none."""
    while error is not None:
        if isinstance(error, MemoryError) or "allocate" in str(error).lower():
            return str(error)[:200] or "MemoryError"
        error = error.__cause__ or error.__context__
    return ""


def _memory_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _digest(result: list[Any]) -> str:
    digest = hashlib.sha256()
    for item in result:
        digest.update(item.encode() if isinstance(item, str) else np.ascontiguousarray(item).tobytes())
    return digest.hexdigest()


def _stop(number: int, frame: object) -> None:
    raise _TooLong


def _in_words(result: dict[str, Any]) -> str:
    return ", ".join(f"{result[key]} {key}" for key in ("inputs", *OUTCOMES) if result[key])


if __name__ == "__main__":
    sys.exit(main())
