"""A device that runs the kernels of the GPU engine on the processor, from the same sources.

The ``*.cu`` files are compiled as C++ after ``cuda_on_host.h``, by the compiler of the machine or, if there is none, by
that of the package ziglang. Arrays are NumPy's. The bytes in front of and behind each array are 255, which is NaN, so
that reading or writing outside an array is detected. Every launch is checked against the signature in the source, which
CUDA does not do.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib.util
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft

from aetlab.gpu.kernels import KERNELS, SOURCES, read_source

#: Threads of a block in kernels that synchronise them; results must not depend on this power of 2.
N_WAITING = 4
#: Bytes in front of and behind every array.
_GUARD = 4096

_C_TYPES = {"int": (np.int32, ctypes.c_int), "long long": (np.int64, ctypes.c_longlong),
            "float": (np.float32, ctypes.c_float), "double": (np.float64, ctypes.c_double),
            "float2": (np.complex64, None)}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel as its source declares it."""

    name: str
    declared: str
    dtype: type
    points: bool
    reads_only: bool
    alone: bool


def signatures() -> dict[str, list[Parameter]]:
    """Return the parameters of every kernel in the sources."""
    found = {}
    for source in SOURCES:
        for name, listed in re.findall(r'extern "C" __global__ void (\w+)\(([^)]*)\)', read_source(source)):
            found[name] = [_parameter(" ".join(text.split())) for text in listed.split(",")]
    return found


def _parameter(text: str) -> Parameter:
    declared, name = text.rsplit(" ", 1)
    base = declared.replace("__restrict__", "").replace("const", "").replace("*", "").strip()
    return Parameter(name, declared, _C_TYPES[base][0], points="*" in declared, reads_only="const" in declared,
                     alone="__restrict__" in declared)


def compilers() -> list[list[str]]:
    """Return the C++ compilers of this machine as command lines, the preferred one first."""
    found = [[name] for name in ("c++", "g++", "clang++") if shutil.which(name)]
    if importlib.util.find_spec("ziglang"):
        # Without the C++ library, which zig would have to build first; the kernels need none.
        found.append([sys.executable, "-m", "ziglang", "c++", "-nostdlib++"])
    return found


def compile_for_host(folder: Path, compiler: list[str]) -> Path:
    """Compile the kernels to a library in ``folder``, with a function ``run_<name>`` that launches each."""
    lines = [f'#include "{Path(__file__).parent / "cuda_on_host.h"}"', *(read_source(name) for name in SOURCES)]
    for name, parameters in signatures().items():
        declared = ", ".join(f"{p.declared} {p.name}" for p in parameters)
        called = ", ".join(p.name for p in parameters)
        lines.append(f'extern "C" void run_{name}(const unsigned* layout, {declared}) '
                     f"{{ launch(layout, [&] {{ {name}({called}); }}); }}")
    source, library = folder / "kernels.cpp", folder / "kernels.so"
    source.write_text("\n".join(lines), encoding="utf-8")
    subprocess.run([*compiler, "-std=c++17", "-O2", "-fno-exceptions", "-fno-rtti", "-Wno-unknown-pragmas", "-shared",
                    "-fPIC", "-pthread", "-o", str(library), str(source)], check=True)
    return library


