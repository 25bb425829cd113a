"""Settings composed by Hydra and bound to a :class:`~aetlab.spec.RunSpec`; every refusal is one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from aetlab.cli.folders import config_folder, experiments_folder, group_choices
from aetlab.cli.overrides import JOB_KEYS, check_words, quote_choices
from aetlab.spec import RunSpec, SpecError
from aetlab.spec.bind import bind, bind_run

CONFIG_NAME = "config"
#: Label of the one job that stands for all of a search.
SEARCH = "search"
#: Hydra's own launcher, which makes one job after the other in its own process.
BASIC = "basic"
#: Where the classes may come from that Hydra itself makes out of a configuration.
_TRUSTED = ("hydra._internal.core_plugins.", "hydra_plugins.", "optuna.samplers.")


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """Settings of a job that do not change its record.

    ``outputs`` is the folder of all results; ``other_code`` says what becomes of a record that other code made:
    ``remake`` it or ``use`` it.
    """

    outputs: str = "outputs"
    other_code: str = "remake"

    def __post_init__(self) -> None:
        if self.other_code not in ("remake", "use"):
            raise SpecError(f"other_code={self.other_code!r} cannot be used: choose one of remake, use")
        if not self.outputs.strip():
            raise SpecError("outputs='' cannot be used: give a folder")


@dataclass(frozen=True)
class Job:
    """One run that is asked for: its words, what they compose to, and a label that tells it from the others."""

    words: tuple[str, ...]
    label: str
    spec: RunSpec
    settings: JobSettings
    launcher: str
    number: int = 0


@dataclass(frozen=True)
class LeftOut:
    """An experiment that a pattern fits but that cannot be made with the other words, and why."""

    number: int
    label: str
    words: tuple[str, ...]
    reason: str


def prepare_hydra() -> None:
    """Puts every file of experiments/ into Hydra's ConfigStore as group ``experiment`` over all settings, and gives
    configurations ``${by:KEY,TABLE,ELSE}``: the entry of a table that is named KEY, or ELSE, and ``${equal_steps:N}``:
    N, or null where the group gives its tilt angles in another way."""
    OmegaConf.register_new_resolver("by", lambda key, table, otherwise: table.get(key, otherwise), replace=True)
    OmegaConf.register_new_resolver("equal_steps", _equal_steps, replace=True)
    store = ConfigStore.instance()
    if "experiment" in store.repo:
        return
    for path in sorted(experiments_folder().glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        store.store(group="experiment", name=path.stem, node=content, package="_global_", provider="aetlab")


def _equal_steps(n_tilts: int, *, _parent_: DictConfig) -> int | None:
    """Return ``n_tilts`` unless the group that asks holds a list or a range of tilt angles."""
    others = ("angles_deg", "start_deg", "stop_deg", "step_deg")
    return n_tilts if all(_parent_.get(key) is None for key in others) else None


def bind_job(settings: Any) -> tuple[RunSpec, JobSettings]:
    """The two halves of composed settings: what is run, and where."""
    if not isinstance(settings, dict):
        raise SpecError("the configuration is not a mapping")
    own = {key: settings[key] for key in JOB_KEYS if key in settings}
    return bind_run({key: value for key, value in settings.items() if key not in JOB_KEYS}), bind(JobSettings, own)


def compose_spec(words: Sequence[str] = (), further: Path | None = None) -> RunSpec:
    """The settings of one run as its command line composes them; raises :class:`SpecError`."""
    return compose_jobs(words, multirun=False, further=further)[0].spec


def compose_jobs(words: Sequence[str], *, multirun: bool, further: Path | None = None) -> list[Job]:
    """Every job of a command line that :func:`compose_all` gives."""
    return compose_all(words, multirun=multirun, further=further)[0]


def compose_all(
    words: Sequence[str], *, multirun: bool, further: Path | None = None
) -> tuple[list[Job], list[LeftOut]]:
    """Every job of a command line, composed and bound before the first one starts.

    ``words`` are the overrides, ``further`` a folder of the user's own choices. A sweep whose jobs are not known
    before it runs (a search) gives the job of its fixed words alone. Where experiments are chosen by a pattern, as in
    ``experiment=glob(*) scale=smoke``, those that the other words make impossible are left out, if some are possible.
    """
    groups = group_choices(further)
    check_words(words, groups, multirun=multirun)
    words = quote_choices(words, groups)
    with _composer(further) as parser:
        with _one_line():
            parsed = parser.parse_overrides(list(words))
        if not multirun:
            for override in parsed:
                if override.is_sweep_override():
                    raise SpecError(f"{override.input_line} names several values: add -m to sweep over them")
            return [_compose_job(words, "run")], []
        sweeping = [override for override in parsed if override.is_sweep_override()]
        fixed = [word for word, override in zip(words, parsed, strict=True) if not override.is_sweep_override()]
        with _one_line():
            sweeper = compose(CONFIG_NAME, list(fixed), return_hydra_config=True).hydra.sweeper
        if not sweeper._target_.endswith(".BasicSweeper"):
            return [_compose_search(fixed)], []
        given = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
        with _one_line():
            parsed = parser.parse_overrides(quote_choices(given, groups)) + parsed
            batches = BasicSweeper.split_arguments(parsed, None)
        varied = {override.get_key_element() for override in (*parsed[: len(given)], *sweeping)}
        by_pattern = any(override.key_or_group == "experiment" and override.value_type == ValueType.GLOB_CHOICE_SWEEP
                         for override in parsed)
        return _compose_each(batches[0], varied, by_pattern)


def _compose_search(fixed: Sequence[str]) -> Job:
    job = _compose_job(fixed, SEARCH)
    if job.spec.reg.held_out == 0:
        raise SpecError("reg.held_out=0 cannot be used in a search, which compares how well runs predict "
                        "images that are held out: give their share, for example reg.held_out=0.1")
    return job


def _compose_each(jobs: Sequence[Sequence[str]], varied: set[str], by_pattern: bool) -> tuple[list[Job], list[LeftOut]]:
    made: list[Job] = []
    left_out: list[LeftOut] = []
    for number, words in enumerate(jobs):
        label = _label(words, varied)
        try:
            made.append(_compose_job(words, label, number))
        except SpecError as refusal:
            left_out.append(LeftOut(number, label, tuple(words), str(refusal)))
            if not by_pattern or len(left_out) == len(jobs):
                raise
    return made, left_out


def _label(words: Sequence[str], varied: set[str]) -> str:
    return " ".join(word.replace("'", "") for word in words if word.split("=")[0] in varied) or "run"


@contextmanager
def _composer(further: Path | None) -> Iterator[OverridesParser]:
    GlobalHydra.instance().clear()
    prepare_hydra()
    version.setbase("1.3")
    search_path = create_config_search_path(str(config_folder()))
    if further is not None:
        anchor = SearchPathQuery(provider="schema")
        search_path.prepend(provider="command-line", path=f"file://{further.absolute()}", anchor=anchor)
    try:
        hydra = Hydra.create_main_hydra2(task_name="aetlab", config_search_path=search_path)
        yield OverridesParser.create(config_loader=hydra.config_loader)
    finally:
        GlobalHydra.instance().clear()


def _compose_job(words: Sequence[str], label: str, number: int = 0) -> Job:
    with _one_line():
        config = compose(CONFIG_NAME, list(words), return_hydra_config=True)
        _refuse_code(config)
        launcher = str(config.hydra.runtime.choices.get("hydra/launcher", BASIC))
        settings = plain_settings(config)
    spec, job = bind_job(settings)
    return Job(tuple(words), label, spec, job, launcher, number)


def plain_settings(config: DictConfig) -> Any:
    """The composed settings without Hydra's own, as plain values."""
    settings = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    return OmegaConf.to_container(settings, resolve=True)


