"""``python -m aetlab.run``: one run, or with ``-m`` a sweep; Hydra composes the settings.

Everything that is asked for is composed, bound and checked before the first job starts. What a configuration names is
data: nothing in it is imported or called.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

from aetlab.spec import RunSpec, SpecError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from aetlab.cli.compose import Job, LeftOut
    from aetlab.cli.jobs import Outcome

#: Exit statuses: some run failed; the command line cannot be used; stopped by the user; stopped by the system.
FAILED, UNUSABLE, INTERRUPTED, TERMINATED = 1, 2, 130, 143
#: What makes joblib's pool give out one run at a time (a pool of one worker would be this very process).
_ONE_AT_A_TIME = ("hydra.launcher.n_jobs=2", "hydra.launcher.pre_dispatch='1'")


def main() -> None:
    """The entry point of ``python -m aetlab.run``."""
    warnings.filterwarnings("ignore", message="'hydra/launcher/ray' is validated against")  # by the plugin's, as wanted
    sys.exit(_main(sys.argv[1:]))


def task(config: DictConfig) -> float | None:
    """One job, called by Hydra in this process or in another one of any machine."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from aetlab.cli import jobs
    from aetlab.cli.compose import bind_job, plain_settings
    from aetlab.cli.ledger import read_label, read_outcomes

    hydra_config = HydraConfig.get()
    swept = hydra_config.mode == RunMode.MULTIRUN
    ledger, number = Path(hydra_config.sweep.dir), int(hydra_config.job.num) if swept else 0
    ended = read_outcomes(ledger).get(number) if swept else None
    if ended is not None:  # left out, or launched again after a worker died
        return _objective(ended)
    spec, settings = bind_job(plain_settings(config))
    outputs = Path(hydra_config.runtime.cwd) / settings.outputs
    use_other_code = settings.other_code == "use"
    if not swept:
        _perform_alone(spec, outputs, use_other_code)
        return None
    label = read_label(ledger, number, hydra_config.overrides.task)
    launcher = str(hydra_config.runtime.choices.get("hydra/launcher"))
    spec = _share_machine(spec, launcher, int(hydra_config.launcher.get("n_jobs") or 1))
    outcome = jobs.perform(spec, label, outputs=outputs, use_other_code=use_other_code)
    _enter(ledger, number, outcome)
    return _objective(outcome)


def _enter(ledger: Path, number: int, outcome: Outcome) -> None:
    from aetlab.cli.ledger import write_outcome
    from aetlab.store.files import StorageError

    try:
        write_outcome(ledger, number, outcome)
    except StorageError as error:  # the run itself is told and kept already
        print(f"{outcome.label}: {error}", file=sys.stderr)


def _perform_here(composed: Sequence[Job], ledger: Path | None) -> None:
    """Jobs that are composed already, one after the other in this process: Hydra would compose all of them again."""
    from aetlab.cli import jobs

    for job in composed:
        outputs, use_other_code = Path.cwd() / job.settings.outputs, job.settings.other_code == "use"
        if ledger is None:
            _perform_alone(job.spec, outputs, use_other_code)
        else:
            outcome = jobs.perform(job.spec, job.label, outputs=outputs, use_other_code=use_other_code)
            _enter(ledger, job.number, outcome)


def _perform_alone(spec: RunSpec, outputs: Path, use_other_code: bool) -> None:
    from aetlab.cli import jobs

    if jobs.perform(spec, "run", outputs=outputs, use_other_code=use_other_code).status == jobs.FAILED:
        sys.exit(FAILED)


def _objective(outcome: Outcome) -> float | None:
    """What a search makes small: the cost of predicting images that were held out; None for a run that failed."""
    return outcome.metrics.get("held_out_cost")


