"""``python -m aetlab.doctor``: check what this machine offers aetlab, what is missing, and what to do about it."""

from __future__ import annotations

from aetlab.core import console

if __name__ == "__main__":
    console.stop_at_once()

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

_DESCRIPTION = """Check this machine: packages, cores, threads, memory, GPU, launchers, configuration, compiled kernels
and the outputs folder. The exit status is 1 if a required part is broken."""
#: Statuses: as it should be; an optional part is absent; a required part is missing or broken; could be better.
OK, OPTIONAL, BROKEN, ADVICE = "ok", "absent", "broken", "advice"
#: Free bytes on disk that a sweep at the paper's size needs: two checkpoints and ten records.
_DISK_BYTES = 15e9
#: Oldest driver (first part of its version) for each CUDA, newest first (CUDA Toolkit release notes, table 3).
_CUDA_OF_DRIVER = ((580, 13), (525, 12))
_TRIAL = ("scale=smoke", "tilts.n_tilts=6", "engine.n_iterations=2", "dose=50k")
_NEEDED = ("numpy", "scipy", "numba", "h5py", "hydra-core", "omegaconf", "pandas", "matplotlib", "ase", "mrcfile",
           "rich", "filelock", "psutil", "ducc0", "PyYAML", "pillow", "pyarrow", "threadpoolctl")
_LAUNCHERS = {"cores, gpus": ("hydra_plugins.hydra_joblib_launcher", "cores"),
              "slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
              "ray": ("hydra_plugins.hydra_ray_launcher", "ray"),
              "search (optuna)": ("hydra_plugins.hydra_optuna_sweeper", "search")}


@dataclass(frozen=True)
class Finding:
    """One line of the report: the item checked, its status, and details in words."""

    item: str
    status: str
    detail: str


def examine(outputs: Path) -> list[Finding]:
    """Check everything; return the findings in the order of the report.

    Where packages are missing the other checks, which need them, are left out.
    """
    packages = _packages()
    if packages.status == BROKEN:
        return [_python(), packages]
    return [_python(), packages, _machine(), _threads(), _ffts(), _memory(), _gpu(), *_launchers(), _configuration(),
            _kernels(), _outputs(outputs)]


def try_runs() -> Finding:
    """Make three tiny runs in a temporary folder, which tests the installation; the first one compiles the kernels."""
    from aetlab.cli.compose import compose_spec
    from aetlab.cli.jobs import FAILED, run_job

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for reg in ("tv", "lasso", "pos"):
            result = run_job(compose_spec([*_TRIAL, f"reg={reg}"]), f"try reg={reg}", outputs=Path(folder),
                             use_other_code=False)
            if result.status == FAILED:
                return Finding("trial runs", BROKEN, result.error)
    return Finding("trial runs", OK, f"three took {time.monotonic() - started:.0f} s; the kernels are compiled")


