"""Define Numba types for vectors of floats, so that loops over y lanes do not depend on the auto-vectoriser.

A vector fills 64 bytes: ``WIDTH`` float32 or half as many float64 lanes, which is one AVX-512, two AVX2 or four NEON
registers. ``load(array, i)`` and ``store(array, i, v)`` move a vector from and to a C-contiguous array, starting at
element ``i`` without a bounds check. ``splat(x)`` repeats a scalar. ``load_eight`` and ``splat_eight`` make vectors of
eight lanes in either precision. ``+``, ``-``, ``*``, ``/`` work lane by lane, also with a scalar of the same precision
on one side. ``square_root``, ``maximum`` and ``round_to_even`` take vectors and scalars, so that one formula applies to
the vectors and to the remaining elements of a row.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numba.extending
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import get_or_insert_function
from numba.core.datamodel import PrimitiveModel
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import register_model

#: Bytes of a vector, and its number of float32 lanes.
BYTES = 64
WIDTH = BYTES // 4

#: No reassociation: Numba optimises code for the cache twice and would regroup sums again. Results of the compiling
#: process and of a process that loads the cache would then differ in the last bits.
_FLAGS = ("contract", "nsz", "arcp")

#: Typed as Any: an intrinsic is called without its typing context, which type checkers do not support.
intrinsic: Any = numba.extending.intrinsic


class LanesType(types.Type):
    """The Numba type of a vector of ``width`` times ``lane`` (float32 or float64)."""

    def __init__(self, lane: types.Float, width: int) -> None:
        self.lane = lane
        self.width = width
        super().__init__(name=f"Lanes({lane}, {self.width})")

    @property
    def vector(self) -> ir.VectorType:
        """Return the type in the compiler's intermediate representation."""
        return ir.VectorType(ir.FloatType() if self.lane == types.float32 else ir.DoubleType(), self.width)


#: Vectors that fill :data:`BYTES`, and vectors of eight lanes.
_LANES = {lane: LanesType(lane, BYTES // (lane.bitwidth // 8)) for lane in (types.float32, types.float64)}
_EIGHT = {types.float32: LanesType(types.float32, 8), types.float64: _LANES[types.float64]}


@register_model(LanesType)
class _LanesModel(PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.vector)


def _splat(builder: ir.IRBuilder, scalar: ir.Value, kind: LanesType) -> ir.Value:
    undefined = ir.Constant(kind.vector, ir.Undefined)
    single = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), kind.width), [0] * kind.width)
    return builder.shuffle_vector(single, undefined, zeros)


def _binary(python_operator: Callable, emit: str) -> None:
    """Lower ``python_operator`` on vectors, or on a vector and a scalar, to the builder's instruction ``emit``."""
    for lanes in (*_LANES.values(), _EIGHT[types.float32]):
        pairs = ((lanes, lanes), (lanes, lanes.lane), (lanes.lane, lanes))

        class Template(ConcreteTemplate):
            cases = [signature(lanes, *pair) for pair in pairs]

        infer_global(python_operator)(Template)  # pyrefly: ignore[not-callable]

        def lower(context, builder, sig, args):
            a, b = (value if isinstance(kind, LanesType) else _splat(builder, value, sig.return_type)
                    for kind, value in zip(sig.args, args, strict=True))
            return getattr(builder, emit)(a, b, flags=_FLAGS)

        for pair in pairs:
            lower_builtin(python_operator, *pair)(lower)


for _operator, _emit in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"),
                         (operator.truediv, "fdiv")):
    _binary(_operator, _emit)


def _pointer(context, builder, array_type, array, index, vector):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _load(context, builder, array_type, array, index, kind=None):
    kind = kind or _LANES[array_type.dtype]
    value = builder.load(_pointer(context, builder, array_type, array, index, kind.vector))
    value.align = array_type.dtype.bitwidth // 8
    return value


def _store(context, builder, array_type, array, index, value):
    align = array_type.dtype.bitwidth // 8
    builder.store(value, _pointer(context, builder, array_type, array, index, value.type), align=align)


@intrinsic
def load(typing_context, array, index):
    """Load the vector of ``array`` that starts at element ``index``."""

    def codegen(context, builder, sig, args):
        return _load(context, builder, sig.args[0], *args)

    return _LANES[array.dtype](array, types.intp), codegen


