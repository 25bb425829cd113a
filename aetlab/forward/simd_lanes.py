"""A Numba type for a vector of ``WIDTH`` floats, so that loops over y lanes need no help from the auto-vectoriser.

``load(array, i)`` and ``store(array, i, v)`` move ``WIDTH`` contiguous floats of a C-contiguous array, counted in
elements from its beginning; ``splat(x)`` repeats a scalar; ``+``, ``-``, ``*``, ``/`` work lane by lane, also with a
scalar on one side.
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

#: Lanes of a vector; a power of two. 16 floats are one AVX-512, two AVX2 or four NEON registers.
WIDTH = 16

#: An intrinsic is called without its typing context, which no type checker can know.
intrinsic: Any = numba.extending.intrinsic

_VECTOR = ir.VectorType(ir.FloatType(), WIDTH)
_FLAGS = ("contract", "reassoc", "nsz", "arcp")


class LanesType(types.Type):
    """The Numba type of a vector of ``WIDTH`` float32 lanes."""

    def __init__(self) -> None:
        super().__init__(name=f"Lanes{WIDTH}")


lanes = LanesType()


@register_model(LanesType)
class _LanesModel(PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _VECTOR)


def _splat(builder: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
    single = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(single, ir.Constant(_VECTOR, ir.Undefined), zeros)


def _binary(python_operator: Callable, emit: str) -> None:
    """Lower ``python_operator`` on lanes, or lanes and a float32, to the builder's instruction ``emit``."""
    pairs = ((lanes, lanes), (lanes, types.float32), (types.float32, lanes))

    class Template(ConcreteTemplate):
        cases = [signature(lanes, *pair) for pair in pairs]

    infer_global(python_operator)(Template)

    def lower(context, builder, sig, args):
        a, b = (value if kind is lanes else _splat(builder, value) for kind, value in zip(sig.args, args, strict=True))
        return getattr(builder, emit)(a, b, flags=_FLAGS)

    for pair in pairs:
        lower_builtin(python_operator, *pair)(lower)


for _operator, _emit in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"),
                         (operator.truediv, "fdiv")):
    _binary(_operator, _emit)


def _pointer(context, builder, array_type, array, index):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


@intrinsic
def load(typing_context, array, index):
    """``WIDTH`` elements of ``array`` from element ``index`` on."""

    def codegen(context, builder, sig, args):
        value = builder.load(_pointer(context, builder, sig.args[0], args[0], args[1]))
        value.align = 4
        return value

    return lanes(array, types.intp), codegen


@intrinsic
def store(typing_context, array, index, value):
    """Put ``value`` into ``array`` from element ``index`` on."""

    def codegen(context, builder, sig, args):
        builder.store(args[2], _pointer(context, builder, sig.args[0], args[0], args[1]), align=4)

    return types.void(array, types.intp, lanes), codegen


@intrinsic
def splat(typing_context, scalar):
    """Lanes that all hold ``scalar``."""

    def codegen(context, builder, sig, args):
        return _splat(builder, args[0])

    return lanes(types.float32), codegen


def _unary(name: str) -> Callable:
    """An LLVM intrinsic on lanes."""

    @intrinsic
    def function(typing_context, value):
        def codegen(context, builder, sig, args):
            declared = get_or_insert_function(builder.module, ir.FunctionType(_VECTOR, [_VECTOR]),
                                              f"llvm.{name}.v{WIDTH}f32")
            return builder.call(declared, args, fastmath=_FLAGS)

        return lanes(lanes), codegen

    return function


square_root = _unary("sqrt")
round_to_even = _unary("rint")


def _shuffle(builder, a, b, picks):
    mask = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), picks)
    return builder.shuffle_vector(a, b, mask)


@intrinsic
def transpose_tile(typing_context, source, source_index, source_stride, target, target_index, target_stride):
    """Write the ``WIDTH`` × ``WIDTH`` tile of ``source`` to ``target``, rows and columns exchanged.

    Row r of the tile begins at element ``index + r · stride`` of its array.
    """

    def codegen(context, builder, sig, args):
        source_type, _, _, target_type, _, _ = sig.args
        rows = []
        for r in range(WIDTH):
            at = builder.add(args[1], builder.mul(args[2], ir.Constant(args[2].type, r)))
            row = builder.load(_pointer(context, builder, source_type, args[0], at))
            row.align = 4
            rows.append(row)
        # Eklundh's method: exchange the off-diagonal blocks of ever smaller squares.
        half = WIDTH // 2
        while half:
            low = [i if not i & half else i - half + WIDTH for i in range(WIDTH)]
            high = [i + half if not i & half else i + WIDTH for i in range(WIDTH)]
            for r in range(WIDTH):
                if not r & half:
                    a, b = rows[r], rows[r + half]
                    rows[r], rows[r + half] = _shuffle(builder, a, b, low), _shuffle(builder, a, b, high)
            half //= 2
        for r, row in enumerate(rows):
            at = builder.add(args[4], builder.mul(args[5], ir.Constant(args[5].type, r)))
            builder.store(row, _pointer(context, builder, target_type, args[3], at), align=4)

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), codegen