def _main(argv: list[str]) -> int:
    from hydra._internal.utils import get_args_parser

    from aetlab.cli.compose import BASIC, SEARCH, compose_all, compose_jobs, prepare_hydra
    from aetlab.cli.estimates import FLAG, foretell
    from aetlab.cli.overrides import quote_choices
    from aetlab.spec.folders import group_choices
    from aetlab.store.files import StorageError

    estimating = FLAG in argv
    argv = [word for word in argv if word != FLAG]
    args = get_args_parser().parse_args(argv)
    further = Path(args.config_dir) if args.config_dir else None
    groups = group_choices(further)
    ledger: Path | None = None
    added: list[str] = []
    searching = False
    here: list[Job] = []
    try:
        _check_flags(args)
        if args.help:
            return _help(args.overrides, groups, further)
        if estimating:
            foretell(args.overrides, multirun=args.multirun, further=further)
            return 0
        if args.shell_completion:
            _prepare_completion(args.overrides)
        elif args.cfg or args.info:
            compose_jobs(args.overrides, multirun=False, further=further)
        elif not args.hydra_help:
            multirun = args.multirun or any(word.lower() == "hydra.mode=multirun" for word in args.overrides)
            jobs, left_out = compose_all(args.overrides, multirun=multirun, further=further)
            searching = jobs[0].label == SEARCH
            ledger, added = _prepare(jobs, left_out, multirun, args.overrides)
            if not searching and not any(word.lstrip("+~").startswith("hydra") for word in args.overrides):
                here = jobs if all(job.launcher == BASIC for job in jobs) else []
    except (SpecError, StorageError) as error:
        print(f"aetlab: {error}", file=sys.stderr)
        return UNUSABLE
    if here:
        return _launch(ledger, lambda one_at_a_time: _perform_here(here, ledger))
    prepare_hydra()
    # the parser takes the words in one piece alone, wherever the flags stand
    place = argv.index(args.overrides[-1]) + 1 if args.overrides else 0

    def through_hydra(one_at_a_time: bool) -> None:
        further_words = _ONE_AT_A_TIME if one_at_a_time else ()
        sys.argv[1:] = quote_choices([*argv[:place], *added, *further_words, *argv[place:]], groups, twice=searching)
        _call_hydra()

    return _launch(ledger, through_hydra)


def _call_hydra() -> None:
    import hydra
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    from aetlab.cli.compose import CONFIG_NAME
    from aetlab.spec.folders import config_folder

    # Every job has been composed and bound; Hydra would compose all of them once more before the first one.
    setattr(BasicSweeper, "validate_batch_is_legal", lambda sweeper, batch: None)  # noqa: B010
    hydra.main(config_path=str(config_folder()), config_name=CONFIG_NAME, version_base="1.3")(task)()


def _launch(ledger: Path | None, start: Callable[[bool], None]) -> int:
    """Makes ``start`` do what is asked for, one run at a time if it is told so; gives the exit status.

    Failures of jobs are outcomes and never come here. Where a worker of a pool dies (out of memory, say), the others
    die with it. Then the sweep is launched again with one run at a time; the run whose worker dies then has failed, and
    the sweep goes on without it.
    """
    from aetlab.cli.jobs import terminable
    from aetlab.cli.ledger import has_work, note_death

    wants_trace = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands errors on instead of printing their traces
    one_at_a_time = False
    while True:
        try:
            with terminable():
                start(one_at_a_time)
        except BaseException as stop:
            if ledger is not None and isinstance(stop, BrokenProcessPool):
                if not one_at_a_time:
                    print("a worker died; the sweep goes on with one run at a time to find which", file=sys.stderr)
                else:
                    print(f"{note_death(ledger)}: FAILED: its worker died, perhaps for want of memory", file=sys.stderr)
                one_at_a_time = not one_at_a_time
                if has_work(ledger):
                    continue
                return _finish(ledger)
            if wants_trace:
                raise
            return _stopped(stop, ledger)
        return _finish(ledger)


def _check_flags(args: argparse.Namespace) -> None:
    if args.experimental_rerun:
        raise SpecError("--experimental-rerun cannot be used: it would run code from a file")
    if args.config_dir and not Path(args.config_dir).is_dir():
        raise SpecError(f"--config-dir={args.config_dir} cannot be used: there is no such folder")
    for flag, value in (("--config-name", args.config_name), ("--config-path", args.config_path)):
        if value:
            raise SpecError(f"{flag}={value} cannot be used: add a folder of your own choices by --config-dir")
    flags = {"--multirun": args.multirun, "--run": args.run, "--cfg": args.cfg, "--info": args.info,
             "--shell-completion": args.shell_completion}
    given = [flag for flag, value in flags.items() if value]
    if len(given) > 1:
        raise SpecError(f"{' and '.join(given)} cannot be used together: choose one of {', '.join(flags)}")


def _help(words: Sequence[str], groups: Mapping[str, Sequence[str]], further: Path | None) -> int:
    from aetlab.cli.compose import compose_jobs
    from aetlab.cli.help import format_help
    from aetlab.spec.bind import unbind

    job = compose_jobs(words, multirun=False, further=further)[0]
    print(format_help(groups, unbind(job.spec) | unbind(job.settings)))
    return 0


