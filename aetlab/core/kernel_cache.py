"""Where compiled kernels are kept: a folder for each state of the sources that they are compiled from.

Numba's cache on disk looks at the file of the function that is called alone, and would go on using a kernel whose inner
functions were changed in another file. A folder named by a hash of all kernel sources cannot hold an old one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

_PREFIX = "aetlab-kernels-"
#: Folders of other states of the sources that are left alone; older ones are removed.
_KEPT = 4


def sources_key(package: Path) -> str:
    """12 hex digits of the SHA-256 of every source under ``package`` that defines functions for Numba."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        text = path.read_bytes()
        if b"njit" in text or b"intrinsic" in text:
            digest.update(f"{path.relative_to(package).as_posix()}\0".encode() + hashlib.sha256(text).digest())
    return digest.hexdigest()[:12]


def choose_folder(package: Path, given: str) -> Path:
    """The folder for the kernels of ``package``: in ``given`` (NUMBA_CACHE_DIR), the package, or the user's cache."""
    if given:
        path = Path(given)
        place = path.parent if path.name.startswith(_PREFIX) else path  # set by a process that started this one
    elif os.access(package, os.W_OK):
        place = package / "__pycache__"
    else:
        place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return place / f"{_PREFIX}{sources_key(package)}"


def use_cache_of_this_code() -> None:
    """Make Numba keep and look for kernels in the folder of this code; called before any kernel is defined."""
    folder = choose_folder(Path(__file__).parents[1], os.environ.get("NUMBA_CACHE_DIR", ""))
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = str(folder)
    if not folder.exists():
        _remove_old(folder.parent)


def _remove_old(place: Path) -> None:
    try:
        others = sorted(place.glob(f"{_PREFIX}*"), key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:
        return
    for path in others[_KEPT:]:
        shutil.rmtree(path, ignore_errors=True)
