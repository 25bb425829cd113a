"""The flags of ``python -m aetlab.run``: its own, and those of Hydra that it passes on."""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from aetlab.spec import SpecError

#: Flags that say what to do; a command line has at most one of them.
_ACTIONS = ("--run", "--multirun", "--cfg", "--info", "--shell-completion", "--hydra-help")


@dataclass(frozen=True)
class Flags:
    """A command line: the flags, and the overrides (``words``) in their order."""

    words: tuple[str, ...] = ()
    run: bool = False
    multirun: bool = False
    estimate: bool = False
    help: bool = False
    hydra_help: bool = False
    version: bool = False
    shell_completion: bool = False
    cfg: str | None = None
    info: str | None = None
    package: str | None = None
    resolve: bool = False
    config_dir: Path | None = None

    @property
    def asks_hydra(self) -> bool:
        """True if Hydra answers: it shows its help, information, the configuration, or completes a word."""
        return self.hydra_help or self.shell_completion or self.cfg is not None or self.info is not None

    def for_hydra(self) -> list[str]:
        """Return the flags of a command line that Hydra answers."""
        values = {"--cfg": self.cfg, "--info": self.info, "--package": self.package}
        given = {"--resolve": self.resolve, "--shell-completion": self.shell_completion,
                 "--hydra-help": self.hydra_help}
        return [*(f"{flag}={value}" for flag, value in values.items() if value is not None),
                *(flag for flag, value in given.items() if value)]


def read_flags(argv: Sequence[str]) -> Flags:
    """Return the flags and words of ``argv``.

    Raises
    ------
    SpecError
        If a flag is unknown or lacks its value, two contradict each other, or the folder of ``--config-dir`` is not
        there.
    """
    read = _parser().parse_intermixed_args(list(argv))
    values: dict[str, Any] = {field.name: getattr(read, field.name) for field in fields(Flags)}
    flags = Flags(**values | {"words": tuple(read.words)})
    given = [flag for flag in _ACTIONS if getattr(flags, flag[2:].replace("-", "_"))]
    if len(given) > 1:
        raise SpecError(f"{' and '.join(given)} cannot be used together: choose one of {', '.join(_ACTIONS)}")
    if flags.estimate and flags.asks_hydra:
        raise SpecError(f"--estimate and {given[0]} cannot be used together")
    for flag, value in (("--resolve", flags.resolve), ("--package", flags.package)):
        if value and flags.cfg is None:
            raise SpecError(f"{flag} cannot be used without --cfg")
    if flags.config_dir is not None and not flags.config_dir.is_dir():
        raise SpecError(f"--config-dir={flags.config_dir} cannot be used: there is no such folder")
    return flags


def version_line() -> str:
    """Return the versions of aetlab and Hydra."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("aetlab", "hydra-core"))


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are :class:`SpecError`."""

    def error(self, message: str) -> NoReturn:
        unknown = [word for word in message.partition("unrecognized arguments: ")[2].split() if word.startswith("-")]
        if unknown:
            known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
            raise SpecError(f"{unknown[0]} cannot be used: choose from {', '.join(known)}")
        raise SpecError(message.replace("argument ", ""))


def _parser() -> _Parser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    for names in (("--run", "-r"), ("--multirun", "-m"), ("--estimate",), ("--help", "-h"), ("--hydra-help",),
                  ("--version",), ("--shell-completion", "-sc"), ("--resolve",)):
        parser.add_argument(*names, action="store_true")
    parser.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    parser.add_argument("--info", "-i", nargs="?", const="all",
                        choices=("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"))
    parser.add_argument("--package", "-p")
    parser.add_argument("--config-dir", "-cd", type=Path)
    return parser
