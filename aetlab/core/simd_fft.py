"""In-place FFTs along one axis for a vector of lanes at once, designed for FFT, multiplication, inverse FFT.

A buffer holds a complex array (n, WIDTH) as two planes of floats that begin at ``re`` and ``im``; each lane is
transformed. Forward is decimation in frequency: natural order in, scrambled order out. Backward is
decimation in time: scrambled order in, natural order out. Factors multiplied in between are stored in scrambled
order (:func:`scrambled_order`), which saves a pass over memory for sorting. Neither direction is normalised.

Kernels call the transforms by the addresses in a :class:`Plan`. Numba would otherwise compile both transforms again,
several times, in each kernel that uses them.

n must be a product of 2, 3 and 5 (radices 8, 5, 4, 3, 2). The inverse transform swaps the real and imaginary plane.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numba as nb
import numpy as np
from llvmlite import ir
from numba import types

from aetlab.core.kernel_cache import callback, njit
from aetlab.core.simd import WIDTH, intrinsic, load, round_to_even, store

FAST = {"contract", "arcp", "nsz"}
_inline = njit(fastmath=FAST, forceinline=True)
_jit = njit(fastmath=FAST)

_ONE, _TWO, _HALF, _PI = (np.float32(v) for v in (1, 2, 0.5, math.pi))
_TURNS = np.float32(0.5 / math.pi)
_SIN = tuple(np.float32((-1) ** k / math.factorial(2 * k + 1)) for k in range(6))
_COS = tuple(np.float32((-1) ** k / math.factorial(2 * k)) for k in range(7))
_SIN_60 = np.float32(math.sqrt(3) / 2)
_SIN_45 = np.float32(math.sqrt(0.5))
_COS_72, _SIN_72 = np.float32(math.cos(0.4 * math.pi)), np.float32(math.sin(0.4 * math.pi))
_COS_144, _SIN_144 = np.float32(math.cos(0.8 * math.pi)), np.float32(math.sin(0.8 * math.pi))


class Plan(NamedTuple):
    """Radices of the stages of a transform, their twiddle factors, and where the factors of each stage begin.

    ``forward_at`` and ``inverse_at`` are the addresses of the compiled transforms.
    """

    radices: np.ndarray
    twiddles: np.ndarray
    starts: np.ndarray
    forward_at: int
    inverse_at: int


def factors(n: int) -> tuple[int, ...] | None:
    """Return radices whose product is ``n``, or None if ``n`` has other prime factors than 2, 3 and 5."""
    radices = []
    for radix in (5, 3):
        while n % radix == 0:
            radices.append(radix)
            n //= radix
    while n % 8 == 0 and n != 16:
        radices.append(8)
        n //= 8
    while n % 4 == 0:
        radices.append(4)
        n //= 4
    if n == 2:
        radices.append(2)
        n = 1
    return tuple(sorted(radices, reverse=True)) if n == 1 else None


def make_plan(n: int) -> Plan:
    """Return the plan of transforms of length ``n``; raises ValueError for other prime factors than 2, 3 and 5."""
    radices = factors(n)
    if radices is None:
        raise ValueError(f"no transform of length {n}: it must be a product of 2, 3 and 5")
    twiddles: list[np.ndarray] = []
    starts: list[int] = []
    length = n
    for radix in radices:
        part = length // radix
        starts.append(sum(len(t) for t in twiddles))
        angle = -2 * np.pi / length * np.arange(part)[:, None] * np.arange(1, radix)
        twiddles.append(np.stack([np.cos(angle), np.sin(angle)], axis=-1).ravel())
        length = part
    return Plan(np.array(radices, np.int64), np.concatenate(twiddles).astype(np.float32), np.array(starts, np.int64),
                *_addresses())


@functools.cache
def _addresses() -> tuple[int, int]:
    """Return the addresses of the compiled transforms, forward and inverse, in this process."""
    return callback(_SIGNATURE, _forward).address, callback(_SIGNATURE, _inverse).address


def scrambled_order(n: int) -> np.ndarray:
    """Return the frequency index at each position of a forward transform of length ``n``."""

    def order(n: int, radices: tuple[int, ...]) -> np.ndarray:
        if not radices:
            return np.zeros(1, np.int64)
        inner = order(n // radices[0], radices[1:])
        return np.concatenate([first + radices[0] * inner for first in range(radices[0])])

    return order(n, factors(n) or ())


@_inline
def _add(a, b):
    return a[0] + b[0], a[1] + b[1]


@_inline
def _sub(a, b):
    return a[0] - b[0], a[1] - b[1]


@_inline
def _sub_i(a, b):
    """a - i b"""
    return a[0] + b[1], a[1] - b[0]


@_inline
def _add_i(a, b):
    """a + i b"""
    return a[0] - b[1], a[1] + b[0]


@_inline
def _scale(a, factor):
    return a[0] * factor, a[1] * factor


@_inline
def _turn(a, twiddles, t):
    c, s = twiddles[t], twiddles[t + 1]
    return a[0] * c - a[1] * s, a[0] * s + a[1] * c


@_inline
def _get(buffer, re, im, i):
    return load(buffer, re + i), load(buffer, im + i)


@_inline
def _put(buffer, re, im, i, a):
    store(buffer, re + i, a[0])
    store(buffer, im + i, a[1])


@_inline
def _dft4(a, b, c, d):
    e, f, g, h = _add(a, c), _sub(a, c), _add(b, d), _sub(b, d)
    return _add(e, g), _sub_i(f, h), _sub(e, g), _add_i(f, h)


@_inline
def _stage2(buffer, re, im, i, gap, twiddles, t, before, after):
    a, b = _get(buffer, re, im, i), _get(buffer, re, im, i + gap)
    if before:
        b = _turn(b, twiddles, t)
    a, b = _add(a, b), _sub(a, b)
    if after:
        b = _turn(b, twiddles, t)
    _put(buffer, re, im, i, a)
    _put(buffer, re, im, i + gap, b)


@_inline
def _stage3(buffer, re, im, i, gap, twiddles, t, before, after):
    a, b, c = _get(buffer, re, im, i), _get(buffer, re, im, i + gap), _get(buffer, re, im, i + 2 * gap)
    if before:
        b, c = _turn(b, twiddles, t), _turn(c, twiddles, t + 2)
    s, d = _add(b, c), _scale(_sub(b, c), _SIN_60)
    m = _sub(a, _scale(s, _HALF))
    a, b, c = _add(a, s), _sub_i(m, d), _add_i(m, d)
    if after:
        b, c = _turn(b, twiddles, t), _turn(c, twiddles, t + 2)
    _put(buffer, re, im, i, a)
    _put(buffer, re, im, i + gap, b)
    _put(buffer, re, im, i + 2 * gap, c)


@_inline
def _stage4(buffer, re, im, i, gap, twiddles, t, before, after):
    a, b = _get(buffer, re, im, i), _get(buffer, re, im, i + gap)
    c, d = _get(buffer, re, im, i + 2 * gap), _get(buffer, re, im, i + 3 * gap)
    if before:
        b, c, d = _turn(b, twiddles, t), _turn(c, twiddles, t + 2), _turn(d, twiddles, t + 4)
    a, b, c, d = _dft4(a, b, c, d)
    if after:
        b, c, d = _turn(b, twiddles, t), _turn(c, twiddles, t + 2), _turn(d, twiddles, t + 4)
    _put(buffer, re, im, i, a)
    _put(buffer, re, im, i + gap, b)
    _put(buffer, re, im, i + 2 * gap, c)
    _put(buffer, re, im, i + 3 * gap, d)


@_inline
def _stage5(buffer, re, im, i, gap, twiddles, t, before, after):
    a, b, c = _get(buffer, re, im, i), _get(buffer, re, im, i + gap), _get(buffer, re, im, i + 2 * gap)
    d, e = _get(buffer, re, im, i + 3 * gap), _get(buffer, re, im, i + 4 * gap)
    if before:
        b, c = _turn(b, twiddles, t), _turn(c, twiddles, t + 2)
        d, e = _turn(d, twiddles, t + 4), _turn(e, twiddles, t + 6)
    p, q, r, s = _add(b, e), _sub(b, e), _add(c, d), _sub(c, d)
    m = _add(a, _add(_scale(p, _COS_72), _scale(r, _COS_144)))
    n = _add(a, _add(_scale(p, _COS_144), _scale(r, _COS_72)))
    u = _add(_scale(q, _SIN_72), _scale(s, _SIN_144))
    v = _sub(_scale(q, _SIN_144), _scale(s, _SIN_72))
    a, b, c, d, e = _add(a, _add(p, r)), _sub_i(m, u), _sub_i(n, v), _add_i(n, v), _add_i(m, u)
    if after:
        b, c = _turn(b, twiddles, t), _turn(c, twiddles, t + 2)
        d, e = _turn(d, twiddles, t + 4), _turn(e, twiddles, t + 6)
    _put(buffer, re, im, i, a)
    _put(buffer, re, im, i + gap, b)
    _put(buffer, re, im, i + 2 * gap, c)
    _put(buffer, re, im, i + 3 * gap, d)
    _put(buffer, re, im, i + 4 * gap, e)


@_inline
def _stage8(buffer, re, im, i, gap, twiddles, t, before, after):
    a, b = _get(buffer, re, im, i), _get(buffer, re, im, i + gap)
    c, d = _get(buffer, re, im, i + 2 * gap), _get(buffer, re, im, i + 3 * gap)
    e, f = _get(buffer, re, im, i + 4 * gap), _get(buffer, re, im, i + 5 * gap)
    g, h = _get(buffer, re, im, i + 6 * gap), _get(buffer, re, im, i + 7 * gap)
    if before:
        b, c, d = _turn(b, twiddles, t), _turn(c, twiddles, t + 2), _turn(d, twiddles, t + 4)
        e, f = _turn(e, twiddles, t + 6), _turn(f, twiddles, t + 8)
        g, h = _turn(g, twiddles, t + 10), _turn(h, twiddles, t + 12)
    a, c, e, g = _dft4(a, c, e, g)
    b, d, f, h = _dft4(b, d, f, h)
    d = (d[0] + d[1]) * _SIN_45, (d[1] - d[0]) * _SIN_45
    h = (h[0] - h[1]) * _SIN_45, (h[0] + h[1]) * _SIN_45
    a, b, c, d, e, f, g, h = (_add(a, b), _add(c, d), _sub_i(e, f), _sub(g, h),
                              _sub(a, b), _sub(c, d), _add_i(e, f), _add(g, h))
    if after:
        b, c, d = _turn(b, twiddles, t), _turn(c, twiddles, t + 2), _turn(d, twiddles, t + 4)
        e, f = _turn(e, twiddles, t + 6), _turn(f, twiddles, t + 8)
        g, h = _turn(g, twiddles, t + 10), _turn(h, twiddles, t + 12)
    _put(buffer, re, im, i, a)
    _put(buffer, re, im, i + gap, b)
    _put(buffer, re, im, i + 2 * gap, c)
    _put(buffer, re, im, i + 3 * gap, d)
    _put(buffer, re, im, i + 4 * gap, e)
    _put(buffer, re, im, i + 5 * gap, f)
    _put(buffer, re, im, i + 6 * gap, g)
    _put(buffer, re, im, i + 7 * gap, h)


@_jit
def _run_stage(buffer, re, im, n, radix, part, twiddles, start, in_time):
    """Apply one stage to the whole buffer; ``part`` is the distance between the elements of a butterfly."""
    gap = part * WIDTH
    for j in range(part):
        t = start + j * 2 * (radix - 1)
        # The factors of j = 0 are 1, but a branch behind the butterfly makes the compiler spill it to memory, which
        # is 4 times slower.
        before, after = in_time and j > 0, not in_time
        for first in range(j, n, part * radix):
            i = first * WIDTH
            if radix == 8:
                _stage8(buffer, re, im, i, gap, twiddles, t, before, after)
            elif radix == 5:
                _stage5(buffer, re, im, i, gap, twiddles, t, before, after)
            elif radix == 4:
                _stage4(buffer, re, im, i, gap, twiddles, t, before, after)
            elif radix == 3:
                _stage3(buffer, re, im, i, gap, twiddles, t, before, after)
            else:
                _stage2(buffer, re, im, i, gap, twiddles, t, before, after)


@intrinsic
def _call(typing_context, address, buffer, re, im, n, radices, n_stages, twiddles, starts):
    """Call the transform at ``address``; all arguments are integers or addresses."""

    def codegen(context, builder, sig, args):
        number = ir.IntType(64)
        function = ir.FunctionType(ir.VoidType(), [number] * 8)
        builder.call(builder.inttoptr(args[0], function.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9), codegen


@_jit
def forward(buffer, re, im, n, plan):
    """Transform in place, kernel exp(-2πi jk/n): natural order in, scrambled order out."""
    _call(plan.forward_at, buffer.ctypes.data, re, im, n, plan.radices.ctypes.data, plan.radices.shape[0],
          plan.twiddles.ctypes.data, plan.starts.ctypes.data)


@_jit
def inverse(buffer, re, im, n, plan):
    """Transform back in place, kernel exp(+2πi jk/n), without 1/n: scrambled order in, natural order out."""
    _call(plan.inverse_at, buffer.ctypes.data, re, im, n, plan.radices.ctypes.data, plan.radices.shape[0],
          plan.twiddles.ctypes.data, plan.starts.ctypes.data)


#: Arguments of the transforms: buffer, re, im, n, radices and their number, twiddle factors, and their starts.
_SIGNATURE = types.void(types.CPointer(types.float32), types.intp, types.intp, types.intp,
                        types.CPointer(types.int64), types.intp, types.CPointer(types.float32),
                        types.CPointer(types.int64))


def _forward(buffer, re, im, n, radices, n_stages, twiddles, starts):
    cells, stages = nb.carray(buffer, 2 * n * WIDTH), nb.carray(radices, n_stages)
    factors_at, first = nb.carray(twiddles, 2 * n), nb.carray(starts, n_stages)
    part = n
    for stage in range(n_stages):
        part //= stages[stage]
        _run_stage(cells, re, im, n, stages[stage], part, factors_at, first[stage], False)


def _inverse(buffer, re, im, n, radices, n_stages, twiddles, starts):
    cells, stages = nb.carray(buffer, 2 * n * WIDTH), nb.carray(radices, n_stages)
    factors_at, first = nb.carray(twiddles, 2 * n), nb.carray(starts, n_stages)
    part = np.int64(1)
    for stage in range(n_stages - 1, -1, -1):
        _run_stage(cells, im, re, n, stages[stage], part, factors_at, first[stage], True)
        part *= stages[stage]


@_inline
def cos_sin(angle):
    """Return cosine and sine from Taylor series of half the angle, reduced to a quarter turn; accurate to 3e-7."""
    half = angle * _HALF - round_to_even(angle * _TURNS) * _PI
    h2 = half * half
    s = ((((h2 * _SIN[5] + _SIN[4]) * h2 + _SIN[3]) * h2 + _SIN[2]) * h2 + _SIN[1]) * h2 + _SIN[0]
    c = (((((h2 * _COS[6] + _COS[5]) * h2 + _COS[4]) * h2 + _COS[3]) * h2 + _COS[2]) * h2 + _COS[1]) * h2 + _COS[0]
    s = s * half
    return _ONE - s * s * _TWO, s * c * _TWO


@_inline
def scratch(n):
    """Return memory for ``n`` floats that is aligned for loads of whole vectors."""
    room = np.empty(n + WIDTH, np.float32)
    first = (-(room.ctypes.data >> 2)) % WIDTH
    return room[first : first + n]
