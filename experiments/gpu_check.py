"""Test and time the GPU engine on a machine with a CUDA GPU, in one command of less than 8 minutes.

    python experiments/gpu_check.py --output FOLDER

It needs Python, CuPy, NumPy, SciPy, Numba, h5py, pandas, matplotlib and pytest, and no installation of aetlab. Each
part is a process with a time limit of its own, so that one that crashes or hangs ends no other. FOLDER receives, after
each part and each size:

- gpu_check.json: each part with its status, seconds and reason;
- benchmark_gpu.json: all measurements so far;
- a log and the results of each part.

A GPU test that is skipped is a failure here. The exit status is 0 if every part passed or is absent (without
compute-sanitizer or a second GPU), 1 if a part failed or was skipped, 2 if no GPU can be used.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

#: Exit status of a part for which the machine lacks something; the last line of its log says what.
ABSENT = 77
ROOT = Path(__file__).resolve().parents[1]
#: Tests marked gpu in tests/test_gpu_device.py.
N_GPU_TESTS = 26
#: Seconds of everything, and seconds a part must have left to be started.
TOTAL_S, LEAST_S = 470.0, 5.0
SIZES = (96, 240, 480)
_PACKAGES = ("numpy", "scipy", "numba", "h5py", "pandas", "matplotlib", "pytest", "cupy")
#: Prints a line if no GPU can be used.
_PROBE = ("import importlib.util as u, sys\n"
          f"missing = [name for name in {_PACKAGES!r} if u.find_spec(name) is None]\n"
          "if missing: sys.exit('not installed: ' + ', '.join(missing))\n"
          "from aetlab.core.backend import describe_gpu, gpu_problem\n"
          "problem = gpu_problem()\n"
          "if problem: sys.exit(problem)\n"
          "print(describe_gpu())")


@dataclass(frozen=True)
class Part:
    """A process of the check: it passes if it exits with 0 within ``limit_s`` and ``problem`` finds none in its files.

    ``problem(folder)`` returns what is wrong, or an empty string. A part with a reason ``absent`` is not run. One that
    exits with :data:`ABSENT` is absent as well.
    """

    name: str
    command: tuple[str, ...]
    limit_s: float
    problem: Callable[[Path], str] = lambda folder: ""
    absent: str = ""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a part: ``status`` is passed, failed, skipped or absent."""

    name: str
    status: str
    seconds: float
    reason: str = ""


def run_parts(parts: Sequence[Part], folder: Path, *, total_s: float = TOTAL_S,
              say: Callable[[str], None] = print) -> list[Outcome]:
    """Run ``parts`` in their order, and rewrite the files in ``folder`` after each.

    A part that does not fit into what is left of ``total_s`` gets the rest; one that finds almost nothing is skipped.
    """
    end = time.monotonic() + total_s
    outcomes: list[Outcome] = []
    for part in parts:
        left_s = end - time.monotonic()
        if part.absent:
            outcome = Outcome(part.name, "absent", 0.0, part.absent)
        elif left_s < min(LEAST_S, part.limit_s):
            outcome = Outcome(part.name, "skipped", 0.0, f"no time is left of {total_s:g} s")
        else:
            outcome = run_part(part, folder, min(part.limit_s, left_s))
        outcomes.append(outcome)
        why = f": {outcome.reason}" if outcome.reason else ""
        say(f"{outcome.status:8}{outcome.name}, {outcome.seconds:.0f} s{why}")
        write(folder / "gpu_check.json", [asdict(each) for each in outcomes])
        write(folder / "benchmark_gpu.json", join_results(folder))
    return outcomes


