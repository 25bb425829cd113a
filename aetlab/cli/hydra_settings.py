"""Check what a command line and its configuration say to Hydra itself: nothing in them may name code to run.

Typed words may choose launcher, sweeper and sampler and set their values; nothing else of ``hydra:`` can be set. The
composed settings are checked again after all references are resolved.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from aetlab.spec import SpecError

#: What can be set of ``hydra:`` on the command line: these words, and all keys that begin with one of the others.
_WORDS = ("hydra/launcher", "hydra/sweeper", "hydra/sweeper/sampler", "hydra.mode")
_BEGINNINGS = ("hydra.launcher.", "hydra.sweeper.")
#: The classes that Hydra may make, by their place in the configuration.
_TARGETS = {
    "launcher": re.compile(
        r"hydra\._internal\.core_plugins\.basic_launcher\.BasicLauncher"
        r"|hydra_plugins\.hydra_joblib_launcher\.joblib_launcher\.JoblibLauncher"
        r"|hydra_plugins\.hydra_submitit_launcher\.submitit_launcher\.(Slurm|Local)Launcher"
        r"|hydra_plugins\.hydra_ray_launcher\.ray_launcher\.RayLauncher"),
    "sweeper": re.compile(
        r"hydra\._internal\.core_plugins\.basic_sweeper\.BasicSweeper"
        r"|hydra_plugins\.aetlab_sweeper\.sweeper\.AetlabSweeper"
        r"|hydra_plugins\.hydra_optuna_sweeper\.optuna_sweeper\.OptunaSweeper"),
    "sweeper.sampler": re.compile(r"optuna\.samplers\.[A-Z][A-Za-z]*Sampler"),
}
#: Resolvers that read the environment or turn text into settings.
_RESOLVERS_OFF = ("oc.env", "oc.decode", "oc.create")
#: A reference to another setting of the run, such as ${scale.voxel_A}. Hydra's own cannot be referred to.
_REFERENCE = re.compile(r"\$\{\.*(?!hydra\b)[A-Za-z_]\w*(\.\w+|\[\w+\])*\}")
_NO_CODE = "a configuration may not name code to run"


def switch_resolvers_off() -> None:
    """Remove the resolvers of OmegaConf that read environment variables or decode text, in this process."""
    for name in _RESOLVERS_OFF:
        OmegaConf.clear_resolver(name)


def only_references(text: str) -> bool:
    """Return whether ``text`` refers to settings only, so that resolving it calls no function."""
    return "${" not in _REFERENCE.sub("", text)


def check_overrides(overrides: Iterable[Override]) -> None:
    """Raise :class:`SpecError` for the first override that sets more of Hydra than launcher and sweeper."""
    for override in overrides:
        word, key = override.input_line or override.key_or_group, override.key_or_group
        if override.package is not None:
            raise SpecError(f"{word} cannot be used: the settings of a choice go to its own group (no @)")
        if not only_references(word):
            raise SpecError(f"{word} cannot be used: only settings can be referred to, as in ${{scale.voxel_A}}")
        if key.split("/")[0].split(".")[0] != "hydra" or key in _WORDS:
            continue
        if not key.startswith(_BEGINNINGS) or key.startswith("hydra.sweeper.params"):
            raise SpecError(f"{word} cannot be used: of Hydra's own settings, {', '.join(_WORDS)} and those of "
                            "hydra.launcher and hydra.sweeper can be set")


def read_composed(config: DictConfig) -> tuple[dict[str, Any], bool]:
    """Return the composed settings as plain values, without Hydra's own, and whether one refers to another.

    Raise :class:`SpecError` for a configuration that, with ``hydra:``, names code or calls a resolver.
    """
    switch_resolvers_off()  # this may be a worker's process
    refers = False
    for key, value in leaves(_without_hydra(OmegaConf.to_container(config))):
        if isinstance(value, str) and not only_references(value):
            raise SpecError(f"{key}={value!r} cannot be used: only settings can be referred to, as in "
                            "${scale.voxel_A}")
        refers = refers or "${" in f"{key}{value}"
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    _check_hydra(resolved["hydra"])
    return _without_hydra(resolved), refers


def _without_hydra(settings: Any) -> dict[str, Any]:
    return {str(key): value for key, value in settings.items() if key != "hydra"}


def _check_hydra(hydra: Mapping[str, Any]) -> None:
    for place, value in _fixed(hydra):
        if value:
            raise SpecError(f"hydra.{place}={value!r} cannot be used: {_NO_CODE}")
    for key, value in leaves({name: hydra[name] for name in ("launcher", "sweeper")}):
        place, _, name = key.rpartition(".")
        if name == "_target_":
            allowed = _TARGETS.get(place)
            if allowed is None or not allowed.fullmatch(str(value)):
                raise SpecError(f"hydra.{key}={value} cannot be used: {_NO_CODE}")
        elif "._args_" in key or name == "_partial_" or key == "sweeper.custom_search_space" and value is not None:
            raise SpecError(f"hydra.{key}={value} cannot be used: {_NO_CODE}")
        elif key == "sweeper.storage" and not str(value).startswith(("None", "sqlite:///")):
            raise SpecError(f"hydra.{key}={value} cannot be used: {_NO_CODE}")


def _fixed(hydra: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the settings of Hydra that are empty in every run, with their values."""
    yield "callbacks", hydra["callbacks"]
    yield "searchpath", hydra["searchpath"]
    for name in ("env_set", "env_copy", "chdir"):
        yield f"job.{name}", hydra["job"][name]
    for name in ("job_logging", "hydra_logging"):
        for key in ("handlers", "formatters", "filters", "loggers", "root"):
            yield f"{name}.{key}", hydra[name].get(key)


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested settings with their dotted keys; an empty mapping or list below a key is a value."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from leaves(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and value:
        for i, item in enumerate(value):
            yield from leaves(item, f"{key}[{i}]")
    elif key:
        yield key, value
