"""Drift between defoci, tilt axis and shifts of a series, found in projections whose geometry is known."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft

from aetlab.core.errors import DataError
from aetlab.series.prepare import Recorded, prepare
from aetlab.series.prepare.axis import find_axis
from aetlab.series.prepare.drift import find_drift, find_transfer
from aetlab.series.prepare.focus_sign import STEP
from aetlab.series.prepare.geometry import describe_jumps, find_again, find_jumps, judge_places
from aetlab.series.prepare.planes import contrast_transfer, crop_spectrum, peaks_near, ramp
from aetlab.series.prepare.shifts import find_shifts
from aetlab.series.prepare.silhouette import locate, signal_of
from aetlab.spec import MicroscopeSpec
from tests.test_series_prepare import SHAPE, TILT_DEG, balls, poisson, project


def test_drift_between_defoci_is_found_through_contrast_transfer() -> None:
    rng = np.random.default_rng(9)
    phase = scipy.fft.fft2(0.05 * project(balls(rng), 20, width=0.8))
    defocus_A = np.array([[-200.0, -450.0, -750.0]])
    shift = np.array([[0, 0], [3.3, -2.6], [-1.2, 4.7]])
    images = np.stack([[1 + 2 * scipy.fft.ifft2(phase * contrast_transfer(SHAPE, 0.42, d, 300.0) * ramp(SHAPE, -s)).real
                        for d, s in zip(defocus_A[0], shift)]])
    counts, usable = rng.poisson(2000 * images) / 2000, np.ones((1, 3), bool)
    found = find_drift(counts[0], usable[0], defocus_A[0], find_transfer(counts, usable, defocus_A, 0.42, 300.0))
    off = found.position_px - shift
    assert np.abs(off - off[0]).max() < 0.2 and found.probability.min() > 0.99 and found.placed.all()
    # Of noise nothing is believed.
    noise = rng.poisson(2000, (1, 3, *SHAPE)) / 2000
    lost = find_drift(noise[0], usable[0], defocus_A[0], find_transfer(counts, usable, defocus_A, 0.42, 300.0))
    assert lost.probability.max() < 0.5 and not lost.placed.any()


@pytest.mark.parametrize("angle_deg", [-3.4, 62.0])
def test_the_axis_is_found_where_tilts_predict_each_other(angle_deg: float) -> None:
    rng = np.random.default_rng(10)
    p = balls(rng)
    images = np.stack([project(p, t, angle_deg, rng.uniform(-1, 1, 2)) for t in TILT_DEG])
    images += rng.normal(0, 0.05 * images.std(), images.shape)
    found = find_axis(images, TILT_DEG, centre_deg=0.0, range_deg=90.0 if abs(angle_deg) > 10 else 10.0, extent_px=34.0,
                      radius_px=20.0, whole_band=True)
    assert abs(found.angle_deg - angle_deg) < 0.1 + 2 * found.error_deg
    assert found.error_deg < 0.3 and found.verdict == "ok"


def test_the_error_of_the_axis_is_that_of_neighbouring_tilts_which_err_alike() -> None:
    p = balls(np.random.default_rng(18), 150)
    off_deg = np.repeat([-1.0, 0.5, 1.0, -0.5, 0.0], [5, 5, 5, 4, 4])
    images = np.stack([project(p, t, off) for t, off in zip(TILT_DEG, off_deg)])
    found = find_axis(images, TILT_DEG, centre_deg=0.0, range_deg=90.0, extent_px=34.0, radius_px=20.0, whole_band=True)
    # Standard error of the mean of five numbers.
    expected = np.sqrt(2.5 / (5 * 4))
    assert 0.6 * expected < found.error_deg < 1.6 * expected


def test_a_direction_in_which_tilts_do_not_predict_each_other_is_not_believed() -> None:
    tilt_deg = TILT_DEG[::2]
    noise = np.random.default_rng(16).normal(size=(len(tilt_deg), 24, 22))
    found = find_axis(noise, tilt_deg, centre_deg=0.0, range_deg=90.0, extent_px=18.0, radius_px=11.0, whole_band=True)
    assert found.verdict == "cannot be used" and "no direction stands out" in found.line
    p = balls(np.random.default_rng(17))
    images = np.stack([project(p, t, 62.0) for t in tilt_deg])
    wrong = find_axis(images, tilt_deg, centre_deg=0.0, range_deg=10.0, extent_px=34.0, radius_px=20.0, whole_band=True)
    assert wrong.verdict != "ok"


def test_images_too_small_for_a_sample_or_a_direction_are_refused_or_not_searched() -> None:
    counts = np.random.default_rng(7).poisson(100.0, (6, 1, *SHAPE)).astype(np.float32)
    with pytest.raises(DataError, match="72 x 64 pixels of 0.042 Å are 3.02 x 2.69 Å wide, too narrow"):
        prepare(Recorded(counts, np.arange(6.0), np.full((6, 1), -300.0), 0.042))
    axis = find_axis(counts[:, 0, :8, :8], np.arange(6.0), centre_deg=0, range_deg=90, extent_px=2, radius_px=1,
                     whole_band=True)
    assert not axis.stands_out and "shows no direction" in axis.line


def test_an_image_that_its_tilt_does_not_place_is_placed_by_the_other_tilts() -> None:
    rng = np.random.default_rng(21)
    tilt_deg, defocus_A = np.linspace(-60, 60, 13), np.array([-300.0, -700.0])
    p, shift = balls(np.random.default_rng(22)), rng.uniform(-5, 5, (13, 2, 2))
    images = np.empty((13, 2, *SHAPE))
    for t, f in np.ndindex(13, 2):
        phase = scipy.fft.fft2(0.07 * project(p, tilt_deg[t], shift=shift[t, f], width=0.8))
        clean = 1 + 2 * scipy.fft.ifft2(phase * contrast_transfer(SHAPE, 0.42, defocus_A[f], 300.0)).real
        images[t, f] = rng.poisson((n := 150 if t == 6 else 400) * clean) / n
    usable, defoci = np.ones((13, 2), bool), np.broadcast_to(defocus_A, (13, 2))
    transfer = find_transfer(images, usable, defoci, 0.42, 300.0)
    drifts = [find_drift(images[t], usable[t], defoci[t], transfer) for t in range(13)]
    assert drifts[6].probability.max() < 0.5
    places = np.array([shift[t, drift.reference] for t, drift in enumerate(drifts)])
    shape = (36, 32)
    joined = np.stack([crop_spectrum(drift.joined * ramp(SHAPE, at), shape) for drift, at in zip(drifts, places)])
    again = find_again(images, usable, defoci, transfer, drifts, places, joined, 0.0, tilt_deg, 10.0)
    assert np.abs(np.diff(again[6].position_px - shift[6], axis=0)).max() < 1.5 and again[6].placed.all()


def test_negated_defoci_lose_no_image_that_the_right_ones_keep() -> None:
    rng, tilt_deg = np.random.default_rng(3), np.arange(-60.0, 61, 20)
    p, counts = balls(rng), np.empty((7, 2, *SHAPE), np.float32)
    for (t, f), shift in zip(np.ndindex(7, 2), rng.uniform(-3, 3, (14, 2))):
        phase = scipy.fft.fft2(0.08 * project(p, tilt_deg[t], 2.0, shift, width=0.8))
        transfer = contrast_transfer(SHAPE, 0.42, (-300.0, -700.0)[f], 300.0)
        counts[t, f] = poisson(rng, np.clip(1 + 2 * scipy.fft.ifft2(phase * transfer).real, 0, None), 200, 5.0)
    found = prepare(Recorded(counts, tilt_deg, np.tile([300.0, 700.0], (7, 1)), 0.42, energy_keV=300.0,
                             lens=MicroscopeSpec(energy_keV=300.0), counts_per_electron=5.0))
    assert "changed their sign" in next(step.line for step in found.steps if step.name == STEP)
    np.testing.assert_array_equal(found.series.defocus_A, np.tile([-300.0, -700.0], (7, 1)))
    # With the right sign two images cannot be placed, with the wrong one four.
    assert len(found.excluded) == 2


@pytest.mark.parametrize("spread_px", [0.05, 5.0])
def test_an_image_that_jumps_is_named_and_none_of_a_spread_that_all_have(spread_px: float) -> None:
    rng, tilt_deg = np.random.default_rng(23), np.arange(-60.0, 61, 5)
    defocus_A, turn = np.tile([-200.0, -450.0], (25, 1)), np.deg2rad(tilt_deg)
    path = np.column_stack([8 * np.cos(turn) - 5 * np.sin(turn), np.linspace(-3, 3, 25)])
    position = path[:, None] + rng.uniform(-spread_px, spread_px, (25, 2, 2))
    sound = np.ones((25, 2), bool)
    sound[20, 0] = False
    position[20, 0] = 99

    def described(order: np.ndarray) -> str:
        found = find_jumps(position[order], sound[order], tilt_deg[order])
        return describe_jumps(found, tilt_deg[order], defocus_A)

    inward = np.arange(25)
    assert described(inward) == ""
    far = 8 * max(spread_px, 0.6)
    position[12, 1] += [far, -far]
    said = described(inward)
    assert said.count("°") == 1 and "0° at -45 nm by" in said
    order = rng.permutation(25)
    assert described(order) == said
    jumps, farthest = find_jumps(position, sound, tilt_deg), float(np.abs(position[sound][:, 1]).max())
    assert judge_places(position, sound, jumps, (10**6, int(2 * farthest) + 2)) == ("", "look")
    assert judge_places(position, sound, jumps, (10**6, int(2 * farthest) - 1)) == (
        "; it would lie outside of the field in 1 images: the axis or angles are wrong", "cannot be used")
    # A whole tilt that jumps is named with all of its images.
    position[3] += far
    assert described(inward).count("°") == 3
    position[::4] += far * rng.choice([-1, 1], (7, 1, 2))
    said, verdict = judge_places(position, sound, find_jumps(position, sound, tilt_deg), (10**6, 10**6))
    assert verdict == "cannot be used" and "it would jump in" in said


def test_outlines_give_the_place_of_the_sample_in_each_image() -> None:
    rng = np.random.default_rng(18)
    shift = rng.uniform(-6, 6, (8, 2))
    signals = []
    for k, t in enumerate(np.linspace(-60, 60, 8)):
        image = 1 - 0.25 * project(balls(np.random.default_rng(19), 200, 14.0), t, shift=shift[k], width=1.0)
        signals.append(signal_of(poisson(rng, np.clip(image, 0, None), 300, 1.0)[None], np.zeros((1, 2))))
    found = locate(np.array(signals), np.array(signals))
    off = found.centre_px - shift
    assert np.abs(off - off.mean(axis=0)).max() < 1.5
    assert 11 < found.half_px.max() < 19


def test_peaks_of_many_correlations_are_those_of_each() -> None:
    x, y = (np.minimum(np.arange(n), n - np.arange(n)) * np.where(np.arange(n) < n / 2, 1, -1) for n in (20, 17))
    places = np.array([[1.3, -2.2], [-3.4, 0.1], [0.0, 3.0]])
    hills = np.stack([-((x[:, None] - a) ** 2) - 2 * (y - b) ** 2 for a, b in places])
    np.testing.assert_allclose(peaks_near(hills, 4), places, atol=1e-9)


def test_shifts_follow_from_the_other_projections() -> None:
    rng = np.random.default_rng(11)
    p, shift = balls(rng), rng.uniform(-3, 3, (len(TILT_DEG), 2))
    images = np.stack([project(p, t, shift=s) for t, s in zip(TILT_DEG, shift)])
    found = find_shifts(images + rng.normal(0, 0.1 * images.std(), images.shape), TILT_DEG, 24.0).position_px
    off = found - shift
    # A shift of the sample itself is not in the images.
    terms = np.column_stack([np.cos(np.deg2rad(TILT_DEG)), np.sin(np.deg2rad(TILT_DEG))])
    off[:, 0] -= terms @ np.linalg.lstsq(terms, off[:, 0], rcond=None)[0]
    off[:, 1] -= off[:, 1].mean()
    assert np.sqrt((off**2).mean(axis=0)).max() < 0.15
