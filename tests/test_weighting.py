"""Weights found without the truth: what is held out, and the walk to the weight that predicts best."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aetlab import pipeline
from aetlab.cli.compose import compose_jobs
from aetlab.cli.jobs import LogReporter
from aetlab.progress import open_reporter
from aetlab.results.identity import record_id
from aetlab.results.record import Places
from aetlab.weighting import hold_out, search_weight


@given(n_tilts=st.integers(4, 200), fraction=st.floats(0, 0.5), seed=st.integers(0, 1000))
def test_every_tilt_is_fitted_or_held_out(n_tilts: int, fraction: float, seed: int) -> None:
    fitted, held = hold_out(n_tilts, fraction, np.random.default_rng(seed))
    np.testing.assert_array_equal(np.sort(np.concatenate([fitted, held])), np.arange(n_tilts))
    assert (len(held) == 0) == (fraction == 0)
    assert {0, n_tilts - 1} <= set(fitted) and len(fitted) >= 2


@given(best=st.floats(1e-6, 1e-2), start=st.floats(1e-5, 1e-3))
def test_the_bottom_of_a_parabola_is_found(best: float, start: float) -> None:
    tried: list[float] = []

    def trial(weight: float) -> float:
        tried.append(weight)
        return (math.log(weight) - math.log(best)) ** 2

    found = search_weight(trial, start, trials_max=40)
    assert found == pytest.approx(best, rel=1e-6)
    assert len(tried) == len(set(tried))


def test_the_walk_ends_where_its_trials_do() -> None:
    """A cost that falls for ever: the last weight tried is taken."""
    tried: list[float] = []

    def trial(weight: float) -> float:
        tried.append(weight)
        return 1 / weight

    assert search_weight(trial, 1.0, trials_max=6) == max(tried) == 16.0
    assert len(tried) == 6


def test_a_flat_cost_leaves_the_weight() -> None:
    assert search_weight(lambda weight: 1.0, 3.0) == 3.0


def test_a_run_finds_its_weight_and_predicts_what_it_left_out(tmp_path: Path) -> None:
    words = ["scale=smoke", "tilts.n_tilts=12", "engine.n_iterations=4", "reg.weight=auto", "reg.held_out=0.2"]
    spec = compose_jobs(words, multirun=False, further=None)[0].spec
    with open_reporter("run") as reporter:
        log = LogReporter(reporter, Places(tmp_path).log(record_id(spec)))
        made = pipeline.run(spec, places=Places(tmp_path), reporter=log).record
    assert made.metrics["weight_per_V"] > 0
    assert math.isfinite(made.metrics["held_out_cost"])
    said = (made.folder / "log.txt").read_text(encoding="utf-8")
    assert said.count("held out are predicted") >= 3
