"""The CUDA sources compile for current GPUs; the compiler (NVRTC) needs no GPU."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path

import pytest

from aetlab.gpu.kernels import KERNELS, SOURCES, read_source


def find_nvrtc() -> Path:
    """Return the path of the compiler's library in any installed package of NVIDIA."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [path for folder in folders for path in Path(folder).rglob("libnvrtc.so.*") if ".alt." not in path.name]
    assert found, "NVRTC is not installed: pip install -e '.[test]' brings it"
    return found[0]


def compile_source(text: str, architecture: str) -> tuple[bytes, str]:
    """Return the machine code of ``text`` for ``architecture``, and the log of the compiler."""
    nvrtc = ctypes.CDLL(str(find_nvrtc()))
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None) == 0
    options = (ctypes.c_char_p * 2)(b"--std=c++17", f"--gpu-architecture={architecture}".encode())
    status = nvrtc.nvrtcCompileProgram(program, len(options), options)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    said = log.value.decode()
    assert status == 0, said
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    code = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetCUBIN(program, code)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return code.raw, said


@functools.cache
def machine_code(source: str, architecture: str) -> bytes:
    """Return the machine code of one of :data:`SOURCES`, compiled once and without a warning."""
    code, said = compile_source(read_source(source), architecture)
    assert said == ""
    return code


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("source", SOURCES)
def test_a_source_compiles_without_a_warning(source: str, architecture: str) -> None:
    code = machine_code(source, architecture)
    assert code.startswith(b"\x7fELF")
    for name, kernel in KERNELS.items():
        assert (f".text.{name}\0".encode() in code) == (kernel.source == source)


def test_a_mistake_in_a_source_is_found() -> None:
    with pytest.raises(AssertionError, match="undefined"):
        compile_source(read_source(SOURCES[0]) + "__global__ void wrong() { nothing_like_it(); }", "sm_80")
