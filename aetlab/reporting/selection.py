"""Select rows of a table of records by an expression, with the meaning of :meth:`pandas.DataFrame.query`.

An example is ``reg in ("tv", "lasso") and dose_e_A2 == 5e4``. Names are columns of :func:`aetlab.load_records`.
Backticks around a name with a dot (```reg.weight` > 1e-4``) may be left out here. Before pandas evaluates an expression
it is parsed, and everything but comparisons, ``and``, ``or``, ``not``, sums and products of numbers, texts, lists and
columns is refused. Calls, attributes and ``@`` are therefore refused, and an expression cannot run code.
"""

from __future__ import annotations

import ast
import difflib
import json
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from aetlab.core.errors import AetlabError

_ALLOWED = (ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.Tuple, ast.List, ast.Load,
            ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn,
            ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div)
#: A text in quotes, or a name in backticks.
_QUOTED = re.compile(r"""'[^']*'|"[^"]*"|`([^`]*)`""")
#: Most characters of an expression.
_LONGEST = 2000


class SelectError(AetlabError, ValueError):
    """An expression that cannot be evaluated; the message is one line."""


def select_rows(frame: pd.DataFrame, expression: str) -> pd.Series:
    """Return the mask of the rows of ``frame`` for which ``expression`` is true, bool (rows,).

    Raises
    ------
    SelectError
        For anything but the expressions described at the top of this module, and for unknown columns.
    """
    checked = _checked(expression, frame)
    try:
        with np.errstate(divide="raise", invalid="raise"):  # some versions of pandas compute with NumPy's numbers
            result = frame.eval(checked, engine="python")
    except ArithmeticError as error:
        raise SelectError(f"{expression!r} cannot be computed: {error}") from None
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SelectError(f"{expression!r} compares values of different types: {reason}") from None
    if not isinstance(result, pd.Series) or result.dtype != bool:
        raise SelectError(f"{expression!r} is not a condition: compare a column with a value")
    return result


def unknown_column(name: str, columns: Sequence[str]) -> SelectError:
    """Return the error for a ``name`` that is none of ``columns``, with those that are near it or all short ones."""
    near = difflib.get_close_matches(name, columns, n=3)
    short = ", ".join(column for column in columns if "." not in column)
    return SelectError(f"no column {name!r}; " + (f"did you mean {' or '.join(near)}?" if near else
                       f"the columns are {short}, and all settings such as reg.weight"))


