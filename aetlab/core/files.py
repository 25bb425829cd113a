"""Files that are whole or absent: written beside, flushed to the disk, renamed into place; locks between processes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from aetlab.core.errors import AetlabError


class StorageError(AetlabError):
    """Something on the disk cannot be written or used; the message is one line that names it."""


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turns the operating system's refusals (full disk, read-only folder) into a :class:`StorageError` of one line."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {place}: {describe(error)}") from error


def describe(error: OSError) -> str:
    """One line on ``error``; HDF5 hides the number of the system's error in its text."""
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
        if error.errno == number or f"errno = {number}," in str(error):
            return os.strerror(number)
    return error.strerror or str(error).splitlines()[0]


def make_folder(folder: Path) -> Path:
    """``folder``, made with its parents where it is missing."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls ``write`` with a temporary path beside ``path``, flushes what it wrote and renames it into place.

    The temporary name is always the same, so that what a killed process left is written over: one process at a time
    writes ``path``.
    """
    make_folder(path.parent)
    partial = path.with_name(f".partial-{path.name}")
    with writing(path):
        try:
            write(partial)
            flush(partial)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """``text`` as UTF-8 in ``path``, whole or not at all."""

    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def flush(path: Path) -> None:
    """Forces a file or a folder's entries to the disk, so that a power cut cannot undo the order of writes."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems do not flush folders
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds the lock file ``path``; the system frees it when a process dies. ``waiting`` is called before a wait.

    Lock files stay where they are: removing one while another process waits for it would let two hold "the" lock.
    """
    make_folder(path.parent)
    lock = FileLock(path)
    with writing(path):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting is not None:
                waiting()
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def set_aside(path: Path, folder: Path) -> Path:
    """Moves ``path`` into ``folder`` under a free name, and gives that name."""
    make_folder(folder)
    with writing(folder):
        for number in range(1, 10_000):
            goal = folder / f"{path.name}-{number}"
            if not goal.exists():
                os.rename(path, goal)
                return goal
    raise StorageError(f"cannot set {path} aside: {folder} holds too many already")


def remove_tree(folder: Path) -> None:
    """Removes ``folder`` with all in it; nothing happens where it does not exist."""
    with writing(folder):
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)
