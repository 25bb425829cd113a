"""Importing aetlab changes nothing outside it; the context managers of a run restore what they change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import scipy.linalg  # noqa: F401  loads scipy's own OpenBLAS
import threadpoolctl

from aetlab.core.backend import prepare_process, single_threaded_blas

ROOT = Path(__file__).resolve().parents[1]
#: A user's settings, none of them the default, and the state of the process before and after the imports in JSON.
STATE = """
import importlib, json, logging, os, pkgutil, random, signal, sys, warnings

import matplotlib
matplotlib.use("svg")
{libraries}
import numba, numpy as np, scipy.linalg, threadpoolctl

np.seterr(under="raise", divide="ignore")
np.random.seed(3)
random.seed(4)
warnings.simplefilter("once", FutureWarning)
threadpoolctl.threadpool_limits(2, user_api="blas")
numba.set_num_threads(1)
numba.config.CACHE_DIR = "chosen"

def state():
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    limits = {{library["filepath"]: library["num_threads"] for library in threadpoolctl.threadpool_info()}}
    return {{"environment": dict(os.environ), "cache": numba.config.CACHE_DIR, "threads": numba.get_num_threads(),
            "limits": limits, "warnings": [repr(each) for each in warnings.filters], "errors": np.geterr(),
            "backend": matplotlib.get_backend(), "settings": repr(dict(matplotlib.rcParams)),
            "random": repr((random.getstate(), np.random.get_state())), "path": sys.path, "folder": os.getcwd(),
            "signals": [repr(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
            "loggers": sorted(repr((logger.name, logger.level, logger.handlers)) for logger in loggers
                              if getattr(logger, "handlers", []) or getattr(logger, "level", 0)),
            "hooks": repr((sys.excepthook, sys.displayhook, warnings.showwarning)),
            "limit": sys.getrecursionlimit(), "printing": repr(np.get_printoptions()), "mask": os.umask(0o022)}}

before = state()
import aetlab
after = [state()]
names = []
for module in pkgutil.walk_packages(aetlab.__path__, "aetlab."):
    if not module.name.endswith("_cuda"):  # these import CuPy
        names.append(module.name)
        importlib.import_module(module.name)
after.append(state())
print(json.dumps([before, after, names]))
"""
#: Every library that aetlab imports; what they change when they are imported is not aetlab's.
LIBRARIES = ("ase.io", "ducc0", "filelock", "h5py", "hydra", "matplotlib.pyplot", "mrcfile", "numba", "omegaconf",
             "pandas", "PIL.Image", "psutil", "pyarrow", "rich.progress", "scipy.ndimage", "scipy.spatial", "yaml")


def _state(folder: Path) -> tuple[dict[str, object], list[dict[str, object]], list[str]]:
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_CACHE_DIR")}
    environment["PYTHONPATH"] = str(ROOT)
    code = STATE.format(libraries=f"import {', '.join(LIBRARIES)}")
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, text=True, capture_output=True,
                            check=True)
    before, after, names = json.loads(result.stdout)
    return before, after, names


def test_no_module_changes_the_process_that_imports_it(tmp_path: Path) -> None:
    before, after, names = _state(tmp_path)
    assert len(names) > 100 and "aetlab.forward.kernels_numba" in names
    assert before["cache"] == "chosen" and before["threads"] == 1 and before["limits"]
    assert set(before["limits"].values()) == {2}  # type: ignore[attr-defined]
    for each in after:
        for what, value in before.items():
            assert each[what] == value, what
    assert list(tmp_path.iterdir()) == []


def test_linear_algebra_has_one_thread_inside_the_block_and_the_limits_of_the_user_after() -> None:
    def limits() -> list[int]:
        return [library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]

    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        given = limits()
        assert set(given) == {3}
        with single_threaded_blas():
            assert set(limits()) == {1}
            np.linalg.inv(np.eye(3))
        assert limits() == given


def test_a_process_is_prepared_only_where_its_user_has_set_nothing(monkeypatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    prepare_process()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    prepare_process()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
