"""A kernel is never run from a cache that was filled before one of its sources changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba

import aetlab
from aetlab.core.kernel_cache import choose_folder, sources_key
from aetlab.solve import kernels_numba

INNER = "import numba as nb\n\n@nb.njit(cache=True)\ndef inner(x):\n    return x + {}\n"
OUTER = ("import numba as nb\nfrom aetlab.inner import inner\n\n"
         "@nb.njit(cache=True)\ndef outer(x):\n    return inner(x)\n")
TV = """
import numpy as np
from aetlab.solve import kernels_numba as kernels
n_z, n_x, n_y = shape = (12, 10, 37)
random = np.random.default_rng(0)
b, p, q = (random.normal(size=n * n_z * n_x * n_y).astype(np.float32) for n in (1, 3, 3))
edges = np.zeros(n_z * 2 * (n_y + 1), np.float32)
kernels.tv_edges(b, p, q, shape, np.float32(0.7), np.float32(0.3), edges)
print(edges.tobytes().hex(), sum(kernels.tv_edges.stats.cache_hits.values()))
"""
CODE = "from aetlab.outer import outer; print(outer(1), sum(outer.stats.cache_hits.values()))"


def test_a_change_in_an_inlined_file_reaches_the_kernel(tmp_path: Path) -> None:
    """Numba alone goes on with the old inner function: the outer one's file did not change."""
    package = tmp_path / "aetlab"
    package.mkdir()
    for name in ("__init__.py", "kernel_cache.py"):
        shutil.copy(Path(aetlab.__file__).with_name(name), package)
    (package / "outer.py").write_text(OUTER)
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    said = []
    for added in (10, 10, 200):  # of another length: Python tells a source of the same second by its size
        (package / "inner.py").write_text(INNER.format(added))
        result = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, env=environment, text=True,
                                capture_output=True, check=True)
        said.append(result.stdout.split())
    assert said == [["11", "0"], ["11", "1"], ["201", "0"]]


def test_who_compiles_a_kernel_gets_the_bits_of_who_loads_it(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(aetlab.__file__).parents[1])}
    said = [subprocess.run([sys.executable, "-c", TV], cwd=tmp_path, env=environment, text=True, capture_output=True,
                           check=True).stdout.split() for _ in range(2)]
    assert [hits for _, hits in said] == ["0", "1"]
    assert said[0][0] == said[1][0]


def test_the_kernels_of_this_process_are_kept_by_their_sources() -> None:
    key = sources_key(Path(aetlab.__file__).parent)
    assert Path(numba.config.CACHE_DIR).name == f"aetlab-kernels-{key}"
    assert f"aetlab-kernels-{key}" in kernels_numba.tv_primal.stats.cache_path


def test_the_folder_of_a_parent_process_is_not_nested(tmp_path: Path) -> None:
    package = Path(aetlab.__file__).parent
    first = choose_folder(package, str(tmp_path))
    assert first.parent == tmp_path
    assert choose_folder(package, str(first)) == first
