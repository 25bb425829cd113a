"""Find the configuration files: next to the package in a source checkout, inside the package if installed."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def config_folder() -> Path:
    """Return the folder of the config groups."""
    return _find("conf")


def experiments_folder() -> Path:
    """Return the folder of the experiment files."""
    return _find("experiments")


def _find(name: str) -> Path:
    checkout = _PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    return _PACKAGE / f"_{name}"


def group_choices(config_dir: Path | None = None) -> dict[str, tuple[str, ...]]:
    """Return the choices of every config group and of ``experiment``; numbers in names are sorted by value.

    ``config_dir`` is the user's own folder of choices (``--config-dir``); it adds no groups.
    """
    shipped = _shipped_choices()
    if config_dir is None:
        return dict(shipped)
    return {group: _in_order({*choices, *_yaml_names(config_dir / group)}) for group, choices in shipped.items()}


@cache
def _shipped_choices() -> dict[str, tuple[str, ...]]:
    folders = [folder for folder in sorted(config_folder().iterdir()) if folder.is_dir() and folder.name != "hydra"]
    names = {"experiment": _yaml_names(experiments_folder())} | {folder.name: _yaml_names(folder) for folder in folders}
    return {group: _in_order(choices) for group, choices in names.items()}


def _yaml_names(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.yaml")}


def _in_order(names: set[str]) -> tuple[str, ...]:
    def by_number(name: str) -> list[tuple[bool, int, str]]:
        return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.findall(r"\d+|\D+", name)]

    return tuple(sorted(names, key=by_number))
