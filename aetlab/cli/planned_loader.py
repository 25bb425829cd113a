"""A loader of Hydra for jobs that are composed already."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict


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
