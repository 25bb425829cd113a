"""What ``--help`` and shell completion print. Hydra's own help takes seconds, its completion knows no ``python -m``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

_HEAD = """aetlab: phase-contrast atomic electron tomography. A run is one choice from each group.

  python -m aetlab.run dose=50k reg=tv                          one run
  python -m aetlab.run -m dose=inf,50k,7k reg=tv,lasso,pos      a sweep: every combination
  python -m aetlab.run -m 'experiment=glob(fig4*)' scale=medium rows of the paper
  python -m aetlab.run --cfg job dose=7k                        the settings; nothing is run
  python -m aetlab.run --hydra-help                             Hydra's flags: launchers, sweepers, your own folder
  eval "$(python -m aetlab.run -sc install=bash)"               completion in bash

Then: python -m aetlab.report (table, figures, page), python -m aetlab.runs (list, show, remove),
python -m aetlab.doctor (what this machine has).
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
    """The text of ``--help``: how to call, groups with their choices, settings as composed."""
    lines = [_HEAD, "Groups and their choices (group=choice):"]
    lines += [f"  {group}: {', '.join(choices)}" for group, choices in groups.items()]
    lines += ["", "Settings (key=value):", _indented(OmegaConf.to_yaml(OmegaConf.create(settings)))]
    return "\n".join(lines)


def completion_script() -> str:
    """Bash for ``python -m aetlab.run``, to go with Hydra's for ``aetlab-run``."""
    return _COMPLETION


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
