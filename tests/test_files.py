"""Locks, temporary names and removal of files, also where the file system has no locks."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from aetlab.core import files
from aetlab.core.files import StorageError, append_text, locked, open_regular, partial_path, remove_tree, sha256
from aetlab.spec import RunSpec
from aetlab.store.cache import shared_stage
from aetlab.store.record import Places, list_records, read_record, run_lock
from tests.test_record import write


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file system refuse all locks."""
    def refuse(handle: int, operation: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr("fcntl.flock", refuse)
    monkeypatch.setattr(files, "_WITHOUT_LOCKS", set())


def test_a_lock_is_held_and_temporary_names_are_reused(tmp_path: Path) -> None:
    waited = []
    with locked(tmp_path / "a.lock") as held, pytest.raises(ZeroDivisionError):
        assert held and partial_path(tmp_path / "a") == tmp_path / ".partial-a"

        def waiting() -> None:
            waited.append(1)
            raise ZeroDivisionError

        with locked(tmp_path / "a.lock", waiting):
            pass
    assert waited == [1]


def test_without_locks_runs_go_on_under_names_of_their_own(tmp_path: Path, smoke_spec: RunSpec,
                                                           no_locks: None) -> None:
    places = Places(tmp_path)
    with run_lock(places, smoke_spec) as held:
        assert not held and str(os.getpid()) in partial_path(places.records).name
        first = write(places.records, smoke_spec)
        mtime_ns = (first / "MANIFEST.json").stat().st_mtime_ns
        assert write(places.records, smoke_spec) == first  # another process was faster
        assert (first / "MANIFEST.json").stat().st_mtime_ns == mtime_ns
        (first / "log.txt").write_text("damaged", encoding="utf-8")
        assert read_record(write(places.records, smoke_spec)).id == first.name
    assert len(list(places.damaged.iterdir())) == 1 and len(list_records(places.records)[0]) == 1
    assert [path.name for path in places.records.iterdir()] == [first.name]
    assert shared_stage(tmp_path / "cache", "stage", 1, lambda: {"x": np.ones(2)})["x"].tolist() == [1, 1]


def test_other_errors_of_a_lock_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.EIO, "")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(StorageError, match=r"cannot write .*a\.lock: Input/output error"), locked(tmp_path / "a.lock"):
        pass


def test_links_are_removed_and_their_targets_kept(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "link").symlink_to(kept)
    for name in ("link", "missing"):
        remove_tree(tmp_path / name)
        assert not (tmp_path / name).is_symlink()
    assert kept.is_dir()


def test_only_regular_files_are_read_and_appended_to(tmp_path: Path) -> None:
    """A pipe would block for ever, a device would never end."""
    append_text(tmp_path / "text", "a")
    append_text(tmp_path / "text", "Å\n")
    assert (tmp_path / "text").read_text(encoding="utf-8") == "aÅ\n"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError):
            append_text(path, "a")
        with pytest.raises(OSError):
            open_regular(path)
        with pytest.raises(OSError):
            sha256(path)


def test_a_noted_digest_is_taken_once_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, taken = tmp_path / "images", []
    monkeypatch.setattr(files, "sha256", lambda path: taken.append(path) or sha256(path))
    for content, n_taken in ((b"one", 1), (b"one", 1), (b"two", 2)):
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
        with files.unchanged(path, notes=tmp_path / "notes") as digests:
            assert digests[path] == hashlib.sha256(content).hexdigest()
        assert len(taken) == n_taken
    for note in (tmp_path / "notes" / "digests").iterdir():
        note.write_text("[")
    with files.unchanged(path, notes=tmp_path / "notes"):
        assert len(taken) == 3
