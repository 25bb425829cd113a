"""Check jobs before any work starts: the sample fits, files are readable, memory and the GPU are available."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from aetlab.cli.compose import Job
from aetlab.cli.workers import HERE, Launcher
from aetlab.core.files import StorageError, make_folder
from aetlab.reconstruction.memory import require_memory
from aetlab.spec import RunSpec, SpecError
from aetlab.store.identity import digest


def check_jobs(jobs: Iterable[Job], launcher: Launcher = HERE) -> None:
    """Raise :class:`SpecError` or :class:`StorageError` for the first job that cannot run.

    Memory is checked unless ``launcher`` starts the jobs elsewhere, and a required GPU unless each worker has one.

    Samples that differ in the seed only are built once: whether they fit does not depend on it.
    """
    samples: set[str] = set()
    limits: dict[str, str] = {}
    folders: set[str] = set()
    absent: dict[str, bool] = {}
    for job in jobs:
        key = digest({"sample": job.spec.sample, "scale": job.spec.scale})
        if key not in samples:
            samples.add(key)
            for name, has in _check_sample(job.spec).items():
                absent[name] = absent.get(name, True) and not has
        for line in _limits(job.spec):
            limits.setdefault(line, job.label)
        if job.spec.tile.enabled:
            _check_tiles(job.spec)
        if launcher.is_here:
            if not launcher.on_gpus:
                _check_device(job.spec)
            require_memory(job.spec)
        folders.add(job.settings.outputs)
    for name in (name for name, nowhere in absent.items() if nowhere):
        raise SpecError(f"{name} cannot be set, for nothing reads it: no sample has this element")
    for folder in sorted(folders):
        _check_outputs(Path(folder))
    for line, label in limits.items():
        print(f"{label}: {line}", file=sys.stderr)


def _check_sample(spec: RunSpec) -> dict[str, bool]:
    """Build the sample; return for each setting of one element whether the sample may have the element."""
    if spec.data.kind == "measured":
        return {}
    from aetlab.core.physics import SYMBOLS
    from aetlab.core.seeds import generator
    from aetlab.samples import build_sample, sample_elements

    atoms = build_sample(spec.sample, spec.scale, generator(spec.seed, "sample"))
    present = {SYMBOLS[number] for number in sample_elements(atoms)} | set(spec.sample.elements)
    factors = {"sample": spec.sample.debye_waller_A2} | (
        {"refine": spec.refine.debye_waller_A2} if spec.refine.kind == "atoms" else {})
    return {f"{group}.debye_waller_A2.{symbol}": symbol in present
            for group, values_A2 in factors.items() for symbol in values_A2 if symbol != "default"}


def _limits(spec: RunSpec) -> list[str]:
    """Return lines on what voxels and box of a simulated sample cannot show."""
    if spec.data.kind == "measured":
        return []
    from aetlab.samples import describe_limits, extent_of_file_A

    return describe_limits(spec, extent_of_file_A(spec.sample) if spec.sample.kind == "file" else None)


def _check_device(spec: RunSpec) -> None:
    if spec.engine.device == "gpu":
        from aetlab.reconstruction.device import require_gpu
        from aetlab.reconstruction.tiles import largest_part

        require_gpu(largest_part(spec))


def _check_tiles(spec: RunSpec) -> None:
    from aetlab.reconstruction.tiles import tiles_of

    tiles_of(spec)


def _check_outputs(outputs: Path) -> None:
    make_folder(outputs)
    if not os.access(outputs, os.W_OK | os.X_OK):
        raise StorageError(f"outputs={str(outputs)!r} cannot be used: the folder is not writable")
