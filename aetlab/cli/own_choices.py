"""Read the user's own choices, a folder given with ``--config-dir``, as data that can run no code.

Hydra never sees the folder. Its files are read and checked here and put into Hydra's ConfigStore, each at the place of
its group. A file cannot choose another place (``# @package``), another group, or a setting of Hydra; of Hydra's own
groups only ``hydra/launcher`` takes files, which may set the keys of :data:`_LAUNCHER_KEYS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from aetlab.cli.hydra_settings import leaves, only_references
from aetlab.cli.overrides import JOB_KEYS
from aetlab.core.files import StorageError
from aetlab.core.yaml_file import parse_mapping, read_text
from aetlab.spec import SpecError
from aetlab.spec.folders import group_choices
from aetlab.spec.reconstruction import refuse_other_kind

#: The only group of Hydra's that takes the user's files.
LAUNCHERS = "hydra/launcher"
#: Settings of a launcher that only say how much of which machine a job gets.
_LAUNCHER_KEYS = (
    "n_jobs", "pre_dispatch", "batch_size", "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb",
    "nodes", "name", "stderr_to_stdout", "partition", "qos", "comment", "constraint", "exclude", "gres",
    "cpus_per_gpu", "gpus_per_task", "mem_per_gpu", "mem_per_cpu", "account", "signal_delay_s", "max_num_timeout",
    "array_parallelism", "setup", "ray.remote.num_cpus", "ray.remote.num_gpus",
)
#: Launchers that a file may be based on.
_BASES = ("joblib", "cores", "gpus", "submitit_slurm", "slurm", "submitit_local", "ray")
#: Text of a launcher's setting: no quotes, line ends, or signs with a meaning for a shell.
_PLAIN = re.compile(r"[\w .,:/@%+=|&*\[\]-]*")
#: Lines that prepare a Slurm job. Any other can be typed: hydra.launcher.setup=[...].
_SETUP = re.compile(r"module (purge|(load|unload|use|swap)( [\w.+/-]+)+)")
_NAME = re.compile(r"[\w.+-]+")
_PACKAGE = re.compile(r"\A(?:\s*(?:#.*)?\n)*?\s*#\s*@package\s+(\S+)")


@dataclass(frozen=True)
class _File:
    """A file of the folder: its path, and the group and choice that it defines."""

    path: Path
    group: str
    choice: str

    def refuse(self, what: str, why: str) -> SpecError:
        """Return the error of one line for ``what`` in this file."""
        return SpecError(f"{self.path}: {what} cannot be used: {why}")


@contextmanager
def own_choices(folder: Path | None) -> Iterator[None]:
    """Offer the choices of ``folder`` to Hydra inside the block.

    Raises
    ------
    SpecError
        If a file cannot be read, or holds more than settings of its group; the message names the file and the key.
    """
    store = ConfigStore.instance()
    files = {file: _read(file) for file in _files(folder)} if folder is not None else {}
    for file, content in files.items():
        package = "_global_" if file.group == "experiment" else None
        store.store(group=file.group, name=file.choice, node=content, package=package, provider="config-dir")
    try:
        yield
    finally:
        for file in files:
            place = store.repo
            for part in file.group.split("/"):
                place = place[part]
            del place[f"{file.choice}.yaml"]


def launcher_base(name: str, folder: Path | None) -> str:
    """Return the launcher of aetlab or of a plugin that the choice ``name`` is based on: itself, or by its defaults."""
    path = folder and folder / LAUNCHERS / f"{name}.yaml"
    if path is None or not path.exists():
        return name
    bases = [entry for entry in _read(_File(path, LAUNCHERS, name))["defaults"] if entry != "_self_"]
    return launcher_base(bases[-1], folder) if bases else name


def _files(folder: Path) -> Iterator[_File]:
    ours = group_choices()
    if (folder / "config.yaml").exists():
        raise SpecError(f"{folder / 'config.yaml'} cannot be used: give choices of groups, such as dose/20k.yaml")
    for path in sorted((folder / "hydra").glob("*")):
        if path.name != "launcher":
            raise SpecError(f"{path} cannot be used: of Hydra's own groups, only {LAUNCHERS} takes choices of a folder")
    for group in (*ours, LAUNCHERS):
        known = (*ours.get(group, ()), *(_BASES if group == LAUNCHERS else ()), "basic")
        for path in sorted((folder / group).glob("*.yaml")):
            if path.name.startswith("."):
                continue
            if path.stem in known:
                raise SpecError(f"{path} cannot be used: {group}={path.stem} is a choice of aetlab; use another name")
            if not _NAME.fullmatch(path.stem):
                raise SpecError(f"{path} cannot be used: name the file with letters, digits, '_', '.', '+' and '-'")
            yield _File(path, group, path.stem)


def _read(file: _File) -> dict[str, Any]:
    """Return the content of a file, checked."""
    try:
        text = read_text(file.path)
        content = parse_mapping(text, file.path)
    except StorageError as error:
        raise SpecError(str(error)) from None
    package = _PACKAGE.match(text)
    usual = "_global_" if file.group == "experiment" else file.group.replace("/", ".")
    if package is not None and package[1] not in (usual, "_group_"):
        raise file.refuse(f"@package {package[1]}", f"the settings of a choice of {file.group} go to {usual}")
    defaults = content.get("defaults") or []
    if not isinstance(defaults, list):
        raise file.refuse(f"defaults={defaults!r}", "it takes a list")
    content["defaults"] = [_checked_default(file, entry) for entry in defaults]
    settings = {key: value for key, value in content.items() if key != "defaults"}
    if file.group == LAUNCHERS:
        _check_launcher(file, settings)
    elif file.group == "experiment":
        for key in ("hydra", *JOB_KEYS):
            if key in settings:
                raise file.refuse(f"{key}={settings[key]!r}", "it can only be typed on the command line")
    elif file.group == "reg" and isinstance(settings.get("kind"), str):
        try:
            refuse_other_kind(file.choice, settings["kind"], settings)
        except SpecError as error:
            raise SpecError(f"{file.path}: {error}") from None
    for key, value in leaves(settings):
        if "${" in str(value) and not only_references(str(value)):
            raise file.refuse(f"{key}={value!r}", "only other settings can be referred to, as in ${scale.voxel_A}")
        if key.rsplit(".", 1)[-1].startswith("_"):
            raise file.refuse(f"{key}={value!r}", "it is not a setting")
    return content


def _checked_default(file: _File, entry: object) -> Any:
    """Return an entry of the defaults list: another choice of the same group, or for an experiment one of any group."""
    if file.group == "experiment" and isinstance(entry, Mapping) and len(entry) == 1:
        (key, choice), = entry.items()
        found = re.fullmatch(r"override /(\w+)", str(key))
        if found and found[1] in group_choices() and found[1] != "experiment" and _NAME.fullmatch(str(choice)):
            return {str(key): str(choice).lower() if isinstance(choice, bool) else str(choice)}
    elif file.group == LAUNCHERS and isinstance(entry, str):
        if entry in ("_self_", *_BASES) or (file.path.parent / f"{entry}.yaml").is_file() and _NAME.fullmatch(entry):
            return entry
    elif isinstance(entry, (str, int)) and _NAME.fullmatch(str(entry)):
        return str(entry).lower() if isinstance(entry, bool) else str(entry)
    wanted = ("override /group: choice" if file.group == "experiment"
              else f"the name of another choice of {file.group}")
    raise file.refuse(f"the entry {entry!r} of defaults", f"it takes {wanted}")


def _check_launcher(file: _File, settings: Mapping[str, Any]) -> None:
    for key, value in leaves(settings):
        name = re.sub(r"\[\d+\]$", "", key)
        if name not in _LAUNCHER_KEYS:
            raise file.refuse(f"{key}={value!r}", f"a launcher of a folder can set {', '.join(_LAUNCHER_KEYS)}")
        if name == "setup":
            if not _SETUP.fullmatch(str(value)):
                raise file.refuse(f"{key}={value!r}", "in a file it takes lines such as module load python/3.11")
        elif isinstance(value, str) and not _PLAIN.fullmatch(value):
            raise file.refuse(f"{key}={value!r}", "it takes plain text without quotes and line ends")

