"""Select rows of a table by an expression such as ``reg in ("tv", "lasso") and dose_e_A2 == 5e4``.

The expression is parsed, and only comparisons, ``and``, ``or``, ``not``, numbers, text, sequences of these and names
of columns are evaluated. Calls, attributes and subscripts are refused, so an expression cannot run code.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from aetlab.core.errors import AetlabError

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


class SelectError(AetlabError, ValueError):
    """An expression that cannot be evaluated; the message is one line."""


def select_rows(frame: pd.DataFrame, expression: str) -> pd.Series:
    """Return the mask of the rows of ``frame`` for which ``expression`` is true.

    Raises
    ------
    SelectError
        For anything but the comparisons described at the top of this module, and for unknown columns.
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise SelectError(f"--select {expression!r} is not an expression: {error.__class__.__name__}") from None
    try:
        result = _condition(tree.body, frame)
    except TypeError as error:
        raise SelectError(f"--select {expression!r} compares values of different types: {error}") from None
    return pd.Series(result, index=frame.index, dtype=bool)


def _condition(node: ast.expr, frame: pd.DataFrame) -> np.ndarray:
    """Return whether ``node`` is true for each row, bool (rows,)."""
    if isinstance(node, ast.BoolOp):
        parts = [_condition(value, frame) for value in node.values]
        return np.logical_and.reduce(parts) if isinstance(node.op, ast.And) else np.logical_or.reduce(parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~_condition(node.operand, frame)
    if isinstance(node, ast.Compare):
        result = np.ones(len(frame), bool)
        left = _value(node.left, frame)
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            right = _value(comparator, frame)
            result &= _compare(op, left, right, frame)
            left = right
        return result
    raise SelectError(f"--select takes comparisons joined by and, or, not; it cannot use {ast.unparse(node)!r}")


def _compare(op: ast.cmpop, left: Any, right: Any, frame: pd.DataFrame) -> np.ndarray:
    if isinstance(op, ast.In | ast.NotIn):
        if not isinstance(right, list):
            raise SelectError('--select: the right side of \'in\' is a list of values, for example ("tv", "lasso")')
        within = _column(left, frame).isin(right).to_numpy()
        return within if isinstance(op, ast.In) else ~within
    if type(op) not in _COMPARE:
        raise SelectError("--select: use ==, !=, <, <=, >, >=, in or not in")
    if isinstance(left, list) or isinstance(right, list):
        raise SelectError("--select: compare a list with 'in' or 'not in'")
    result = _COMPARE[type(op)](_column(left, frame), _column(right, frame))
    return np.asarray(result.fillna(False), bool)


def _column(value: Any, frame: pd.DataFrame) -> pd.Series:
    return value if isinstance(value, pd.Series) else pd.Series([value] * len(frame), index=frame.index)


def _value(node: ast.expr, frame: pd.DataFrame) -> Any:
    """Return a column, a number, a text, or a list of numbers and texts."""
    if isinstance(node, ast.Name):
        if node.id in frame.columns:
            return frame[node.id]
        if node.id == "inf":
            return math.inf
        raise SelectError(f"--select: no column {node.id!r}; the columns are {', '.join(map(str, frame.columns))}")
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand, frame)
        if isinstance(number, int | float):
            return -number
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        values = [_value(element, frame) for element in node.elts]
        if not any(isinstance(value, pd.Series | list) for value in values):
            return values
    raise SelectError(f"--select: {ast.unparse(node)!r} is not a column, a number, a text or a list of these")
