"""``python -m aetlab.doctor``: what this machine has for aetlab, what is missing, and what that costs."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

OK, OPTIONAL, BROKEN = "ok", "not here", "broken"
_TRIAL = ("scale=smoke", "tilts.n_tilts=6", "engine.n_iterations=2", "dose=50k")
_NEEDED = ("numpy", "scipy", "numba", "h5py", "hydra-core", "omegaconf", "pandas", "matplotlib", "ase", "rich",
           "filelock", "psutil", "ducc0", "PyYAML")
_LAUNCHERS = {"cores, gpus": ("hydra_plugins.hydra_joblib_launcher", "cores"),
              "slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
              "ray": ("hydra_plugins.hydra_ray_launcher", "ray"),
              "search (optuna)": ("hydra_plugins.hydra_optuna_sweeper", "search")}


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, how it stands, and in words."""

    what: str
    status: str
    detail: str


def examine(outputs: Path) -> list[Finding]:
    """Everything that is looked at, in the order in which it is told."""
    return [_python(), _packages(), _machine(), _gpu(), *_launchers(), _configuration(), _outputs(outputs)]


def try_runs() -> Finding:
    """Three tiny runs in a folder that is removed again: the installation works, and the kernels are compiled."""
    from aetlab.cli.compose import compose_spec
    from aetlab.cli.jobs import FAILED, perform

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for reg in ("tv", "lasso", "pos"):
            outcome = perform(compose_spec([*_TRIAL, f"reg={reg}"]), f"try reg={reg}", outputs=Path(folder),
                              use_other_code=False)
            if outcome.status == FAILED:
                return Finding("trial runs", BROKEN, outcome.error)
    return Finding("trial runs", OK, f"three tiny runs in {time.monotonic() - started:.0f} s; the kernels are compiled")


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point of ``python -m aetlab.doctor``; the exit status is 1 where something needed is broken."""
    parser = argparse.ArgumentParser(prog="python -m aetlab.doctor", description="What this machine has for aetlab.")
    parser.add_argument("--outputs", default="outputs", help="folder of all results (default: outputs)")
    parser.add_argument("--try", action="store_true", dest="trial", help="make tiny runs too; compiles the kernels")
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_args(argv)
    findings = examine(Path(arguments.outputs))
    if arguments.trial:
        with contextlib.redirect_stdout(sys.stderr):
            findings.append(try_runs())
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            print(f"{finding.status:<9} {finding.what:<24} {finding.detail}")
    sys.exit(any(finding.status == BROKEN for finding in findings))


def _python() -> Finding:
    status = OK if sys.version_info >= (3, 11) else BROKEN
    return Finding("Python", status, f"{platform.python_version()} ({sys.executable}); 3.11 or newer is needed")


def _packages() -> Finding:
    missing, found = [], []
    for name in _NEEDED:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("packages", BROKEN, f"missing: {', '.join(missing)}; pip install aetlab brings them")
    return Finding("packages", OK, ", ".join(found))


def _machine() -> Finding:
    import psutil

    from aetlab.backend import n_cores

    memory = psutil.virtual_memory()
    free = f"{memory.available / 1e9:.1f} GB of memory free of {memory.total / 1e9:.1f} GB"
    return Finding("machine", OK, f"{n_cores()} of {os.cpu_count()} cores, {free}")


def _gpu() -> Finding:
    from aetlab.backend import gpu_problem

    problem = gpu_problem()
    if problem:
        return Finding("GPU", OPTIONAL, f"{problem}; runs use the CPU")
    return Finding("GPU", OK, "can be used")


def _launchers() -> list[Finding]:
    findings = []
    for what, (module, extra) in _LAUNCHERS.items():
        here = importlib.util.find_spec("hydra_plugins") is not None and importlib.util.find_spec(module) is not None
        findings.append(Finding(f"launcher {what}", OK if here else OPTIONAL,
                                "installed" if here else f"pip install 'aetlab[{extra}]'"))
    return findings


def _configuration() -> Finding:
    from aetlab.cli.compose import compose_spec
    from aetlab.cli.folders import config_folder
    from aetlab.results.identity import code_id
    from aetlab.spec import SpecError

    try:
        compose_spec()
    except SpecError as error:
        return Finding("configuration", BROKEN, str(error))
    return Finding("configuration", OK, f"{config_folder()}; code {code_id()}")


def _outputs(outputs: Path) -> Finding:
    place = outputs.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        return Finding("outputs", BROKEN, f"{place} cannot be written")
    return Finding("outputs", OK, f"{outputs.absolute()}: {shutil.disk_usage(place).free / 1e9:.1f} GB free")


if __name__ == "__main__":
    main()
