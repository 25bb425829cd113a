"""Convert plain dictionaries to settings and back. The conversion is strict, and data cannot name code to run.

``bind`` makes the dataclasses of :mod:`aetlab.spec` from the contents of a configuration or a record. An unknown,
missing or ill-typed key raises :class:`~aetlab.spec.SpecError` with one line that names the key, its value and the
accepted values.

``bind_inputs`` takes the digests of input files: they identify the run, and what is read is checked by them. The digest
of a measured series is taken where its file is read (:func:`aetlab.series.imported.bind_measured`).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from aetlab.core.files import describe, file_signature, sha256
from aetlab.core.setting import SpecError
from aetlab.spec.run import RunSpec

T = TypeVar("T")
_HINTS: dict[Any, dict[str, Any]] = {}
#: Groups of settings that were bound, and how many of them are kept.
_BOUND: dict[tuple[Any, str, str], Any] = {}
_MOST_BOUND = 1000
#: Types of values that are plain.
_PLAIN = frozenset({str, int, bool, type(None)})
_INFINITE = {"inf": math.inf, "+inf": math.inf, "-inf": -math.inf}
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def bind_run(settings: object) -> RunSpec:
    """Return the :class:`RunSpec` that nested ``settings`` describe.

    A value may depend on other settings. ``{by: reg.kind, tv: 0.5, otherwise: 0.6}`` is the entry named by the value of
    ``reg.kind``, or ``otherwise``. ``{unless: [tilts.angles_deg], value: 60}`` is 60 if all listed settings are null,
    else null.

    Raises
    ------
    SpecError
        If the settings cannot be used.
    """
    return bind(RunSpec, _resolve(settings, settings, ""))


def _resolve(value: Any, whole: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    if set(value) == {"unless", "value"}:
        return value["value"] if all(_lookup(whole, key) is None for key in value["unless"]) else None
    if "by" not in value:
        return {key: _resolve(item, whole, _join(where, str(key))) for key, item in value.items()}
    setting = _lookup(whole, value["by"])
    found = value.get(str(setting), value.get("otherwise"))
    if isinstance(setting, Mapping) or setting is None or found is None:
        raise SpecError(f"{where}={_short(dict(value))} cannot be used: it has no entry for {value['by']}={setting!r} "
                        "and no entry otherwise")
    return found


def _lookup(settings: Any, key: object) -> Any:
    for part in str(key).split("."):
        settings = settings.get(part) if isinstance(settings, Mapping) else None
    return settings


def bind(kind: type[T], settings: object, where: str = "") -> T:
    """Return a dataclass ``kind`` from nested plain ``settings``; ``where`` is the key that holds them."""
    if not isinstance(settings, Mapping):
        raise _ill_typed(where or "settings", settings, f"a mapping with {_choices(kind)}")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # pyrefly: ignore[bad-argument-type]
    for key in settings:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {_join(where, near[0])}? " if near else ""
            raise SpecError(f"{_join(where, str(key))}={_short(settings[key])} is not a setting: "
                            f"{hint}choose from {_choices(kind)}")
    values = {}
    hints = _hints(kind)
    for key, field in fields.items():
        if key in settings:
            described = field.metadata.get("about")
            if hints[key] is str and not isinstance(settings[key], str) and described and described.choices:
                raise SpecError(f"{_join(where, key)}={_short(settings[key])} cannot be used: "
                                f"{described.refusal(settings[key])}")
            values[key] = _convert(hints[key], settings[key], _join(where, key))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            wanted = _NAMES.get(hints[key], "a group of settings")
            raise SpecError(f"{_join(where, key)} is missing: it takes {wanted}")
    return kind(**values)


def unbind(value: Any) -> Any:
    """Return a (nested) dataclass as plain JSON values: tuples as lists, non-finite numbers as inf, -inf or nan."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is float:
        return value if math.isfinite(value) else str(value)
    if dataclasses.is_dataclass(kind):
        return {name: unbind(getattr(value, name)) for name in _names(kind)}
    if isinstance(value, Mapping):
        return {str(key): unbind(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [unbind(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _hints(kind: Any) -> dict[str, Any]:
    if kind not in _HINTS:
        _HINTS[kind] = get_type_hints(kind)
    return _HINTS[kind]


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _bind_group(kind, value, where)
    origin, args = get_origin(kind), get_args(kind)
    if origin is tuple:
        return _convert_tuple(args, value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _ill_typed(where, value, "a mapping")
        return {_convert(args[0], k, where): _convert(args[1], v, _join(where, str(k))) for k, v in value.items()}
    if origin in (Union, types.UnionType):
        if isinstance(value, str) and str in args and value.strip().lower() not in _INFINITE:
            return value
        options = [option for option in args if option is not type(None)]
        return None if value is None else _convert(options[0], value, where)
    if kind is float and isinstance(value, str) and value.strip().lower() in _INFINITE:
        return _INFINITE[value.strip().lower()]
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.nan
        if math.isnan(number):
            raise _ill_typed(where, value, "a number, not nan")
        return number
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not kind:
        raise _ill_typed(where, value, _NAMES.get(kind, str(kind)))
    return value


def _bind_group(kind: Any, value: Any, where: str) -> Any:
    """Return ``bind(kind, value, where)``; the jobs of a sweep share what is equal."""
    key = (kind, where, repr(value))
    if key not in _BOUND:
        if len(_BOUND) >= _MOST_BOUND:
            _BOUND.clear()
        _BOUND[key] = bind(kind, value, where)
    return _BOUND[key]


def _convert_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    of_texts = args == (str, Ellipsis)
    if of_texts and isinstance(value, str):
        value = [value]  # sample.elements=Pt
    if not isinstance(value, (list, tuple)):
        raise _ill_typed(where, value, "a list such as [Si, O]" if of_texts else "a list such as [1, 2]")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(args):
        raise _ill_typed(where, value, f"a list of {len(args)}")
    return tuple(_convert(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(zip(args, value, strict=True)))


def _ill_typed(where: str, value: object, wanted: str) -> SpecError:
    return SpecError(f"{where}={_short(value)} cannot be used: it takes {wanted}")


def _short(value: object) -> str:
    text = repr(value) if isinstance(value, (str, int, float, bool, type(None), list, tuple)) else type(value).__name__
    return text if len(text) <= 80 else text[:77] + "..."


def _join(where: str, key: str) -> str:
    name = key if key.isidentifier() else repr(key)
    return f"{where}.{name}" if where else name


def _choices(kind: Any) -> str:
    return ", ".join(field.name for field in dataclasses.fields(kind))


def bind_inputs(settings: RunSpec) -> RunSpec:
    """Return settings of ``sample=file`` with the digest of their structure file; others as they are.

    Raises
    ------
    SpecError
        If the file cannot be read, or ``sample.digest`` is given and is not that of the file.
    """
    sample = settings.sample
    if sample.kind != "file" or settings.data.kind == "measured":
        return settings
    path = Path(sample.path).expanduser()
    try:
        found = _digest(path.absolute(), file_signature(path))
    except OSError as error:
        raise SpecError(f"sample.path={sample.path!r} cannot be read: {describe(error)}; give a structure "
                        "file") from None
    if sample.digest:
        require_digest("sample", sample.path, sample.digest, found)
    return replace(settings, sample=replace(sample, digest=found))


@lru_cache(maxsize=1024)
def _digest(path: Path, signature: tuple[int, ...]) -> str:
    """Return the digest of a file, which the jobs of a sweep share; every reader checks the content that it reads."""
    return sha256(path)


def require_digest(group: str, path: str, expected: str, found: str) -> None:
    """Raise :class:`SpecError` unless the digest ``found`` of an input file is the one that the settings hold."""
    if found != expected:
        raise SpecError(f"{group}.path={path!r} cannot be used: the file has changed since the settings were bound "
                        f"({group}.digest={expected[:12]}…, now {found[:12]}…); start again")
