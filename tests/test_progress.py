"""The time left counts down, and a stage is reported once at its end."""

from __future__ import annotations

import io

import numba
import pytest

from aetlab.core.kernel_cache import announcing_compilation
from aetlab.core.progress import Pace, PlainReporter


def test_the_time_left_is_that_of_the_steps_after_the_first_and_counts_down() -> None:
    """The first step takes a minute, for it compiles; the others take 2 s each."""
    now = 0.0
    pace = Pace(clock=lambda: now)
    pace.step(0)
    now = 60.0
    pace.step(1)
    assert pace.left_s(40) is None
    for done in range(2, 6):
        now += 2
        pace.step(done)
    assert pace.left_s(40) == pytest.approx(70)
    now += 1.5
    assert pace.left_s(40) == pytest.approx(68.5)
    now += 500
    assert pace.left_s(40) == 0


def test_a_stage_that_goes_on_counts_only_its_own_steps() -> None:
    now = 0.0
    pace = Pace(clock=lambda: now)
    pace.step(30)
    now = 3.0
    pace.step(31)
    assert pace.left_s(40) == pytest.approx(27)


def test_plain_lines_end_each_stage_once() -> None:
    stream = io.StringIO()
    reporter = PlainReporter("run", stream)
    for done in range(10):
        reporter.step("trace", done, 17, f"round {done}")
    for _ in range(2):
        reporter.step("trace", 9, 9, "87 atoms")
    reporter.step("simulate", 0, 2)
    reporter.step("simulate", 2, 2)
    reporter.step("simulate", 0, 2)
    reporter.step("simulate", 2, 2)
    lines = [line.split(" in ")[0] for line in stream.getvalue().splitlines()]
    assert lines == ["run: trace 9/9, 87 atoms", "run: simulate 2/2", "run: simulate 2/2"]


def test_the_first_kernel_that_is_compiled_is_announced_once() -> None:
    said: list[str] = []
    with announcing_compilation(said.append):
        for _ in range(2):
            numba.njit(lambda x: x + 1)(1.0)
    assert said == ["compiling more kernels, once for this version of the code"]