@intrinsic
def load_eight(typing_context, array, index):
    """Load eight elements of ``array`` starting at element ``index``; in single precision this is half a vector."""
    kind = _EIGHT[array.dtype]

    def codegen(context, builder, sig, args):
        return _load(context, builder, sig.args[0], args[0], args[1], kind)

    return kind(array, types.intp), codegen


@intrinsic
def store(typing_context, array, index, value):
    """Store the vector ``value`` in ``array`` starting at element ``index``."""

    def codegen(context, builder, sig, args):
        _store(context, builder, sig.args[0], *args)

    return types.void(array, types.intp, value), codegen


@intrinsic
def prefetch(typing_context, array, index):
    """Prefetch the cache line of element ``index`` of ``array`` into the L2 cache."""

    def codegen(context, builder, sig, args):
        address, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        declared = get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [address, number, number, number]), "llvm.prefetch.p0i8")
        # For reading, locality 2 of 3, data.
        builder.call(declared, [builder.bitcast(builder.gep(data, [args[1]]), address),
                                *(ir.Constant(number, i) for i in (0, 2, 1))])
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


@intrinsic
def splat(typing_context, scalar):
    """Return the vector whose lanes all hold ``scalar``."""

    def codegen(context, builder, sig, args):
        return _splat(builder, args[0], sig.return_type)

    return _LANES[scalar](scalar), codegen


@intrinsic
def splat_eight(typing_context, scalar):
    """Return the vector of eight lanes that all hold ``scalar``."""

    def codegen(context, builder, sig, args):
        return _splat(builder, args[0], sig.return_type)

    return _EIGHT[scalar](scalar), codegen


def _llvm_function(name: str, n_arguments: int) -> Callable:
    """Return a floating-point intrinsic of LLVM for vectors and scalars."""

    def emit(context, builder, sig, args):
        kind = sig.return_type
        value_type = kind.vector if isinstance(kind, LanesType) else context.get_value_type(kind)
        bits = (kind.lane if isinstance(kind, LanesType) else kind).bitwidth
        suffix = f"v{kind.width}f{bits}" if isinstance(kind, LanesType) else f"f{bits}"
        declared = get_or_insert_function(builder.module, ir.FunctionType(value_type, [value_type] * n_arguments),
                                          f"llvm.{name}.{suffix}")
        return builder.call(declared, args, fastmath=_FLAGS)

    if n_arguments == 1:
        @intrinsic
        def function(typing_context, a):
            return a(a), emit
    else:
        @intrinsic
        def function(typing_context, a, b):
            return a(a, a), emit

    return function


square_root = _llvm_function("sqrt", 1)
round_to_even = _llvm_function("rint", 1)
maximum = _llvm_function("maxnum", 2)


def _shuffle(builder, a, b, picks):
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(picks)), picks)
    return builder.shuffle_vector(a, b, mask)


@intrinsic
def transpose_tile(typing_context, source, source_index, source_stride, target, target_index, target_stride):
    """Write the transpose of a square tile of ``source``, as wide as a vector, to ``target``.

    Row r of the tile starts at element ``index + r · stride`` of its array.
    """
    width = _LANES[source.dtype].width

    def codegen(context, builder, sig, args):
        source_type, _, _, target_type, _, _ = sig.args
        rows = [_load(context, builder, source_type, args[0],
                      builder.add(args[1], builder.mul(args[2], ir.Constant(args[2].type, r)))) for r in range(width)]
        # Eklundh's method: exchange the off-diagonal blocks of ever smaller squares.
        half = width // 2
        while half:
            low = [i if not i & half else i - half + width for i in range(width)]
            high = [i + half if not i & half else i + width for i in range(width)]
            for r in range(width):
                if not r & half:
                    a, b = rows[r], rows[r + half]
                    rows[r], rows[r + half] = _shuffle(builder, a, b, low), _shuffle(builder, a, b, high)
            half //= 2
        for r, row in enumerate(rows):
            at = builder.add(args[4], builder.mul(args[5], ir.Constant(args[5].type, r)))
            _store(context, builder, target_type, args[3], at, row)

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), codegen
