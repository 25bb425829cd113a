"""``python -m aetlab.run``: make one run, or with ``-m`` a sweep, of settings that Hydra composes.

Every job is composed, bound and checked before the first one starts. Names in a configuration are data: nothing that
they name is imported or called.
"""

from __future__ import annotations

from aetlab.core import console

if __name__ == "__main__":
    console.stop_at_once()

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from aetlab.cli.compose import Job
    from aetlab.cli.flags import Flags
    from aetlab.cli.jobs import JobResult
    from aetlab.spec import RunSpec

#: Overrides that make joblib start one run at a time. (With one worker it would run them in this process.)
_ONE_AT_A_TIME = ("hydra.launcher.n_jobs=2", "hydra.launcher.pre_dispatch='1'")


@dataclass(frozen=True)
class _Plan:
    """The jobs of a command line before they start.

    ``ledger`` is the ledger of a sweep, ``hydra_words`` are the overrides that configure Hydra for it, ``jobs`` those
    that run in this process without Hydra.
    """

    ledger: Path | None = None
    hydra_words: Sequence[str] = ()
    searching: bool = False
    jobs: Sequence[Job] = ()


@console.command
def main() -> None:
    """Run the command line of ``python -m aetlab.run``."""
    console.stop_at_once()
    warnings.filterwarnings("ignore", message="'hydra/launcher/ray' is validated against")  # as the plugin intends
    sys.exit(_main(sys.argv[1:]))


def task(config: DictConfig) -> float | None:
    """Run one job; Hydra calls this in this process or in a worker on any machine.

    Returns the objective of a search (see :func:`_objective`).
    """
    console.protect_streams()
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from aetlab.cli.compose import bind_job, plain_settings
    from aetlab.cli.jobs import failed_job, run_job
    from aetlab.cli.launch import EXIT_FAILED
    from aetlab.cli.ledger import read_label, read_result, require_planned
    from aetlab.cli.sweep import share_machine
    from aetlab.core.errors import AetlabError

    hydra_config = HydraConfig.get()
    swept = hydra_config.mode == RunMode.MULTIRUN
    ledger, number = Path(hydra_config.sweep.dir), int(hydra_config.job.num) if swept else 0
    earlier = read_result(ledger, number) if swept else None
    if earlier is not None:  # left out, or finished before a worker died
        return _objective(earlier)
    label = read_label(ledger, number, hydra_config.overrides.task) if swept else "run"
    try:
        spec, settings = bind_job(plain_settings(config))
        if swept:
            require_planned(ledger, number, spec)
    except AetlabError as error:
        result = failed_job(label, error)
        if not swept:
            sys.exit(EXIT_FAILED)
        _write_result(ledger, number, result)
        return None
    outputs = Path(hydra_config.runtime.cwd) / settings.outputs
    use_other_code = settings.other_code == "use"
    if not swept:
        _run_single(spec, outputs, use_other_code)
        return None
    launcher = str(hydra_config.runtime.choices.get("hydra/launcher"))
    spec = share_machine(spec, launcher, int(hydra_config.launcher.get("n_jobs") or 1))
    result = run_job(spec, label, outputs=outputs, use_other_code=use_other_code)
    _write_result(ledger, number, result)
    return _objective(result)


def _objective(result: JobResult) -> float | None:
    """Return the objective that a search minimises: the mean cost of held-out tilts; None for a failed run."""
    return result.metrics.get("held_out_cost")


def _write_result(ledger: Path, number: int, result: JobResult) -> None:
    from aetlab.cli.ledger import write_result
    from aetlab.core.files import StorageError

    try:
        write_result(ledger, number, result)
    except StorageError as error:  # the record is complete and its result printed
        print(f"{result.label}: {error}", file=sys.stderr)


def _run_single(spec: RunSpec, outputs: Path, use_other_code: bool) -> None:
    from aetlab.cli.jobs import FAILED, run_job
    from aetlab.cli.launch import EXIT_FAILED

    if run_job(spec, "run", outputs=outputs, use_other_code=use_other_code).status == FAILED:
        sys.exit(EXIT_FAILED)


def _run_here(jobs: Sequence[Job], ledger: Path | None) -> None:
    """Run composed jobs one after another in this process; Hydra would compose all of them again."""
    from aetlab.cli.jobs import run_job
    from aetlab.cli.ledger import require_ledger

    for job in jobs:
        if ledger is not None:
            require_ledger(ledger)
        outputs, use_other_code = Path.cwd() / job.settings.outputs, job.settings.other_code == "use"
        if ledger is None:
            _run_single(job.spec, outputs, use_other_code)
        else:
            result = run_job(job.spec, job.label, outputs=outputs, use_other_code=use_other_code)
            _write_result(ledger, job.number, result)


