"""Structures from files, read by ASE: centred, turned, cropped.

A file is untrusted: only formats that are plain tables of numbers are read, their content goes only to arrays of
numbers, and every failure is a SpecError.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from aetlab.core.nouns import Atoms
from aetlab.core.physics import SYMBOLS
from aetlab.spec import SampleSpec, SpecError
from aetlab.spec.sample import format_ending

#: ASE's readers that parse text and execute nothing, by the ending of the file's name.
FORMATS = {".xyz": "extxyz", ".extxyz": "extxyz", ".cif": "cif", ".pdb": "proteindatabank", ".ent": "proteindatabank",
           ".vasp": "vasp", ".poscar": "vasp", ".gen": "gen", ".xsf": "xsf", ".sdf": "sdf", ".mol": "mol",
           ".cube": "cube", ".cfg": "cfg"}

MAX_FILE_BYTES = 512 * 2**20
MAX_ATOMS = 20_000_000

#: Largest coordinate in Å.
FARTHEST_A = 1e6

#: Two atoms nearer than this are one site listed twice, as in files with partial occupancies.
SAME_SITE_A = 0.1

#: Lines that a reader may ask for beyond the end of a file before it is stopped.
LINES_BEYOND_END = 1000

_FILE_AXIS_TO_Y = {"x": [2, 0, 1], "y": [0, 1, 2], "z": [1, 2, 0]}


def read_structure(sample: SampleSpec) -> Atoms:
    """Return the atoms of the file ``sample.path``, the last of several structures, with one part (``all``).

    The cell is repeated and the middle of the bounding box moved to the centre. The axis ``tilt_axis`` of the file
    becomes y (cyclically). The structure is turned about x, then y, then z, cropped, and centred again.

    Raises
    ------
    SpecError
        A file that cannot be read, holds no atoms, or holds elements without a potential.
    """
    numbers, positions_A = _read(sample)
    positions_A = _centred(positions_A)[:, _FILE_AXIS_TO_Y[sample.tilt_axis]]
    positions_A = Rotation.from_euler("xyz", sample.rotate_deg, degrees=True).apply(positions_A)
    inside = _inside_crop(_centred(positions_A), sample)
    if not inside.any():
        raise SpecError(f"sample.crop_size_A={sample.crop_size_A!r} cannot be used: it leaves no atoms of "
                        f"{sample.path}")
    return Atoms(numbers[inside], _centred(positions_A[inside]), np.zeros(int(inside.sum()), dtype=np.int64))


class _Lines(io.TextIOWrapper):
    """Text of a file that raises EOFError in a reader that requests many lines beyond the last.

    Some of ASE's readers request as many lines as the file announces atoms: 10²⁰ of them would never end.
    """

    _n_beyond = 0

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # the type of bytes files
        line = super().readline(size)
        if not line:
            self._n_beyond += 1
            if self._n_beyond > LINES_BEYOND_END:
                raise EOFError("it ends before all that it announces")
        return line


def _read(sample: SampleSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return the atomic numbers (N,) and positions (N, 3) in Å of the file, checked."""
    path = Path(sample.path).expanduser()
    file_format = _file_format(sample)
    try:
        numbers, positions_A = _parse(path, file_format, sample)
    except SpecError:
        raise
    except ImportError as error:
        raise SpecError(f"sample.path={sample.path!r} cannot be read: ASE is not installed "
                        f"(pip install ase)") from error
    except OSError as error:
        raise SpecError(f"sample.path={sample.path!r} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # ASE's readers raise exceptions of every kind on malformed files
        raise SpecError(f"sample.path={sample.path!r} cannot be read as {file_format}: "
                        f"{type(error).__name__} {_one_line(error)}") from error
    _check_atoms(numbers, positions_A, sample)
    return numbers, positions_A


def _file_format(sample: SampleSpec) -> str:
    """Return ASE's name of the file's format, by its name."""
    file_format = FORMATS.get(format_ending(sample.path))
    if file_format is None:
        raise SpecError(f"sample.path={sample.path!r} cannot be used: the ending of its name is that of no known "
                        f"format; known are {', '.join(FORMATS)}, POSCAR and CONTCAR")
    return file_format


def _parse(path: Path, file_format: str, sample: SampleSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers and positions of the last structure in the file, its cell repeated."""
    file = io.BytesIO(_content(path, sample))
    import ase.io

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        structure = ase.io.read(file if file_format == "cif" else _Lines(file), format=file_format)
        if isinstance(structure, list):
            structure = structure[-1]
        if sample.repeat != (1, 1, 1) and structure.cell.rank < 3:
            raise SpecError(f"sample.repeat={sample.repeat!r} cannot be used: {sample.path} has no unit cell")
        if len(structure) * int(np.prod(sample.repeat)) > MAX_ATOMS:
            raise SpecError(f"sample.repeat={sample.repeat!r} cannot be used: it makes more than {MAX_ATOMS} atoms")
        if sample.repeat != (1, 1, 1):
            structure = structure.repeat(sample.repeat)
        numbers = np.array(structure.numbers, dtype=np.int64)
        return numbers, np.asarray(structure.positions, dtype=np.float64).reshape(-1, 3)


def _content(path: Path, sample: SampleSpec) -> bytes:
    """Return the bytes of the file; raise SpecError if they are not those of ``sample.digest``."""
    if not path.is_file() and path.exists():
        raise SpecError(f"sample.path={sample.path!r} cannot be read: it is not a regular file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise SpecError(f"sample.path={sample.path!r} cannot be used: the file is larger than "
                        f"{MAX_FILE_BYTES // 2**20} MiB")
    content = path.read_bytes()
    if sample.digest and hashlib.sha256(content).hexdigest() != sample.digest:
        raise SpecError(f"sample.path={sample.path!r} cannot be used: the file has changed since the settings were "
                        f"bound (sample.digest={sample.digest[:12]}…); start again")
    return content


def _check_atoms(numbers: np.ndarray, positions_A: np.ndarray, sample: SampleSpec) -> None:
    """Raise SpecError for no atoms, unknown elements, positions that are not finite, and sites listed twice."""
    if len(numbers) == 0:
        raise SpecError(f"sample.path={sample.path!r} cannot be used: it holds no atoms")
    unknown = sorted(set(numbers.tolist()) - set(range(1, len(SYMBOLS))))
    if unknown:
        raise SpecError(f"sample.path={sample.path!r} cannot be used: no potential for atomic number "
                        f"{', '.join(str(Z) for Z in unknown[:5])}; elements 1 to {len(SYMBOLS) - 1} are known")
    if not (np.abs(positions_A) < FARTHEST_A).all():
        raise SpecError(f"sample.path={sample.path!r} cannot be used: some positions are not finite or beyond "
                        f"{FARTHEST_A:.0e} Å")
    if len(numbers) > 1 and cKDTree(positions_A).query(positions_A, 2)[0][:, 1].min() < SAME_SITE_A:
        raise SpecError(f"sample.path={sample.path!r} cannot be used: it lists atoms nearer than {SAME_SITE_A} Å to "
                        f"each other (partial occupancies, or a cell repeated twice?)")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def _centred(positions_A: np.ndarray) -> np.ndarray:
    return positions_A - (positions_A.min(axis=0) + positions_A.max(axis=0)) / 2


def _inside_crop(positions_A: np.ndarray, sample: SampleSpec) -> np.ndarray:
    size = sample.crop_size_A
    if sample.crop == "sphere":
        return np.linalg.norm(positions_A, axis=1) <= size[0] / 2
    if sample.crop == "cylinder":
        radius_A, height_A = np.hypot(positions_A[:, 0], positions_A[:, 2]), np.abs(positions_A[:, 1])
        return (radius_A <= size[0] / 2) & (height_A <= size[1] / 2)
    if sample.crop == "box":
        return np.all(np.abs(positions_A) <= np.array(size) / 2, axis=1)
    return np.ones(len(positions_A), dtype=bool)