def _checked(expression: str, frame: pd.DataFrame) -> str:
    """Return ``expression`` as pandas takes it, every name of a column in backticks; raise :class:`SelectError`."""
    quoted: list[str] = []

    def stand_in(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]
        quoted.append(match[1])
        return f"_quoted_{len(quoted) - 1}_"

    if len(expression) > _LONGEST:
        raise SelectError(f"{expression[:80]!r}… is longer than {_LONGEST} characters")
    try:
        tree = ast.parse(_QUOTED.sub(stand_in, expression).strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        equals = "; equality is ==" if re.search(r"[^=<>!]=[^=]", expression) else ""
        raise SelectError(f"{expression!r} is not an expression: {error.__class__.__name__}{equals}") from None
    return ast.unparse(_Checker(quoted, frame).visit(tree))


class _Checker(ast.NodeTransformer):
    """Put the names of columns in backticks, and refuse what an expression may not hold."""

    def __init__(self, quoted: Sequence[str], frame: pd.DataFrame) -> None:
        self._quoted = {f"_quoted_{i}_": name for i, name in enumerate(quoted)}
        self._frame = frame
        self._columns = [str(name) for name in frame.columns]

    def visit_Name(self, node: ast.Name) -> ast.Name:
        name = self._quoted.get(node.id, node.id)
        if name == "inf" and name not in self._columns:
            return node
        if name not in self._columns or "`" in name:
            raise unknown_column(name, self._columns)
        return ast.Name(f"`{name}`", ast.Load())

    def visit_Attribute(self, node: ast.Attribute) -> ast.Name:
        name = ast.unparse(node)
        if not re.fullmatch(r"\w+(\.\w+)+", name):
            raise self._refusal(node)
        return self.visit_Name(ast.Name(name, ast.Load()))

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if not isinstance(node.value, bool | int | float | str) or (isinstance(node.value, str) and "`" in node.value):
            raise self._refusal(node)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.Compare:
        sides = self._with_lists([node.left, *node.comparators], node.ops)
        for operator, right in zip(node.ops, sides[1:], strict=True):
            if not isinstance(operator, _ALLOWED) or (isinstance(operator, ast.In | ast.NotIn)
                                                      != isinstance(right, ast.Tuple | ast.List)):
                raise self._refusal(node)
        compared = ast.Compare(self.visit(sides[0]), node.ops, [self.visit(side) for side in sides[1:]])
        self._check_types([compared.left, *compared.comparators])
        return compared

    def _with_lists(self, sides: list[ast.expr], operators: Sequence[ast.cmpop]) -> list[ast.expr]:
        """Return the two ``sides`` of an equation with a column of lists, the other one as the column writes it.

        A list may be given as ``[100]`` or as the text ``"[100.0]"``.
        """
        if len(sides) != 2 or not isinstance(operators[0], ast.Eq | ast.NotEq):
            return sides
        for column, other in (sides, sides[::-1]):
            held = self._lists_of(column)
            if held:
                text = other.value if isinstance(other, ast.Constant) and isinstance(other.value, str) else (
                    ast.unparse(other))
                try:
                    values = json.loads(text)
                except ValueError:
                    values = None
                if not isinstance(values, list):
                    raise SelectError(f"{self._name_of(column)} holds lists, such as {held[0]}; it cannot be compared "
                                      f"with {text}")
                if any(isinstance(entry, float) for each in held for entry in json.loads(each)):
                    values = [float(value) if isinstance(value, int) else value for value in values]
                return [column, ast.Constant(json.dumps(values))]
        return sides

    def _name_of(self, node: ast.expr) -> str:
        return self._quoted.get(node.id, node.id) if isinstance(node, ast.Name) else ast.unparse(node)

    def _lists_of(self, node: ast.expr) -> list[str]:
        """Return the values of a column that holds lists as JSON texts; empty for anything else."""
        name = self._name_of(node)
        if not isinstance(node, ast.Name | ast.Attribute) or name not in self._columns:
            return []
        held = [value for value in self._frame[name].dropna() if value]
        return held if held and all(isinstance(value, str) and value.startswith("[") for value in held) else []

    def _check_types(self, sides: Sequence[ast.expr]) -> None:
        """Refuse to compare a column with what it cannot hold.

        A column of numbers alone holds no text, one of texts alone no number, a categorical one only its categories.
        """
        constants = [value.value for side in sides for value in (side.elts if isinstance(side, ast.Tuple | ast.List)
                                                                 else [side]) if isinstance(value, ast.Constant)]
        for side in sides:
            if isinstance(side, ast.Name) and side.id != "inf":
                column = self._frame[side.id.strip("`")]
                held = {isinstance(value, str) for value in column.dropna()}
                for constant in constants:
                    if isinstance(column.dtype, pd.CategoricalDtype) and constant not in list(column.cat.categories):
                        raise SelectError(f"{side.id.strip('`')} is never {constant!r}; it is one of "
                                          f"{', '.join(column.cat.categories)}")
                    if held and isinstance(constant, str) not in held:
                        raise SelectError(f"{side.id.strip('`')} holds {'texts' if True in held else 'numbers'}; it "
                                          f"cannot be compared with {constant!r}")

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        return self._of_conditions(node, node.values)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        return self._of_conditions(node, [node.operand] if isinstance(node.op, ast.Not) else [])

    def _of_conditions(self, node: ast.AST, operands: Sequence[ast.expr]) -> ast.AST:
        """Refuse what is no condition: and, or, not join comparisons and columns of truth values."""
        for operand in operands:
            negated = isinstance(operand, ast.UnaryOp) and isinstance(operand.op, ast.Not)
            if not negated and not isinstance(operand, ast.BoolOp | ast.Compare | ast.Name | ast.Attribute):
                raise SelectError(f"{ast.unparse(operand)} is not a condition: and, or, not join comparisons")
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        if not isinstance(node.op, _ALLOWED):
            raise self._refusal(node)
        for side in (node.left, node.right):
            if not isinstance(side, ast.Name | ast.Attribute | ast.BinOp | ast.UnaryOp) and not (
                    isinstance(side, ast.Constant) and isinstance(side.value, int | float)):
                raise self._refusal(node)
        return self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if not isinstance(node, _ALLOWED):
            raise self._refusal(node)
        return super().generic_visit(node)

    def _refusal(self, node: ast.AST) -> SelectError:
        return SelectError("an expression joins comparisons of columns, numbers, texts and lists by and, or, not; it "
                           f"cannot hold {ast.unparse(node)!r}")
