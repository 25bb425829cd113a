"""Define the decorator of compiled kernels and their cache folder, one folder for each state of the kernel sources.

Numba's cache on disk checks only the file of the called function. It keeps using a compiled kernel after an inner
function in another file has changed. A folder named by a hash of all kernel sources cannot hold an outdated kernel.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numba
from numba.core import event

from aetlab.core.scratch import scratch_folder, user_folder, writable

_PREFIX = "aetlab-kernels-"
#: Number of folders of other source states that are kept; older ones are removed.
_KEPT = 4
#: Held while Numba's setting is changed: modules may be imported by several threads.
_SETTING = threading.RLock()


def njit(*, parallel: bool = False, forceinline: bool = False, error_model: Literal["python", "numpy"] = "python",
         fastmath: bool | set[str] = False) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator like ``numba.njit`` that releases the GIL and caches compiled code in :func:`kernel_folder`.

    Numba chooses the folder when a function is decorated. The setting is changed only during the decoration, so that
    other packages are not affected.
    """
    folder = kernel_folder()
    # Wrappers for calls that do not occur, by C and of inlined functions by Python, take a tenth of the compilation.
    wrappers: dict[str, Any] = {"no_cfunc_wrapper": True, "no_cpython_wrapper": forceinline}
    decorate = numba.njit(cache=folder is not None, nogil=True, parallel=parallel, forceinline=forceinline,
                          error_model=error_model, fastmath=fastmath, **wrappers)

    def kernel(function: Callable[..., Any]) -> Any:
        if folder is None:
            return decorate(function)
        with _cache_in(folder):
            return decorate(function)

    return kernel


def callback(signature: Any, function: Callable[..., Any]) -> Any:
    """Return ``function`` compiled for C's calling convention by ``numba.cfunc``, cached as by :func:`njit`."""
    folder = kernel_folder()
    if folder is None:
        return numba.cfunc(signature)(function)
    with _cache_in(folder):
        return numba.cfunc(signature, cache=True)(function)


@contextmanager
def announcing_compilation(say: Callable[[str], None]) -> Iterator[None]:
    """Call ``say`` with one line when the first kernel is compiled in the block; kernels that are loaded need none."""
    with event.install_listener("numba:compile", _FirstCompilation(say)):
        yield


class _FirstCompilation(event.Listener):
    """Say that kernels are compiled, once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say: Callable[[str], None] | None = say

    def on_start(self, event: object) -> None:
        say, self._say = self._say, None
        if say is not None:
            say("compiling more kernels, once for this version of the code")

    def on_end(self, event: object) -> None:
        pass


@functools.cache
def kernel_folder() -> Path | None:
    """Return the folder of the kernels of this code; if it does not exist yet, remove folders of old states.

    It lies in ``NUMBA_CACHE_DIR`` if that is set, else in the package, in the user's cache or in a temporary folder,
    wherever it can be written. None if no folder can.
    """
    folder = choose_folder(Path(__file__).parents[1], os.environ.get("NUMBA_CACHE_DIR", ""))
    if folder is not None and not folder.exists():
        _remove_old(folder.parent)
    return folder


def choose_folder(package: Path, given: str) -> Path | None:
    """Return the folder for the kernels of ``package``, in the first of these places that can be written.

    They are ``given``, the package, the user's cache, and a folder for temporary files; None if none can.
    """
    places = [Path(given) if given else package / "__pycache__", user_folder("XDG_CACHE_HOME", ".cache")]
    place = next((place for place in places if place is not None and writable(place)), None) or scratch_folder()
    return place / f"{_PREFIX}{sources_key(package)}" if place is not None else None


def describe_folder() -> str:
    """Return in one line where compiled kernels are kept if that is no lasting place; empty if it is."""
    folder, given = kernel_folder(), os.environ.get("NUMBA_CACHE_DIR", "")
    if folder is None:
        return "no folder can be written: every process compiles its kernels, for a minute (set NUMBA_CACHE_DIR)"
    if given and folder.parent != Path(given):
        return f"NUMBA_CACHE_DIR={given} cannot be written: compiled kernels are kept in {folder}"
    if folder.parent == scratch_folder():
        return f"compiled kernels are kept in {folder} for now (set NUMBA_CACHE_DIR to a folder that lasts)"
    return ""


def sources_key(package: Path) -> str:
    """Return 12 hex digits of the SHA-256 of every source under ``package`` that defines functions for Numba."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        text = path.read_bytes()
        if b"njit" in text or b"intrinsic" in text:
            digest.update(f"{path.relative_to(package).as_posix()}\0".encode() + hashlib.sha256(text).digest())
    return digest.hexdigest()[:12]


@contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    config: Any = numba.config
    with _SETTING:
        before = config.CACHE_DIR
        config.CACHE_DIR = str(folder)
        try:
            yield
        finally:
            config.CACHE_DIR = before


def _remove_old(place: Path) -> None:
    try:
        others = sorted(place.glob(f"{_PREFIX}*"), key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:
        return
    for path in others[_KEPT:]:
        shutil.rmtree(path, ignore_errors=True)
