"""Interchangeable methods of the reconstruction, a file each: its row of the table and its computation.

A folder of this package is a table, and each of its files is one row, named by the file. Settings, help, estimates,
memory, figures and the reconstruction read the table, so that a method that is added as a file needs no other change.
Rows are read whenever settings are: a file imports Numba and SciPy only inside the functions that compute.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import TypeVar

Row = TypeVar("Row")


def find_rows(package: str, path: Iterable[str], kind: type[Row]) -> dict[str, Row]:
    """Return the ``ROW`` of each module of ``package``, by the name of the module, in alphabetical order.

    Parameters
    ----------
    package : str
        Name of the package.
    path : iterable of str
        Its ``__path__``.
    kind : type
        The type of its rows.

    Raises
    ------
    TypeError
        If a module has no ``ROW`` of that type.
    """
    rows: dict[str, Row] = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(path)):
        row = vars(importlib.import_module(f"{package}.{name}")).get("ROW")
        if not isinstance(row, kind):
            raise TypeError(f"{package}.{name} needs ROW, a {kind.__name__}")
        rows[name] = row
    return rows
