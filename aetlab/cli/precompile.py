"""Compile the kernels of this version of the code once, in several processes, before the first run needs them.

Numba compiles one kernel at a time in a process, for most of a minute in all. Each part below is a tiny computation in
a process of its own that uses, and so compiles and caches, the kernels of one stage. ``python -m
aetlab.cli.precompile`` compiles all of them, for example when a container is built.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
from llvmlite import binding

from aetlab import flow
from aetlab.core import backend
from aetlab.core.files import StorageError, locked, write_text
from aetlab.core.kernel_cache import kernel_folder
from aetlab.core.nouns import Reconstruction, Volume
from aetlab.methods.regulariser import Problem
from aetlab.methods.regularisers import REGULARISERS
from aetlab.spec import RunSpec
from aetlab.spec.choices import settings

_TINY = {"tilts.n_tilts": 2, "engine.n_iterations": 1, "engine.n_threads": 1}


def precompile(say: Callable[[str], None]) -> None:
    """Compile the kernels that the folder of compiled kernels lacks.

    ``say`` receives one line if there is something to compile. Of several processes one compiles and the others wait.
    What a part that fails would have compiled is compiled where it is used. Nothing is done where no folder can keep
    kernels.
    """
    folder = kernel_folder()
    if folder is None or numba.config.DISABLE_JIT:  # pyrefly: ignore[missing-attribute]
        return
    complete = folder / _mark()
    if complete.exists():
        return
    n_processes = min(backend.n_cores(), _MOST_PROCESSES)
    say(f"compiling kernels, once for this version of the code: about {30 if n_processes > 1 else 60} s")
    try:
        with locked(folder / "precompile.lock"):
            if not complete.exists() and _compile_parts(n_processes):
                write_text(complete, "")
    except StorageError as error:
        say(f"kernels are compiled where they are used: {error}")


def compile_s() -> float:
    """Return about how long the kernels that are missing take to compile, in seconds; 0 if none is."""
    folder = kernel_folder()
    return 60.0 / min(backend.n_cores(), 2) if folder is not None and not (folder / _mark()).exists() else 0.0


def _compile_parts(n_processes: int) -> bool:
    """Run every part in a process of its own, ``n_processes`` at a time; return whether all succeeded."""
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    started: list[subprocess.Popen[bytes]] = []

    def run_part(name: str) -> int:
        started.append(subprocess.Popen([sys.executable, "-m", "aetlab.cli.precompile", name],
                                        env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return started[-1].wait()

    with ThreadPoolExecutor(n_processes) as pool:
        try:
            return not any(list(pool.map(run_part, _PARTS)))
        except BaseException:  # an interrupt: the parts are not left behind
            pool.shutdown(wait=False, cancel_futures=True)
            for process in started:
                process.kill()
            raise


def _mark() -> str:
    """Return the name of the file that marks a folder as complete for this Python, Numba and processor."""
    return f"complete-{sys.implementation.cache_tag}-{numba.__version__}-{binding.get_host_cpu_name()}"


def _fit() -> None:
    """Reconstruct blank images without a prior."""
    _reconstruct("none")


def _priors() -> None:
    """Apply the proximal operator of each regulariser."""
    for row in REGULARISERS.values():
        scale = _tiny().scale
        problem = Problem(scale.shape_zxy, scale.voxel_A, n_tilts=2, blur_A=scale.voxel_A)
        row.make(row.settings(), 1.0, problem).prox(np.ones(scale.shape_zxy, np.float32), 1.0)


def _rest() -> None:
    """Reconstruct blank images with each regulariser; few of its kernels are left to compile."""
    for reg in REGULARISERS:
        _reconstruct(reg)


def _reconstruct(reg: str) -> None:
    tiny = _tiny(reg=reg)
    blank = np.ones((2, len(tiny.defocus.planes_nm), *tiny.scale.shape_zxy[1:]), np.float32)
    flow.reconstruct(tiny, flow.add_noise(tiny, flow.as_acquired(tiny, blank)))


def _trace() -> None:
    """Trace a true potential."""
    flow.trace(_tiny(), _true_reconstruction(_tiny()))


def _refine() -> None:
    """Refine the atoms of a true potential against simulated images."""
    tiny = _tiny(refine="atoms")
    truth = _true_reconstruction(tiny)
    flow.refine(tiny, flow.simulate(tiny, flow.sample(tiny)), truth, flow.trace(tiny, truth))


#: The parts in the order of their start. Two processes end together and find what an earlier part has compiled; a third
#: one would compile the same kernels at the same time.
_PARTS: dict[str, Callable[[], None]] = {"fit": _fit, "trace": _trace, "priors": _priors, "refine": _refine,
                                         "rest": _rest}
_MOST_PROCESSES = 2


def _tiny(reg: str = "tv", refine: str = "none") -> RunSpec:
    passes = {"refine.n_passes": 1, "refine.n_passes_last": 1} if refine != "none" else {}
    return settings(scale="smoke", dose="50k", reg=reg, refine=refine, overrides=_TINY | passes)


def _true_reconstruction(tiny: RunSpec) -> Reconstruction:
    potential = flow.true_potential(tiny, flow.sample(tiny))
    return Reconstruction(Volume(potential, tiny.scale.voxel_A), np.zeros(1), np.zeros(1), (), (), "", 0.0, 0.0)


if __name__ == "__main__":
    if sys.argv[1:]:
        _PARTS[sys.argv[1]]()
    else:
        precompile(print)
