"""Compile the kernels of this version of the code once, in two processes, before the first run needs them.

Numba compiles one kernel at a time in a process. Each part below is a tiny computation that uses, and so compiles and
caches, the kernels of one stage or regulariser; a run compiles the parts that it needs. ``python -m
aetlab.cli.precompile`` compiles all of them, for example when a container is built.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numba
import numpy as np
from llvmlite import binding

from aetlab.core import backend
from aetlab.core.files import StorageError, locked, write_text
from aetlab.core.kernel_cache import kernel_folder
from aetlab.core.nouns import Reconstruction, Volume
from aetlab.methods.regulariser import Problem
from aetlab.methods.regularisers import REGULARISERS
from aetlab.spec import RunSpec
from aetlab.spec.choices import settings

_TINY = {"tilts.n_tilts": 2, "engine.n_iterations": 1, "engine.n_threads": 1}
#: A third process would compile the same inner functions at the same time.
_MOST_PROCESSES = 2
#: Seconds in which a process starts and imports what it needs.
_START_S = 4


def precompile(say: Callable[[str], None], spec: RunSpec | None = None) -> None:
    """Compile the kernels that a run of ``spec`` needs and the folder of compiled kernels lacks; by default all.

    ``say`` receives one line if there is something to compile. Of several processes one compiles and the others wait.
    What a part that fails would have compiled is compiled where it is used. Nothing is done where no folder can keep
    kernels.
    """
    folder = kernel_folder()
    if folder is None or numba.config.DISABLE_JIT:  # pyrefly: ignore[missing-attribute]
        return
    needed = list(_PARTS) if spec is None else needed_parts(spec)
    missing = _missing(folder, needed)
    if not missing:
        return
    say(f"compiling kernels, once for this version of the code: about {_duration_s(missing):.0f} s")
    try:
        with locked(folder / "precompile.lock"):
            for name in _compile_parts(_missing(folder, needed)):
                write_text(folder / _mark(name), "")
    except StorageError as error:
        say(f"kernels are compiled where they are used: {error}")


def compile_s(specs: Iterable[RunSpec]) -> float:
    """Return about how long the missing kernels of runs of ``specs`` take to compile, in seconds; 0 if none is."""
    folder = kernel_folder()
    needed = {name for spec in specs for name in needed_parts(spec)}
    return _duration_s(missing) if folder is not None and (missing := _missing(folder, needed)) else 0.0


def needed_parts(spec: RunSpec) -> list[str]:
    """Return the names of the parts whose kernels a run of ``spec`` uses; a rarer kernel is compiled at its first use.

    A reconstruction on a GPU uses kernels of the CPU as well: its time is estimated by a trial on the CPU.
    """
    needed = {"reconstruct", "trace", spec.reg.kind}
    needed |= {"simulate"} if spec.data.kind == "simulated" else set()
    needed |= {"refine"} if spec.refine.kind != "none" else set()
    return [name for name in _PARTS if name in needed]


def _missing(folder: Path, names: Iterable[str]) -> list[str]:
    return [name for name in names if not (folder / _mark(name)).exists()]


def _mark(name: str) -> str:
    """Return the name of the file that marks a part as compiled for this Python, Numba and processor."""
    return f"compiled-{name}-{sys.implementation.cache_tag}-{numba.__version__}-{binding.get_host_cpu_name()}"


def _duration_s(names: Iterable[str]) -> float:
    """Return about how long the parts ``names`` take to compile on an idle machine, in seconds."""
    return _START_S + max(sum(_PARTS[name][0] for name in share) for share in _shares(names))


def _shares(names: Iterable[str]) -> list[list[str]]:
    """Divide the parts ``names`` among processes, the longest first and each to the process with the least to do."""
    shares: list[list[str]] = [[] for _ in range(min(backend.n_cores(), _MOST_PROCESSES))]
    for name in sorted(names, key=lambda name: -_PARTS[name][0]):
        min(shares, key=lambda share: sum(_PARTS[other][0] for other in share)).append(name)
    return [share for share in shares if share]


def _compile_parts(names: Sequence[str]) -> list[str]:
    """Compile the parts ``names``, and return those that succeeded.

    A process that has compiled a kernel may compute other last bits by it than one that loads it from the cache. It
    therefore computes nothing else.
    """
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    shares = _shares(names)
    started = [subprocess.Popen([sys.executable, "-m", "aetlab.cli.precompile", *share],
                                env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for share in shares]
    try:
        return [name for share, process in zip(shares, started, strict=True) if process.wait() == 0 for name in share]
    finally:  # after an interrupt no process is left behind
        for process in started:
            process.kill()


def _reconstruct(reg: str) -> None:
    """Reconstruct blank images."""
    from aetlab import flow

    tiny = _tiny(reg=reg)
    blank = np.ones((2, len(tiny.defocus.planes_nm), *tiny.scale.shape_zxy[1:]), np.float32)
    flow.reconstruct(tiny, flow.add_noise(tiny, flow.as_acquired(tiny, blank)))


def _apply(reg: str) -> None:
    """Apply the proximal operator of a regulariser, and the blur of its volume if it has one."""
    from aetlab.forward.blur import Blur

    row, scale = REGULARISERS[reg], _tiny().scale
    problem = Problem(scale.shape_zxy, scale.voxel_A, n_tilts=2, blur_A=scale.voxel_A)
    row.make(row.settings(), 1.0, problem).prox(np.ones(scale.shape_zxy, np.float32), 1.0)
    if row.blur_A is not None:
        Blur(1.0, scale.shape_zxy).blur_slices(np.ones(scale.shape_zxy, np.float32))


def _simulate() -> None:
    """Simulate images of a sample."""
    from aetlab import flow

    flow.simulate(_tiny(), flow.sample(_tiny()))


def _trace() -> None:
    """Trace a true potential."""
    from aetlab import flow

    flow.trace(_tiny(), _true_reconstruction(_tiny()))


def _refine() -> None:
    """Refine the atoms of a true potential against simulated images."""
    from aetlab import flow

    tiny = _tiny(refine="atoms")
    truth = _true_reconstruction(tiny)
    flow.refine(tiny, flow.simulate(tiny, flow.sample(tiny)), truth, flow.trace(tiny, truth))


#: Each part's seconds alone and its computation; those of regularisers have their names.
_PARTS: dict[str, tuple[float, Callable[[], None]]] = {
    "reconstruct": (18, partial(_reconstruct, "none")), "simulate": (4, _simulate), "trace": (8, _trace),
    "refine": (4, _refine), **{reg: (6 if reg in ("tv", "huber") else 1, partial(_apply, reg)) for reg in REGULARISERS}}


def _tiny(reg: str = "tv", refine: str = "none") -> RunSpec:
    passes = {"refine.n_passes": 1, "refine.n_passes_last": 1} if refine != "none" else {}
    return settings(scale="smoke", dose="50k", reg=reg, refine=refine, overrides=_TINY | passes)


def _true_reconstruction(tiny: RunSpec) -> Reconstruction:
    from aetlab import flow

    potential = flow.true_potential(tiny, flow.sample(tiny))
    return Reconstruction(Volume(potential, tiny.scale.voxel_A), np.zeros(1), np.zeros(1), (), (), "", 0.0, 0.0)


if __name__ == "__main__":
    if sys.argv[1:]:
        for _name in sys.argv[1:]:
            _PARTS[_name][1]()
    else:
        precompile(print)
