"""The command that tests and times the engine on a machine with a GPU: its orchestration, and what it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from host_device import host_library

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

import gpu_check  # noqa: E402

WINDOWS = sys.platform == "win32"
#: Packages of the bare machine and those that they need.
BARE = ("contourpy", "cupy", "cycler", "dateutil", "fontTools", "h5py", "iniconfig", "kiwisolver", "llvmlite",
        "matplotlib", "mpl_toolkits", "numba", "numpy", "packaging", "pandas", "PIL", "pluggy", "py", "pygments",
        "pyparsing", "pytest", "_pytest", "pytz", "scipy", "six")
#: Refuses the import of any other package, except of the compiler that stands for the GPU.
BLOCK = ("import importlib.abc, sys\n"
         f"allowed = {{*sys.stdlib_module_names, *{BARE!r}, 'aetlab', 'ziglang', 'benchmark_gpu'}}\n"
         "helpers = ('_sysconfigdata', 'test_', 'priors', 'host_device', 'host_group', 'gpu_slices', 'gpu_equations')\n"
         "class Block(importlib.abc.MetaPathFinder):\n"
         "    def find_spec(self, name, path=None, target=None):\n"
         "        top = name.partition('.')[0]\n"
         "        if top not in allowed and not top.startswith(helpers):\n"
         "            raise ModuleNotFoundError(f'{name} is not on a bare machine', name=name)\n"
         "sys.meta_path.insert(0, Block())\n"
         "sys.path[:0] = ['.', 'tests', 'experiments']\n")


def part(name: str, code: str, limit_s: float = 20, **options: object) -> gpu_check.Part:
    return gpu_check.Part(name, (sys.executable, "-S", "-c", code), limit_s, **options)  # type: ignore[arg-type]


def test_parts_that_hang_crash_or_fail_end_no_other_and_keep_their_results(tmp_path: Path) -> None:
    kept = f"open({str(tmp_path / 'parts_96.json')!r}, 'w').write('{{\"n\": 96, \"tilt_ms\": 1.0, \"device\": \"A\"}}')"
    seen: list[list[str]] = []

    def say(line: str) -> None:
        seen.append([each["name"] for each in json.loads((tmp_path / "gpu_check.json").read_text())] if seen else [])
        lines.append(line)

    lines: list[str] = []
    found = gpu_check.run_parts([
        part("works", "print('well')"),
        part("parts_96", f"{kept}.close() if 0 else None; {kept}; import time; time.sleep(60)", 0.5),
        part("crashes", "1/0" if WINDOWS else "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"),
        part("fails", "raise SystemExit('no such thing')"),
        part("lies", "", problem=lambda folder: "3 of 4 GPU tests ran"),
        part("writes nothing", "", problem=lambda folder: (folder / "none.json").read_text()),
        part("is not there", "", absent="it is not on PATH"),
        part("has one GPU", "import sys; print('only one GPU'); sys.exit(77)"),
        part("goes on", ""),
    ], tmp_path, say=say)
    assert [each.status for each in found] == ["passed", *5 * ["failed"], "absent", "absent", "passed"]
    assert found[1].reason.startswith("stopped after 0") and found[1].seconds < 15
    assert found[2].reason.startswith("ended by SIGSEGV") or WINDOWS
    assert found[3].reason == "exit status 1: no such thing"
    assert found[4].reason == "3 of 4 GPU tests ran"
    assert found[5].reason.startswith("its results cannot be read: FileNotFoundError")
    assert gpu_check.last_line(found) == "2 passed, 5 failed, 0 skipped, 2 absent"
    assert len(lines) == 9 and lines[6] == "absent  is not there, 0 s: it is not on PATH"
    assert lines[7].startswith("absent  has one GPU, ") and lines[7].endswith(" s: only one GPU")
    # The files are rewritten after each part; before its line, a part is in neither.
    assert [len(names) for names in seen] == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    joined = json.loads((tmp_path / "benchmark_gpu.json").read_text(encoding="utf-8"))
    assert (joined["device"], joined["parts"]) == ("A", [{"n": 96, "tilt_ms": 1.0}])
    assert (tmp_path / "works.log").read_text(encoding="utf-8") == "well\n"


def test_a_part_without_time_is_skipped_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "LEAST_S", 0.2)
    parts = [part("first", "import time; time.sleep(9)"), part("second", "")]
    found = gpu_check.run_parts(parts, tmp_path, total_s=0.4)
    assert [each.status for each in found] == ["failed", "skipped"]
    assert found[1].reason == "no time is left of 0.4 s"


def test_a_skipped_or_missing_gpu_test_is_a_failure(tmp_path: Path) -> None:
    case = '<testcase name="one"/>'
    n = gpu_check.N_GPU_TESTS
    (tmp_path / "tests.xml").write_text(f"<testsuites><testsuite>{n * case}</testsuite></testsuites>")
    assert gpu_check.tests_problem(tmp_path) == ""
    skipped = (n - 2) * case + "<testcase><skipped/></testcase>"
    (tmp_path / "tests.xml").write_text(f"<testsuites><testsuite>{skipped}</testsuite></testsuites>")
    assert gpu_check.tests_problem(tmp_path) == f"{n - 1} of {n} GPU tests ran, 0 failed, 1 skipped"


def test_a_run_without_total_variation_or_with_a_higher_cost_fails(tmp_path: Path) -> None:
    run = {"finite": True, "iterations": 4, "cost": [4, 3, 2, 1], "restarts": [2], "halvings": [],
           "graph_problem": None}
    for change, said in (({}, ""), ({"restarts": [1, 3]}, "total variation was left out after iterations [1, 3]"),
                         ({"cost": [1, 2, 3, 4]}, "diverged"), ({"finite": False}, "diverged"),
                         ({"graph_problem": "no"}, "a tilt was not recorded as a graph: no")):
        (tmp_path / "run.json").write_text(json.dumps(run | change))
        assert said in gpu_check.run_problem(tmp_path) and bool(said) == bool(gpu_check.run_problem(tmp_path))


@pytest.mark.skipif(gpu_check.probe() == "", reason="there is a GPU")
def test_without_a_gpu_it_ends_with_one_line_before_any_work(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, ROOT / "experiments" / "gpu_check.py", "--output", tmp_path / "out"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr == ""
    assert done.stdout.startswith("gpu_check needs a CUDA GPU: ") and done.stdout.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def bare() -> tuple[dict[str, Any], str]:
    """Return the measurements of the benchmark and the list of GPU tests, by a Python with the bare packages alone."""
    code = BLOCK + (
        "import json, pathlib, benchmark_gpu as b, host_device, host_group, pytest\n"
        "b.N_TILTS, b.N_BATCHES, b.N_FFTS, b.N_WARM, b.N_REFINED = 10, 1, 2, 8, 2\n"
        "device, found = host_device.HostDevice(pathlib.Path(sys.argv[1]), 1), {}\n"
        "b.measure_error(device, 12, lambda f: found.update(error=dict(f)))\n"
        "b.measure_parts(device, 16, lambda f: found.update(parts=dict(f)), copy_bytes=4096)\n"
        "b.measure_reconstruction(device, 16, lambda f: found.update(run=dict(f)), n_iterations=4)\n"
        "b.measure_refinement(device, 20, lambda f: found.update(refine=dict(f)))\n"
        "b.measure_simulation(device, 20, lambda f: found.update(simulate=dict(f)))\n"
        "group = host_group.host_group(2, 16, pathlib.Path(sys.argv[1]))\n"
        "b.measure_slabs(group, 16, lambda f: found.update(slabs=dict(f)))\n"
        "print(json.dumps(found), flush=True)\n"
        "sys.exit(pytest.main(['--noconftest', '-q', '-W', 'default', '-m', 'gpu', '-p', 'no:cacheprovider',\n"
        "                      '--collect-only', 'tests/test_gpu_device.py']))\n")
    done = subprocess.run([sys.executable, "-c", code, str(host_library())], cwd=ROOT, text=True, capture_output=True,
                          check=False, env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    measured, _, listed = done.stdout.partition("\n")
    return json.loads(measured), listed


def test_the_gpu_tests_run_on_a_bare_machine_and_are_as_many_as_expected(bare: tuple[dict[str, Any], str]) -> None:
    assert sum("::" in line for line in bare[1].splitlines()) == gpu_check.N_GPU_TESTS


def test_the_benchmark_needs_few_packages_and_measures_every_part(bare: tuple[dict[str, Any], str]) -> None:
    found = bare[0]
    assert max(found["error"]["cost"], found["error"]["step"]) < 1e-5
    assert set(found["parts"]["parts"]) == {"rotate", "measure", "back", "adjoint", "total variation", "extrapolate",
                                            "rotate, fourier", "adjoint, fourier"}
    assert found["parts"]["tilt_ms"] > 0 and found["parts"]["one_fft_us"] > 0
    assert found["run"]["finite"] and found["run"]["restarts"] == found["run"]["halvings"] == []
    assert found["run"]["cost"][-1] < 0.1 * found["run"]["cost"][0]
    assert found["refine"]["relative_error"] < 1e-5
    assert found["simulate"]["relative_error"] < 1e-3
    slabs = found["slabs"]
    assert slabs["relative_error"] < 1e-6 and slabs["tilt_ms_slabs"] > 0 < slabs["tv_ms_slabs"]
