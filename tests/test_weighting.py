"""Weights found without the truth: held-out tilts, and the search for the weight that predicts them best."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aetlab import keeper
from aetlab.core.nouns import TiltSeries
from aetlab.core.progress import open_reporter
from aetlab.reconstruction import weight
from aetlab.reconstruction.model import Model
from aetlab.reconstruction.weight import hold_out, search_weight, smaller_problem
from aetlab.spec import RunSpec, dose_per_image_e_A2, tilt_angles_deg
from aetlab.store.record import Places
from tests.words import spec_of


def tilts_at(tilt_deg: np.ndarray) -> TiltSeries:
    """Return a series of blank images."""
    return TiltSeries(np.ones((len(tilt_deg), 1, 2, 2), np.float32), tilt_deg, np.array([100.0]), 0.5)


@given(n_tilts=st.integers(4, 200), fraction=st.floats(0, 0.5), seed=st.integers(0, 1000))
def test_every_tilt_is_fitted_or_held_out(n_tilts: int, fraction: float, seed: int) -> None:
    fitted, held = hold_out(tilts_at(np.linspace(0, 180, n_tilts)), fraction, np.random.default_rng(seed))
    np.testing.assert_array_equal(np.sort(np.concatenate([fitted, held])), np.arange(n_tilts))
    assert (len(held) == 0) == (fraction == 0)
    assert {0, n_tilts - 1} <= set(fitted) and len(fitted) >= 2


@given(order=st.permutations(range(9)), seed=st.integers(0, 1000))
def test_the_extreme_tilts_are_fitted_in_any_order_of_acquisition(order: list[int], seed: int) -> None:
    tilt_deg = np.array([-64.0, -51, -30, -8, 2, 3, 19, 40, 66])[order]
    fitted, held = hold_out(tilts_at(tilt_deg), 0.5, np.random.default_rng(seed))
    assert len(held) == 4 and {-64.0, 66.0} <= set(tilt_deg[fitted])
    np.testing.assert_array_equal(np.sort(np.concatenate([fitted, held])), np.arange(9))


def test_held_out_tilts_of_an_ordered_series_are_fixed_by_the_seed() -> None:
    """They are drawn by NumPy's generator from all but the first and the last."""
    fitted, held = hold_out(tilts_at(np.arange(60) * 3.0), 0.1, np.random.default_rng(7))
    np.testing.assert_array_equal(
        held, np.sort(np.random.default_rng(7).choice(np.arange(1, 59), 6, replace=False)))


@given(best=st.floats(1e-6, 1e-2), start=st.floats(1e-5, 1e-3))
def test_the_search_finds_the_minimum_of_a_parabola(best: float, start: float) -> None:
    tried: list[float] = []

    def trial(weight: float) -> float:
        tried.append(weight)
        return (math.log(weight) - math.log(best)) ** 2

    found = search_weight(trial, start, trials_max=40)
    assert found == pytest.approx(best, rel=1e-6)
    assert len(tried) == len(set(tried))


def test_the_search_ends_after_its_last_trial() -> None:
    """For a cost that always falls the last weight tried is taken."""
    tried: list[float] = []

    def trial(weight: float) -> float:
        tried.append(weight)
        return 1 / weight

    assert search_weight(trial, 1.0, trials_max=6) == max(tried) == 16.0
    assert len(tried) == 6


def test_a_constant_cost_keeps_the_first_weight() -> None:
    assert search_weight(lambda weight: 1.0, 3.0) == 3.0


def test_a_run_finds_its_weight_and_predicts_the_held_out_tilts(tmp_path: Path) -> None:
    words = ["scale=smoke", "tilts.n_tilts=12", "engine.n_iterations=4", "reg.weight=auto", "reg.held_out=0.2"]
    spec = spec_of(*words)
    made = keeper.run(spec, places=Places(tmp_path)).record
    assert math.isfinite(made.metrics["held_out_cost"])
    log = (made.folder / "log.txt").read_text(encoding="utf-8")
    tried = {float(weight): float(cost) for weight, cost in re.findall(
        r"weight (\S+) per V: \d+ tilts held out are predicted at a cost of (\S+)", log)}
    assert len(tried) >= 3
    # The vertex of a parabola through the best trial and its neighbours, a factor of 2 away, is near the best trial.
    assert abs(math.log2(made.metrics["weight_per_V"] / min(tried, key=tried.__getitem__))) < 0.51


@pytest.mark.parametrize("words", [["scale=paper"], ["scale=paper", "tilts=20", "defocus=9", "wedge=30"],
                                   ["scale=medium", "tilts=30", "reg=lasso", "dose=inf"]])
def test_the_smaller_problem_is_as_sparse_and_as_noisy(words: list[str]) -> None:
    spec = spec_of(*words)
    small = smaller_problem(spec)
    assert small is not None and small.seed != spec.seed
    shrink = spec.scale.shape_zxy[1] / small.scale.shape_zxy[1]
    assert shrink >= weight.LEAST_SHRINK and small.scale.voxel_A == spec.scale.voxel_A
    assert len(tilt_angles_deg(small.tilts, small.wedge)) == pytest.approx(
        len(tilt_angles_deg(spec.tilts, spec.wedge)) / shrink, rel=0.1)
    assert dose_per_image_e_A2(small) == pytest.approx(dose_per_image_e_A2(spec))
    for length in ("core_radius_A", "shell_thickness_A", "length_A", "apex_gap_A"):
        assert getattr(small.scale, length) == pytest.approx(getattr(spec.scale, length) / shrink, rel=0.05)
    assert (small.reg, small.defocus, small.wedge, small.binning) == (spec.reg, spec.defocus, spec.wedge, spec.binning)


@pytest.mark.parametrize("words", [[], ["scale=smoke"], ["scale=sparse", "tilts=15"],
                                   ["scale=paper", "tilts.n_tilts=16"],
                                   ["scale=paper", "sample=file", "sample.path=a.xyz"]])
def test_small_problems_and_files_have_no_smaller_problem(words: list[str], tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.xyz").write_text("1\n\nAu 0 0 0\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert smaller_problem(spec_of(*words)) is None


def test_the_factor_is_carried_over_from_the_smaller_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times the rule's weight is best in the smaller problem."""
    spec = spec_of("scale=medium", "tilts=30", "reg.weight=auto")

    def series_of(of: RunSpec) -> TiltSeries:
        shape = (of.tilts.n_tilts, 3, *of.scale.shape_zxy[1:])
        electrons = dose_per_image_e_A2(of) * of.scale.voxel_A**2
        return TiltSeries(np.ones(shape, np.float32), np.array(tilt_angles_deg(of.tilts, of.wedge)),
                          np.array([200.0, 450.0, 1000.0]), of.scale.voxel_A, electrons)

    def threefold(of: RunSpec, series: TiltSeries, model: Model, *_: object) -> float:
        assert of.scale.shape_zxy == (120, 120, 120) and model.n_tilts == len(series.images) == 15
        return 3 * weight.rule_weight(of, series)

    monkeypatch.setattr(weight, "predicting_weight", threefold)
    series = series_of(spec)
    with open_reporter("run") as reporter:
        found = weight.regulariser_weight(spec, series, None, series_of, reporter)  # type: ignore[arg-type]
    assert found == pytest.approx(3 * weight.rule_weight(spec, series))