def _refuse_code(config: DictConfig) -> None:
    """Refuses what would make Hydra run code that a configuration names."""
    instantiated = ["launcher", "sweeper", "callbacks", "job_logging", "hydra_logging"]
    hydra = OmegaConf.to_container(OmegaConf.masked_copy(config.hydra, instantiated), resolve=False)
    for key, value in _leaves(hydra, "hydra"):
        name = key.rsplit(".", 1)[-1]
        if name == "_target_" and not str(value).startswith(_TRUSTED):
            raise SpecError(f"{key}={value} cannot be used: a configuration may not name code to run")
        names_code = name == "custom_search_space" and value is not None
        if names_code or (name == "storage" and not str(value).startswith(("None", "sqlite:///"))):
            raise SpecError(f"{key}={value} cannot be used: a configuration may not name code to run")
        if name in ("()", "ext") or (name == "class" and not str(value).startswith("logging.")):
            raise SpecError(f"{key}={value} cannot be used: a configuration may not name code to run")


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{key}[{i}]")
    else:
        yield key, value


@contextmanager
def _one_line() -> Iterator[None]:
    """Turns Hydra's, OmegaConf's and YAML's refusals into one line."""
    try:
        yield
    except SpecError:
        raise
    except OverrideParseException as error:
        raise SpecError(f"{error.override} cannot be read as key=value: {_first_lines(error)}") from None
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError, ValueError,
            RecursionError) as error:
        raise SpecError(_first_lines(error)) from None


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "See https" not in line]
    return "; ".join(lines[:4])[:400] or type(error).__name__
