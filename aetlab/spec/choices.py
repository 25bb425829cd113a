"""Compose settings from the choices of the configuration groups, without Hydra.

The groups are the folders of ``conf/`` and the choices their YAML files. ``experiments/`` holds changes to the settings
of all groups. The command line composes the same files with Hydra; a test checks that both give the same settings.

Some groups take plain values in place of a choice: ``dose=3e4``, ``tilts=-70:70:2``, ``defocus=[-50,0,50]``. A plain
value binds to the same settings as a choice with these numbers, so that ``dose=50000`` and ``dose=50k`` name the same
run. The name of a choice comes first: ``defocus=3`` is the choice of three planes.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from aetlab.core.setting import SpecError
from aetlab.spec.bind import bind_inputs, bind_run
from aetlab.spec.folders import config_folder, experiments_folder, group_choices
from aetlab.spec.reconstruction import refuse_other_kind
from aetlab.spec.run import RunSpec
from aetlab.spec.unread import refuse_unread

#: A choice of a group as users write it: its name, the number or truth value that its name represents, or plain numbers
#: in its place (:mod:`aetlab.spec.choices`).
Choice = str | int | float | bool | Sequence[float]

#: LibYAML's parser where PyYAML has it, several times as fast as that in Python.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def settings(*, sample: Choice = "", scale: Choice = "", dose: Choice = "", tilts: Choice = "", defocus: Choice = "",
             wedge: Choice = "", reg: Choice = "", binning: Choice = "", simulate: Choice = "", microscope: Choice = "",
             engine: Choice = "", align: Choice = "", trace: Choice = "", refine: Choice = "", score: Choice = "",
             validate: Choice = "", data: Choice = "", tile: Choice = "", experiment: str = "", seed: int = 0,
             overrides: Mapping[str, Any] | None = None) -> RunSpec:
    """Return the settings of a run: the same choices, defaults and keys as on the command line.

    Parameters
    ----------
    sample, scale, dose, tilts, defocus, wedge, reg, binning, simulate, microscope, engine, align, trace, refine, score
        A choice of the group of that name, for example ``dose="50k"``, ``tilts=60`` or ``align=True``; empty for the
        default, or for what ``experiment`` chooses. Some groups take numbers as well, for example ``dose=3e4``,
        ``tilts="-70:70:2"`` and ``defocus=[-50, 0, 50]`` (in nm).
    validate, data, tile
        Likewise, the validation, the source of the images, and the tiles of a long sample.
    experiment : str
        Name of a file of ``experiments/``: a row or panel of the paper, or another case.
    seed : int
        Seed of all random numbers of the run.
    overrides : mapping, optional
        Single settings by their dotted keys, for example ``{"engine.n_iterations": 20, "reg.weight": 1e-4}``.

    The digest of a structure file (``sample="file"``) is taken here. Settings of ``data="measured"`` are joined with
    their series file by :func:`aetlab.bind_measured`, those of ``scale="fit"`` with their structure by
    :func:`aetlab.fit_scale`.

    Raises
    ------
    SpecError
        For an unknown choice or key, for a value that a setting does not accept, and for a setting that nothing reads
        under the other settings.
    """
    given = {"sample": sample, "scale": scale, "dose": dose, "tilts": tilts, "defocus": defocus, "wedge": wedge,
             "reg": reg, "binning": binning, "simulate": simulate, "microscope": microscope, "engine": engine,
             "align": align, "trace": trace, "refine": refine, "score": score,
             "validate": validate, "data": data, "tile": tile}
    chosen = default_choices()
    delta: dict[str, Any] = {}
    if experiment:
        delta = dict(_read_experiment(experiment))
        for entry in delta.pop("defaults", []):
            (key, choice), = entry.items()
            chosen[key.removeprefix("override /")] = str(choice)
    chosen |= {group: _spell(choice) for group, choice in given.items() if choice != ""}
    bound = bind_inputs(compose_choices(chosen, _merged(delta, {"seed": seed}), overrides))
    if reg != "":
        check_regulariser(_spell(reg), bound.reg.kind)
    refuse_unread(bound, [*(group for group, choice in given.items() if choice != ""), *(overrides or {})])
    return bound


def compose_choices(chosen: Mapping[str, str], delta: Mapping[str, Any] | None = None,
                    overrides: Mapping[str, Any] | None = None) -> RunSpec:
    """Return the settings of one choice from each group, changed by nested ``delta`` and then dotted ``overrides``.

    Groups that are not in ``chosen`` have their default choice.
    """
    composed: dict[str, Any] = {"seed": 0}
    for group, choice in (default_choices() | dict(chosen)).items():
        composed[group] = read_choice(group, choice)
    composed = _merged(composed, delta or {})
    for key, value in (overrides or {}).items():
        composed = _merged(composed, _nested(key, value))
    return bind_run(composed)


def check_regulariser(choice: str, kind: str) -> None:
    """Check that the ``choice`` of the group reg made the regulariser ``kind`` that its name says.

    Raise :class:`SpecError` if it made another one, or if its file holds settings that only other regularisers read.
    """
    refuse_other_kind(choice, kind, read_choice("reg", choice) if choice in group_choices()["reg"] else {})


@cache
def _defaults() -> tuple[tuple[str, str], ...]:
    content = _load(config_folder() / "config.yaml")
    entries = [entry for entry in content["defaults"] if isinstance(entry, dict)]
    pairs = [next(iter(entry.items())) for entry in entries]
    return tuple((group, str(choice)) for group, choice in pairs if choice is not None and " " not in group)


def default_choices() -> dict[str, str]:
    """Return the default choice of every group, in the order of the configuration."""
    return dict(_defaults())


def read_choice(group: str, choice: str) -> dict[str, Any]:
    """Return the settings of one choice of ``group``, merged over those of the choices that it is based on.

    A plain value may stand in place of a choice. Raise :class:`SpecError` for an unknown choice.
    """
    plain = None if choice in group_choices()[group] else plain_choice(group, choice)
    if plain is not None:
        return plain
    _require_choice(group, choice)
    own = _load(config_folder() / group / f"{choice}.yaml")
    settings: dict[str, Any] = {}
    for base in own.get("defaults", []):
        if isinstance(base, str) and base != "_self_":
            settings = _merged(settings, read_choice(group, base))
    return _merged(settings, {key: value for key, value in own.items() if key != "defaults"})


def _read_experiment(name: str) -> Mapping[str, Any]:
    _require_choice("experiment", name)
    return _load(experiments_folder() / f"{name}.yaml")


@cache
def _load(path: Path) -> Mapping[str, Any]:
    """Return the content of a YAML file, which must not be changed."""
    content: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), _LOADER)  # a safe loader
    return content


def _require_choice(group: str, choice: str) -> None:
    choices = group_choices()[group]
    if choice not in choices:
        raise no_choice(group, choice, choices)


def _spell(choice: Choice) -> str:
    """Return the name of the choice that a number or a truth value represents, or the text of plain numbers."""
    if isinstance(choice, Sequence) and not isinstance(choice, str):
        return f"[{','.join(_spell(entry) for entry in choice)}]"
    if isinstance(choice, bool):
        return str(choice).lower()
    if isinstance(choice, float) and math.isfinite(choice) and float(choice).is_integer():
        return str(int(choice))
    return str(choice)


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``below`` updated by ``above``, recursively for nested mappings."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping) and "by" not in under:
            value = _merged(under, value)
        merged[key] = value
    return merged


_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_THOUSANDS = {"k": 1e3, "M": 1e6}
#: Settings of the tilts that each way of giving them leaves out.
_NO_TILTS = {"n_tilts": None, "span_deg": 180, "angles_deg": None, "start_deg": None, "stop_deg": None,
             "step_deg": None}


@dataclass(frozen=True)
class Plain:
    """The plain values of a group: how they are written, and the function that returns their settings or None."""

    written: str
    read: Callable[[str], dict[str, Any] | None]


def plain_choice(group: str, text: str) -> dict[str, Any] | None:
    """Return the settings of ``group`` that the plain value ``text`` stands for; None if it is no plain value of it."""
    plain = PLAIN.get(group)
    return plain.read(text.strip()) if plain else None


def no_choice(group: str, name: str, choices: Sequence[str]) -> SpecError:
    """Return the refusal of ``name``, which is neither one of ``choices`` of ``group`` nor a plain value of it."""
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    plain = f"; or give {PLAIN[group].written}" if group in PLAIN else ""
    return SpecError(f"{group}={name} is not a choice: {hint}choose from {', '.join(choices)}{plain}")


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None


def _count(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d[\d_]*", text) else None


def _list(text: str) -> list[float] | None:
    if not (text.startswith("[") and text.endswith("]")):
        return None
    numbers = [_number(entry.strip()) for entry in text[1:-1].split(",")]
    return None if None in numbers else [number for number in numbers if number is not None]


def _dose(text: str) -> dict[str, Any] | None:
    number = _number(text[:-1] if text[-1:] in _THOUSANDS else text)
    return None if number is None else {"total_e_A2": number * _THOUSANDS.get(text[-1:], 1)}


def _tilts(text: str) -> dict[str, Any] | None:
    n_tilts, angles_deg = _count(text), _list(text)
    steps = [_number(part.strip()) for part in text.split(":")]
    if n_tilts is not None:
        return _NO_TILTS | {"n_tilts": n_tilts}
    if angles_deg is not None:
        return _NO_TILTS | {"angles_deg": angles_deg}
    if len(steps) == 3 and None not in steps:
        return _NO_TILTS | dict(zip(("start_deg", "stop_deg", "step_deg"), steps, strict=True))
    return None


def _planes(text: str) -> dict[str, Any] | None:
    planes_nm = _list(text)
    return None if planes_nm is None else {"planes_nm": planes_nm}


def _wedge(text: str) -> dict[str, Any] | None:
    number = _number(text)
    return None if number is None else {"missing_deg": number}


def _layers(text: str) -> dict[str, Any] | None:
    n_layers = _count(text)
    return None if n_layers is None else {"n_layers": n_layers}


#: Groups that take plain values in addition to their choices.
PLAIN = {
    "dose": Plain("electrons per Å² over all images, such as 3e4 or 20k", _dose),
    "tilts": Plain("a number of equal steps such as 71, a range -70:70:2 or a list [-70,0,70] of angles in degrees",
                   _tilts),
    "defocus": Plain("a list of planes in nm such as [-50,0,50]; a bare number is the choice of that name", _planes),
    "wedge": Plain("degrees such as 45", _wedge),
    "binning": Plain("a number of layers such as 5", _layers),
}
