"""Compose settings with Hydra and bind them to a :class:`~aetlab.spec.RunSpec`; every error message is one line."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from aetlab.cli.hydra_settings import check_overrides, read_composed, switch_resolvers_off
from aetlab.cli.overrides import JOB_KEYS, check_words, join_lists, plain_values, quote_choices
from aetlab.cli.own_choices import launcher_base, own_choices
from aetlab.cli.sweep_settings import Composition, SweepSettings
from aetlab.cli.workers import HERE, Launcher
from aetlab.core.setting import check_ranges, documented, setting
from aetlab.spec import RunSpec, SpecError
from aetlab.spec.acquisition import refuse_settings_of_series
from aetlab.spec.bind import bind, bind_inputs, bind_run
from aetlab.spec.choices import check_regulariser, read_choice
from aetlab.spec.folders import config_folder, experiments_folder, group_choices
from aetlab.spec.reconstruction import OWNERS
from aetlab.spec.unread import refuse_unread, why_unread

CONFIG_NAME = "config"
#: Label of the single job that represents a search.
SEARCH = "search"


@documented
@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """Settings of a job that do not change its record."""

    outputs: str = setting("folder of all results: records, shared stages, sweeps and the report", default="outputs")
    other_code: str = setting("whether a record that another version of the code made is made again or used",
                              choices=("remake", "use"), default="remake")

    def __post_init__(self) -> None:
        check_ranges("", self)
        if not self.outputs.strip():
            raise SpecError("outputs='' cannot be used: give a folder")


#: Stages of a sweep: runs and tiles, parts of the work on joined atoms, and runs that join tiles.
TILE, PART, JOIN = 0, 1, 2


@dataclass(frozen=True)
class Job:
    """One requested run: its overrides, the settings they compose to, and a label that is unique in its sweep.

    ``notes`` are lines on settings of a sweep that other jobs read, but not this one. ``tiles`` are the numbers of the
    jobs whose results it needs. ``part`` is the tile whose atoms it measures and refines; None where it makes a record.
    """

    words: tuple[str, ...]
    label: str
    spec: RunSpec
    settings: JobSettings
    number: int = 0
    notes: tuple[str, ...] = ()
    tiles: tuple[int, ...] = ()
    part: int | None = None

    @property
    def stage(self) -> int:
        """When the job is launched: :data:`TILE`, :data:`PART` or :data:`JOIN`."""
        return TILE if not self.tiles else JOIN if self.part is None else PART


@dataclass(frozen=True)
class LeftOut:
    """An experiment that matches a pattern but cannot run with the other overrides, and the reason."""

    number: int
    label: str
    words: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class JobPlan:
    """The jobs of a command line, composed and bound before the first one starts, and those that are left out.

    A sweep has a ``launcher``, and in ``hydra`` the settings of Hydra, composed and checked. A search chooses its jobs
    later: ``jobs`` is then one job of the overrides that it does not vary, and ``searched`` are the other overrides.
    """

    jobs: tuple[Job, ...]
    left_out: tuple[LeftOut, ...] = ()
    launcher: Launcher = HERE
    hydra: DictConfig = field(default_factory=OmegaConf.create)
    searched: tuple[str, ...] = ()


def prepare_hydra(words: Sequence[str], groups: Mapping[str, Sequence[str]]) -> None:
    """Register in Hydra's ConfigStore what ``conf/`` does not hold.

    Those are the files of experiments/ as group ``experiment``, over all settings, and the plain values in ``words`` as
    choices of their groups. The resolvers that read the environment are switched off.
    """
    switch_resolvers_off()
    store = ConfigStore.instance()
    for group, text in plain_values(words, groups):
        store.store(group=group, name=text, node=read_choice(group, text), provider="aetlab")
    if "experiment" in store.repo:
        return
    for path in sorted(experiments_folder().glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        store.store(group="experiment", name=path.stem, node=content, package="_global_", provider="aetlab")


def bind_job(settings: Any) -> tuple[RunSpec, JobSettings]:
    """Bind composed settings; return those of the run and those of the job (its folder, and the reuse of records).

    The digests of input files are taken here.
    """
    if not isinstance(settings, dict):
        raise SpecError("the configuration is not a mapping")
    own = {key: settings[key] for key in JOB_KEYS if key in settings}
    spec = bind_run({key: value for key, value in settings.items() if key not in JOB_KEYS})
    if spec.data.kind == "measured":
        from aetlab.series.imported import bind_measured

        spec = bind_measured(spec)
    return _with_box(bind_inputs(spec)), bind(JobSettings, own)


def _with_box(spec: RunSpec) -> RunSpec:
    """Return ``spec`` with the volume that ``scale=fit`` chooses; reading a structure imports its readers."""
    if spec.scale.voxel_A > 0 and 0 not in spec.scale.shape_zxy:
        return spec
    from aetlab.samples import fit_scale

    return fit_scale(spec)


def compose_spec(words: Sequence[str] = (), config_dir: Path | None = None) -> RunSpec:
    """Return the settings of one run as its command line composes them; raise :class:`SpecError` for invalid ones."""
    return compose_jobs(words, multirun=False, config_dir=config_dir)[0].spec


def compose_jobs(words: Sequence[str], *, multirun: bool, config_dir: Path | None = None) -> list[Job]:
    """Return the jobs of a command line as :func:`compose_all` does, without those left out."""
    return list(compose_all(words, multirun=multirun, config_dir=config_dir).jobs)


def compose_all(words: Sequence[str], *, multirun: bool, config_dir: Path | None = None) -> JobPlan:
    """Compose and bind every job of a command line before the first one starts.

    ``words`` are the overrides, ``config_dir`` is a folder of the user's own choices. Where experiments are chosen by a
    pattern, as in ``experiment=glob(*) scale=smoke``, those that cannot run with the other overrides are left out,
    provided that at least one can.

    Raises
    ------
    SpecError
        If an override is invalid, or a job's settings cannot be used.
    """
    groups = group_choices(config_dir)
    words = words if multirun else join_lists(words, groups)
    check_words(words, groups, multirun=multirun)
    words = quote_choices(words, groups)
    with _composer(config_dir, words) as parser:
        with _errors_in_one_line():
            parsed = parser.parse_overrides(list(words))
        check_overrides(parsed)
        if multirun:
            composed = lru_cache(maxsize=1)(_compose_whole)  # one composition gives the launcher and the first job
            settings = SweepSettings(lambda job: _settings_of(composed(tuple(job))),
                                     lambda word: parser.parse_overrides([word])[0].value(), groups)
            return _compose_sweep(words, parsed, settings, composed, config_dir)
        for override in parsed:
            if override.is_sweep_override():
                raise SpecError(f"{override.input_line} names several values: add -m to sweep over them")
        job = _compose_job(words, "run")
        refuse_unread(job.spec, _keys(words))
        return JobPlan((job,))


def _compose_sweep(words: Sequence[str], parsed: Sequence[Override], settings: SweepSettings,
                   composed: Callable[[tuple[str, ...]], DictConfig], config_dir: Path | None) -> JobPlan:
    """Compose the jobs of a sweep over ``words``, or the one job of a search."""
    sweeping = [override for override in parsed if override.is_sweep_override()]
    fixed = [word for word, override in zip(words, parsed, strict=True) if not override.is_sweep_override()]
    varied = {override.get_key_element() for override in sweeping}
    # The first job is composed anyway. It has the launcher of all, unless it is one of several experiments.
    discrete = all(override.is_discrete_sweep() for override in sweeping)
    plain = discrete and "experiment" not in varied and not any(override.is_hydra_override() for override in parsed)
    with _errors_in_one_line():
        config = composed(tuple(values[0] for values in _values(parsed)) if plain else tuple(fixed))
        read_composed(config)
        hydra = OmegaConf.masked_copy(config, "hydra")
        launcher = _launcher(config.hydra, config_dir)
    if config.hydra.sweeper._target_.endswith(".OptunaSweeper"):
        if not sweeping:
            raise SpecError("hydra/sweeper=optuna cannot be used: no setting varies, for example "
                            "'reg.weight=tag(log,interval(1e-6,1e-3))'")
        groups_vary = bool({override.get_key_element() for override in sweeping} & set(group_choices(config_dir)))
        job = _compose_search(fixed, check=not groups_vary)
        return JobPlan((job,), launcher=launcher, hydra=hydra, searched=tuple(map(_searched, sweeping)))
    jobs = list(itertools.product(*_values(parsed)))
    by_pattern = any(override.key_or_group == "experiment" and override.value_type == ValueType.GLOB_CHOICE_SWEEP
                     for override in parsed)
    made, left_out = _compose_each(jobs, varied, by_pattern, settings)
    for override in sweeping:
        if override.is_hydra_override():
            raise SpecError(f"{override.input_line} cannot be used: the runs of a sweep have one launcher")
    return JobPlan(tuple(made), tuple(left_out), launcher, hydra)


def _launcher(hydra: DictConfig, config_dir: Path | None) -> Launcher:
    name = str(hydra.runtime.choices.get("hydra/launcher"))
    return Launcher(name, hydra.launcher._target_, hydra.launcher.get("n_jobs"),
                    on_gpus=launcher_base(name, config_dir) == "gpus")


def _searched(override: Override) -> str:
    """Return an override of a search for its sweeper, which knows no patterns."""
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        return f"{override.get_key_element()}=choice({','.join(override.sweep_string_iterator())})"
    return str(override.input_line)


def compose_trial(loader: ConfigLoader, plan: JobPlan, words: Sequence[str], number: int) -> Job:
    """Compose the job of a search with the settings ``words`` that its sweeper has chosen."""
    fixed = [word for word in plan.jobs[0].words if not word.startswith("hydra")]
    label = " ".join(word.replace("'", "") for word in words)
    words = [*fixed, *quote_choices(words, group_choices())]
    with _errors_in_one_line():
        config = loader.load_sweep_config(plan.hydra, words)
        settings, _ = read_composed(config)
    return _bind_composed(words, label, settings, number)


def _values(parsed: Sequence[Override]) -> list[list[str]]:
    """Return for every key, in the order of the command line, its overrides ``key=value`` in a sweep."""
    values: dict[str, list[str]] = {}
    for override in parsed:
        key = override.get_key_element()
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise SpecError(f"{override.input_line} cannot be used: only a search takes an interval "
                            "(hydra/sweeper=optuna)")
        with _errors_in_one_line():
            each = (override.sweep_string_iterator() if override.is_sweep_override()
                    else [override.get_value_element_as_str()])
            values[key] = [f"{key}={value}" for value in each]
    return list(values.values())


def _compose_search(fixed: Sequence[str], *, check: bool) -> Job:
    """Return the job that stands for a search; ``check`` whether all its ``fixed`` settings are read."""
    job = _compose_job(fixed, SEARCH)
    if check:
        refuse_unread(job.spec, _keys(fixed))
    if job.spec.reg.held_out == 0:
        raise SpecError("reg.held_out=0 cannot be used in a search, whose objective is the cost of held-out tilts: "
                        "set the share to hold out, for example reg.held_out=0.1")
    return job


def _compose_each(jobs: Sequence[Sequence[str]], varied: set[str], by_pattern: bool,
                  settings: SweepSettings) -> tuple[list[Job], list[LeftOut]]:
    made: list[Job] = []
    left_out: list[LeftOut] = []
    for number, words in enumerate(jobs):
        label = _label(words, varied)
        try:
            made.append(_bind_composed(words, label, settings.compose(words).settings, number))
        except SpecError as refusal:
            left_out.append(LeftOut(number, label, tuple(words), str(refusal)))
            if not by_pattern or len(left_out) == len(jobs):
                raise
    return _note_unread(made), left_out


def _note_unread(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs of a sweep with notes on settings that they do not read.

    Raise :class:`SpecError` for a setting that none of them reads.
    """
    unread = [{key: why for key in _keys(job.words) if (why := why_unread(job.spec, key))} for job in jobs]
    by_none = set.intersection(*(set(reasons) for reasons in unread)) if unread else set()
    for job in jobs:
        if by_none or job.spec.data.kind == "measured":
            refuse_unread(job.spec, _keys(job.words))
    return [replace(job, notes=tuple(reasons.values())) for job, reasons in zip(jobs, unread, strict=True)]


