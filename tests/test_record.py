"""Records, shared stages and checkpoints: complete or absent, verified when read, named by their settings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import multiprocessing
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from aetlab.core.files import StorageError
from aetlab.core.hdf5 import dataset_names, read_dataset, write_datasets
from aetlab.samples.structure_file import read_structure
from aetlab.spec import RunSpec, SpecError
from aetlab.spec.bind import bind_inputs, bind_run, unbind
from aetlab.store import record as records
from aetlab.store.identity import canonical_json, record_id
from aetlab.store.record import (
    Dataset,
    History,
    Places,
    Record,
    RecordError,
    find_record,
    list_records,
    read_array,
    read_history,
    read_record,
    write_record,
)

ARRAYS = {
    "volume/potential_V": Dataset(np.arange(960, dtype=np.float32).reshape(8, 10, 12), "V", {"voxel_A": 0.5}),
    "traced/positions_A": Dataset(np.zeros((0, 3)), "Å"),
    "traced/numbers": Dataset(np.array([14, 8]), "1"),
}


def write(folder: Path, spec: RunSpec) -> Path:
    """Write a small record of ``spec``; return its folder."""
    return write_record(folder, spec, metrics={"found_percent": 99.5, "n_true": 2, "strict_rmsd_pm": math.nan},
                        history=History(np.array([3.0, 1 / 3]), np.array([0.1, 0.2])), arrays=ARRAYS,
                        environment={"finished": "2026-01-02T03:04:05+00:00"}, log="what was said\n")


@pytest.fixture
def written(tmp_path: Path, smoke_spec: RunSpec) -> Record:
    return read_record(write(tmp_path / "records", smoke_spec))


def test_a_record_is_read_as_it_was_written(written: Record, smoke_spec: RunSpec) -> None:
    assert written.spec == smoke_spec and written.id == record_id(smoke_spec)
    assert written.metrics["found_percent"] == 99.5 and math.isnan(written.metrics["strict_rmsd_pm"])
    assert read_history(written).cost.tolist() == [3.0, 1 / 3]
    for name, given in ARRAYS.items():
        read = read_array(written, name)
        np.testing.assert_array_equal(read.values, given.values)
        assert read.unit == given.unit and read.attributes == dict(given.attributes)
    assert records.array_names(written) == tuple(sorted(ARRAYS))
    assert not written.made_by_other_code
    assert (written.folder / "log.txt").read_text(encoding="utf-8") == "what was said\n"
    assert sorted(path.name for path in written.folder.iterdir()) == sorted([*records.FILES, records.MANIFEST])


def test_equal_settings_have_one_identity_and_others_differ(smoke_spec: RunSpec,
                                                            change: Callable[..., RunSpec]) -> None:
    settings = unbind(smoke_spec)
    turned = json.loads(json.dumps({group: settings[group] for group in reversed(settings)}), parse_int=float)
    assert record_id(bind_run(turned)) == record_id(smoke_spec)
    assert canonical_json({"b": 1000.0, "a": (1, 2)}) == '{"a":[1,2],"b":1000}'
    assert canonical_json({"a": [1.0, 2], "b": 1000}) == '{"a":[1,2],"b":1000}'
    assert canonical_json(math.inf) == '"inf"'
    for same in (change(smoke_spec, "engine", device="cpu", n_threads=2), change(smoke_spec, "scale", name="mine")):
        assert record_id(same) == record_id(smoke_spec)
    for other in (change(smoke_spec, "engine", step=1.4), change(smoke_spec, "dose", total_e_A2=math.inf),
                  change(smoke_spec, "defocus", planes_nm=(20.0,)), dataclasses.replace(smoke_spec, seed=1)):
        assert record_id(other) != record_id(smoke_spec)


def test_a_structure_file_is_identified_by_its_content(tmp_path: Path, smoke_spec: RunSpec,
                                                       change: Callable[..., RunSpec]) -> None:
    first, second = tmp_path / "a.xyz", tmp_path / "b.xyz"
    first.write_text("1\n\nSi 0 0 0\n", encoding="utf-8")
    shutil.copy(first, second)
    unbound = [change(smoke_spec, "sample", kind="file", path=str(path)) for path in (first, second)]
    one, other = (bind_inputs(spec) for spec in unbound)
    assert one.sample.digest == hashlib.sha256(b"1\n\nSi 0 0 0\n").hexdigest()
    assert record_id(one) == record_id(other)
    second.write_text("1\n\nSi 0 0 1\n", encoding="utf-8")
    assert record_id(one) == record_id(other)  # taken once, when the settings were bound
    with pytest.raises(SpecError, match=r"sample\.path=.*b\.xyz' cannot be used: the file has changed since"):
        read_structure(other.sample, np.random.default_rng(0))
    with pytest.raises(SpecError, match=r"sample\.path=.*b\.xyz' cannot be used: the file has changed since"):
        bind_inputs(other)
    assert record_id(bind_inputs(unbound[1])) != record_id(one)
    poscar = tmp_path / "contcar.xyz"  # read in another format
    shutil.copy(first, poscar)
    assert record_id(bind_inputs(change(smoke_spec, "sample", kind="file", path=str(poscar)))) != record_id(one)
    second.unlink()
    with pytest.raises(SpecError, match=r"sample\.path=.* cannot be read: No such file"):
        bind_inputs(unbound[1])
    with pytest.raises(SpecError, match=r"sample\.digest='' cannot be used: the digest of sample\.path is taken when"):
        record_id(unbound[0])


@pytest.mark.parametrize("name", [*records.FILES, records.MANIFEST])
@pytest.mark.parametrize("harm", ["remove", "truncate", "change", "link"])
def test_damage_is_found_named_and_set_aside(written: Record, smoke_spec: RunSpec, tmp_path: Path, name: str,
                                             harm: str) -> None:
    path = written.folder / name
    content = path.read_bytes()
    if harm == "remove":
        path.unlink()
    elif harm == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "change":
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    else:
        shutil.move(path, tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RecordError, match=written.id) as refusal:
        read_record(written.folder)
    assert "\n" not in str(refusal.value)
    places = Places(tmp_path)
    found, note = find_record(places, smoke_spec)
    assert found is None and "set aside" in note
    assert not written.folder.exists() and len(list(places.damaged.iterdir())) == 1
    assert read_record(write(places.records, smoke_spec)).id == written.id


def test_another_schema_is_refused_clearly(written: Record) -> None:
    manifest = json.loads((written.folder / records.MANIFEST).read_text(encoding="utf-8"))
    (written.folder / records.MANIFEST).write_text(json.dumps(manifest | {"schema": 99}), encoding="utf-8")
    with pytest.raises(RecordError, match="has schema 99, this version of aetlab reads 1: use the version that wrote"):
        read_record(written.folder)


def test_a_record_with_other_settings_is_refused_clearly(written: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """Edit the record as if an aetlab with another setting had written it."""
    settings = json.loads((written.folder / "spec.json").read_text(encoding="utf-8"))
    settings["engine"]["pace"] = 1
    text = json.dumps(settings)
    (written.folder / "spec.json").write_text(text, encoding="utf-8")
    path = written.folder / records.MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["files"]["spec.json"] = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text)}
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(RecordError, match="spec.json does not hold the settings of its id"):
        read_record(written.folder)
    monkeypatch.setattr(records, "code_id", lambda: "changed")
    with pytest.raises(RecordError, match="made by other code with other settings"):
        read_record(written.folder)


def test_a_record_of_other_code_is_used_only_on_request(written: Record, smoke_spec: RunSpec, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "code_id", lambda: "changed")
    places = Places(tmp_path)
    used, note = find_record(places, smoke_spec, use_other_code=True)
    assert used is not None and used.made_by_other_code and note == ""
    remade, note = find_record(places, smoke_spec)
    assert remade is None and "was made by other code" in note
    assert len(list(places.damaged.iterdir())) == 1


def test_a_manifest_cannot_name_files_outside_its_record(written: Record) -> None:
    path = written.folder / records.MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["files"]["../../etc/passwd"] = manifest["files"].pop("log.txt")
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(RecordError, match="must list exactly"):
        read_record(written.folder)


def test_an_hdf5_file_cannot_link_to_other_files_or_exhaust_memory(tmp_path: Path) -> None:
    path = tmp_path / "arrays.h5"
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.ones(3)
    with h5py.File(path, "w") as file:
        file["soft"] = h5py.SoftLink("/real")
        file["real"] = np.ones(3)
        file["external_link"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "secret")
        file.create_dataset("external", (3,), "f8", external=[(str(tmp_path / "raw"), 0, 24)])
        file.create_dataset("huge", (1 << 40,), "f8")
        file.create_dataset("bomb", (1 << 20,), "f8", compression="gzip", fillvalue=1.0)
        file.create_dataset("text", data=np.array(["a"], dtype=object), dtype=h5py.string_dtype())
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", (3,))
        file.create_virtual_dataset("virtual", layout)
    np.testing.assert_array_equal(read_dataset(path, "real")[0], np.ones(3))
    for name in ("soft", "external_link", "external", "huge", "bomb", "text", "virtual", "nothing", "real/deeper"):
        with pytest.raises(StorageError, match=r"arrays\.h5"):
            read_dataset(path, name)


def test_a_dataset_named_in_another_encoding_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[b"a\xff"] = np.ones(2)
        file["b"] = np.ones(2)
    with pytest.raises(StorageError, match="is not a name in UTF-8"):
        dataset_names(tmp_path / "a.h5")


def test_listing_names_damaged_records_and_continues(written: Record, smoke_spec: RunSpec) -> None:
    other = write(written.folder.parent, dataclasses.replace(smoke_spec, seed=1))
    (other / "metrics.json").unlink()
    (written.folder.parent / ".partial-left").mkdir()
    sound, broken = list_records(written.folder.parent)
    assert [record.id for record in sound] == [written.id]
    assert len(broken) == 1 and other.name in str(broken[0])


def test_a_full_disk_leaves_no_partial_record(tmp_path: Path, smoke_spec: RunSpec) -> None:
    """A limit on the size of files replaces the full disk: it makes the write fail with a system error, too."""
    child = multiprocessing.get_context("spawn").Process(target=_write_with_small_files, args=(tmp_path, smoke_spec))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert (tmp_path / "told").read_text(encoding="utf-8").startswith("cannot write")
    assert list((tmp_path / "records").iterdir()) == []


def _write_with_small_files(folder: Path, spec: RunSpec) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        write(folder / "records", spec)
    except StorageError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        (folder / "told").write_text(str(error), encoding="utf-8")


def test_text_of_free_length_in_an_attribute_is_refused(tmp_path: Path) -> None:
    """The HDF5 library may hang when it reads a damaged one."""
    path = tmp_path / "volume.h5"
    write_datasets(path, {"a": (np.arange(3.0), {"unit": "e/Å²", "empty": "", "n": 3})})
    assert read_dataset(path, "a")[1] == {"unit": "e/Å²", "empty": "", "n": 3}
    with h5py.File(path, "r+") as file:
        file["a"].attrs["unit"] = "V"
    with pytest.raises(StorageError, match="'unit' of /a is neither a number nor text of fixed length"):
        read_dataset(path, "a")