class HostDevice:
    """A :class:`aetlab.gpu.Device` on the processor; ``n_bytes`` is the size of all arrays allocated."""

    name = "the processor"
    graph_problem = None

    def __init__(self, library: Path, n_waiting: int = N_WAITING) -> None:
        self._library = ctypes.CDLL(str(library))
        self._signatures = signatures()
        self._n_waiting = n_waiting
        self._rooms: list[np.ndarray] = []
        self._alone = threading.RLock()
        self._recorded: list[tuple[Callable[..., None], tuple[Any, ...]]] | None = None
        self.n_bytes = 0

    def free_bytes(self) -> int:
        return 10**9

    def synchronize(self) -> None:
        """Do nothing: a launch returns when its work is done."""

    def held_bytes(self) -> int:
        return self.n_bytes

    def release(self) -> None:
        """Do nothing: NumPy keeps no freed memory."""

    def zeros(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        room = np.full(2 * _GUARD + n_bytes, 255, np.uint8)
        self._rooms.append(room)
        self.n_bytes += n_bytes
        array: np.ndarray = room[_GUARD:_GUARD + n_bytes].view(dtype).reshape(shape)
        array[...] = 0
        return array

    def upload(self, values: np.ndarray) -> np.ndarray:
        array = self.zeros(values.shape, values.dtype.type)
        array[...] = values
        return array

    def write(self, values: np.ndarray, array: np.ndarray) -> None:
        assert (values.shape, values.dtype) == (array.shape, array.dtype) and array.flags.c_contiguous
        array[...] = values

    def read(self, array: np.ndarray, values: np.ndarray) -> None:
        assert (values.shape, values.dtype) == (array.shape, array.dtype) and values.flags.c_contiguous
        values[...] = array

    def use(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def queue(self) -> HostDevice:
        """Return the device itself: it works for one thread at a time."""
        return self

    def address(self, array: np.ndarray) -> int:
        return array.ctypes.data

    def check_guards(self) -> None:
        """Assert that nothing was written outside the arrays."""
        for room in self._rooms:
            assert (room[:_GUARD] == 255).all() and (room[-_GUARD:] == 255).all()

    def launch(self, kernel: str, extent: tuple[int, int, int], *arguments: Any) -> None:
        self.check(kernel, arguments)
        self._do(self._launch, kernel, extent, arguments)

    def fft(self, planes: np.ndarray, out: np.ndarray, *, inverse: bool = False) -> None:
        assert planes.dtype == out.dtype == np.complex64 and planes.shape == out.shape
        self._do(self._fft, planes, out, inverse)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        with self._alone:
            self._recorded = recorded = []
            work()
            self._recorded = None

        def replay() -> None:
            with self._alone:
                for function, arguments in recorded:
                    function(*arguments)

        return replay

    def _do(self, function: Callable[..., None], *arguments: Any) -> None:
        with self._alone:
            if self._recorded is None:
                function(*arguments)
            else:
                self._recorded.append((function, arguments))

    def check(self, kernel: str, arguments: tuple[Any, ...]) -> None:
        """Assert that number, types, memory order and overlap of the arguments are as the source declares them."""
        parameters = self._signatures[kernel]
        assert len(arguments) == len(parameters), kernel
        for value, parameter in zip(arguments, parameters, strict=True):
            assert isinstance(value, np.ndarray if parameter.points else parameter.dtype), (kernel, parameter)
            assert value.dtype == parameter.dtype, (kernel, parameter)
            assert not parameter.points or value.flags.c_contiguous, (kernel, parameter)
        arrays = [(v, p) for v, p in zip(arguments, parameters, strict=True) if p.points]
        for (a, p), (b, q) in itertools.combinations(arrays, 2):
            if (p.alone and not q.reads_only) or (q.alone and not p.reads_only):
                assert not np.may_share_memory(a, b), (kernel, p.name, q.name)

    def _launch(self, kernel: str, extent: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
        layout = KERNELS[kernel]
        block = (self._n_waiting, 1, 1) if layout.waits else layout.block
        self.run(kernel, (ctypes.c_uint * 7)(*layout.grid(extent), *block, layout.waits), arguments)

    def run(self, kernel: str, numbers: ctypes.Array[ctypes.c_uint], arguments: tuple[Any, ...]) -> None:
        """Run a kernel; ``numbers`` are blocks (3), threads (3), and whether the threads of a block synchronise."""
        values = [ctypes.c_void_p(v.ctypes.data) if p.points else _C_TYPES[p.declared][1](v.item())
                  for v, p in zip(arguments, self._signatures[kernel], strict=True)]
        with self._alone:  # the threads of all blocks wait at one barrier
            self._library[f"run_{kernel}"](numbers, *values)

    @staticmethod
    def _fft(planes: np.ndarray, out: np.ndarray, inverse: bool) -> None:
        out[...] = scipy.fft.ifft2(planes, norm="forward") if inverse else scipy.fft.fft2(planes)


@functools.cache
def host_library() -> Path:
    """Return the library of kernels, compiled once per process."""
    found = compilers()
    assert found, "no C++ compiler: install one, or the package ziglang (pip install -e '.[test]')"
    folder = tempfile.TemporaryDirectory(prefix="aetlab-kernels-")
    atexit.register(folder.cleanup)
    return compile_for_host(Path(folder.name), found[0])
