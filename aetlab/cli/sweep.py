"""Plan a sweep or search, and launch its jobs by the launcher of Hydra that the settings choose.

Hydra calls :meth:`Sweep.carry_out` through its sweeper plugin (``hydra_plugins/aetlab_sweeper``). A worker, on any
machine, gets the ledger and the number of its job, and composes nothing (:mod:`aetlab.cli.perform`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.config_source import ConfigSource
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict

from aetlab.cli.compose import JOIN, PART, TILE, Job, JobPlan, compose_trial
from aetlab.cli.jobs import FAILED, LEFT_OUT, JobResult, failed_job, skip_complete
from aetlab.cli.ledger import (
    Order,
    RequestedJob,
    add_job,
    input_digests,
    open_ledger,
    read_requested,
    read_result,
    require_inputs,
    require_ledger,
    write_result,
)
from aetlab.cli.perform import Task
from aetlab.cli.tile_jobs import with_tiles
from aetlab.cli.workers import Workers, count_workers
from aetlab.core.errors import AetlabError
from aetlab.store.identity import record_id
from aetlab.store.record import Places

_TRIALS = "hydra_plugins.aetlab_sweeper.sweeper.TrialLauncher"


@dataclass
class Sweep:
    """A planned sweep or search: its plan, its ledger, and the workers that share this machine."""

    plan: JobPlan
    ledger: Path
    workers: Workers

    def one_at_a_time(self) -> Sweep:
        """Return this sweep with one job at a time in a pool of workers, the death of one of which is then its own.

        With one worker, joblib would run the jobs in this process.
        """
        return replace(self, workers=replace(self.workers, n_workers=2, at_once=1))

    def carry_out(self, context: HydraContext) -> None:
        """Launch every job that has no result yet; a search plans its jobs one batch after another."""
        if not self.plan.searched:
            waiting = [job for job in self.plan.jobs if read_result(self.ledger, job.number) is None]
            for stage in (TILE, PART, JOIN):
                self._launch(context, [job for job in waiting if job.stage == stage and self._can_start(job)])
            return
        config = self._settings()
        with open_dict(config):
            config.hydra.launcher = {"_target_": _TRIALS}
        sweeper = Plugins.instance().instantiate_sweeper(
            hydra_context=context, task_function=partial(self._launch_trials, context), config=config)
        sweeper.sweep(list(self.plan.searched))

    def _launch(self, context: HydraContext, jobs: Sequence[Job]) -> None:
        """Launch the jobs whose record is not complete."""
        requested = read_requested(self.ledger)
        waiting = [job for job in jobs if not self._skip(job, requested[job.number].id)]
        if not waiting:
            return
        config = self._settings()
        # Hydra's basic launcher keeps the settings of each job until all are done.
        size = 1 if self.workers.in_this_process else config.hydra.sweeper.get("max_batch_size") or len(waiting)
        planned = HydraContext(PlannedLoader(context.config_loader), context.callbacks)
        for start in range(0, len(waiting), size):
            batch = waiting[start:start + size]
            task = Task(self.ledger, tuple(job.number for job in batch), self.workers)
            launcher = Plugins.instance().instantiate_launcher(hydra_context=planned, task_function=task,
                                                               config=config)
            returns = launcher.launch([job.words for job in batch], initial_job_idx=0)
            require_ledger(self.ledger)
            for each in returns:
                each.return_value  # noqa: B018 (raises the error of a launch that failed)

    def _can_start(self, job: Job) -> bool:
        """Return whether no job that ``job`` needs has failed; write its result if one has."""
        results = [read_result(self.ledger, number) for number in job.tiles]
        failed = [result.label for result in results if result is not None and result.status == FAILED]
        if failed:
            error = AetlabError(f"it needs the result of {', '.join(failed)}, which failed")
            write_result(self.ledger, job.number, replace(failed_job(job.label, error), id=record_id(job.spec)))
        return not failed

    def _skip(self, job: Job, run_id: str) -> bool:
        """Write the result of a job whose record is complete; return whether it is."""
        found = skip_complete(run_id, job.label, outputs=Path.cwd() / job.settings.outputs,
                              use_other_code=job.settings.other_code == "use")
        if found is not None:
            write_result(self.ledger, job.number, found)
        return found is not None

    def _settings(self) -> DictConfig:
        """Return the settings of Hydra as composed, for this sweep."""
        config = copy.deepcopy(self.plan.hydra)
        with open_dict(config):
            config.hydra.mode = "MULTIRUN"
            config.hydra.sweep.dir = str(self.ledger).replace("${", "\\${")
            if self.workers.n_workers:
                config.hydra.launcher.n_jobs = self.workers.n_workers
            if self.workers.at_once:
                config.hydra.launcher.pre_dispatch = str(self.workers.at_once)
            if self.plan.searched:
                _set_up_search(config.hydra.sweeper, self.plan.jobs[0].spec.seed, config.hydra.overrides.hydra)
        return config

    def _launch_trials(self, context: HydraContext, trials: tuple[Sequence[Sequence[str]], int]) -> list[JobReturn]:
        """Plan, launch and return the trials of a search, given as their settings and the number of the first one."""
        chosen, first = trials
        jobs = [self._plan_trial(context, words, number) for number, words in enumerate(chosen, first)
                if read_result(self.ledger, number) is None]
        self._launch(context, [job for job in jobs if job is not None])
        returns = []
        for number, words in enumerate(chosen, first):
            result = read_result(self.ledger, number)
            returns.append(JobReturn(overrides=words, status=JobStatus.COMPLETED))
            # The objective that a search minimises: the mean cost of held-out tilts; None for a failed run.
            returns[-1].return_value = result and result.metrics.get("held_out_cost")
        return returns

    def _plan_trial(self, context: HydraContext, words: Sequence[str], number: int) -> Job | None:
        """Compose a trial and add it to the ledger; return None if its settings cannot be used."""
        try:
            job = compose_trial(context.config_loader, self.plan, words, number)
            require_inputs(self.ledger, job.spec)
        except AetlabError as error:
            add_job(self.ledger, number, RequestedJob(" ".join(words), "", tuple(words)), None)
            write_result(self.ledger, number, failed_job(" ".join(words), error))
            return None
        add_job(self.ledger, number, RequestedJob(job.label, record_id(job.spec), job.words), _order(job))
        return job


def open_sweep(plan: JobPlan) -> Sweep:
    """Open the ledger of a sweep and print what it does.

    Raises :class:`StorageError` where the launcher needs a GPU and none is visible, or the ledger cannot be written.
    """
    plan = with_tiles(plan)
    n_at_once = plan.hydra.hydra.sweeper.n_jobs if plan.searched else len(plan.jobs)
    workers = count_workers(plan.launcher, n_at_once, max(job.spec.engine.devices for job in plan.jobs))
    requested: dict[int, tuple[RequestedJob, Order | None]] = {
        each.number: (RequestedJob(each.label, "", each.words), None) for each in plan.left_out}
    if not plan.searched:
        requested |= {job.number: (RequestedJob(job.label, record_id(job.spec), job.words), _order(job))
                      for job in plan.jobs}
    inputs = {path: found for job in plan.jobs for path, found in input_digests(job.spec).items()}
    in_order = [requested[number] for number in sorted(requested)]
    ledger = open_ledger(Places(Path(plan.jobs[0].settings.outputs).absolute()).sweeps, [job for job, _ in in_order],
                         [order for _, order in in_order], inputs, is_search=bool(plan.searched))
    for each in plan.left_out:
        print(f"{each.label}: left out: {each.reason}")
        write_result(ledger, each.number, JobResult("", each.label, LEFT_OUT, 0.0, error=each.reason))
    for job in plan.jobs:
        for note in job.notes:
            print(f"{job.label}: {note}")
    size = "search" if plan.searched else f"{len(requested)} runs"
    print(f"sweep {ledger.name}: {size}, launcher {plan.launcher.name}", flush=True)
    return Sweep(plan, ledger, workers)


def _set_up_search(sweeper: DictConfig, seed: int, words: Sequence[str]) -> None:
    """Let a search continue after failed runs and repeat its choices when it is restarted, unless ``words`` differ."""
    if not any(word.startswith("hydra.sweeper.max_failure_rate=") for word in words):
        sweeper.max_failure_rate = 1.0
    if "seed" in sweeper.sampler and sweeper.sampler.seed is None:
        sweeper.sampler.seed = seed


def _order(job: Job) -> Order:
    return Order(job.spec, str(Path(job.settings.outputs).absolute()), job.settings.other_code == "use", job.part)


class PlannedLoader(ConfigLoader):
    """Give every job the settings of Hydra as they are, and pass all else on to ``loader``.

    Hydra's launchers compose each job in its worker, which takes a fifth of a second. The jobs of a sweep are composed
    before it starts, and a worker reads the settings of its job from the ledger.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """Return a copy of ``master_config`` that lists the overrides of the job."""
        config = copy.deepcopy(master_config)
        with open_dict(config):
            config.hydra.overrides.task = list(sweep_overrides)
        return config

    def load_configuration(self, config_name: str | None, overrides: list[str], run_mode: RunMode,
                           from_shell: bool = True, validate_sweep_overrides: bool = True) -> DictConfig:
        """Return what the other loader returns."""
        return self._loader.load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)

    def get_search_path(self) -> ConfigSearchPath:
        """Return what the other loader returns."""
        return self._loader.get_search_path()

    def get_sources(self) -> list[ConfigSource]:
        """Return what the other loader returns."""
        return self._loader.get_sources()

    def list_groups(self, parent_name: str) -> list[str]:
        """Return what the other loader returns."""
        return self._loader.list_groups(parent_name)

    def get_group_options(self, group_name: str, results_filter: ObjectType | None = ObjectType.CONFIG,
                          config_name: str | None = None, overrides: list[str] | None = None) -> list[str]:
        """Return what the other loader returns."""
        return self._loader.get_group_options(group_name, results_filter, config_name, overrides)

    def compute_defaults_list(self, config_name: str | None, overrides: list[str], run_mode: RunMode) -> Any:
        """Return what the other loader returns."""
        return self._loader.compute_defaults_list(config_name, overrides, run_mode)
