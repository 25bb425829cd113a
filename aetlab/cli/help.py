"""Texts of ``--help`` and of shell completion.

Hydra's own help takes seconds, and its completion does not support ``python -m``.
"""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from aetlab.cli.compose import JobSettings
from aetlab.cli.reproduce import format_value
from aetlab.core.setting import about
from aetlab.spec import RunSpec
from aetlab.spec.choices import PLAIN

_HEAD = """aetlab: phase-contrast atomic electron tomography. A run is one choice from each group.

  python -m aetlab.run dose=50k reg=tv                           one run
  python -m aetlab.run -m dose=inf,50k,7k reg=tv,lasso,pos       a sweep: every combination
  python -m aetlab.run -m 'experiment=glob(fig4*)' scale=medium  rows of the paper's table
  python -m aetlab.run dose=7k scale=paper --estimate            print memory and time, run nothing
  python -m aetlab.run dose=7k --cfg job                         print the settings, run nothing
  python -m aetlab.run --config-dir ~/aetlab-conf dose=20k       choices from a folder of your own
  python -m aetlab.run --help reg trace                          only these groups
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


def format_help(groups: Mapping[str, Sequence[str]], spec: RunSpec, job: JobSettings, only: Sequence[str] = ()) -> str:
    """Return the text of ``--help``: examples, the choices of each group, and every setting with its value.

    The values are those of ``spec`` and ``job``; meaning, unit and range come from the definition of each setting.
    ``only`` names groups: the text is then about them alone.
    """
    width = max(min(shutil.get_terminal_size((120, 24)).columns, 120), 60)
    order = [field.name for field in dataclasses.fields(spec)]
    known = sorted(groups, key=lambda group: order.index(group) if group in order else len(order))
    shown = [group for group in known if group in only or not only]
    lines = [] if only else [_HEAD]
    lines += ["Groups and their choices (group=choice):", ""]
    for group in shown:
        plain = f"; or {PLAIN[group].written}" if group in PLAIN else ""
        lines += _wrap(f"{group}: {', '.join(groups[group])}{plain}", width, "  ", " " * 14)
    if not only:
        lines += ["", "Settings (key=value, here with the values of this command line):", "",
                  *_describe("seed", spec, "seed", width)]
        lines += [line for field in dataclasses.fields(job) for line in _describe(field.name, job, field.name, width)]
    for group in shown:
        settings = getattr(spec, group, None)
        if settings is not None:
            title = (type(settings).__doc__ or group).splitlines()[0]
            lines += ["", f"{group}: {title}"]
            lines += [line for field in dataclasses.fields(settings)
                      for line in _describe(f"{group}.{field.name}", settings, field.name, width)]
    return "\n".join(lines)


def _describe(key: str, settings: Any, name: str, width: int) -> list[str]:
    """Return lines on one setting: key, value, unit, range and condition; then its meaning."""
    described = about(type(settings), name)
    needs = f"only with {' and '.join(described.reads).replace('|', ' or ')}" if described.reads else ""
    facts = "; ".join(filter(None, (described.unit, described.range, needs)))
    return [*_wrap(f"{key}={format_value(getattr(settings, name))}{f'  ({facts})' if facts else ''}", width, "  ",
                   " " * 8), *_wrap(described.meaning, width, " " * 6, " " * 6)]


def _wrap(text: str, width: int, first: str, others: str) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=others, break_long_words=False,
                         break_on_hyphens=False)


def completion_script() -> str:
    """Return bash code that completes ``python -m aetlab.run``; it complements Hydra's code for ``aetlab-run``."""
    return _COMPLETION
