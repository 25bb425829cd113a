"""Structures from files: read, drawn where sites are occupied in part, centred, turned, cropped.

A file is untrusted: only formats that are plain tables of numbers are read, their content goes only to arrays of
numbers, and every failure is a SpecError.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from aetlab.core.nouns import Atoms
from aetlab.core.physics import SYMBOLS
from aetlab.core.structure_text import decode_text, one_of_several
from aetlab.samples.ase_files import read_with_ase
from aetlab.samples.cif import read_cif
from aetlab.samples.occupancy import draw_atoms
from aetlab.samples.pdb import read_pdb
from aetlab.samples.sites import ReadSites, Sites, repeat_cell
from aetlab.samples.spacing import check_spacing
from aetlab.samples.xyz import read_xyz
from aetlab.spec import SampleSpec, SpecError
from aetlab.spec.sample import format_ending

#: Formats by the ending of the file's name: readers that parse text and execute nothing.
FORMATS = {".xyz": "extxyz", ".extxyz": "extxyz", ".cif": "cif", ".pdb": "proteindatabank", ".ent": "proteindatabank",
           ".vasp": "vasp", ".poscar": "vasp", ".gen": "gen", ".xsf": "xsf", ".sdf": "sdf", ".mol": "mol",
           ".cube": "cube", ".cfg": "cfg"}

MAX_FILE_BYTES = 512 * 2**20

#: Largest coordinate in Å.
FARTHEST_A = 1e6

_FILE_AXIS_TO_Y = {"x": [2, 0, 1], "y": [0, 1, 2], "z": [1, 2, 0]}


def read_structure(sample: SampleSpec, rng: np.random.Generator) -> Atoms:
    """Return the atoms of the file ``sample.path``, of several structures that of ``sample.frame``, as one part.

    The cell is repeated and the middle of the bounding box moved to the centre. The axis ``tilt_axis`` of the file
    becomes y (cyclically). The structure is turned about x, then y, then z, cropped, and centred again. ``rng`` then
    draws the atoms of sites that are occupied in part; ``counts`` holds ``n_partial`` and ``n_drawn`` if there are any.
    ``notes`` holds what was decided on reading.

    Raises
    ------
    SpecError
        A file that cannot be read, holds no atoms or elements without a potential, or whose atoms lie nearer to each
        other than atoms can.
    """
    sites, positions_A, inside = _place(sample)
    try:
        filled, counts = draw_atoms(sites, rng)
        keep = inside & filled
        if not keep.any():
            raise ValueError("none of its atoms was drawn")
        notes = (*sites.notes, *check_spacing(sites.numbers[keep], positions_A[keep]))
    except ValueError as error:
        raise SpecError(f"sample.path={sample.path!r} cannot be used: {error}") from None
    if counts:
        partial = inside & ((sites.occupancy < 1) | (sites.choice >= 0))
        counts = {"n_partial": int(partial.sum()), "n_drawn": int((partial & filled).sum())}
    return Atoms(sites.numbers[keep], positions_A[keep], np.zeros(int(keep.sum()), dtype=np.int64), counts=counts,
                 notes=notes)


def site_positions_A(sample: SampleSpec) -> np.ndarray:
    """Return the positions (N, 3) in Å of all sites that can hold an atom, placed as :func:`read_structure` does.

    Raises
    ------
    SpecError
        A file that cannot be read, or holds no atoms.
    """
    _, positions_A, inside = _place(sample)
    return positions_A[inside]


def _place(sample: SampleSpec) -> tuple[Sites, np.ndarray, np.ndarray]:
    """Return the sites of the file, their positions (N, 3) in Å about the centre of the crop, and which lie in it."""
    sites = _read(sample)
    positions_A = _centred(sites.positions_A)[:, _FILE_AXIS_TO_Y[sample.tilt_axis]]
    positions_A = Rotation.from_euler("xyz", sample.rotate_deg, degrees=True).apply(positions_A)
    inside = _inside_crop(_centred(positions_A), sample)
    if not inside.any():
        raise SpecError(f"sample.crop_size_A={sample.crop_size_A!r} cannot be used: it leaves no atoms of "
                        f"{sample.path}")
    return sites, positions_A - (positions_A[inside].min(axis=0) + positions_A[inside].max(axis=0)) / 2, inside


def _read(sample: SampleSpec) -> Sites:
    """Return the sites of the file, its cell repeated, checked."""
    path = Path(sample.path).expanduser()
    file_format = _file_format(sample)
    refusal = f"sample.path={sample.path!r} cannot be read"
    try:
        structures = _parse(_content(path, sample), file_format)
        if not structures:
            raise SpecError(f"sample.path={sample.path!r} cannot be used: it holds no atoms")
        read, notes = one_of_several(structures, sample.frame, "sample.frame", sample.path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sites = read()
        sites = replace(sites, notes=(*notes, *sites.notes))
    except SpecError:
        raise
    except ImportError as error:
        raise SpecError(f"{refusal}: ASE is not installed (pip install ase)") from error
    except OSError as error:
        raise SpecError(f"{refusal}: {error.strerror or _one_line(error)}") from error
    except Exception as error:  # ASE's readers raise exceptions of every kind on malformed files
        raise SpecError(f"{refusal} as {file_format}: {_explain(error)}") from error
    _check_atoms(sites, sample)
    try:
        return repeat_cell(sites, sample.repeat)
    except ValueError as error:
        raise SpecError(f"sample.repeat={sample.repeat!r} cannot be used: {error} ({sample.path})") from None


def _file_format(sample: SampleSpec) -> str:
    """Return the name of the file's format, by its name."""
    file_format = FORMATS.get(format_ending(sample.path))
    if file_format is None:
        raise SpecError(f"sample.path={sample.path!r} cannot be used: the ending of its name is that of no known "
                        f"format; known are {', '.join(FORMATS)}, POSCAR and CONTCAR")
    return file_format


def _parse(content: bytes, file_format: str) -> list[ReadSites]:
    """Return a function for each structure of the file, which reads its sites."""
    text = decode_text(content)
    readers = {"extxyz": read_xyz, "cif": read_cif, "proteindatabank": read_pdb}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if file_format in readers:
            return readers[file_format](text)
        return read_with_ase(text, file_format)


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


def _check_atoms(sites: Sites, sample: SampleSpec) -> None:
    """Raise SpecError for no atoms, unknown elements, and positions that are not finite."""
    if len(sites) == 0:
        raise SpecError(f"sample.path={sample.path!r} cannot be used: it holds no atoms")
    unknown = sorted(set(sites.numbers.tolist()) - set(range(1, len(SYMBOLS))))
    if unknown:
        raise SpecError(f"sample.path={sample.path!r} cannot be used: no potential for atomic number "
                        f"{', '.join(str(Z) for Z in unknown[:5])}; elements 1 to {len(SYMBOLS) - 1} are known")
    if not (np.abs(sites.positions_A) < FARTHEST_A).all():
        raise SpecError(f"sample.path={sample.path!r} cannot be used: some positions are not finite or beyond "
                        f"{FARTHEST_A:.0e} Å")


def _explain(error: Exception) -> str:
    """Return the reason of a reader's error in one line."""
    if isinstance(error, KeyError):
        return f"{str(error.args[0] if error.args else '')[:30]!r} names no chemical element"
    if isinstance(error, (StopIteration, EOFError)) and not str(error):
        return "it ends too early, or holds no structure"
    return _one_line(error) if isinstance(error, ValueError) else f"{type(error).__name__} {_one_line(error)}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


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