def _main(argv: list[str]) -> int:
    """Carry out a command line; return the exit status."""
    from aetlab.cli.estimates import print_estimates
    from aetlab.cli.file_patterns import expand_file_patterns
    from aetlab.cli.flags import read_flags, version_line
    from aetlab.cli.launch import EXIT_UNUSABLE, launch
    from aetlab.core.files import StorageError
    from aetlab.spec import SpecError
    from aetlab.spec.folders import group_choices

    try:
        flags = read_flags(argv)
        if flags.version:
            print(version_line())
            return 0
        groups = group_choices(flags.config_dir)
        words = expand_file_patterns(flags.words, groups)
        if flags.help:
            _print_help(words, groups, flags.config_dir)
            return 0
        if flags.estimate:
            print_estimates(words, multirun=flags.multirun, config_dir=flags.config_dir)
            return 0
        plan = _plan(flags, words)
        console.raise_on_interrupt()
        if plan.jobs:
            return launch(plan.ledger, lambda one_at_a_time: _run_here(plan.jobs, plan.ledger))
        return _launch_hydra(flags, words, groups, plan)
    except (SpecError, StorageError) as error:
        print(f"aetlab: {error}", file=sys.stderr)
        return EXIT_UNUSABLE


def _print_help(words: Sequence[str], groups: Mapping[str, Sequence[str]], config_dir: Path | None) -> None:
    from aetlab.cli.compose import compose_jobs
    from aetlab.cli.help import format_help

    only = [word for word in words if word in groups]
    job = compose_jobs([word for word in words if word not in only], multirun=False, config_dir=config_dir)[0]
    print(format_help(groups, job.spec, job.settings, only))


def _plan(flags: Flags, words: Sequence[str]) -> _Plan:
    """Check the command line; compose and check the jobs that it runs, and open the ledger of a sweep."""
    from aetlab.cli.compose import BASIC, SEARCH, compose_all, compose_jobs
    from aetlab.cli.preflight import check_jobs
    from aetlab.cli.sweep import prepare_sweep

    if flags.shell_completion:
        _prepare_completion(words)
    elif flags.cfg or flags.info:
        compose_jobs(words, multirun=False, config_dir=flags.config_dir)  # reports errors in one line, unlike Hydra
    if flags.asks_hydra:
        return _Plan()
    multirun = flags.multirun or any(word.lower() == "hydra.mode=multirun" for word in words)
    jobs, left_out = compose_all(words, multirun=multirun, config_dir=flags.config_dir)
    searching = jobs[0].label == SEARCH
    check_jobs(jobs)
    ledger, hydra_words = prepare_sweep(jobs, left_out, words) if multirun else (None, [])
    needs_hydra = (searching or any(word.lstrip("+~").startswith("hydra") for word in words)
                   or any(job.launcher != BASIC for job in jobs))
    return _Plan(ledger, hydra_words, searching, () if needs_hydra else jobs)


def _prepare_completion(words: Sequence[str]) -> None:
    from aetlab.cli.help import completion_script

    sys.argv[0] = "aetlab-run"
    if words == ["install=bash"]:
        print(completion_script())


def _launch_hydra(flags: Flags, words: Sequence[str], groups: Mapping[str, Sequence[str]], plan: _Plan) -> int:
    """Let Hydra carry out the command line; return the exit status.

    Hydra gets no ``--config-dir``: the checked choices of that folder are in its ConfigStore.
    """
    from aetlab.cli.compose import prepare_hydra
    from aetlab.cli.launch import launch
    from aetlab.cli.overrides import join_lists, quote_choices
    from aetlab.cli.own_choices import own_choices

    words = () if flags.hydra_help else words if plan.ledger else join_lists(words, groups)
    prepare_hydra(words, groups)
    mode = ["--multirun"] if flags.multirun else ["--run"] if flags.run else []

    def start(one_at_a_time: bool) -> None:
        added = [*plan.hydra_words, *(_ONE_AT_A_TIME if one_at_a_time else ())]
        sys.argv[1:] = [*flags.for_hydra(), *mode, *quote_choices([*words, *added], groups, twice=plan.searching)]
        _call_hydra()

    with own_choices(flags.config_dir):
        return launch(plan.ledger, start)


def _call_hydra() -> None:
    import hydra
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    from aetlab.cli.compose import CONFIG_NAME
    from aetlab.spec.folders import config_folder

    # Every job has been composed and bound; without this Hydra would compose all of them again before the first one.
    setattr(BasicSweeper, "validate_batch_is_legal", lambda sweeper, batch: None)  # noqa: B010
    hydra.main(config_path=str(config_folder()), config_name=CONFIG_NAME, version_base="1.3")(task)()


if __name__ == "__main__":
    # Workers import the task by its module's name, which must not be __main__.
    from aetlab.run import main as run_main

    run_main()
