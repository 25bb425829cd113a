"""Texts of ``--help`` and of shell completion.

Hydra's own help takes seconds, and its completion does not support ``python -m``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

_HEAD = """aetlab: phase-contrast atomic electron tomography. A run is one choice from each group.

  python -m aetlab.run dose=50k reg=tv                           one run
  python -m aetlab.run -m dose=inf,50k,7k reg=tv,lasso,pos       a sweep: every combination
  python -m aetlab.run -m 'experiment=glob(fig4*)' scale=medium  rows of the paper's table
  python -m aetlab.run dose=7k scale=paper --estimate            print memory and time, run nothing
  python -m aetlab.run dose=7k --cfg job                         print the settings, run nothing
  python -m aetlab.run --config-dir ~/aetlab-conf dose=20k       choices from a folder of your own
  python -m aetlab.run --hydra-help                              Hydra's own flags, launchers and sweepers
  eval "$(python -m aetlab.run -sc install=bash)"                shell completion in bash

Results go to outputs/ (outputs=FOLDER). A command that is repeated skips complete runs and resumes interrupted ones.
Other commands: python -m aetlab.report (table, figures, HTML page), python -m aetlab.runs (list, show, export and
remove runs), python -m aetlab.bound (best possible precision of a planned experiment), python -m aetlab.trace (trace
the atoms of a volume file), python -m aetlab.doctor (check this machine).
"""
_COMPLETION = r"""
_aetlab_python()
{
    if [ "${COMP_WORDS[1]}" == "-m" ] && [ "${COMP_WORDS[2]}" == "aetlab.run" ]; then
        choices=$(COMP_LINE="aetlab-run ${COMP_LINE#*aetlab.run }" "${COMP_WORDS[0]}" -m aetlab.run -sc query=bash)
        COMPREPLY=($(compgen -W "$choices" -- "${COMP_WORDS[COMP_CWORD]}"))
    fi
}
complete -o nospace -o default -F _aetlab_python python python3
"""


def format_help(groups: Mapping[str, Sequence[str]], settings: dict[str, Any]) -> str:
    """Return the text of ``--help``: examples, the choices of each group, and the composed ``settings``."""
    lines = [_HEAD, "Groups and their choices (group=choice):"]
    lines += [f"  {group}: {', '.join(choices)}" for group, choices in groups.items()]
    lines += ["", "Settings (key=value):", _indented(OmegaConf.to_yaml(OmegaConf.create(settings)))]
    return "\n".join(lines)


def completion_script() -> str:
    """Return bash code that completes ``python -m aetlab.run``; it complements Hydra's code for ``aetlab-run``."""
    return _COMPLETION


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