def _prepare_completion(words: Sequence[str]) -> None:
    from aetlab.cli.help import completion_script

    sys.argv[0] = "aetlab-run"
    if words == ["install=bash"]:
        print(completion_script())


def _prepare(jobs: Sequence[Job], left_out: Sequence[LeftOut], multirun: bool,
             words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Checks all jobs; for a sweep gives its ledger, and the words that tell Hydra of it and of the workers."""
    from aetlab.cli import workers
    from aetlab.cli.compose import SEARCH
    from aetlab.cli.jobs import LEFT_OUT, Outcome
    from aetlab.cli.ledger import Wanted, open_ledger, write_outcome
    from aetlab.cli.preflight import check_jobs
    from aetlab.store.identity import record_id
    from aetlab.store.record import Places

    check_jobs(jobs)
    if not multirun:
        return None, []
    added = []
    launcher = jobs[0].launcher
    chosen = any(word.startswith("hydra.launcher.n_jobs=") for word in words)
    if launcher in (workers.ON_CORES, workers.ON_GPUS) and not chosen:
        from aetlab.core.backend import n_cores

        n_runs = n_cores() if jobs[0].label == SEARCH else len(jobs)
        added.append(f"hydra.launcher.n_jobs={workers.n_workers(launcher, n_runs, n_cores())}")
    runs = {job.number: Wanted(job.label, record_id(job.spec), job.words) for job in jobs if job.label != SEARCH}
    runs |= {each.number: Wanted(each.label, "", each.words) for each in left_out}
    wanted = [runs[number] for number in sorted(runs)]
    fixed = jobs[0].words if jobs[0].label == SEARCH else ()
    added += _search_words(jobs[0].spec, words) if jobs[0].label == SEARCH else []
    ledger = open_ledger(Places(Path(jobs[0].settings.outputs).absolute()).sweeps, wanted, fixed)
    for each in left_out:
        print(f"{each.label}: left out: {each.reason}")
        write_outcome(ledger, each.number, Outcome("", each.label, LEFT_OUT, 0.0, error=each.reason))
    print(f"sweep {ledger.name}: {len(wanted) or 'a search for'} runs, launcher {launcher}", flush=True)
    escaped = str(ledger).replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${")
    return ledger, [*added, f"hydra.sweep.dir='{escaped}'"]


def _search_words(spec: RunSpec, words: Sequence[str]) -> list[str]:
    """What makes a search go on past runs that fail, and make the same choices when it is started again."""
    added = {"hydra.sweeper.max_failure_rate": "1.0"}
    if not any(word.startswith("hydra/sweeper/sampler=") for word in words):
        added["hydra.sweeper.sampler.seed"] = str(spec.seed)
    return [f"{key}={value}" for key, value in added.items() if not any(word.startswith(f"{key}=") for word in words)]


def _share_machine(spec: RunSpec, launcher: str, n_workers: int) -> RunSpec:
    """``spec`` with the threads, and this process with the GPU, that are a worker's share of the machine."""
    from aetlab.cli import workers
    from aetlab.core.backend import n_cores

    if launcher == workers.ON_GPUS:
        workers.claim_gpu()
    if launcher in (workers.ON_CORES, workers.ON_GPUS) and spec.engine.n_threads == 0:
        n_threads = workers.threads_of_worker(n_cores(), n_workers if n_workers > 0 else n_cores())
        return dataclasses.replace(spec, engine=dataclasses.replace(spec.engine, n_threads=n_threads))
    return spec


def _finish(ledger: Path | None) -> int:
    if ledger is None:
        return 0
    from aetlab.cli.ledger import print_best, print_table

    n_bad = print_table(ledger)
    print_best(ledger)
    return FAILED if n_bad else 0


def _stopped(stop: BaseException, ledger: Path | None) -> int:
    if isinstance(stop, SystemExit):
        return stop.code if isinstance(stop.code, int) else FAILED if stop.code else 0
    from aetlab.cli.jobs import Stopped

    _finish(ledger)
    if not isinstance(stop, (KeyboardInterrupt, Stopped)):
        reason = " ".join(str(stop).split())[:400]
        print(f"aetlab: the launch ended with {type(stop).__name__}: {reason} (HYDRA_FULL_ERROR=1 shows where)",
              file=sys.stderr)
        return FAILED
    print("stopped; the same command again goes on from here", file=sys.stderr)
    return INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED


if __name__ == "__main__":
    # Other processes find the task by its module, which must then not be __main__.
    from aetlab.run import main as run_main

    run_main()
