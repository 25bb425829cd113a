"""Check the arguments of public functions against their annotations, and convert what NumPy made of plain values.

A wrong type is refused in one line before any work. NumPy's scalars and arrays stand for numbers and lists of them.
"""

from __future__ import annotations

import difflib
import inspect
import os
import types
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from aetlab.core.errors import AetlabError

R = TypeVar("R")


class ArgumentError(AetlabError, TypeError):
    """An argument of another type, name or value than the function takes."""


def checked(function: Callable[..., R], name: str) -> Callable[..., R]:
    """Return ``function`` with a check of its arguments; ``name`` is its public name, such as ``aetlab.trace``.

    The result has the signature, docstring and annotations of ``function``. It raises :class:`ArgumentError` for the
    first argument of a type that its annotation does not name, and for a keyword that is no argument. A wrong number of
    arguments remains an error of Python.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            _refuse_unknown(name, kwargs, signature)
            return function(*args, **kwargs)  # Python's message names the function
        for argument, value in bound.arguments.items():
            annotation = signature.parameters[argument].annotation
            wanted = _resolve(annotation, function)
            plain = value if isinstance(value, np.ndarray) and _fits(wanted, value) else _plain(value)
            if not _fits(wanted, plain):
                raise ArgumentError(f"{name}: {argument} is {_describe(value)}; wanted {_wanted(annotation)}")
            bound.arguments[argument] = plain
        return function(*bound.args, **bound.kwargs)

    call.__module__, _, call.__qualname__ = name.rpartition(".")  # workers find the function by these
    return call


def _refuse_unknown(name: str, kwargs: Mapping[str, Any], signature: inspect.Signature) -> None:
    """Raise :class:`ArgumentError` for the first keyword that is no argument."""
    for keyword in kwargs:
        if keyword not in signature.parameters:
            near = difflib.get_close_matches(keyword, signature.parameters, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ArgumentError(f"{name}: {keyword} is not an argument: {hint}choose from "
                                f"{', '.join(signature.parameters)}")


def _resolve(annotation: str, function: Callable[..., Any]) -> Any:
    """Return the type of an ``annotation``; its text if the library that defines the type is not imported."""
    alone = types.SimpleNamespace(__annotations__={"argument": annotation})
    try:
        return get_type_hints(alone, globalns=inspect.unwrap(function).__globals__)["argument"]
    except NameError:
        return annotation


def _plain(value: Any) -> Any:
    """Return ``value`` with Python's numbers and lists in place of those of NumPy."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if type(value) in (list, tuple):
        return type(value)(_plain(entry) for entry in value)
    if type(value) is dict:
        return {key: _plain(entry) for key, entry in value.items()}
    return value


def _fits(wanted: Any, value: Any) -> bool:
    """Return whether ``value`` is one of the type ``wanted``."""
    origin, parts = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return True
    if isinstance(wanted, str):
        return any(_is_named(name, value) for name in wanted.split(" | "))
    if origin in (Union, types.UnionType):
        return any(_fits(part, value) for part in parts)
    if origin is tuple:
        return isinstance(value, (tuple, list)) and len(value) == len(parts) and all(map(_fits, parts, value))
    if origin is Sequence:
        return isinstance(value, (tuple, list, range)) and all(_fits(parts[0], entry) for entry in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_fits(parts[0], key) and _fits(parts[1], entry)
                                                  for key, entry in value.items())
    if wanted in (int, float):
        return isinstance(value, (int, wanted)) and not isinstance(value, bool)
    if wanted is Path:
        return isinstance(value, os.PathLike)
    return isinstance(value, origin or wanted)


def _is_named(name: str, value: Any) -> bool:
    """Return whether ``value`` is of the class ``library.Class``, without importing the library."""
    library, _, kind = name.partition(".")
    return any(base.__module__.split(".")[0] == library and base.__name__ == kind for base in type(value).__mro__)


def _wanted(annotation: str) -> str:
    text = annotation.replace("Choice", "the name of a choice, a number, or a list of numbers")
    return text.replace("RunSpec", "RunSpec (of aetlab.settings)").replace(" | ", " or ")


def _describe(value: Any) -> str:
    """Return the type of ``value``, with the value itself if it is short."""
    kind = type(value).__name__
    article = "an" if kind[0] in "aeiouAEIOU" else "a"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} with shape {value.shape}"
    if value is None or isinstance(value, (bool, int, float, str, bytes, list, tuple, dict)):
        text = repr(value)
        return "None" if value is None else f"{text if len(text) <= 40 else text[:37] + '...'} ({kind})"
    return f"a class, {value.__name__}" if isinstance(value, type) else f"{article} {kind}"
