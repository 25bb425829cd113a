"""``python -m aetlab.runs``: lists the runs of an outputs folder, filters, shows, exports and removes them."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aetlab.spec.bind import unbind
from aetlab.store.files import StorageError
from aetlab.store.listing import (
    COMPLETE,
    Entry,
    cache_size,
    choose,
    differing,
    list_entries,
    remove_cache,
    remove_entry,
)
from aetlab.store.record import Places, array_names, read_history, read_record

_EXAMPLES = """examples:
  python -m aetlab.runs                                     all runs
  python -m aetlab.runs list reg.kind=tv 'found_percent>99'
  python -m aetlab.runs show 3f2a                           one run, by the start of its id
  python -m aetlab.runs export reg.kind=tv --to atoms       atoms (XYZ, CSV) and volume (MRC) of complete runs
  python -m aetlab.runs remove status=damaged               after a question
  python -m aetlab.runs remove --cache                      the shared tilt series
"""
_SCORES = (("position_error_pm", "error (pm)", 2), ("found_percent", "found (%)", 2),
           ("false_positive_percent", "false (%)", 3), ("correct_species_percent", "species (%)", 2))
#: Widest column that rows are aligned to.
_WIDEST = 60


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point of ``python -m aetlab.runs``."""
    arguments = _parser().parse_args(_with_command(list(sys.argv[1:] if argv is None else argv)))
    places = Places(Path(arguments.outputs))
    if not places.outputs.is_dir():
        sys.exit(_refuse(f"--outputs={arguments.outputs} cannot be used: there is no such folder"))
    try:
        chosen = choose(list_entries(places), arguments.words)
        if arguments.command == "list":
            _list(places, chosen, arguments.json)
        elif arguments.command == "show":
            _show(chosen, arguments.json)
        elif arguments.command == "export":
            _export(chosen, Path(arguments.to))
        else:
            sys.exit(_remove(places, chosen, arguments))
    except (StorageError, ValueError) as error:
        sys.exit(_refuse(str(error)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m aetlab.runs", description=__doc__.split(":", 1)[1].strip(),
                                     epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    purposes = {"list": "one line a run", "show": "all about one run",
                "export": "write atoms and volumes as XYZ, CSV and MRC", "remove": "remove runs or the shared stages"}
    for name, text in purposes.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("words", nargs="*", help="conditions (reg.kind=tv, 'found_percent>99') or starts of ids")
        command.add_argument("--outputs", default="outputs", help="folder of all results (default: outputs)")
        if name == "remove":
            command.add_argument("--yes", action="store_true", help="ask no question")
            command.add_argument("--cache", action="store_true", help="remove the shared stages instead of runs")
        elif name == "export":
            command.add_argument("--to", default=".", help="folder of the files (default: this one)")
        else:
            command.add_argument("--json", action="store_true", help="for programs")
    return parser


def _with_command(argv: list[str]) -> list[str]:
    return argv if argv[:1] and argv[0] in ("list", "show", "export", "remove", "-h", "--help") else ["list", *argv]


def _list(places: Places, entries: list[Entry], as_json: bool) -> None:
    if as_json:
        lines = ",\n".join(json.dumps(_plain(entry)) for entry in entries)
        print(f"[{lines}]")
        return
    differ = differing(entries)
    rows = [["id", "status", *differ, *(title for _, title, _ in _SCORES), "age", "size"]]
    now = datetime.datetime.now(datetime.UTC)
    for entry in entries:
        status = f"{entry.status}: {entry.note}" if entry.note else entry.status
        scores = [_number(entry.metrics.get(name), digits) for name, _, digits in _SCORES]
        settings = [str(entry.settings.get(name, "")) for name in differ]
        rows.append([entry.id, status, *settings, *scores, _age(entry.age_s(now)), _bytes(entry.n_bytes)])
    if entries:
        n_left = 2 + len(differ)
        widths = [min(max(len(row[i]) for row in rows), _WIDEST) for i in range(len(rows[0]))]
        for row in rows:
            cells = [cell.ljust(width) if i < n_left else cell.rjust(width)
                     for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
            print("  ".join(cells).rstrip())
    n_stages, n_bytes = cache_size(places)
    print(f"{len(entries)} runs, {_bytes(sum(entry.n_bytes for entry in entries))}; "
          f"{n_stages} shared stages, {_bytes(n_bytes)}")


def _show(entries: list[Entry], as_json: bool) -> None:
    if len(entries) != 1:
        found = ", ".join(entry.id for entry in entries[:10]) or "none"
        raise ValueError(f"show takes one run; the words fit {len(entries)}: {found}")
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
    print(yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False, allow_unicode=True), end="")


def _export(entries: list[Entry], folder: Path) -> None:
    from aetlab.store.export import export_record

    complete = [entry for entry in entries if entry.status == COMPLETE]
    if not complete:
        raise ValueError(f"the words fit {len(entries)} runs, none of them complete: there is nothing to export")
    for entry in complete:
        for path in export_record(read_record(entry.place), folder):
            print(path)


def _remove(places: Places, entries: list[Entry], arguments: argparse.Namespace) -> int:
    if arguments.cache:
        if arguments.words:
            return _refuse("--cache removes all shared stages and takes no words")
        n_stages, n_bytes = cache_size(places)
        what = f"{n_stages} shared stages ({_bytes(n_bytes)})"
    elif not arguments.words:
        return _refuse("say which runs to remove, for example: remove status=damaged")
    else:
        n_stages = 0
        what = f"{len(entries)} runs ({_bytes(sum(entry.n_bytes for entry in entries))})"
    if not (n_stages if arguments.cache else entries):
        print("nothing to remove")
        return 0
    if not arguments.yes and not _agreed(f"Remove {what} of {places.outputs}? [y/N] "):
        print("nothing was removed")
        return 1
    if arguments.cache:
        remove_cache(places)
    else:
        for entry in entries:
            remove_entry(places, entry)
    print(f"removed {what}")
    return 0


def _agreed(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def _plain(entry: Entry) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC)
    return {"id": entry.id, "status": entry.status, "place": str(entry.place), "note": entry.note,
            "settings": dict(entry.settings), "metrics": unbind(dict(entry.metrics)), "finished": entry.finished,
            "age_s": round(entry.age_s(now), 1), "bytes": entry.n_bytes}


def _number(value: float | None, digits: int) -> str:
    return "" if value is None or value != value else f"{value:.{digits}f}"


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


def _refuse(message: str) -> int:
    print(f"aetlab: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