def _keys(words: Sequence[str]) -> list[str]:
    return [word.lstrip("+~").split("=", 1)[0] for word in words]


def _label(words: Sequence[str], varied: set[str]) -> str:
    return " ".join(word.replace("'", "") for word in words if word.split("=")[0] in varied) or "run"


@contextmanager
def _composer(config_dir: Path | None, words: Sequence[str] = ()) -> Iterator[OverridesParser]:
    GlobalHydra.instance().clear()
    prepare_hydra(words, group_choices(config_dir))
    try:
        with own_choices(config_dir), initialize_config_dir(str(config_folder()), "aetlab", "1.3"):
            yield OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    finally:
        GlobalHydra.instance().clear()


def _compose_job(words: Sequence[str], label: str) -> Job:
    return _bind_composed(words, label, _settings_of(_compose_whole(words)).settings)


def _compose_whole(words: Sequence[str]) -> DictConfig:
    """Return all settings, with those of Hydra."""
    with _errors_in_one_line():
        return compose(CONFIG_NAME, list(words), return_hydra_config=True)


def _settings_of(config: DictConfig) -> Composition:
    with _errors_in_one_line():
        return Composition(*read_composed(config))


def _bind_composed(words: Sequence[str], label: str, settings: Any, number: int = 0) -> Job:
    if settings["data"]["kind"] == "measured":
        refuse_settings_of_series(_keys(words))
    spec, job = bind_job(settings)
    for word in words:
        key, _, value = word.partition("=")
        if key == "reg":
            check_regulariser(value.strip("'\""), spec.reg.kind)
    return Job(tuple(words), label, spec, job, number)


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """Turn the errors of Hydra, OmegaConf and YAML into a :class:`SpecError` of one line."""
    try:
        yield
    except SpecError:
        raise
    except OverrideParseException as error:
        raise SpecError(f"{error.override} cannot be read as key=value: {_first_lines(error)}") from None
    except ConfigCompositionException as error:
        missing = re.match(r"Could not override 'reg\.(\w+)'", str(error))
        if missing and missing[1] in OWNERS:
            needed = " or ".join(OWNERS[missing[1]])
            raise SpecError(f"reg.{missing[1]} cannot be set with this regulariser, for nothing reads it then: it "
                            f"needs reg={needed}; in a sweep over several, ++reg.{missing[1]}=VALUE sets it for "
                            f"reg={needed} alone") from None
        raise SpecError(_first_lines(error)) from None
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError, ValueError, RecursionError,
            AttributeError, LookupError, TypeError, AssertionError) as error:  # all of them escape from OmegaConf
        raise SpecError(_first_lines(error)) from None


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "See https" not in line]
    return "; ".join(lines[:4])[:400] or type(error).__name__
