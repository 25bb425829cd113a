"""Compute and cache stages that several runs share, above all the noise-free tilt series.

The result of a stage is a file ``<cache>/<stage>/<key>.h5``. The key is the hash of the settings that the result
depends on and of the code. The file holds its whole key and is refused under another one. A lock makes parallel runs
wait for the one that computes. The system releases the lock of a dead process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aetlab.core.files import StorageError, locked, make_folder, set_aside, writing
from aetlab.store.array_file import read_container, write_container
from aetlab.store.identity import code_id, digest


def shared_stage(
    cache: Path,
    stage: str,
    key: Any,
    compute: Callable[[], Mapping[str, np.ndarray]],
    say: Callable[[str], None] | None = None,
) -> dict[str, np.ndarray]:
    """Return the arrays of ``stage`` for ``key``: read them if they exist, else compute them once and keep them.

    Parameters
    ----------
    cache : Path
        Folder of all shared stages (``outputs/cache``).
    stage : str
        Name of the stage, for example ``"tilt_series"``.
    key : Any
        Everything that the result depends on: (nested) settings, dataclasses, numbers, text. The identity of the code
        is added.
    compute : callable
        Returns the named arrays; only one process calls it.
    say : callable, optional
        Called with one line that states where the result came from.
    """
    def tell(text: str) -> None:
        if say is not None:
            say(f"{stage.replace('_', ' ')}: {text}")

    path = stage_path(cache, stage, key)
    own = {"stage": stage, "key": _key(stage, key)}
    make_folder(path.parent)
    with locked(cache / "locks" / f"{stage}-{path.stem}.lock", lambda: tell("another run computes it, waiting")):
        if path.exists() or path.is_symlink():
            try:
                arrays = _read(path, own)
            except StorageError as error:
                tell(f"{error}; {_clear(path, cache)}computed again")
            else:
                tell(f"shared, read from {path.relative_to(cache)}")
                return arrays
        arrays = {name: np.asarray(array) for name, array in compute().items()}
        write_container(path, arrays, own)
        return arrays


def stage_path(cache: Path, stage: str, key: Any) -> Path:
    """Return the path of the result of ``stage`` for ``key``."""
    return cache / stage / f"{_key(stage, key)[:16]}.h5"


def _clear(path: Path, cache: Path) -> str:
    """Remove the file at ``path``, or set a folder aside; return a note on the latter."""
    if path.is_dir() and not path.is_symlink():
        return f"set aside as {set_aside(path, cache / 'set_aside')} and "
    with writing(path):
        path.unlink()
    return ""


def _key(stage: str, key: Any) -> str:
    return digest({"stage": stage, "key": key, "code": code_id()}, 64)


def _read(path: Path, own: Mapping[str, str]) -> dict[str, np.ndarray]:
    arrays, state = read_container(path)
    if state != own:
        raise StorageError(f"{path} holds the result of other settings or other code")
    return arrays
