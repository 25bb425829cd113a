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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aetlab.cli.flags import Flags
    from aetlab.cli.sweep import Sweep


@console.command
def main() -> None:
    """Run the command line of ``python -m aetlab.run``."""
    console.stop_at_once()
    warnings.filterwarnings("ignore", message="'hydra/launcher/ray' is validated against")  # as the plugin intends
    sys.exit(_main(sys.argv[1:]))


def _main(argv: list[str]) -> int:
    """Carry out a command line; return the exit status."""
    from aetlab.cli.flags import read_flags, version_line
    from aetlab.cli.launch import EXIT_UNUSABLE
    from aetlab.cli.overrides import expand_file_patterns
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
            from aetlab.cli.estimates import print_estimates

            print_estimates(words, multirun=flags.multirun, config_dir=flags.config_dir)
            return 0
        if flags.asks_hydra:
            return _ask_hydra(flags, words, groups)
        return _run(flags, words)
    except (SpecError, StorageError) as error:
        print(f"aetlab: {error}", file=sys.stderr)
        return EXIT_UNUSABLE


def _print_help(words: Sequence[str], groups: Mapping[str, Sequence[str]], config_dir: Path | None) -> None:
    from aetlab.cli.compose import compose_jobs
    from aetlab.cli.help import format_help

    only = [word for word in words if word in groups]
    job = compose_jobs([word for word in words if word not in only], multirun=False, config_dir=config_dir)[0]
    print(format_help(groups, job.spec, job.settings, only))


def _ask_hydra(flags: Flags, words: Sequence[str], groups: Mapping[str, Sequence[str]]) -> int:
    """Let Hydra show its help, information or the settings, or complete a word; return the exit status."""
    from aetlab.cli.compose import CONFIG_NAME, compose_jobs, prepare_hydra
    from aetlab.cli.help import completion_script
    from aetlab.cli.launch import launch
    from aetlab.cli.overrides import join_lists, quote_choices
    from aetlab.cli.own_choices import own_choices

    if flags.shell_completion:
        sys.argv[0] = "aetlab-run"
        if words == ["install=bash"]:
            print(completion_script())
    elif not flags.hydra_help:
        compose_jobs(words, multirun=False, config_dir=flags.config_dir)  # reports errors in one line, unlike Hydra
    words = () if flags.hydra_help else join_lists(words, groups)
    prepare_hydra(words, groups)
    console.raise_on_interrupt()
    with own_choices(flags.config_dir):
        return launch(None, lambda _: _call_hydra([*flags.for_hydra(), *quote_choices(words, groups)], _answered,
                                                  CONFIG_NAME))


def _answered(config: object) -> None:
    """Do nothing: Hydra runs no job here."""


def _run(flags: Flags, words: Sequence[str]) -> int:
    """Make one run, or the runs of a sweep, which are all checked first; return the exit status."""
    from aetlab.cli.compose import compose_all
    from aetlab.cli.jobs import FAILED, run_job
    from aetlab.cli.launch import EXIT_FAILED, launch
    from aetlab.cli.preflight import check_jobs

    multirun = flags.multirun or any(word.lower() == "hydra.mode=multirun" for word in words)
    plan = compose_all(words, multirun=multirun, config_dir=flags.config_dir)
    if not multirun:
        _refuse_launchers(words)
    check_jobs(plan.jobs, plan.launcher)
    if multirun:
        from aetlab.cli.sweep import open_sweep

        sweep = open_sweep(plan)
        console.raise_on_interrupt()
        return launch(sweep.ledger, lambda one_at_a_time: _sweep(sweep.one_at_a_time() if one_at_a_time else sweep,
                                                                 flags.config_dir))
    (job,) = plan.jobs
    console.raise_on_interrupt()

    def start(one_at_a_time: bool) -> None:
        outputs, use_other_code = Path.cwd() / job.settings.outputs, job.settings.other_code == "use"
        if run_job(job.spec, job.label, outputs=outputs, use_other_code=use_other_code).status == FAILED:
            sys.exit(EXIT_FAILED)

    return launch(None, start)


def _refuse_launchers(words: Sequence[str]) -> None:
    from aetlab.spec import SpecError

    for word in words:
        if word.lstrip("+~").startswith(("hydra/", "hydra.launcher", "hydra.sweeper")):
            raise SpecError(f"{word} cannot be used: a single run has no launcher and no sweeper; add -m")


def _sweep(sweep: Sweep, config_dir: Path | None) -> None:
    """Let Hydra carry out a sweep by the plugin that it finds in ``hydra_plugins``.

    Hydra gets no ``--config-dir``: the checked choices of that folder are in its ConfigStore.
    """
    from aetlab.cli.own_choices import own_choices

    with own_choices(config_dir):
        _call_hydra(["--multirun", "hydra/sweeper=aetlab", "hydra/job_logging=none", "hydra/hydra_logging=none"],
                    sweep.carry_out)


def _call_hydra(argv: Sequence[str], task: Callable[[Any], None], config_name: str | None = None) -> None:
    """Call Hydra with a command line; a sweep has its settings, so that Hydra composes its own alone."""
    import hydra

    from aetlab.spec.folders import config_folder

    sys.argv[1:] = argv
    hydra.main(config_path=str(config_folder()), config_name=config_name, version_base="1.3")(task)()


if __name__ == "__main__":
    main()
