"""Files that runs share or leave to continue: complete, checked when read, and refused under another name."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from aetlab.core.files import StorageError
from aetlab.store.array_file import read_container, write_container
from aetlab.store.cache import shared_stage, stage_path
from aetlab.store.checkpoint import CheckpointFile, Schedule, load_checkpoint, save_checkpoint
from aetlab.store.identity import code_id


def test_containers_are_read_as_they_were_written(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(1, 2, 3), "e": np.zeros((0, 2)), "s": np.float64(2.5),
              "state": np.arange(3), "b": np.array([True, False]), "t": np.arange(6.0).reshape(2, 3).T}
    write_container(tmp_path / "c", arrays, {"n": 3})
    read, state = read_container(tmp_path / "c")
    assert state == {"n": 3}
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype and read[name].shape == np.shape(array)
    with h5py.File(tmp_path / "c") as file:  # as any program for HDF5 does
        np.testing.assert_array_equal(file["arrays/a"], arrays["a"])
    write_container(tmp_path / "again", arrays, {"n": 3})
    assert (tmp_path / "again").read_bytes() == (tmp_path / "c").read_bytes()


def test_a_container_whose_writer_died_before_the_checksum_is_refused(tmp_path: Path) -> None:
    """Even if a file system gave the unfinished file its final name."""
    path = tmp_path / "c"
    write_container(path, {"a": np.arange(4.0)}, {"n": 3})
    path.write_bytes(bytes(512) + path.read_bytes()[512:])
    with pytest.raises(StorageError, match="is not a file of aetlab arrays"):
        read_container(path)


def test_every_changed_or_missing_byte_of_a_container_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "c"
    write_container(path, {"a": np.arange(4.0)}, {"n": 3})
    content = path.read_bytes()
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 4]) + content[i + 1:])
        with pytest.raises(StorageError):
            read_container(path)
        path.write_bytes(content[:i])
        with pytest.raises(StorageError):
            read_container(path)


def test_a_checkpoint_restores_the_random_generator(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rng.random(7)
    path = tmp_path / "work" / "checkpoint.h5"
    save_checkpoint(path, {"volume": np.ones(3)}, {"n_done": 4}, rng, run="r", data="a")
    expected = rng.random(5)
    other = np.random.default_rng(6)
    arrays, state = load_checkpoint(path, other, run="r", data="a")
    assert state == {"n_done": 4} and arrays["volume"].tolist() == [1, 1, 1]
    np.testing.assert_array_equal(other.random(5), expected)


def test_a_checkpoint_of_another_run_code_or_series_is_refused_and_named(tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs on the same images differ in their regulariser only: neither may continue the other."""
    path, rng, told = tmp_path / "checkpoint.h5", np.random.default_rng(5), []

    def load(run: str, data: str) -> object:
        return CheckpointFile(path, run=run, data=data, say=told.append).load(rng)

    assert load("r", "a") is None and told == []
    save_checkpoint(path, {}, {"n_done": 4}, rng, run="r", data="a")
    assert load("r", "a") == ({}, {"n_done": 4}) and told == []
    assert load("s", "a") is None and "belongs to other run: 'r', not 's'; the reconstruction starts" in told[-1]
    assert load("r", "b") is None and "belongs to other data" in told[-1]
    with monkeypatch.context() as patch:
        patch.setattr("aetlab.store.checkpoint.code_id", lambda: "changed")
        assert load("r", "a") is None and "belongs to other code" in told[-1]
    write_container(path, {}, {"run": "r", "code": code_id(), "data": "a", "state": 3})
    assert load("r", "a") is None and "holds no state" in told[-1]
    path.write_bytes(path.read_bytes()[:-1])
    assert load("r", "a") is None and "checkpoint.h5 is damaged: its checksum" in told[-1]


def test_checkpoints_cost_a_small_share_of_the_time() -> None:
    now = [0.0]
    schedule = Schedule(share=0.01, least_s=1.0, clock=lambda: now[0])
    spent, due = 0.0, 0
    for _ in range(10_000):
        now[0] += 0.1
        if schedule.due():
            due += 1

            def save() -> None:
                now[0] += 0.5

            schedule.write(save)
            spent += 0.5
    assert due > 5 and spent / now[0] < 0.015


def test_a_shared_stage_is_computed_once_and_made_again_when_damaged(tmp_path: Path) -> None:
    calls, told = [], []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"images": np.arange(3.0)}

    for _ in range(3):
        np.testing.assert_array_equal(shared_stage(tmp_path, "tilt_series", {"a": 1}, compute, told.append)["images"],
                                      np.arange(3.0))
    assert len(calls) == 1 and "shared, read from" in told[-1]
    path = stage_path(tmp_path, "tilt_series", {"a": 1})
    path.write_bytes(path.read_bytes()[:-3])
    shared_stage(tmp_path, "tilt_series", {"a": 1}, compute, told.append)
    assert len(calls) == 2 and "damaged" in told[-1]
    shared_stage(tmp_path, "tilt_series", {"a": 1.0}, compute)
    assert len(calls) == 2
    shared_stage(tmp_path, "tilt_series", {"a": 2}, compute)
    assert len(calls) == 3


def test_a_cache_file_under_the_name_of_another_is_refused(tmp_path: Path) -> None:
    told: list[str] = []

    def share(key: int) -> list[float]:
        return shared_stage(tmp_path, "stage", key, lambda: {"x": np.full(2, float(key))}, told.append)["x"].tolist()

    assert share(1) == [1, 1] and share(2) == [2, 2]
    one, two = (stage_path(tmp_path, "stage", key) for key in (1, 2))
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    assert share(1) == [1, 1] and "holds the result of other settings or other code; computed again" in told[-1]
    assert share(2) == [2, 2] and "other settings" in told[-1]
    one.unlink()
    one.mkdir()
    (one / "something").touch()
    assert share(1) == [1, 1] and "cannot be read: Is a directory; set aside as" in told[-1]
    assert share(1) == [1, 1] and "shared, read from" in told[-1]
    one.unlink()
    os.mkfifo(one)
    assert share(1) == [1, 1] and "cannot be read: it is not a regular file; computed again" in told[-1]


def test_four_workers_compute_one_stage_once_even_if_one_is_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    doomed = context.Process(target=_compute_slowly, args=(tmp_path, 60.0))
    doomed.start()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("started-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = [context.Process(target=_compute_slowly, args=(tmp_path, 0.2)) for _ in range(4)]
    for worker in workers:
        worker.start()
    assert doomed.pid is not None
    time.sleep(0.2)
    os.kill(doomed.pid, signal.SIGKILL)
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    doomed.join(10)
    assert len(list(tmp_path.glob("started-*"))) == 2  # the killed one and one more
    assert not list((tmp_path / "stage").glob(".partial*"))


def _compute_slowly(folder: Path, seconds: float) -> None:
    def compute() -> dict[str, np.ndarray]:
        (folder / f"started-{os.getpid()}").touch()
        time.sleep(seconds)
        return {"x": np.ones(2)}

    shared_stage(folder, "stage", "key", compute)