@console.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line of ``python -m aetlab.doctor``; the exit status is 1 if a required part is broken."""
    parser = argparse.ArgumentParser(prog="python -m aetlab.doctor", description=_DESCRIPTION)
    parser.add_argument("--outputs", default="outputs", help="folder of all results (default: outputs)")
    parser.add_argument("--try", action="store_true", dest="trial",
                        help="also make three tiny runs, which compiles the kernels")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    findings = examine(Path(arguments.outputs))
    if arguments.trial:
        with contextlib.redirect_stdout(sys.stderr):
            findings.append(try_runs())
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            print(f"{finding.status:<9} {finding.item:<24} {finding.detail}")
    sys.exit(any(finding.status == BROKEN for finding in findings))


def _python() -> Finding:
    status = OK if sys.version_info >= (3, 11) else BROKEN
    return Finding("Python", status, f"{platform.python_version()} ({sys.executable}); 3.11 or newer is required")


def _packages() -> Finding:
    missing, found = [], []
    for name in _NEEDED:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("packages", BROKEN, f"missing: {', '.join(missing)}; pip install {' '.join(missing)}")
    return Finding("packages", OK, ", ".join(found))


def _machine() -> Finding:
    from aetlab.core.backend import n_cores

    here, all_cores = n_cores(), os.cpu_count()
    if all_cores and here < all_cores:
        return Finding("machine", ADVICE, f"this process may use {here} of {all_cores} cores; to use all, start it "
                                          "without taskset or request more from the cluster")
    return Finding("machine", OK, f"{here} cores, {platform.machine()}, {platform.system()}")


def _threads() -> Finding:
    import numba
    import numpy as np

    from aetlab.core.backend import n_cores, n_threads
    from aetlab.forward.kernels_numba import multiply

    point = np.ones((1, 1), np.complex64)
    multiply(point, point, point)  # Numba chooses the layer when the first parallel kernel runs
    layer = numba.threading_layer()
    found = f"engine: {n_threads()} threads (Numba's {layer} layer); linear algebra: 1 thread"
    if layer == "workqueue":
        return Finding("threads", ADVICE, f"{found}; tilts cannot be simulated in parallel: pip install tbb")
    if numba.config.NUMBA_NUM_THREADS < n_cores():  # pyrefly: ignore[missing-attribute]
        return Finding("threads", ADVICE, f"{found}; unset NUMBA_NUM_THREADS to use all {n_cores()} cores")
    return Finding("threads", OK, found)


def _ffts() -> Finding:
    from aetlab.core.fft import describe_fft

    return Finding("FFT", OK, describe_fft())


def _memory() -> Finding:
    import psutil

    from aetlab.cli.compose import compose_spec
    from aetlab.reconstruction.memory import available_bytes, memory_by_stage

    free, total = available_bytes(), float(psutil.virtual_memory().total)
    needed = {name: max(memory_by_stage(compose_spec([f"scale={name}"])).values())
              for name in ("small", "medium", "paper")}
    text = f"{free / 1e9:.1f} GB free of {total / 1e9:.1f} GB; a run needs " + ", ".join(
        f"{n_bytes / 1e9:.1f} GB (scale={name})" for name, n_bytes in needed.items())
    if free < needed["paper"]:
        return Finding("memory", ADVICE, f"{text}; scale=paper does not fit: stop other programs, or use reg=lasso")
    return Finding("memory", OK, text)


def _gpu() -> Finding:
    from aetlab.core.backend import describe_gpu, gpu_problem

    driver = _driver_version()
    cupy = [f"{name} {metadata.version(name)}" for name in ("cupy-cuda12x", "cupy-cuda13x", "cupy")
            if importlib.util.find_spec("cupy") is not None and _is_installed(name)]
    text = f"driver {driver or 'none'}, CuPy {', '.join(cupy) or 'none'}"
    advice = advise_cuda(driver, cupy)
    problem = gpu_problem()
    if problem:
        return Finding("GPU", ADVICE if driver else OPTIONAL, f"{text}: {problem}; runs use the CPU"
                       + (f"; {advice}" if advice else ""))
    return Finding("GPU", ADVICE if advice else OK, f"{describe_gpu()}; {text}" + (f"; {advice}" if advice else ""))


def advise_cuda(driver: str, cupy: Sequence[str]) -> str:
    """Return what to install if the ``cupy`` packages do not suit the version of ``driver`` (empty if none), or ''."""
    if not driver:
        return ""
    number = int(driver.split(".")[0])
    newest = next((cuda for least, cuda in _CUDA_OF_DRIVER if number >= least), 11)
    if newest < 12:
        return f"driver {driver} is too old for CUDA 12: update it to 525 or newer"
    if not cupy:
        return f"to use the GPU: pip install 'aetlab[cuda{newest}]'"
    if len(cupy) > 1:
        return f"keep only one CuPy: pip uninstall {' '.join(name.split()[0] for name in cupy[1:])}"
    if "cuda13x" in cupy[0] and newest < 13:
        return f"driver {driver} supports CUDA 12 at most: pip uninstall cupy-cuda13x; pip install 'aetlab[cuda12]'"
    return ""


def _driver_version() -> str:
    """Return the version of the NVIDIA driver, or '' if none is loaded."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"\b(\d{3}\.\d+(\.\d+)?)\b", text)
    return found[1] if found else ""


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _kernels() -> Finding:
    from aetlab.core.kernel_cache import describe_folder, kernel_folder

    advice = describe_folder()
    return Finding("compiled kernels", ADVICE if advice else OK, advice or f"cached in {kernel_folder()}")


def _launchers() -> list[Finding]:
    findings = []
    for name, (module, extra) in _LAUNCHERS.items():
        found = importlib.util.find_spec("hydra_plugins") is not None and importlib.util.find_spec(module) is not None
        findings.append(Finding(f"launcher {name}", OK if found else OPTIONAL,
                                "installed" if found else f"pip install 'aetlab[{extra}]'"))
    return findings


def _configuration() -> Finding:
    from aetlab.cli.compose import compose_spec
    from aetlab.spec import SpecError
    from aetlab.spec.folders import config_folder
    from aetlab.store.identity import code_id

    try:
        compose_spec()
    except SpecError as error:
        return Finding("configuration", BROKEN, str(error))
    return Finding("configuration", OK, f"{config_folder()}; code version {code_id()}")


def _outputs(outputs: Path) -> Finding:
    place = outputs.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        return Finding("outputs", BROKEN, f"{place} is not writable")
    free = shutil.disk_usage(place).free
    text = f"{outputs.absolute()}: {free / 1e9:.1f} GB free"
    if free < _DISK_BYTES:
        return Finding("outputs", ADVICE, f"{text}; a sweep at scale=paper needs {_DISK_BYTES / 1e9:.0f} GB: choose a "
                                          "folder on a larger disk with outputs=FOLDER")
    return Finding("outputs", OK, text)


if __name__ == "__main__":
    main()
