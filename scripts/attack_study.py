"""Start every command line with every settings attack of tests/test_untrusted_settings.py, and look for what it did.

    python scripts/attack_study.py --folder attacks --write experiments/results/attack_study.json

An attack is a file in a folder of choices or a list of typed words. Each is tried as a run, as a sweep, and with
``--cfg job``, ``--estimate`` and ``--hydra-help``. It is *refused* if the command ends with status 2 and one line,
*without effect* if it ends with status 0. It *worked* if a file appeared or changed, if a variable of the environment
is in a file or in the text, or if the command died with a traceback.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import aetlab.run
from aetlab.cli import compose, preflight, sweep
from tests.test_untrusted_settings import ATTACKS, WORDS, write

DOORS = ((), ("-m",), ("--cfg", "job"), ("--estimate",), ("--hydra-help",))
SECRET = "aetlab-secret-8f3b"
assert compose and preflight and sweep  # imported before the processes are forked


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="a new folder for the attacks")
    parser.add_argument("--write", type=Path, help="JSON file for the counts")
    arguments = parser.parse_args()
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    worked: list[str] = []
    attacks: list[tuple[dict[str, str], list[str]]] = [
        ({name: content}, [f"{Path(name).parent}=evil"] if "evil" in name else []) for name, content, _ in
        ATTACKS.values()]
    attacks += [({}, words) for words, _ in WORDS]
    for number, (files, words) in enumerate(attacks):
        for door in DOORS:
            place = (arguments.folder / f"{number}-{'-'.join(door).strip('-') or 'run'}").absolute()
            verdict = _try(place, files, [*door, *words])
            counts[" ".join(door) or "run"][verdict.split(":")[0]] += 1
            if verdict.startswith("worked"):
                worked.append(f"{files} {words} {door}: {verdict}")
                print(worked[-1], flush=True)
    summary = {"attacks": len(attacks), "worked": len(worked),
               "commands": {door: dict(sorted(found.items())) for door, found in counts.items()}}
    print(json.dumps(summary, indent=1))
    if arguments.write:
        arguments.write.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if worked else 0)


def _try(place: Path, files: dict[str, str], words: list[str]) -> str:
    """Start the command line in a forked process and return what came of it."""
    write(place / "evil", {"notes.txt": "", **files})
    (place / "work").mkdir()
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    text = place.with_suffix(".txt")
    child = os.fork()
    if child == 0:
        handle = os.open(text, os.O_WRONLY | os.O_CREAT)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.chdir(place / "work")
        os.environ.update(HOME=SECRET, TOKEN=SECRET)
        sys.argv = ["aetlab.run", *(["--config-dir", str(place / "evil")] if files else []), *words]
        try:
            aetlab.run.main()
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code if isinstance(end.code, int) else 1)
        finally:
            os._exit(255)
    _, ended = os.waitpid(child, 0)
    status, told = os.waitstatus_to_exitcode(ended), text.read_text(encoding="utf-8", errors="replace")
    after = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.parent != place}
    if status not in (0, 2) or "Traceback" in told:
        return f"worked: it ended with {status}: {told[-300:]}"
    if SECRET in told or any(SECRET in path.read_text("utf-8", "replace") for path in after if path.is_file()):
        return "worked: the secret was told"
    if any(before.get(path) != time_ns for path, time_ns in after.items()):
        return f"worked: files changed: {sorted(set(after) - set(before))}"
    if status == 2:
        return "refused" if told.count("\n") == 1 else f"worked: more than one line: {told[-300:]}"
    return "without effect"


if __name__ == "__main__":
    main()
