"""Tables as Markdown and LaTeX, and the files of one table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from aetlab.core.inert import one_line, spreadsheet_cell

#: Characters that begin a link, an element, code, a formula or another column in Markdown.
_MARKUP = re.compile(r"[\\|\[\]<`*$]")


def to_markdown(frame: pd.DataFrame) -> str:
    """Return ``frame`` as a Markdown table without its index."""

    def line(cells: Iterable[Any]) -> str:
        return "| " + " | ".join(_MARKUP.sub(r"\\\g<0>", one_line(str(cell))) for cell in cells) + " |"

    return (
        "\n".join(
            [
                line(frame.columns),
                line("---" for _ in frame.columns),
                *(line(row) for row in frame.itertuples(index=False)),
            ]
        )
        + "\n"
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "Å": r"\AA{}",
    "²": r"$^2$",
    "∞": r"$\infty$",
    "±": r"$\pm$",
    "°": r"$^\circ$",
    "–": "--",
    "\N{MINUS SIGN}": "$-$",
}


def to_latex(frame: pd.DataFrame, caption: str) -> str:
    """Return ``frame`` as a LaTeX table with ``caption``; no package is needed.

    Adjacent columns named ``group: name`` share one heading of their group above their names.
    """

    def cell(value: Any) -> str:
        text = re.sub(r"^-(?=[\d.])", "\N{MINUS SIGN}", one_line(str(value)))
        return "".join(_LATEX.get(character, character) for character in text)

    def line(cells: Iterable[Any]) -> str:
        return " & ".join(cell(value) for value in cells) + r" \\"

    columns = "".join("r" if pd.api.types.is_numeric_dtype(frame[name]) else "l" for name in frame.columns)
    heads = [tuple(str(name).rpartition(": ")[::2]) for name in frame.columns]
    groups = [(group, len(list(members))) for group, members in groupby(group for group, _ in heads)]
    above = [f"\\multicolumn{{{n}}}{{c}}{{{cell(group)}}}" if group else " & ".join([""] * n) for group, n in groups]
    return (
        "\n".join(
            [
                r"\begin{table}",
                f"\\caption{{{cell(caption)}}}",
                f"\\begin{{tabular}}{{{columns}}}",
                r"\hline",
                *([" & ".join(above) + r" \\"] if any(group for group, _ in groups) else []),
                line(name for _, name in heads),
                r"\hline",
                *(line(row) for row in frame.itertuples(index=False)),
                r"\hline",
                r"\end{tabular}",
                r"\end{table}",
            ]
        )
        + "\n"
    )


def write_table(frame: pd.DataFrame, shown: pd.DataFrame, folder: Path, name: str, caption: str) -> list[Path]:
    """Write ``frame`` as CSV and Parquet, and ``shown``, which is formatted for readers, as Markdown and LaTeX.

    Text in the CSV file that a spreadsheet would take for a formula has an apostrophe in front.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in ("csv", "parquet", "md", "tex")]
    inert = frame.rename(columns=spreadsheet_cell).map(
        lambda value: spreadsheet_cell(value) if isinstance(value, str) else value)
    inert.to_csv(paths[0], index=False, lineterminator="\n")
    frame.to_parquet(paths[1], index=False)
    paths[2].write_text(to_markdown(shown), encoding="utf-8")
    paths[3].write_text(to_latex(shown, caption), encoding="utf-8")
    return paths
