"""``python -m aetlab.run``: one run, or with ``-m`` a sweep; Hydra composes the settings.

Everything that is asked for is composed, bound and checked before the first job starts. What a configuration names is
data: nothing in it is imported or called.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aetlab.spec import SpecError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from aetlab.cli.compose import Job

#: Exit statuses: some run failed; the command line cannot be used; stopped by the user; stopped by the system.
FAILED, UNUSABLE, INTERRUPTED, TERMINATED = 1, 2, 130, 143


def main() -> None:
    """The entry point of ``python -m aetlab.run``."""
    sys.exit(_main(sys.argv[1:]))


def _main(argv: list[str]) -> int:
    import hydra
    from hydra._internal.utils import get_args_parser

    from aetlab.cli.compose import CONFIG_NAME, compose_jobs, store_experiments
    from aetlab.cli.folders import config_folder, group_choices
    from aetlab.cli.overrides import quote_choices
    from aetlab.results.files import StorageError

    args = get_args_parser().parse_args(argv)
    if args.experimental_rerun:
        return _refuse("--experimental-rerun cannot be used: it would run code from a file")
    further = Path(args.config_dir) if args.config_dir else None
    if further is not None and not further.is_dir():
        return _refuse(f"--config-dir={args.config_dir} cannot be used: there is no such folder")
    multirun = args.multirun or any(word.strip().lower() == "hydra.mode=multirun" for word in args.overrides)
    words = quote_choices(argv, group_choices(further))
    runs = not (args.help or args.hydra_help or args.cfg or args.shell_completion or args.info)
    ledger: Path | None = None
    try:
        if runs:
            jobs = compose_jobs(args.overrides, multirun=multirun, further=further)
            ledger = _prepare(jobs) if multirun else None
        elif args.cfg == "job" and not multirun:
            compose_jobs(args.overrides, multirun=False, further=further)
    except (SpecError, StorageError) as error:
        return _refuse(str(error))
    if ledger is not None:
        words += [f"hydra.sweep.dir='{_escaped(ledger)}'"]
    sys.argv[1:] = words
    store_experiments()
    try:
        hydra.main(config_path=str(config_folder()), config_name=CONFIG_NAME, version_base="1.3")(task)()
    except BaseException as stop:
        return _stopped(stop, ledger)
    return _finish(ledger)


def task(config: DictConfig) -> Any:
    """One job, called by Hydra in this process or in another one of any machine."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from aetlab.cli.compose import bind_job, plain_settings
    from aetlab.cli.jobs import FAILED as JOB_FAILED
    from aetlab.cli.jobs import perform

    hydra_config = HydraConfig.get()
    spec, settings = bind_job(plain_settings(config))
    sweeping = hydra_config.mode == RunMode.MULTIRUN
    ledger, number = Path(hydra_config.sweep.dir), int(hydra_config.job.num) if sweeping else 0
    label = _label(ledger, number, list(hydra_config.overrides.task)) if sweeping else "run"
    outcome = perform(spec, label, outputs=Path(settings.outputs), use_other_code=settings.other_code == "use")
    if sweeping:
        from aetlab.cli.ledger import write_outcome

        write_outcome(ledger, number, outcome)
    elif outcome.status == JOB_FAILED:
        sys.exit(FAILED)
    return dataclasses.asdict(outcome)


def _prepare(jobs: list[Job]) -> Path:
    """Opens the ledger of a sweep; its folder is where Hydra puts what it writes."""
    from aetlab.cli.ledger import Wanted, open_ledger
    from aetlab.results.identity import record_id
    from aetlab.results.record import Places

    wanted = [Wanted(job.label, record_id(job.spec), job.words) for job in jobs if job.label != "search"]
    return open_ledger(Places(Path(jobs[0].settings.outputs).absolute()).sweeps, wanted)


def _label(ledger: Path, number: int, words: list[str]) -> str:
    from aetlab.cli.ledger import read_wanted

    wanted = read_wanted(ledger)
    return wanted[number].label if number < len(wanted) else " ".join(words)


def _finish(ledger: Path | None) -> int:
    if ledger is None:
        return 0
    from aetlab.cli.ledger import print_table

    return FAILED if print_table(ledger) else 0


def _stopped(stop: BaseException, ledger: Path | None) -> int:
    from aetlab.cli.jobs import Stopped

    if isinstance(stop, SystemExit):
        return stop.code if isinstance(stop.code, int) else FAILED if stop.code else 0
    if not isinstance(stop, (KeyboardInterrupt, Stopped)):
        raise stop
    _finish(ledger)
    print("stopped; the same command again goes on from here", file=sys.stderr)
    return INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED


def _refuse(message: str) -> int:
    print(f"aetlab: {message}", file=sys.stderr)
    return UNUSABLE


def _escaped(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${")


if __name__ == "__main__":
    # Other processes find the task by its module, which must then not be __main__.
    from aetlab.run import main as run_main

    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    run_main()
