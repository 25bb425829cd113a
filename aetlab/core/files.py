"""Write files atomically (temporary file, flush, rename), and lock files between processes."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from filelock import FileLock, Timeout

from aetlab.core.errors import AetlabError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

#: Errors of a file system without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
#: Numbers of the file systems that have refused a lock to this process.
_WITHOUT_LOCKS: set[int] = set()


class StorageError(AetlabError):
    """A file or folder that cannot be written or used; the message is one line that names it."""


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Convert errors of the operating system (full disk, read-only folder) to a :class:`StorageError` of one line."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {place}: {describe(error)}") from error


def describe(error: OSError) -> str:
    """Return ``error`` in one line; HDF5 gives the system's error number only in its text."""
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
        if error.errno == number or f"errno = {number}," in str(error):
            return os.strerror(number)
    return error.strerror or (str(error).splitlines() or [type(error).__name__])[0]


def make_folder(folder: Path) -> Path:
    """Create ``folder`` with its parents if it is missing, and return it."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` with a temporary path next to ``path``, flush the file to the disk and rename it to ``path``.

    Only one process may write ``path`` at a time, unless the file system has no locks (:func:`partial_path`).
    """
    make_folder(path.parent)
    partial = partial_path(path)
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
    """Write ``text`` as UTF-8 atomically to ``path``."""

    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def append_text(path: Path, text: str) -> None:
    """Append ``text`` as UTF-8 to the regular file ``path``, which is made if missing; raise OSError for others."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0), 0o666)
    with os.fdopen(handle, "a", encoding="utf-8") as file:
        _require_regular(os.fstat(handle))
        file.write(text)


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk, so that a power failure cannot reorder writes."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems do not flush folders
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read; raise OSError for anything else, such as a pipe, which could block for ever."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _require_regular(os.fstat(handle))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a regular file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def unchanged(*paths: Path, notes: Path | None = None) -> Iterator[dict[Path, str]]:
    """Yield the hex SHA-256 of each file that the block reads; raise :class:`StorageError` if one changes meanwhile.

    With a folder of ``notes`` the digest of a file is taken once for all processes, until the file changes.
    """
    digests, before = {}, {}
    for path in paths:
        try:
            before[path] = file_signature(path)
            digests[path] = sha256(path) if notes is None else _noted_sha256(path, before[path], notes)
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {describe(error)}") from None
    yield digests
    for path in paths:
        try:
            same = file_signature(path) == before[path]
        except OSError:
            same = False
        if not same:
            raise StorageError(f"{path} was changed while it was read: start again")


def _noted_sha256(path: Path, signature: tuple[int, ...], notes: Path) -> str:
    """Return the hex SHA-256 of a file from its note in ``notes``; take and note it where there is none."""
    # The number of the device differs between machines that share a file system.
    state = [str(path.absolute()), *signature[1:]]
    note = make_folder(notes / "digests") / f"{hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]}.json"
    with locked(notes / "locks" / f"digest-{note.stem}.lock"):
        with suppress(OSError, ValueError, TypeError, LookupError):
            noted = json.loads(note.read_text(encoding="utf-8"))
            if noted["file"] == state:
                return str(noted["sha256"])
        found = sha256(path)
        write_text(note, json.dumps({"file": state, "sha256": found}) + "\n")
        return found


def file_signature(path: Path) -> tuple[int, ...]:
    """Return values that differ after every change of a regular file; raise OSError if there is none at ``path``."""
    status = path.stat()
    _require_regular(status)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold the lock file ``path`` inside the block; call ``waiting`` before waiting for another process.

    Yield False where the file system has no locks: nothing is held then, and temporary files have names of their own
    (:func:`partial_path`), so that several processes can write the same file. The system releases the lock when a
    process dies. Lock files are never removed: if one were removed while another process waits for it, two processes
    could hold the lock at the same time.
    """
    make_folder(path.parent)
    with writing(path):
        device = path.parent.stat().st_dev
        if not has_locks(path):
            _WITHOUT_LOCKS.add(device)
    if device in _WITHOUT_LOCKS:
        yield False
        return
    lock = FileLock(path)
    with writing(path):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting is not None:
                waiting()
            lock.acquire()
    try:
        yield True
    finally:
        lock.release()


def has_locks(path: Path) -> bool:
    """Return whether the file system locks the file ``path``, which is made if it is missing."""
    if fcntl is None:
        return True
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    finally:
        os.close(handle)
    return True


def partial_path(path: Path) -> Path:
    """Return the temporary name under which ``path`` is written.

    It is always the same, so that what a killed process left is overwritten. Where the file system has no locks it
    names the process.
    """
    try:
        shared = path.parent.stat().st_dev in _WITHOUT_LOCKS
    except OSError:
        shared = False
    own = f"{socket.gethostname()}-{os.getpid()}-" if shared else ""
    return path.with_name(f".partial-{own}{path.name}")


def set_aside(path: Path, folder: Path) -> Path:
    """Move ``path`` into ``folder`` under an unused name, and return the new path."""
    make_folder(folder)
    with writing(folder):
        for number in range(1, 10_000):
            goal = folder / f"{path.name}-{number}"
            if not goal.exists():
                os.rename(path, goal)
                return goal
    raise StorageError(f"cannot set {path} aside: {folder} holds too many entries")


def put_in_place(made: Path, folder: Path) -> None:
    """Rename the complete folder ``made`` to ``folder`` and remove the one that has this name, if any.

    Linux exchanges both names in one step. Elsewhere there is a moment without ``folder``; if the process is killed in
    it, :func:`restore` gives the earlier folder its name back.
    """
    with writing(folder):
        earlier = _earlier(folder)
        if folder.exists() and not _exchange(made, folder):
            os.rename(folder, earlier)
        if made.exists() and not folder.exists():
            os.rename(made, folder)
        flush(folder.parent)
    remove_tree(made)
    remove_tree(earlier)


def restore(folder: Path) -> None:
    """Complete a :func:`put_in_place` that was cut off."""
    with writing(folder):
        if _earlier(folder).exists() and not folder.exists():
            os.rename(_earlier(folder), folder)
    remove_tree(_earlier(folder))


def _earlier(folder: Path) -> Path:
    return folder.with_name(f".earlier-{folder.name}")


def _exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; return False, and change nothing, where the system cannot."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def remove_tree(folder: Path) -> None:
    """Remove ``folder`` with all its contents, a file, or a link but not what it points to; do nothing if missing."""
    with writing(folder):
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)
        else:
            folder.unlink(missing_ok=True)
