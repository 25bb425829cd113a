"""Readers of foreign files: any input is read or refused with one clear error, and no code in it is run.

AETLAB_FUZZ sets how many inputs each reader gets (default 150). The long run:

    AETLAB_FUZZ=100000 python -m pytest -q tests/test_fuzz.py
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import h5py
import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aetlab.core.files import StorageError
from aetlab.core.hdf5 import dataset_names, read_dataset, write_datasets
from aetlab.exchange.volume_files import FileError, read_volume
from aetlab.samples.structure_file import read_structure
from aetlab.spec import RunSpec, SampleSpec, SpecError
from aetlab.spec.bind import bind_run, unbind
from aetlab.store import record as records
from aetlab.store.array_file import read_container, write_container
from aetlab.store.record import Dataset, History, array_names, read_array, read_history, read_record, write_record

T = TypeVar("T")
N_INPUTS = int(os.environ.get("AETLAB_FUZZ", "150"))
fuzz = settings(max_examples=N_INPUTS)

#: Words that mean something to some reader.
TOKENS = st.sampled_from([
    b"0", b"-1", b"nan", b"inf", b"1e400", b"99999999999999999999", b"null", b"{}", b"[]", b'"', b"\n", b"\x00",
    b"\xff\xff\xff\xff", b"Si", b"Zz", b"Lattice=", b"../..", b"!!python/object", b"cos\n"])
EDITS = st.lists(st.tuples(st.sampled_from(["set", "insert", "remove", "cut", "repeat"]), st.floats(0, 1),
                           TOKENS | st.binary(min_size=1, max_size=8)), min_size=1, max_size=6)


def changed(content: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    """``content`` with bytes set, inserted, removed, cut off at the end or repeated."""
    for kind, where, piece in edits:
        i = int(where * len(content))
        if kind == "set":
            content = content[:i] + piece + content[i + len(piece):]
        elif kind == "insert":
            content = content[:i] + piece + content[i:]
        elif kind == "remove":
            content = content[:i] + content[i + len(piece):]
        elif kind == "cut":
            content = content[:i]
        else:
            content = content[:i] + content[max(0, i - 40):i] + content[i:]
    return content


def read_or_refuse(read: Callable[[], T], *errors: type[Exception]) -> T | None:
    """Return ``read()``, or None if it raises one of ``errors``, whose message must be one line."""
    try:
        return read()
    except errors as refusal:
        assert str(refusal) and "\n" not in str(refusal) and len(str(refusal)) < 2000
        return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@fuzz
@given(edits=EDITS)
def test_damaged_settings_are_bound_or_refused(smoke_spec: RunSpec, edits: list[tuple[str, float, bytes]]) -> None:
    text = changed(json.dumps(unbind(smoke_spec)).encode(), edits)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return
    read_or_refuse(lambda: bind_run(content), SpecError)


@fuzz
@given(name=st.sampled_from([*records.FILES, records.MANIFEST]), edits=EDITS, mend=st.booleans())
def test_damaged_records_are_refused(folder: Path, smoke_spec: RunSpec, name: str,
                                     edits: list[tuple[str, float, bytes]], mend: bool) -> None:
    """A record with ``mend``, which corrects the checksum as an attacker would, may be read if its content is sound."""
    pristine = folder / "pristine"
    if not pristine.exists():
        volume = Dataset(np.ones((2, 3, 4), np.float32), "V", {"voxel_A": 0.5})
        written = write_record(folder / "records", smoke_spec, metrics={"a": 1.0, "b": float("nan")},
                               environment={"x": 1}, history=History(np.ones(2), np.ones(2)), log="said",
                               arrays={"volume/potential_V": volume})
        shutil.copytree(written, pristine)
    place = next((folder / "records").iterdir())
    content = changed((pristine / name).read_bytes(), edits)
    (place / name).write_bytes(content)
    if mend and name != records.MANIFEST:
        manifest = json.loads((pristine / records.MANIFEST).read_text(encoding="utf-8"))
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        (place / records.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")

    def read() -> bool:
        record = read_record(place)
        read_history(record)
        for array in array_names(record):
            read_array(record, array)
        return True

    was_read = read_or_refuse(read, StorageError)
    if content != (pristine / name).read_bytes() and not mend and name != records.MANIFEST:
        assert was_read is None
    for restored in {name, records.MANIFEST}:
        shutil.copy(pristine / restored, place / restored)


@fuzz
@given(edits=EDITS, mend=st.booleans())
def test_damaged_containers_are_refused(folder: Path, edits: list[tuple[str, float, bytes]], mend: bool) -> None:
    """Without ``mend``, which corrects the checksum, what is read are the arrays that were written."""
    path = folder / "container"
    write_container(path, {"a": np.arange(6.0).reshape(2, 3), "b": np.zeros(0)}, {"n": 1})
    content = path.read_bytes()
    if mend:
        body = changed(content[512:], edits)
        line = b" ".join([*content.split(b" ", 2)[:2], hashlib.sha256(body).hexdigest().encode()]) + b"\n"
        path.write_bytes(line.ljust(512, b"\0") + body)
    else:
        path.write_bytes(changed(content, edits))
    found = read_or_refuse(lambda: read_container(path), StorageError)
    if found is not None and not mend:
        assert list(found[0]) == ["a", "b"] and found[1] == {"n": 1}
        np.testing.assert_array_equal(found[0]["a"], [[0, 1, 2], [3, 4, 5]])


@fuzz
@given(edits=EDITS)
def test_damaged_hdf5_files_are_read_or_refused(folder: Path, edits: list[tuple[str, float, bytes]]) -> None:
    pristine, path = folder / "pristine.h5", folder / "changed.h5"
    if not pristine.exists():
        write_datasets(pristine, {"volume/potential_V": (np.ones((2, 3, 4), np.float32), {"unit": "V"}),
                                  "traced/numbers": (np.array([14, 8]), {"unit": "1", "n": 2})})
    path.write_bytes(changed(pristine.read_bytes(), edits))

    def read() -> None:
        for name in ("volume/potential_V", *dataset_names(path)):
            read_dataset(path, name)

    read_or_refuse(read, StorageError)


STRUCTURES = {
    "xyz": b"3\nwater\nO 0 0 0\nH 0 0 0.96\nH 0 0.93 -0.24\n",
    "extxyz": (b'2\nLattice="5.4 0 0 0 5.4 0 0 0 5.4" Properties=species:S:1:pos:R:3 pbc="T T T"\n'
               b"Si 0 0 0\nSi 1.35 1.35 1.35\n"),
    "cif": (b"data_x\n_cell_length_a 5.431\n_cell_length_b 5.431\n_cell_length_c 5.431\n_cell_angle_alpha 90\n"
            b"_cell_angle_beta 90\n_cell_angle_gamma 90\nloop_\n_atom_site_label\n_atom_site_fract_x\n"
            b"_atom_site_fract_y\n_atom_site_fract_z\nSi 0 0 0\nSi 0.25 0.25 0.25\n"),
    "pdb": (b"ATOM      1 SI   MOL     1       0.000   0.000   0.000  1.00  0.00          SI\n"
            b"ATOM      2  O   MOL     1       1.600   0.000   0.000  1.00  0.00           O\nEND\n"),
}


@pytest.mark.filterwarnings("ignore")
@fuzz
@given(ending=st.sampled_from(sorted(STRUCTURES)), edits=EDITS)
def test_damaged_structure_files_are_read_or_refused(folder: Path, ending: str,
                                                     edits: list[tuple[str, float, bytes]]) -> None:
    path = folder / f"structure.{ending}"
    path.write_bytes(changed(STRUCTURES[ending], edits))
    read_or_refuse(lambda: read_structure(SampleSpec(kind="file", path=str(path)), np.random.default_rng(1)), SpecError)


@pytest.mark.filterwarnings("ignore")
@fuzz
@given(ending=st.sampled_from(["mrc", "npy", "h5"]), edits=EDITS)
def test_damaged_volumes_are_read_or_refused(folder: Path, ending: str, edits: list[tuple[str, float, bytes]]) -> None:
    pristine, path = folder / f"volume.{ending}", folder / f"changed_volume.{ending}"
    volume = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    if not pristine.exists():
        if ending == "mrc":
            mrcfile.write(pristine, volume)
        elif ending == "npy":
            np.save(pristine, volume)
        else:
            with h5py.File(pristine, "w") as file:
                file["volume"] = volume
    path.write_bytes(changed(pristine.read_bytes(), edits))
    read_or_refuse(lambda: read_volume(path, voxel_A=0.5), FileError)
