"""Run kernels on small arrays of double precision in Python's interpreter instead of compiling them for a test.

A run computes in single precision. Tests take doubles where they compare with central differences or with sums to the
last digits, on a few thousand numbers. Numba compiles a kernel of a new precision for one to five seconds; the
interpreter performs the same source in milliseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
from numba.core.extending import _Intrinsic
from numba.core.registry import CPUDispatcher

#: Rooms whose kernels a run calls with single precision only.
_ROOMS = ("aetlab.forward.", "aetlab.methods.", "aetlab.solve.")
#: Numbers in all arrays of a call, and of the calls of one kernel before it is compiled, from the next test on.
MOST_NUMBERS, MOST_IN_ALL = 15_000, 400_000

_spent: Counter[Any] = Counter()
_compiled: set[Any] = set()


def interpret_doubles() -> None:
    """Let Numba call the Python function where it would load or compile a kernel for a few doubles."""
    compile_for = CPUDispatcher._compile_for_args

    def chosen(kernel: Any, *arguments: Any, **named: Any) -> Callable[..., Any]:
        few = kernel not in _compiled and kernel.__module__.startswith(_ROOMS) and few_doubles(arguments)
        if few and (function := interpreted(kernel)) is not None:
            _spent[kernel] += few
            return function
        return compile_for(kernel, *arguments, **named)  # type: ignore[no-any-return]

    CPUDispatcher._compile_for_args = chosen


def begin_test() -> None:
    """Let Numba compile what earlier tests called often; within a test a kernel has the same last bits throughout."""
    _compiled.update(kernel for kernel, n in _spent.items() if n > MOST_IN_ALL)


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


def few_doubles(arguments: tuple[Any, ...]) -> int:
    """Return the numbers in all arrays if they are few and the first of real or complex ones has doubles, else 0."""
    arrays = [each for each in arguments if isinstance(each, np.ndarray)]
    real = [each for each in arrays if each.dtype.kind in "fc"]
    n = sum(each.size for each in arrays)
    return n if real and real[0].dtype in (np.float64, np.complex128) and n < MOST_NUMBERS else 0
