"""``python -m aetlab.runs``: list, show, export and remove the runs of an outputs folder."""

from __future__ import annotations

from aetlab.core import console

if __name__ == "__main__":
    console.stop_at_once()

import argparse
import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aetlab.core.files import StorageError, write_text
from aetlab.core.inert import one_line, printable
from aetlab.core.metrics import HEADLINES, best_name, count_atoms
from aetlab.spec.bind import unbind
from aetlab.store.listing import (
    COMPLETE,
    DAMAGED,
    Entry,
    cache_size,
    differing,
    list_entries,
    remove_cache,
    remove_entry,
)
from aetlab.store.record import Places, array_names, read_history, read_record

_DESCRIPTION = "List, show, export and remove the runs of an outputs folder. Without a command, list them."
_EXAMPLES = """examples:
  python -m aetlab.runs                                    list all runs
  python -m aetlab.runs list 'reg == "tv" and dose_e_A2 < inf and found_percent > 99'
  python -m aetlab.runs show 3f2a                          show the run whose id starts with 3f2a
  python -m aetlab.runs export 'reg == "tv"' --to atoms    write atoms, volumes and methods to the folder atoms/
  python -m aetlab.runs remove 'status == "damaged"'       remove damaged records, after a confirmation
  python -m aetlab.runs remove --cache                     remove the tilt series that runs share
Expressions are those of report --select, with the columns of aetlab.load_records() and status.
"""
#: Largest column width that rows are padded to.
_WIDEST = 60