def run_part(part: Part, folder: Path, limit_s: float) -> Outcome:
    """Run one part; its output goes to a log in ``folder``."""
    log, start = folder / f"{part.name}.log", time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(part.command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=subprocess.STDOUT, start_new_session=os.name == "posix")
        try:
            status = process.wait(limit_s)
            reason = "" if status == 0 else _of_status(status)
        except subprocess.TimeoutExpired:
            _kill(process)
            reason = f"stopped after {limit_s:.0f} s"
        except BaseException:
            _kill(process)
            raise
    seconds = time.monotonic() - start
    if reason == _of_status(ABSENT):
        return Outcome(part.name, "absent", seconds, _last_line(log).removeprefix(": "))
    if reason:
        reason += _last_line(log)
    else:
        try:
            reason = part.problem(folder)
        except (OSError, ValueError, KeyError, ElementTree.ParseError) as error:
            reason = f"its results cannot be read: {type(error).__name__}: {error}"
    return Outcome(part.name, "failed" if reason else "passed", seconds, reason)


def _of_status(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    return f"ended by {signal.Signals(-status).name}"


def _kill(process: subprocess.Popen[Any]) -> None:
    """End the process and those that it started."""
    if os.name == "posix":
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    else:
        process.kill()
    process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f": {lines[-1][:300]}" if lines else ""


def write(path: Path, found: Any) -> None:
    """Write ``found`` to ``path`` as a whole."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)


def join_results(folder: Path) -> dict[str, Any]:
    """Return the measurements in ``folder``, of parts that were ended as well."""
    def read(name: str) -> dict[str, Any]:
        path = folder / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    parts = [found for n in SIZES if (found := read(f"parts_{n}"))]
    joined = {"relative_error": read("error"), "parts": parts, "reconstruction": read("run"),
              "refinement": read("refine"), "simulation": read("simulate"), "slabs": read("slabs")}
    for found in (*parts, *(part for part in joined.values() if isinstance(part, dict))):
        joined |= {name: found.pop(name) for name in ("device", "versions") if name in found}
    timed = [(math.log(found["n"]), math.log(found["tilt_ms"])) for found in parts if "tilt_ms" in found]
    if len(timed) > 1:
        joined["tilt_exponent"] = (timed[-1][1] - timed[0][1]) / (timed[-1][0] - timed[0][0])
    return joined


def tests_problem(folder: Path) -> str:
    """Return which of the GPU tests failed, were skipped or are missing."""
    cases = list(ElementTree.parse(folder / "tests.xml").getroot().iter("testcase"))
    failed = sum(case.find("failure") is not None or case.find("error") is not None for case in cases)
    skipped = sum(case.find("skipped") is not None for case in cases)
    if failed or skipped or len(cases) != N_GPU_TESTS:
        return f"{len(cases)} of {N_GPU_TESTS} GPU tests ran, {failed} failed, {skipped} skipped"
    return ""


def run_problem(folder: Path) -> str:
    """Return why the timed reconstruction is none."""
    found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    if not found["finite"] or len(found["cost"]) != found["iterations"] or not found["cost"][-1] < found["cost"][0]:
        return "the reconstruction diverged"
    if found["halvings"] or len(found["restarts"]) > found["iterations"] // 4:
        return f"total variation was left out after iterations {found['restarts'] + found['halvings']}"
    return _graph_problem(found)


def _graph_problem(found: dict[str, Any]) -> str:
    problem = found["graph_problem"]
    return f"a tilt was not recorded as a graph: {problem}" if problem else ""


def error_problem(folder: Path) -> str:
    """Return whether cost or step deviate from float64."""
    found = json.loads((folder / "error.json").read_text(encoding="utf-8"))
    worst = max(found["cost"], found["step"])
    return "" if worst < 1e-4 else f"the relative error against float64 is {worst:.1g}"


def slabs_problem(folder: Path) -> str:
    """Return whether a volume in slabs differs from one on a single GPU, or was not replayed as a graph."""
    found = json.loads((folder / "slabs.json").read_text(encoding="utf-8"))
    if not found["relative_error"] < 1e-5:
        return f"several GPUs differ from one by {found['relative_error']:.1g}"
    return _graph_problem(found)


def simulate_problem(folder: Path) -> str:
    """Return whether the simulated images of CPU and GPU differ."""
    error = json.loads((folder / "simulate.json").read_text(encoding="utf-8"))["relative_error"]
    return "" if error < 1e-3 else f"simulated images of CPU and GPU differ by {error:.1g}"


def refine_problem(folder: Path) -> str:
    """Return whether the gradients of CPU and GPU differ."""
    error = json.loads((folder / "refine.json").read_text(encoding="utf-8"))["relative_error"]
    return "" if error < 1e-3 else f"gradients of CPU and GPU differ by {error:.1g}"


def make_parts(folder: Path) -> list[Part]:
    """Return the parts of the check in their order."""
    python = sys.executable

    def benchmark(what: str, name: str, size: int) -> tuple[str, ...]:
        return (python, str(ROOT / "experiments" / "benchmark_gpu.py"), what, "--size", str(size), "--output",
                str(folder / f"{name}.json"))

    def parts_problem(name: str) -> Callable[[Path], str]:
        return lambda folder: _graph_problem(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))

    tests = (python, "-m", "pytest", "--noconftest", "-q", "-W", "default", "-p", "no:cacheprovider", "-m", "gpu",
             f"--junitxml={folder / 'tests.xml'}", str(ROOT / "tests" / "test_gpu_device.py"))
    sanitizer = shutil.which("compute-sanitizer") or ""
    absent = "" if sanitizer else "compute-sanitizer is not on PATH"
    checked = ("-m", "pytest", "--noconftest", "-q", "-W", "default", "-p", "no:cacheprovider", "-m", "gpu",
               f"{ROOT / 'tests' / 'test_gpu_device.py'}::test_a_tilt_reads_and_writes_inside_its_arrays")
    return [
        Part("tests", tests, 150, tests_problem),
        Part("error", benchmark("error", "error", 48), 60, error_problem),
        *(Part(f"parts_{n}", benchmark("parts", f"parts_{n}", n), limit_s, parts_problem(f"parts_{n}"))
          for n, limit_s in zip(SIZES, (40, 50, 80), strict=True)),
        Part("run", benchmark("run", "run", 480), 90, run_problem),
        *(Part(tool, (sanitizer, "--tool", tool, "--error-exitcode", "3", python, *checked), 45, absent=absent)
          for tool in ("memcheck", "racecheck")),
        Part("refine", benchmark("refine", "refine", 480), 100, refine_problem),
        Part("simulate", benchmark("simulate", "simulate", 480), 60, simulate_problem),
        Part("slabs", benchmark("slabs", "slabs", 240), 40, slabs_problem),
    ]


def probe() -> str:
    """Return why no GPU can be used, or an empty string; the description of the GPU is printed."""
    try:
        done = subprocess.run([sys.executable, "-c", _PROBE], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
                              capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return "the driver does not answer within 60 s"
    if done.returncode == 0:
        print(done.stdout.strip())
        return ""
    return (done.stderr.strip().splitlines() or [_of_status(done.returncode)])[-1]


def last_line(outcomes: Sequence[Outcome]) -> str:
    """Return the line that ends the output."""
    counts = {status: sum(each.status == status for each in outcomes)
              for status in ("passed", "failed", "skipped", "absent")}
    return ", ".join(f"{n} {status}" for status, n in counts.items())


def main() -> int:
    parser = argparse.ArgumentParser(description="Test and time the GPU engine in less than 8 minutes.")
    parser.add_argument("--output", type=Path, required=True, help="the folder of the results; it is made")
    folder = parser.parse_args().output.resolve()
    problem = probe()
    if problem:
        print(f"gpu_check needs a CUDA GPU: {problem}")
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = run_parts(make_parts(folder), folder)
    print(last_line(outcomes))
    return 0 if all(each.status in ("passed", "absent") for each in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
