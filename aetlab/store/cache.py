"""Compute and cache stages that several runs share, above all the noise-free tilt series.

The result of a stage is a file ``<cache>/<stage>/<key>.arrays``. The key is the hash of the settings that the result
depends on and of the code. A lock makes parallel runs wait for the one that computes. The system releases the lock of
a dead process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aetlab.core.files import StorageError, locked, make_folder
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
    tell = say or (lambda text: None)
    path = stage_path(cache, stage, key)
    make_folder(path.parent)

    def waiting() -> None:
        tell(f"{stage.replace('_', ' ')}: another run computes it, waiting")

    with locked(cache / "locks" / f"{stage}-{path.stem}.lock", waiting):
        if path.exists():
            try:
                arrays, _ = read_container(path)
            except StorageError as error:
                tell(f"{stage.replace('_', ' ')}: {error}; computed again")
                path.unlink(missing_ok=True)
            else:
                tell(f"{stage.replace('_', ' ')}: shared, read from {path.relative_to(cache)}")
                return arrays
        arrays = {name: np.asarray(array) for name, array in compute().items()}
        write_container(path, arrays, {"stage": stage})
        return arrays


def stage_path(cache: Path, stage: str, key: Any) -> Path:
    """Return the path of the result of ``stage`` for ``key``."""
    return cache / stage / f"{digest({'stage': stage, 'key': key, 'code': code_id()})}.arrays"
