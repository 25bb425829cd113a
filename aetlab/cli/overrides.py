"""Check and quote the overrides of a command line before Hydra parses them.

Hydra parses a bare ``inf`` or number as a value and refuses it as the choice of a config group; such names are quoted
here. A misspelt group, choice or key is refused in one line that lists the valid ones.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import importlib.util
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from aetlab.spec import RunSpec, SpecError

_OVERRIDE = re.compile(r"(\+{0,2}|~)(?P<key>[A-Za-z_][\w./]*)(@[\w.:]*)?=(?P<value>.*)", re.DOTALL)
_DELIMITERS = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[\[\]{}(),:=])""")
#: Words that Hydra does not parse as text.
_NOT_TEXT = re.compile(
    r"[+-]?(\d[\d_]*(\.[\d_]*)?(e[+-]?\d+)?|\.\d+(e[+-]?\d+)?|inf|nan)|true|false|null", re.IGNORECASE)
#: Settings of a job that are not settings of its run.
JOB_KEYS = ("outputs", "other_code")
#: Launchers and sweepers: the module that each needs and the extra that installs it.
_PLUGINS = {
    "hydra/launcher=cores": ("hydra_plugins.hydra_joblib_launcher", "cores"),
    "hydra/launcher=gpus": ("hydra_plugins.hydra_joblib_launcher", "cores"),
    "hydra/launcher=slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "hydra/launcher=submitit_local": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "hydra/launcher=ray": ("hydra_plugins.hydra_ray_launcher", "ray"),
    "hydra/sweeper=optuna": ("hydra_plugins.hydra_optuna_sweeper", "search"),
}


def quote_choices(argv: Sequence[str], groups: Mapping[str, Sequence[str]], *, twice: bool = False) -> list[str]:
    """Return ``argv`` with choices of ``groups`` quoted where Hydra would not parse them as text (``dose=inf,50k``).

    ``twice`` is for a search: its sweeper removes one pair of quotes before it passes the words on. A single choice is
    then written as ``choice(...)`` with one entry, so that the sweeper parses it.
    """
    return [_quote(word, groups, twice) for word in argv]


def _quote(word: str, groups: Mapping[str, Sequence[str]], twice: bool) -> str:
    match = _OVERRIDE.fullmatch(word)
    if match is None or match["key"] not in groups:
        return word
    parts = _DELIMITERS.split(_listed(match["value"]))
    quotes = "\"'{}'\"" if twice else "'{}'"
    quoted = [quotes.format(part.strip()) if _NOT_TEXT.fullmatch(part.strip()) else part for part in parts]
    value = "".join(quoted)
    if twice and len(parts) == 1 and quoted != parts:
        value = f"choice({value})"
    return word[: match.start("value")] + value


def _listed(value: str) -> str:
    """Return ``choice(a,b)`` and ``range(1,3)`` as plain lists; Hydra would drop the quotes inside them."""
    choice = re.fullmatch(r"\s*choice\(([^()]*)\)\s*", value)
    if choice:
        return choice[1]
    steps = re.fullmatch(r"\s*range\(\s*(-?\d+)\s*(?:,\s*(-?\d+)\s*)?(?:,\s*(-?[1-9]\d*)\s*)?\)\s*", value)
    if steps:
        return ",".join(str(number) for number in range(*(int(step) for step in steps.groups() if step is not None)))
    return value


def check_words(words: Sequence[str], groups: Mapping[str, Sequence[str]], *, multirun: bool) -> None:
    """Raise :class:`SpecError` on the first word that names an unknown group, choice or setting.

    Words that only Hydra can check (``hydra.…``, sweeps other than plain lists) pass.
    """
    for word in words:
        match = _OVERRIDE.fullmatch(word)
        if match is None:
            if "=" not in word and not word.startswith("~"):
                raise SpecError(f"{word!r} is not a setting: write key=value, for example dose=50k")
            continue
        key, value = match["key"], match["value"]
        _check_plugin(f"{key}={value}")
        if key == "hydra" or key.startswith(("hydra.", "hydra/")):
            continue
        if key in groups:
            _check_choices(key, value, groups[key], multirun)
        elif "." not in key:
            if key not in (*JOB_KEYS, "seed"):
                raise _unknown(key, value, [*groups, "seed", *JOB_KEYS])
        else:
            _check_key(key, value)


def _check_choices(group: str, value: str, choices: Sequence[str], multirun: bool) -> None:
    value = _listed(value)
    glob = re.fullmatch(r"glob\((.*)\)", value.strip())
    if glob:
        pattern = glob[1].strip().strip("'\"")
        if re.fullmatch(r"[^,=\[\]]+", pattern) and not fnmatch.filter(choices, pattern):
            raise SpecError(f"{group}={value} matches nothing: choose from {', '.join(choices)}")
        return
    if value.strip().startswith(("{", "[")) or "(" in value:
        return
    names = [name.strip().strip("'\"") for name in value.split(",")]
    if len(names) > 1 and not multirun:
        raise SpecError(f"{group}={value} names several choices: add -m to sweep over them")
    for name in names:
        if name not in choices:
            near = difflib.get_close_matches(name, choices, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise SpecError(f"{group}={name} is not a choice: {hint}choose from {', '.join(choices)}")


def _check_plugin(word: str) -> None:
    plugin, extra = _PLUGINS.get(word, ("", ""))
    if plugin and importlib.util.find_spec(plugin) is None:
        raise SpecError(f"{word} needs a package that is not installed: pip install 'aetlab[{extra}]'")


def _check_key(key: str, value: str) -> None:
    kind: Any = RunSpec
    path: list[str] = []
    for part in key.split("."):
        if not dataclasses.is_dataclass(kind):
            return
        names = [field.name for field in dataclasses.fields(kind)]
        if part not in names:
            raise _unknown(".".join([*path, part]), value, [".".join([*path, name]) for name in names])
        kind = get_type_hints(kind)[part]
        path.append(part)


def _unknown(key: str, value: str, known: Sequence[str]) -> SpecError:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    kind = "setting" if "." in key else "group or setting"
    return SpecError(f"{key}={value} is not a {kind}: {hint}choose from {', '.join(known)}")
