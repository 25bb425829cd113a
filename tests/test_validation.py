"""Validation without a truth: images, shell correlation, atoms of two halves, chemistry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

import aetlab
from aetlab import keeper
from aetlab.core.metrics import find_metric
from aetlab.core.nouns import TiltSeries
from aetlab.forward import add_shot_noise
from aetlab.reconstruction.left_out import held_images, without_held_images
from aetlab.spec import RunSpec, SpecError
from aetlab.store.record import Places, array_names, read_array
from aetlab.validation.agreement import NamedPlaces, at_full_dose, compare_halves, right_names
from aetlab.validation.chemistry import RULES, check_chemistry
from aetlab.validation.flow import directions
from aetlab.validation.fsc import correlate_shells, resolution_A, shift_between, shifted
from aetlab.validation.halves import split_series
from aetlab.validation.images import compare_images

ELECTRONS = 60.0
TINY = {"tilts.n_tilts": 6, "engine.n_iterations": 4, "simulate.n_layers": 8, "engine.n_threads": 1}
Change = Callable[..., RunSpec]


def make_series(n_defoci: int = 2, electrons: float = ELECTRONS, n_tilts: int = 6) -> TiltSeries:
    """Return noisy images around 1 of tilts from -50° in steps of 20°."""
    rng = np.random.default_rng(3)
    ideal = TiltSeries(1 + 0.2 * rng.standard_normal((n_tilts, n_defoci, 40, 44)).astype(np.float32),
                       20.0 * np.arange(n_tilts) - 50, 200.0 * np.arange(1, n_defoci + 1), 0.5)
    return add_shot_noise(ideal, electrons, rng) if np.isfinite(electrons) else ideal


def make_volumes(signal: float) -> tuple[np.ndarray, np.ndarray]:
    """Return two volumes of white noise of variance 1 with a common part of variance ``signal``."""
    rng = np.random.default_rng(5)
    common = np.sqrt(signal) * rng.standard_normal((40, 48, 44))
    return common + rng.standard_normal(common.shape), common + rng.standard_normal(common.shape)


def test_counting_noise_alone_gives_chi_square_1_and_the_predicted_r_factor() -> None:
    rng = np.random.default_rng(1)
    flat = TiltSeries(np.ones((3, 2, 64, 64), np.float32), np.zeros(3), np.array([100.0, 200.0]), 0.5)
    series = add_shot_noise(flat, 400.0, rng)
    fit = compare_images(series, np.ones((3, 2, 64, 64)), 2)
    r_factor, by_counts, chi_square = fit.overall(np.ones((3, 2), bool))
    assert chi_square == pytest.approx(1, abs=0.02)  # 24 576 values: a standard error of 0.009
    assert by_counts == pytest.approx(0.7979 / 40, rel=0.01) and r_factor == pytest.approx(by_counts, rel=0.02)
    assert np.std(fit.residual) == pytest.approx(1, abs=0.02) and not fit.outlying().any()


def test_the_worst_image_is_kept_and_missing_images_and_bad_pixels_do_not_count() -> None:
    images, weight = np.ones((3, 2, 20, 20), np.float32), np.ones((3, 2))
    images[1, 1] = 1.21
    images[2, 0, 4, 5] = 400.0
    weight[0, 0] = 0
    bad = np.ones(images.shape, np.float32)
    bad[2, 0, 4, 5] = 0
    series = TiltSeries(images, np.arange(3.0), np.array([1.0, 2.0]), 0.5, weight=weight, pixel_weight=bad)
    fit = compare_images(series, np.ones(images.shape), 1)
    assert fit.worst.tolist() == [[1, 1]] and np.allclose(fit.residual, 0.1)
    assert np.isnan(fit.r_factor[0, 0]) and fit.r_factor[2, 0] == 0 and np.isnan(fit.chi_square).all()
    assert np.argwhere(fit.outlying()).tolist() == [[1, 1]]
    left_out = np.zeros(fit.misfit.shape, bool)
    left_out[1, 1] = True
    assert not fit.outlying(~left_out).any(), "an image that was left out fits worse than those that were fitted"
    assert fit.overall(weight > 0)[0] == pytest.approx(40 / (3 * 400 + 399 + 440))


def test_the_shell_correlation_is_the_signal_over_signal_and_noise() -> None:
    first, second = make_volumes(signal=0.25)
    shells = correlate_shells(first, second, 0.5, {"axis": np.array([0.0, 1, 0])})
    assert shells.all_directions[5:].mean() == pytest.approx(0.2, abs=0.02)
    assert shells.in_cones["axis"][8:].mean() == pytest.approx(0.2, abs=0.04)
    assert correlate_shells(first, first, 0.5, {}).all_directions == pytest.approx(1)
    assert shells.frequency_per_A[-1] == pytest.approx(1.0) and shells.frequency_per_A[0] == pytest.approx(1 / 24)


def test_a_cone_sees_the_frequencies_about_its_direction_only() -> None:
    z, x, y = np.meshgrid(*(0.5 * np.arange(48),) * 3, indexing="ij")
    waves = {"x": np.cos(2 * np.pi * x / 3), "y": np.cos(2 * np.pi * y / 3), "z": np.cos(2 * np.pi * z / 3)}
    first, second = sum(waves.values()), waves["x"] + waves["y"] - waves["z"]
    cones = {name: np.eye(3)["xyz".index(name)] for name in "xyz"}
    shells = correlate_shells(first, second, 0.5, cones)
    at = int(np.argmin(np.abs(shells.frequency_per_A - 1 / 3)))
    assert [round(float(shells.in_cones[name][at]), 2) for name in "xyz"] == [1, 1, -1]


def test_half_a_bit_of_many_coefficients_is_0_1716() -> None:
    """0.2071 / 1.2071, and 1.0 for a shell of one coefficient."""
    shells = correlate_shells(*make_volumes(1.0), 0.5, {})
    assert shells.half_bit[-1] == pytest.approx(0.1716, abs=0.03) and shells.half_bit[0] > 0.5


def test_the_resolution_is_the_first_crossing_and_states_its_limits() -> None:
    q = np.array([0.1, 0.2, 0.3, 0.4])
    assert resolution_A(q, np.array([1, 0.6, 0.4, 0.8]), 0.5) == pytest.approx(4.0)  # at 0.25 per Å
    assert resolution_A(q, np.array([1, 0.9, np.nan, 0.6]), 0.5) == pytest.approx(2.5)  # voxels hold no finer detail
    assert np.isnan(resolution_A(q, np.array([0.1, 0.9, 0.9, 0.9]), 0.5))


def test_a_shift_is_found_and_undone() -> None:
    z, x, y = np.meshgrid(*(0.5 * np.arange(32) - 8,) * 3, indexing="ij")
    there = np.exp(-((x - 0.4) ** 2 + (y + 0.7) ** 2 + (z - 1.1) ** 2) / 2)
    here = np.exp(-(x**2 + y**2 + z**2) / 2)
    by = shift_between(here, there, 0.5)
    np.testing.assert_allclose(by, [-0.4, 0.7, -1.1], atol=0.02)
    np.testing.assert_allclose(shifted(there, by, 0.5), here, atol=0.02)


def test_the_atoms_of_two_halves_tell_found_false_and_errors() -> None:
    """Drawn: 20 000 true atoms, found by a half with 0.9 and by the whole with 0.97; 100 false atoms of the whole, 300
    of each half, which raise the number of atoms there by (1 + 300 / 18 000)².
    """
    rng = np.random.default_rng(2)
    n, p, sigma_A = 20_000, 0.9, 0.1
    true_A = 5.0 * np.stack(np.meshgrid(*(np.arange(28.0),) * 3, indexing="ij"), -1).reshape(-1, 3)[:n]
    numbers = rng.integers(0, 2, n) * 50 + 29
    noise = [rng.normal(0, sigma_A, true_A.shape) for _ in range(2)]
    halves = []
    for part in noise:
        found = rng.random(n) < p
        named = np.where(rng.random(n) < 0.95, numbers, 108 - numbers)
        stray = rng.uniform(-100, -5, (300, 3))
        halves.append(NamedPlaces(np.concatenate([(true_A + part)[found], stray]),
                                  np.concatenate([named[found], np.full(300, 29)])))
    found = rng.random(n) < 0.97
    whole = NamedPlaces(np.concatenate([(true_A + sum(noise) / 2)[found], rng.uniform(200, 300, (100, 3))]),
                        np.concatenate([numbers[found], np.full(100, 29)]))
    got = compare_halves(whole, *halves, n_elements=2, max_distance_A=1.0).metrics
    assert got["halves_found_by_half_percent"] == pytest.approx(90, abs=0.5)
    assert got["halves_found_percent"] == pytest.approx(100 * (0.97 + 0.005) / (1 + 1 / 60) ** 2, abs=0.4)
    assert got["halves_false_percent"] == pytest.approx(0.5, abs=0.15)
    error_pm = 100 * np.linalg.norm(sum(noise) / 2, axis=1).mean()
    assert got["halves_position_error_pm"] == pytest.approx(error_pm, rel=0.02)
    assert got["halves_sigma_x_pm"] == pytest.approx(100 * sigma_A / np.sqrt(2), rel=0.02)
    assert got["halves_names_agree_percent"] == pytest.approx(100 * (0.95**2 + 0.05**2), abs=0.5)
    assert got["halves_species_percent"] == pytest.approx(100 * norm.cdf(np.sqrt(2) * norm.ppf(0.95)), abs=0.5)


def test_right_names_follow_from_names_that_agree() -> None:
    for k, r in ((2, 0.9), (3, 0.8), (5, 0.6)):
        assert right_names(r**2 + (1 - r) ** 2 / (k - 1), k) == pytest.approx(r)
    assert right_names(0.3, 2) == 0.5 and right_names(1.0, 1) == 1.0
    assert at_full_dose(0.5) == 0.5 and at_full_dose(1.0) == 1.0 and np.isnan(at_full_dose(float("nan")))


def test_counts_are_shared_by_the_halves_and_none_is_lost(smoke_spec: RunSpec, change: Change) -> None:
    series = make_series()
    first, second = split_series(change(smoke_spec, "validate", kind="halves"), series)
    counts = [np.rint(part.images * part.electrons_per_pixel[:, :, None, None]) for part in (first, second)]
    np.testing.assert_array_equal(counts[0] + counts[1], np.rint(series.images * ELECTRONS))
    assert first.mean_electrons_per_pixel == ELECTRONS / 2
    # Poisson parts are independent: var(a - b) = var(a + b) = mean, given the mean of each pixel.
    assert np.mean((counts[0] - counts[1]) ** 2) / np.mean(counts[0] + counts[1]) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("n_defoci", "of_tilt"), [(2, [1, 1, 1, 1, 1, 1]), (1, [1, 0, 1, 0, 1, 0])])
def test_images_alternate_between_the_halves_where_there_are_no_counts(
    smoke_spec: RunSpec, change: Change, n_defoci: int, of_tilt: list[int]
) -> None:
    series = make_series(n_defoci, np.inf)
    first, second = split_series(change(smoke_spec, "validate", kind="halves"), series)
    np.testing.assert_array_equal(first.weight + second.weight, series.weight)
    assert (first.weight > 0).sum(axis=1).tolist() == of_tilt
    with pytest.raises(SpecError, match=r"has 1 tilts, and 2 are needed"):
        split_series(change(smoke_spec, "validate", kind="halves"), series.select(np.arange(5 - 2 * n_defoci)))


def test_held_out_images_leave_each_tilt_an_image_and_follow_the_seed(smoke_spec: RunSpec, change: Change) -> None:
    series = make_series()
    spec = change(change(smoke_spec, "validate", kind="images"), "data", held_out=0.25)
    held = held_images(spec, series)
    assert held.sum() == 3 and held.sum(axis=1).max() == 1
    np.testing.assert_array_equal(held, held_images(spec, series))
    np.testing.assert_array_equal(without_held_images(spec, series).weight == 0, held)
    assert (held != held_images(dataclasses.replace(spec, seed=1), series)).any()
    assert without_held_images(change(spec, "validate", kind="none"), series) is series


@pytest.mark.parametrize(("n_defoci", "line"), [
    (1, "data.held_out=0.5 leaves out 3 of 6 images: with one image for each tilt, 3 whole tilts are missing from the "
        "reconstruction, which widens the steps between the others"),
    (2, "data.held_out=0.5 leaves out 6 of 12 images"),
    (3, "data.held_out=0.5 leaves out 6 of 18 images: at most one of a tilt, and no image that a tilt or the series "
        "needs")])
def test_the_log_says_how_many_images_and_whole_tilts_are_left_out(smoke_spec: RunSpec, change: Change, n_defoci: int,
                                                                   line: str) -> None:
    spec = change(change(smoke_spec, "validate", kind="images"), "data", held_out=0.5)
    said: list[str] = []
    without_held_images(spec, make_series(n_defoci), said.append)
    assert said == [line]


def test_a_crystal_keeps_the_rules_of_chemistry_and_planted_atoms_break_them() -> None:
    """Pt, a = 3.92 Å: a bond of 2.772 Å, 12 neighbours inside, 4 atoms of 195.08 Da in a cell, 21.5 g/cm³."""
    cell = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    corners = np.stack(np.meshgrid(*(np.arange(8.0),) * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    positions_A = 3.92 * (corners + cell).reshape(-1, 3)
    found = check_chemistry(np.full(len(positions_A), 78), positions_A)
    assert found.metrics["distance_Pt_Pt_A"] == pytest.approx(2.772, abs=0.001)
    assert found.arrays["coordination/Pt"].argmax() == 12 and found.metrics["n_too_near"] == 0
    assert found.metrics["density_g_cm3"] == pytest.approx(21.5, rel=0.03) and len(found.broken) == 0
    planted = np.concatenate([positions_A, positions_A[300:301] + [1.2, 0, 0], [[60.0, 60, 60]]])
    found = check_chemistry(np.full(len(planted), 78), planted)
    broken = [(int(a), RULES[rule], int(b)) for a, rule, b in found.broken]
    assert broken[0] == (300, "too near", 2048) and broken[-1] == (2049, "isolated", -1)
    assert found.broken_distance_A[0] == pytest.approx(1.2) and found.metrics["n_isolated"] == 1


@pytest.mark.parametrize(("error_A", "n_near"), [
    ((0.01, 0.5, 0.5), 1), ((0.2, 0.0, 0.0), 0), (None, 1), ((np.nan,) * 3, 1)])
def test_a_distance_that_its_error_explains_is_not_too_near(error_A: tuple[float, ...] | None, n_near: int) -> None:
    """Ti and O 1.6 Å apart along x: 0.75 of their radii are 1.695 Å; 2 √2 · 0.2 Å explain it, errors across do not."""
    positions_A = np.array([[0.0, 0, 0], [1.6, 0, 0]])
    errors_A = None if error_A is None else np.array([error_A, error_A])
    assert check_chemistry(np.array([22, 8]), positions_A, errors_A).metrics["n_too_near"] == n_near


def test_the_wedge_lies_along_the_beam_at_the_middle_tilt() -> None:
    along = directions(dataclasses.replace(make_series(), tilt_deg=np.linspace(0, 120, 6)))
    np.testing.assert_allclose(along["wedge"], [-np.sin(np.pi / 3), 0, np.cos(np.pi / 3)], atol=1e-12)
    np.testing.assert_allclose(np.cross(along["axis"], along["wedge"]), along["across"], atol=1e-12)


def test_a_record_keeps_the_validation_and_changes_nothing_else(tmp_path: Path) -> None:
    plain, validated = (keeper.run(aetlab.settings(scale="smoke", dose="50k", reg="pos", validate=kind, overrides={
        **TINY, **({"validate.n_residuals": 3} if kind != "none" else {})}), places=Places(tmp_path)).record
        for kind in ("none", "halves"))
    assert validated.environment["reconstruction_of"] == plain.id and validated.environment["halves_of"] == "counts"
    assert plain.metrics == {name: validated.metrics[name] for name in plain.metrics}
    added = set(validated.metrics) - set(plain.metrics)
    assert added and not [name for name in added if find_metric(name).needs_truth]
    names = {name for name in array_names(validated) if name not in array_names(plain)}
    assert {name.split("/")[0] for name in names} == {"validation"}
    worst, residual = (read_array(validated, f"validation/images/worst{end}").values for end in ("", "_residual"))
    chi_square = read_array(validated, "validation/images/chi_square_volume").values
    assert chi_square.shape == (6, 3) and tuple(worst[0]) == np.unravel_index(chi_square.argmax(), chi_square.shape)
    assert np.mean(residual[0] ** 2) == pytest.approx(chi_square.max(), rel=1e-4)
    for k in (1, 2):
        assert len(read_array(validated, f"validation/half_{k}/numbers").values)
    assert 0 < validated.metrics["r_factor_counts_volume"] <= 1.1 * validated.metrics["r_factor_volume"]
