"""Check and quote the overrides of a command line before Hydra parses them.

Hydra parses a bare ``inf`` or number as a value and refuses it as the choice of a config group; such names, and plain
values in place of a choice, are quoted here. A misspelt group, choice or key is refused in one line that lists the
valid ones. Patterns of file names are expanded: ``-m sample.path=glob(*.xyz)`` is a run for each file.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import importlib.util
import re
from collections.abc import Collection, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from aetlab.spec import RunSpec, SpecError
from aetlab.spec.choices import no_choice, plain_choice

_OVERRIDE = re.compile(r"(\+{0,2}|~)(?P<key>[A-Za-z_][\w./]*)(@[\w.:]*)?=(?P<value>.*)", re.DOTALL)
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
#: Settings that name a file.
FILES = ("sample.path", "data.path")
_PATTERN = re.compile(r"(?P<key>[A-Za-z_][\w.]*)=\s*glob\((?P<pattern>.*)\)\s*", re.DOTALL)


def quote_choices(argv: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Return ``argv`` with choices of ``groups``, and plain values in their place, quoted for Hydra.

    Hydra would not parse them as text (``dose=inf,3e4``).
    """
    return [_quote(word, groups) for word in argv]


def join_lists(argv: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Return ``argv`` of a single run with brackets about lists without them: ``scale.shape_zxy=80,64,96``.

    A list of choices stays as it is, and so does one that could be meant for a sweep, such as ``tilts=60,71``.
    """
    return [_as_list(word, groups) for word in argv]


def plain_values(words: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Return group and text of every plain value in ``words`` that stands in place of a choice."""
    return [(group, text) for word in words for group, text in _choices_of(word, groups)
            if text not in groups[group] and plain_choice(group, text) is not None]


def _choices_of(word: str, groups: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    match = _OVERRIDE.fullmatch(word)
    if match is None or match["key"] not in groups:
        return []
    return [(match["key"], part.strip().strip("'\"")) for part in _split(_listed(match["value"]))]


def _as_list(word: str, groups: Mapping[str, Sequence[str]]) -> str:
    match = _OVERRIDE.fullmatch(word)
    if match is None or "," not in match["value"] or match["value"].lstrip().startswith(("[", "'", '"')):
        return word
    key, listed = match["key"], f"[{match['value']}]"
    if key in groups:
        parts = [part.strip() for part in match["value"].split(",")]
        is_sweep = all(part in groups[key] or plain_choice(key, part) is not None for part in parts)
        is_list = not is_sweep and plain_choice(key, listed) is not None
    else:
        is_list = get_origin(_type_of(key)) is tuple and "(" not in match["value"]
    return f"{word[: match.start('value')]}{listed}" if is_list else word


def _quote(word: str, groups: Mapping[str, Sequence[str]]) -> str:
    match = _OVERRIDE.fullmatch(word)
    if match is None or match["key"] not in groups:
        return word
    quoted = [f"'{part.strip()}'" if _needs_quotes(match["key"], part.strip(), groups) else part
              for part in _split(_listed(match["value"]))]
    return word[: match.start("value")] + ",".join(quoted)


def _needs_quotes(group: str, text: str, groups: Mapping[str, Sequence[str]]) -> bool:
    plain = text not in groups[group] and text[:1] not in "'\"" and plain_choice(group, text) is not None
    return plain or _NOT_TEXT.fullmatch(text) is not None


def _split(value: str) -> list[str]:
    """Split ``value`` at the commas outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in value:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return parts


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
        if word.startswith("~") and not word.startswith("~hydra"):
            raise SpecError(f"{word} cannot be used: a run needs every setting, none can be taken away")
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
            if multirun and get_origin(_type_of(key)) is tuple and _is_bare_list(value):
                raise SpecError(f"{key}={value} cannot be used: in a sweep (-m) commas separate the values of {key}; "
                                f"write {key}=[{value}] for one list")
    _refuse_lost_sweeps(words)


def _refuse_lost_sweeps(words: Sequence[str]) -> None:
    """Raise :class:`SpecError` for a key given twice, once as a sweep: only the last would count."""
    values: dict[str, str] = {}
    for match in filter(None, map(_OVERRIDE.fullmatch, words)):
        key, value = match["key"], match["value"]
        if key in values and max(len(_split(_listed(value))), len(_split(_listed(values[key])))) > 1:
            raise SpecError(f"{key} is given twice, as {key}={values[key]} and {key}={value}: give it once")
        values[key] = value


def _is_bare_list(value: str) -> bool:
    return "," in value and not any(bracket in value for bracket in "[]{}()")


def _check_choices(group: str, value: str, choices: Sequence[str], multirun: bool) -> None:
    value = _listed(value)
    glob = re.fullmatch(r"glob\((.*)\)", value.strip())
    if glob:
        pattern = glob[1].strip().strip("'\"")
        if re.fullmatch(r"[^,=\[\]]+", pattern) and not fnmatch.filter(choices, pattern):
            raise SpecError(f"{group}={value} matches nothing: choose from {', '.join(choices)}")
        return
    if "(" in value:
        return
    names = [name.strip().strip("'\"") for name in _split(value)]
    if len(names) > 1 and not multirun:
        raise SpecError(f"{group}={value} names several choices: add -m to sweep over them")
    for name in names:
        if name not in choices and plain_choice(group, name) is None:
            parts = [part.strip() for part in name.strip("[]").split(",")]
            if name.startswith("[") and all(part in choices or plain_choice(group, part) for part in parts):
                raise SpecError(f"{group}={name} cannot be used: a run has one {group}; without the brackets, "
                                f"-m {group}={name.strip('[]')} is a sweep")
            raise no_choice(group, name, choices)


def _check_plugin(word: str) -> None:
    plugin, extra = _PLUGINS.get(word, ("", ""))
    if plugin and importlib.util.find_spec(plugin) is None:
        raise SpecError(f"{word} needs a package that is not installed: pip install 'aetlab[{extra}]'")


def _type_of(key: str) -> Any:
    """Return the type of the setting ``key``, of an optional one the type that is not None; None if it is unknown."""
    kind: Any = RunSpec
    for part in key.split("."):
        kind = get_type_hints(kind).get(part) if dataclasses.is_dataclass(kind) else None
    given = [option for option in get_args(kind) if option is not type(None)]
    return given[0] if type(None) in get_args(kind) else kind


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


def expand_file_patterns(words: Sequence[str], groups: Collection[str]) -> list[str]:
    """Return ``words`` with the matching files, sorted by name and quoted for Hydra, in place of a pattern.

    Hydra itself matches choices of ``groups`` alone, and would run nothing for a setting.

    Raises
    ------
    SpecError
        If nothing matches, or the setting names no file.
    """
    return [_expand(word, groups) for word in words]


def _expand(word: str, groups: Collection[str]) -> str:
    match = _PATTERN.fullmatch(word)
    if match is None or match["key"] in groups or match["key"].startswith("hydra"):
        return word
    key, pattern = match["key"], match["pattern"].strip().strip("'\"")
    if key not in FILES:
        raise SpecError(f"{word} cannot be used: glob(...) takes choices of a group, or files for "
                        f"{' and '.join(FILES)}")
    found = glob(str(Path(pattern).expanduser()), recursive=True)
    paths = sorted(path for path in found if Path(path).is_file())
    if not paths:
        raise SpecError(f"{word} matches no file")
    return f"{key}={','.join(_quoted(path) for path in paths)}"


def _quoted(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${")
    return f"'{escaped}'"
