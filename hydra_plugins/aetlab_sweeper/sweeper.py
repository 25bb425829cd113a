"""The sweeper of ``python -m aetlab.run -m``: the jobs are planned before Hydra starts, and launched once each.

Annotations are types, not text: Hydra executes this file before its module has a name, and a dataclass would look the
text up there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class AetlabSweeperConf:
    """Settings ``hydra.sweeper``; ``max_batch_size`` is the maximum number of jobs that a launcher gets at once."""

    _target_: str = "hydra_plugins.aetlab_sweeper.sweeper.AetlabSweeper"
    max_batch_size: int | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="aetlab", node=AetlabSweeperConf, provider="aetlab")


class AetlabSweeper(Sweeper):
    """Pass Hydra's context to the task function, which holds the planned jobs and launches them."""

    def __init__(self, max_batch_size: int | None = None) -> None:
        self.max_batch_size = max_batch_size

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what the sweep needs."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def sweep(self, arguments: list[str]) -> Any:
        """Launch the planned jobs; there are no ``arguments``."""
        return self.task_function(self.hydra_context)


class TrialLauncher(Launcher):
    """Pass the trials that another sweeper chooses to the task function, which plans and launches them."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep the task function."""
        self.task_function = task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Return the results of trials; ``job_overrides`` are their settings, the first has the number given."""
        returns: Sequence[JobReturn] = self.task_function((job_overrides, initial_job_idx))
        return returns
