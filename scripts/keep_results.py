"""Copy the small files of records to a folder that can be committed, and compare them with the paper in a table.

    python scripts/keep_results.py outputs experiments/results/paper/voxels fig4a=638b fig4b=68dd

Each NAME=ID names an experiment (``atoms4b`` answers row 4(b) of the paper as ``fig4b`` does) and the start of a record
id. Settings, metrics, history, environment and log are copied, the volume and the other arrays are not. Where they name
the folder of the outputs on this machine, the copies say ``outputs``.
``table.csv`` in the folder is rewritten from everything kept there, and a short form of it is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
SMALL_FILES = ("spec.json", "metrics.json", "history.csv", "environment.json", "log.txt")
COLUMNS = {"position_error_pm": "position error (pm)", "found_percent": "found (%)",
           "false_positive_percent": "false (%)", "correct_species_percent": "species (%)"}
STAGES = ("simulate", "reconstruct", "trace", "score")


def keep(outputs: Path, to: Path, name: str, start: str) -> None:
    """Copy the small files of the one record whose id begins with ``start`` to ``to/name``."""
    found = sorted((outputs / "records").glob(f"{start}*"))
    if len(found) != 1:
        sys.exit(f"{name}={start} cannot be used: {len(found)} records of {outputs} begin so; give more digits")
    target = to / name
    target.mkdir(parents=True, exist_ok=True)
    for file in SMALL_FILES:
        text = (found[0] / file).read_text(encoding="utf-8")
        (target / file).write_text(text.replace(str(outputs.absolute()), "outputs"), encoding="utf-8")


def table(kept: Path) -> pd.DataFrame:
    """Return one row for each experiment in ``kept``: our values, the paper's, differences, time, memory, commit."""
    papers = tomllib.loads((ROOT / "experiments" / "paper_values.toml").read_text(encoding="utf-8"))["rows"]
    rows = []
    for folder in sorted(path for path in kept.iterdir() if path.is_dir() and (path / "metrics.json").exists()):
        metrics, environment, settings = (json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
                                          for name in ("metrics", "environment", "spec"))
        paper = papers.get(folder.name.replace("atoms", "fig"), {})
        row: dict[str, object] = {"experiment": folder.name, "prior": settings["reg"]["kind"]}
        for column in COLUMNS:
            row[column] = metrics[column]
            row[f"{column}_paper"] = paper.get(column)
            row[f"{column}_difference"] = metrics[column] - paper[column] if column in paper else None
        seconds = environment["seconds_by_stage"]
        row |= {f"{stage}_s": seconds[stage] for stage in STAGES}
        rows.append({**row, "peak_memory_GB": environment["peak_memory_MB"] / 1e3, "commit": environment["commit"]})
    return pd.DataFrame(rows)


def as_markdown(frame: pd.DataFrame) -> str:
    """Return our values in the paper's columns, in brackets the paper's value, where it has one, and the difference."""
    lines = ["| experiment | prior | " + " | ".join(COLUMNS.values()) + " |", "|---" * (2 + len(COLUMNS)) + "|"]
    for row in frame.to_dict("records"):
        cells = [f"{row[column]:.4g}" if pd.isna(row[f"{column}_paper"]) else
                 f"{row[column]:.4g} ({row[f'{column}_paper']:.4g}; {row[f'{column}_difference']:+.2g})"
                 for column in COLUMNS]
        lines.append(f"| {row['experiment']} | {row['prior']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("outputs", type=Path)
    parser.add_argument("to", type=Path)
    parser.add_argument("records", nargs="*", metavar="NAME=ID")
    arguments = parser.parse_args()
    for word in arguments.records:
        name, _, start = word.partition("=")
        if not name or not start:
            parser.error(f"{word} is not NAME=ID")
        keep(arguments.outputs, arguments.to, name, start)
    frame = table(arguments.to)
    frame.round(4).to_csv(arguments.to / "table.csv", index=False)
    print(as_markdown(frame))


if __name__ == "__main__":
    main()