@console.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line of ``python -m aetlab.runs``."""
    arguments = _parser().parse_args(_with_command(list(sys.argv[1:] if argv is None else argv)))
    places = Places(Path(arguments.outputs))
    if not places.outputs.is_dir():
        console.refuse(f"--outputs={arguments.outputs} cannot be used: there is no such folder")
    try:
        chosen = _chosen(list_entries(places), arguments.words)
        if arguments.command == "list":
            _list(places, chosen, arguments.json)
        elif arguments.command == "show":
            _show(chosen, arguments.json)
        elif arguments.command == "export":
            if status := _export(chosen, Path(arguments.to), traced=arguments.traced):
                sys.exit(status)
        else:
            sys.exit(_remove(places, chosen, arguments))
    except (StorageError, ValueError) as error:
        console.refuse(error)


def _chosen(entries: list[Entry], words: Sequence[str]) -> list[Entry]:
    if not words:
        return entries
    from aetlab.reporting.choose_runs import choose_runs

    return choose_runs(entries, words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m aetlab.runs", description=_DESCRIPTION,
                                     epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    purposes = {"list": "print one line per run", "show": "print settings, scores and environment of one run",
                "export": "write atoms (XYZ, CSV, CIF), volumes (MRC) and methods (text)",
                "remove": "remove runs or the cached stages"}
    for name, text in purposes.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("words", nargs="*", metavar="EXPR|id",
                             help="expression of settings and scores ('found_percent > 99'), or start of an id")
        command.add_argument("--outputs", default="outputs", help="folder of all results (default: outputs)")
        if name == "remove":
            command.add_argument("--yes", action="store_true", help="do not ask for confirmation")
            command.add_argument("--cache", action="store_true",
                                 help="remove the cached stages (tilt series that runs share) instead of runs")
        elif name == "export":
            command.add_argument("--to", default=".", help="folder to write to (default: the current one)")
            command.add_argument("--traced", action="store_true",
                                 help="write the traced atoms, not the refined ones (default: the refined ones if "
                                      "there are any)")
        else:
            command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _with_command(argv: list[str]) -> list[str]:
    return argv if argv[:1] and argv[0] in ("list", "show", "export", "remove", "-h", "--help") else ["list", *argv]


def _list(places: Places, entries: list[Entry], as_json: bool) -> None:
    if as_json:
        lines = ",\n".join(json.dumps(_plain(entry)) for entry in entries)
        print(f"[{lines}]")
        return
    differ = differing(entries)
    rows = [["id", "status", *differ, "atoms", *(score.short_heading for score in HEADLINES), "age", "size"]]
    now = datetime.datetime.now(datetime.UTC)
    for entry in entries:
        status = f"{entry.status}: {entry.note}" if entry.note else entry.status
        scores = [score.text(entry.metrics.get(best_name(score, entry.metrics))) for score in HEADLINES]
        settings = [str(entry.settings.get(name, "")) for name in differ]
        atoms = count_atoms(entry.metrics)
        rows.append([entry.id, status, *settings, atoms, *scores, _age(entry.age_s(now)), _bytes(entry.n_bytes)])
    if entries:
        n_left = 2 + len(differ)
        widths = [min(max(len(row[i]) for row in rows), _WIDEST) for i in range(len(rows[0]))]
        for row in rows:
            cells = [cell.ljust(width) if i < n_left else cell.rjust(width)
                     for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
            print(one_line("  ".join(cells).rstrip()))
    n_stages, n_bytes = cache_size(places)
    print(f"{len(entries)} runs, {_bytes(sum(entry.n_bytes for entry in entries))}; "
          f"{n_stages} cached stages, {_bytes(n_bytes)}")


def _show(entries: list[Entry], as_json: bool) -> None:
    if len(entries) != 1:
        found = ", ".join(entry.id for entry in entries[:10]) or "none"
        raise ValueError(f"show takes one run, but {len(entries)} match: {found}")
    entry = entries[0]
    content = _plain(entry)
    if entry.status == COMPLETE:
        record = read_record(entry.place)
        content |= {"settings": unbind(record.spec), "environment": record.environment, "arrays": array_names(record),
                    "history": unbind({"cost": read_history(record).cost.tolist()})}
    if as_json:
        print(json.dumps(content, indent=1))
        return
    import yaml

    content.pop("history", None)
    print(printable(yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False, allow_unicode=True)), end="")


def _export(entries: list[Entry], folder: Path, *, traced: bool) -> int:
    """Export the complete runs, and name the others; return the exit status."""
    from aetlab.reporting.methods_text import methods_text
    from aetlab.reporting.stored_run import StoredRun
    from aetlab.store.export import export_record

    if not any(entry.status == COMPLETE for entry in entries):
        raise ValueError(f"nothing to export: {len(entries)} runs match, none of them complete")
    status = 0
    for entry in entries:
        try:
            if entry.status != COMPLETE:
                raise StorageError(entry.note if entry.status == DAMAGED else f"run {entry.id}: {entry.status}")
            record = read_record(entry.place)
            paths = export_record(record, folder, traced=traced)
            methods = folder / f"{record.id}.methods.txt"
            write_text(methods, methods_text(StoredRun(record)) + "\n")
            for path in (*paths, methods):
                print(path)
        except StorageError as error:
            status = 1
            print(f"not exported: {error}", file=sys.stderr)
    return status


def _remove(places: Places, entries: list[Entry], arguments: argparse.Namespace) -> int:
    if arguments.cache:
        if arguments.words:
            console.refuse("--cache removes all cached stages and takes no conditions or ids")
        n_stages, n_bytes = cache_size(places)
        subject = f"{n_stages} cached stages ({_bytes(n_bytes)})"
    elif not arguments.words:
        console.refuse("give conditions or ids of the runs to remove, for example: remove 'status == \"damaged\"'")
    else:
        n_stages = 0
        subject = f"{len(entries)} runs ({_bytes(sum(entry.n_bytes for entry in entries))})"
    if not (n_stages if arguments.cache else entries):
        print("nothing to remove")
        return 0
    if not arguments.yes and not _agreed(f"Remove {subject} of {places.outputs}? [y/N] "):
        print("nothing was removed")
        return 1
    if arguments.cache:
        remove_cache(places)
        print(f"removed {subject}")
        return 0
    kept = [reason for entry in entries if (reason := _remove_one(places, entry))]
    for reason in kept:
        print(f"aetlab: {reason}", file=sys.stderr)
    print(f"removed {subject}" if not kept else f"removed {len(entries) - len(kept)} of {len(entries)} runs")
    return 1 if kept else 0


def _remove_one(places: Places, entry: Entry) -> str:
    """Remove one run; return the reason why it cannot be removed, or ""."""
    try:
        remove_entry(places, entry)
    except StorageError as error:
        return str(error)
    return ""


def _agreed(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def _plain(entry: Entry) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC)
    return {"id": entry.id, "status": entry.status, "place": str(entry.place), "note": entry.note,
            "atoms": count_atoms(entry.metrics), "scores": _scores(entry),
            "settings": dict(entry.settings), "metrics": unbind(dict(entry.metrics)), "finished": entry.finished,
            "age_s": round(entry.age_s(now), 1), "bytes": entry.n_bytes}


def _scores(entry: Entry) -> dict[str, float]:
    """Return the scores of the best atoms of a run, by the names under which its metrics hold them."""
    names = [best_name(score, entry.metrics) for score in HEADLINES]
    return {name: unbind(entry.metrics[name]) for name in names if name in entry.metrics}


def _age(seconds: float) -> str:
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


def _bytes(count: float) -> str:
    for name in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {name}"
        count /= 1000
    return f"{count:.3g} TB"


if __name__ == "__main__":
    main()
