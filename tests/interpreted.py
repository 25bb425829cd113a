"""Run kernels on small arrays of double precision in Python's interpreter instead of compiling them for a test.

A run computes in single precision. Tests take doubles where they compare with central differences or with sums to the
last digits, on a few thousand numbers. Numba compiles a kernel of a new precision for one to five seconds; the
interpreter performs the same source in milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
from numba.core.extending import _Intrinsic
from numba.core.registry import CPUDispatcher

#: Rooms whose kernels a run calls with single precision only.
_ROOMS = ("aetlab.forward.", "aetlab.methods.", "aetlab.solve.")
#: Numbers in all arrays of a call; more would take longer than the compilation.
MOST_NUMBERS = 15_000


def interpret_doubles() -> None:
    """Let Numba call the Python function where it would load or compile a kernel for a few doubles."""
    compile_for = CPUDispatcher._compile_for_args

    def chosen(kernel: Any, *arguments: Any, **named: Any) -> Callable[..., Any]:
        few = kernel.__module__.startswith(_ROOMS) and few_doubles(arguments)
        return few and interpreted(kernel) or compile_for(kernel, *arguments, **named)

    CPUDispatcher._compile_for_args = chosen


@cache
def interpreted(kernel: Any) -> Callable[..., Any] | None:
    """Return the Python function of ``kernel``, which calls those of the kernels that it uses.

    None if one of them uses instructions of the processor, which Python has not.
    """
    function = kernel.py_func
    used = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    inner = {name: interpreted(each) for name, each in used.items() if isinstance(each, CPUDispatcher)}
    if None in inner.values() or any(isinstance(each, _Intrinsic) for each in used.values()):
        return None
    return FunctionType(function.__code__, {**function.__globals__, **inner})


def few_doubles(arguments: tuple[Any, ...]) -> bool:
    """Return whether the first array of real or complex numbers has double precision, and all arrays are small."""
    arrays = [each for each in arguments if isinstance(each, np.ndarray)]
    real = [each for each in arrays if each.dtype.kind in "fc"]
    return bool(real) and real[0].dtype in (np.float64, np.complex128) and sum(a.size for a in arrays) < MOST_NUMBERS
