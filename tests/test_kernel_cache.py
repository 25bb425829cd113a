"""Kernels are loaded from the folder of their sources, and never from a cache filled before a source changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import pytest

import aetlab
from aetlab.core.kernel_cache import choose_folder, describe_folder, kernel_folder, njit, sources_key
from aetlab.core.scratch import scratch_folder
from aetlab.methods import prox_kernels

PACKAGE = Path(aetlab.__file__).parent
INNER = "from aetlab.core.kernel_cache import njit\n\n@njit()\ndef inner(x):\n    return x + {}\n"
OUTER = ("import numba\nfrom aetlab.core.kernel_cache import njit\nfrom aetlab.inner import inner\n\n"
         "@njit(parallel=True)\ndef outer(n):\n    total = 0\n    for i in numba.prange(n):\n"
         "        total += inner(i)\n    return total\n")
CODE = "from aetlab.outer import outer; print(outer(2), sum(outer.stats.cache_hits.values()))"
#: A parallel kernel that calls others: bits of the result, and how often it was loaded and compiled.
KERNEL = """
import json, numpy as np
from aetlab.methods import prox_kernels as kernels
n_z, n_x, n_y = shape = (12, 10, 37)
random = np.random.default_rng(0)
b, p, q = (random.normal(size=n * n_z * n_x * n_y).astype(np.float32) for n in (1, 3, 3))
edges = np.zeros(n_z * 2 * (n_y + 1), np.float32)
kernels.tv_edges(b, p, q, shape, np.ones((n_z, n_x), bool), np.float32(0.7), np.float32(0.3), np.float32(0.5), edges)
stats = kernels.tv_edges.stats
print(json.dumps([edges.tobytes().hex(), sum(stats.cache_hits.values()), sum(stats.cache_misses.values())]))
"""


def _run(code: str, folder: Path, cache: str | None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    if cache is not None:
        environment |= {"NUMBA_CACHE_DIR": cache, "PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, text=True, capture_output=True,
                          check=True).stdout


def test_a_change_in_an_inlined_file_reaches_the_kernel(tmp_path: Path) -> None:
    """Numba alone would keep the old inner function: the file of the outer one did not change."""
    (tmp_path / "aetlab" / "core").mkdir(parents=True)
    for name in ("__init__.py", "core/__init__.py"):
        (tmp_path / "aetlab" / name).touch()
    for name in ("kernel_cache.py", "scratch.py"):
        shutil.copy(PACKAGE / "core" / name, tmp_path / "aetlab" / "core")
    (tmp_path / "aetlab" / "outer.py").write_text(OUTER)
    results = []
    for added in (10, 10, 200):  # of another length: Python tells a source of the same second by its size
        (tmp_path / "aetlab" / "inner.py").write_text(INNER.format(added))
        results.append(_run(CODE, tmp_path, None).split())
    assert results == [["21", "0"], ["21", "1"], ["401", "0"]]
    kept = {path.parts[-3] for path in tmp_path.rglob("*.nbi")}
    assert len(kept) == 2 and all(name.startswith("aetlab-kernels-") for name in kept)


def test_the_second_process_loads_the_kernel_and_gets_the_same_bits(tmp_path: Path) -> None:
    (first, hits, misses), (second, hits_again, misses_again) = (
        json.loads(_run(KERNEL, tmp_path, str(tmp_path / "cache"))) for _ in range(2))
    assert (hits, misses, hits_again, misses_again) == (0, 1, 1, 0)
    assert first == second
    [folder] = (tmp_path / "cache").iterdir()
    assert folder.name == f"aetlab-kernels-{sources_key(PACKAGE)}"
    assert [path for path in folder.rglob("*.nbi") if "tv_edges" in path.name]
    assert all("aetlab-kernels-" in str(path) for path in PACKAGE.rglob("*.nbi"))


def test_the_cache_folder_is_named_by_the_sources() -> None:
    folder = kernel_folder()
    assert folder is not None and folder.name == f"aetlab-kernels-{sources_key(PACKAGE)}"
    assert folder in Path(prox_kernels.tv_primal.stats.cache_path).parents
    assert numba.config.CACHE_DIR == os.environ.get("NUMBA_CACHE_DIR", "")


def test_the_cache_is_in_the_first_folder_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only package and a read-only home, as in containers; root may write where permissions forbid it."""
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    scratch_folder.cache_clear()
    read_only: set[Path] = set()
    monkeypatch.setattr("aetlab.core.kernel_cache.writable", lambda place: place not in read_only)
    key = f"aetlab-kernels-{sources_key(PACKAGE)}"
    assert choose_folder(PACKAGE, str(tmp_path)) == tmp_path / key
    assert choose_folder(PACKAGE, "") == PACKAGE / "__pycache__" / key
    read_only |= {tmp_path, PACKAGE / "__pycache__"}
    assert choose_folder(PACKAGE, "") == choose_folder(PACKAGE, str(tmp_path)) == home / key
    read_only.add(home)
    own = temporary / f"aetlab-{os.getuid()}"
    assert choose_folder(PACKAGE, "") == own / key and own.stat().st_mode & 0o777 == 0o700
    scratch_folder.cache_clear()
    own.chmod(0o777)  # others could put their own code there
    found = scratch_folder()
    assert found is not None and found.parent == temporary and found != own
    scratch_folder.cache_clear()


def test_the_folder_is_named_where_it_does_not_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    assert describe_folder() == ""
    monkeypatch.setattr("aetlab.core.kernel_cache.kernel_folder", lambda: None)
    assert describe_folder().startswith("no folder can be written: every process compiles its kernels")
    scratch = scratch_folder()
    assert scratch is not None
    monkeypatch.setattr("aetlab.core.kernel_cache.kernel_folder", lambda: scratch / "aetlab-kernels-0")
    assert describe_folder().startswith(f"compiled kernels are kept in {scratch}/aetlab-kernels-0 for now")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/nowhere")
    assert describe_folder().startswith("NUMBA_CACHE_DIR=/nowhere cannot be written: compiled kernels are kept in")


def test_threads_that_import_at_once_use_one_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba reads its setting when a function is decorated, so that no thread may change it meanwhile."""
    before, seen = numba.config.CACHE_DIR, []

    def slowly(**_: object) -> Callable[[object], object]:
        def decorate(function: object) -> object:
            time.sleep(0.005)
            seen.append(numba.config.CACHE_DIR)
            return function

        return decorate

    monkeypatch.setattr(numba, "njit", slowly)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: njit()(i), range(24)))
    assert seen == 24 * [str(kernel_folder())] and before == numba.config.CACHE_DIR
