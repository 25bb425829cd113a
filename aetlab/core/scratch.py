"""Find a folder for files that can be made again, where the package and the user's home cannot be written."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from functools import cache
from pathlib import Path


def writable(folder: Path) -> bool:
    """Return whether files can be written into ``folder``, which is made if it is missing.

    The permissions do not tell: root may write where a file system is read-only, and a server may refuse root.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def user_folder(variable: str, name: str) -> Path | None:
    """Return the folder that the environment ``variable`` names, else ``name`` in the user's home, or None."""
    given = os.environ.get(variable)
    if given:
        return Path(given)
    try:
        return Path.home() / name
    except RuntimeError:  # the user has no home
        return None


@cache
def scratch_folder() -> Path | None:
    """Return a folder in the system's folder for temporary files that only this user can write; None if there is none.

    It is the same for all processes of a user. One with this name that somebody else has made is not used, since
    compiled code is loaded from it.
    """
    user = os.getuid() if sys.platform != "win32" else 0
    try:
        folder = Path(tempfile.gettempdir()) / f"aetlab-{user}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = os.lstat(folder)
        own = stat.S_ISDIR(found.st_mode) and (sys.platform == "win32" or (
            found.st_uid == user and not found.st_mode & 0o077))
        return folder if own else Path(tempfile.mkdtemp(prefix="aetlab-"))
    except OSError:
        return None
