"""Steps of the preparation against answers that are known: each test makes its own counts."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.fft

from aetlab.core.errors import DataError
from aetlab.core.grid import in_plane_rotation
from aetlab.core.setting import SpecError
from aetlab.series.collect import collect
from aetlab.series.prepare import PrepareSpec, Recorded, prepare, record_collection
from aetlab.series.prepare.bad_frames import describe, find_bad_frames, find_odd_levels
from aetlab.series.prepare.bad_pixels import fill_bad_pixels, find_bad_pixels, no_bad_pixels
from aetlab.series.prepare.electrons import find_electrons
from aetlab.series.prepare.flow import _normalising_steps
from aetlab.series.prepare.gain import find_gain_residue, no_gain_residue
from aetlab.series.prepare.planes import crop_spectrum
from aetlab.series.prepare.region import Grid, choose_grid, place_image
from aetlab.series.prepare.vacuum import Vacuum, find_mask, measure_vacuum

SHARED = Path(os.environ.get("AETLAB_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
SHAPE = (72, 64)
X, Y = np.meshgrid(*((np.arange(n) - (n - 1) / 2) for n in SHAPE), indexing="ij")
TILT_DEG = np.arange(-66.0, 67, 6)


def balls(rng: np.random.Generator, n: int = 60, radius: float = 16.0) -> np.ndarray:
    """Return ``n`` positions (n, 3) in pixels inside a sphere that is cut at one side."""
    p = rng.uniform(-radius, radius, (20 * n, 3))
    return p[(np.linalg.norm(p, axis=1) < radius) & (p[:, 0] < 0.7 * radius)][:n]


def project(p: np.ndarray, tilt_deg: float, angle_deg: float = 0.0, shift=(0.0, 0.0), width: float = 1.5) -> np.ndarray:
    """Return the projection (X, Y) of Gaussians at ``p`` (N, 3) turned by the tilt and then about the beam."""
    t = np.deg2rad(tilt_deg)
    x = p[:, 0] * np.cos(t) + p[:, 2] * np.sin(t)
    x, y = in_plane_rotation(angle_deg) @ np.stack([x, p[:, 1]])
    x, y = x + shift[0], y + shift[1]
    return (np.exp(-((X[:, 0, None] - x) ** 2) / (2 * width**2)) @ np.exp(-((Y[0] - y[:, None]) ** 2) / (2 * width**2)))


def poisson(rng: np.random.Generator, intensity: np.ndarray, n: float, gain: float) -> np.ndarray:
    return (gain * rng.poisson(n * intensity)).astype(np.float32)


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """Intensities (12, 2, X, Y) of one sample at 12 tilts, about 10 % of contrast."""
    p = balls(np.random.default_rng(1))
    return np.stack([[1 - sign * 0.12 * project(p, t, shift=s) for sign, s in ((1, (0.5, 0)), (-1, (-2, 1)))]
                     for t in np.linspace(-66, 66, 12)])


def test_hot_dead_and_stuck_pixels_are_found_and_no_sound_one(scene: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    counts = poisson(rng, scene, 100, 20)
    counts[..., 5, 9], counts[..., 40, 33], counts[..., 60, 50] = 5000, 0, 2000
    counts[3, 1, 20, 20] = 6000
    found = find_bad_pixels(counts, np.ones((12, 2), bool), 0.1)
    assert sorted(map(tuple, np.argwhere(found.mask))) == [(5, 9), (40, 33), (60, 50)]
    assert (found.n_hot, found.n_dead, found.n_stuck) == (1, 1, 1)
    assert found.hits.tolist() == [[3, 1, 20, 20]]
    good = np.array([[found.good((t, f)) for f in range(2)] for t in range(12)])
    assert (~good).sum() == 3 * 24 + 1
    assert abs(fill_bad_pixels(counts, good)[0, 0, 5, 9] / 2000 - 1) < 0.2


def test_sound_pixels_stay_where_the_scene_is_strong(scene: np.ndarray) -> None:
    found = find_bad_pixels(poisson(np.random.default_rng(3), scene, 400, 5), np.ones((12, 2), bool), 0.1)
    assert found.mask.sum() + len(found.hits) == 0


def test_vacuum_level_and_illumination_are_those_of_the_beam(scene: np.ndarray) -> None:
    rng = np.random.default_rng(4)
    bright = 1 + 0.05 * rng.uniform(-1, 1, (12, 2))
    field = 1 + 0.02 * X / X.max() - 0.015 * (Y / Y.max()) ** 2
    field /= field.mean()
    counts = poisson(rng, scene * bright[..., None, None] * field, 200, 10)
    usable = np.ones((12, 2), bool)
    mask = find_mask(counts, usable)
    assert 0.2 < mask.mean() < 0.9
    assert not mask[..., 30:42, 26:38].any()
    vacuum = measure_vacuum(counts, mask, no_bad_pixels(SHAPE), usable, illumination=True)
    # One image knows its level to 1/√(n · pixels) = 0.2 %.
    assert np.abs(vacuum.level / (2000 * bright) - 1).max() < 0.01
    assert max(np.sqrt(((vacuum.field((t, f)) - field) ** 2).mean()) for t in range(12) for f in range(2)) < 0.003
    flat = measure_vacuum(poisson(rng, np.ones_like(scene), 200, 10), np.ones(scene.shape, bool),
                          no_bad_pixels(SHAPE), usable, illumination=True)
    assert flat.field_peak.max() < 0.001


def test_an_image_without_vacuum_is_refused_or_worth_a_look() -> None:
    rng = np.random.default_rng(5)
    strong = 1 + 0.8 * rng.uniform(-1, 1, SHAPE)
    counts = poisson(rng, strong[None, None], 1000, 1)
    # Nothing quieter reaches the border: only a patch in the middle.
    ringed = np.where(np.hypot(X, Y) < 14, 1.0, strong)[None, None]
    with pytest.raises(DataError, match=r"^vacuum: 1 of 1 images show too little of it.*vacuum=mean"):
        find_mask(poisson(rng, ringed, 1000, 1), np.ones((1, 1), bool))
    # Contrast everywhere looks like noise: the variance says fewer electrons than the table.
    every = np.ones((1, 1))
    found, alone = (find_electrons(
        counts / 1000, np.ones(counts.shape, bool), no_bad_pixels(SHAPE), 1000 * every, every > 0, mtf=None, dqe=1.0,
        pattern_variance=np.zeros(SHAPE), dose_e_A2=dose, pixel_A=1.0, source="find", counts_per_electron=None)
        for dose in (1000 * every, None))
    assert found.verdict == "look" and found.by_variance < 10
    assert "by variance; table 1000; " in found.line and "; ;" not in alone.line


@pytest.mark.parametrize(("peak", "verdict"), [(0.2, "ok"), (0.8, "cannot be used")])
def test_an_illumination_that_no_beam_has_is_a_film_taken_for_vacuum(peak: float, verdict: str) -> None:
    usable, flat = np.ones((3, 2), bool), np.zeros((3, 2))
    vacuum = Vacuum(np.ones((3, 2, *SHAPE), bool), flat + 500, flat, np.zeros((3, 2, 5)), flat + peak, "vacuum")
    image = np.ones(SHAPE)
    step = _normalising_steps(PrepareSpec(), vacuum, no_gain_residue(SHAPE), usable, image, image)[1]
    assert (step.name, step.verdict) == ("vacuum", verdict)
    assert ("film" in step.line) == (verdict != "ok")


def test_a_fixed_pattern_is_found_with_its_size_and_none_where_there_is_none() -> None:
    rng = np.random.default_rng(6)
    pattern = 1 + 0.02 * rng.normal(size=SHAPE)
    shape, flat = (30, 1, *SHAPE), np.zeros((30, 1))
    vacuum = Vacuum(np.ones(shape, bool), flat + 1000, flat, np.zeros((30, 1, 5)), flat, "")
    none_bad = no_bad_pixels(SHAPE)
    found = find_gain_residue(poisson(rng, np.broadcast_to(pattern, shape), 100, 10), vacuum, none_bad)
    assert found.pattern_rms == pytest.approx(0.02, rel=0.1)
    # The error of the corrected gain is √(SN/(S + N)), S = 0.02², N = 1/3000.
    assert np.std(pattern / found.gain) == pytest.approx(np.sqrt(4e-4 / 3000 / (4e-4 + 1 / 3000)), rel=0.1)
    none = find_gain_residue(poisson(rng, np.ones(shape), 100, 10), vacuum, none_bad)
    assert none.part == 0 and (none.gain == 1).all()


def test_blank_doubled_and_drifted_images_are_found() -> None:
    rng = np.random.default_rng(8)
    p = balls(rng, 300, 27.0)
    ideal = np.stack([[1 - 0.3 * project(p, t, width=0.7)] for t in TILT_DEG])
    u, v = scipy.fft.fftfreq(SHAPE[0])[:, None], scipy.fft.fftfreq(SHAPE[1])
    ideal[5, 0] = (ideal[5, 0] + np.roll(ideal[5, 0], (6, -4), (0, 1))) / 2
    ideal[9, 0] = 1 + scipy.fft.ifft2(scipy.fft.fft2(ideal[9, 0] - 1) * np.sinc(4 * u + 3 * v)).real
    ideal[14, 0] = 1
    images = rng.poisson(800 * np.clip(ideal, 0, None)) / 800
    vacuum = np.broadcast_to(np.hypot(X, Y) > 29, images.shape)
    found = find_bad_frames(images, vacuum, np.ones((len(TILT_DEG), 1), bool))
    assert sorted(found.reasons) == [(5, 0), (9, 0), (14, 0)]
    assert found.reasons[14, 0].startswith("blank") and "6, -4" in found.reasons[5, 0].replace("-6, 4", "6, -4")


def test_a_small_crystal_near_its_zone_axes_has_not_drifted() -> None:
    rng = np.random.default_rng(2)
    cells = np.stack(np.meshgrid(*3 * [np.arange(-2, 3)]), -1).reshape(-1, 1, 3)
    p = 9.7 * (cells + np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])).reshape(-1, 3)
    p = p[np.linalg.norm(p, axis=1) < 14.2] @ np.linalg.qr(rng.normal(size=(3, 3)))[0].T
    tilts = np.arange(-76.0, 77, 4)
    ideal = np.stack([[1 - 0.15 * project(p, t, width=0.9), 1 - 0.1 * project(p, t, width=1.0)] for t in tilts])
    images = rng.poisson(150 * np.clip(ideal, 0, None)) / 150
    vacuum = np.broadcast_to(np.hypot(X, Y) > 20, images.shape)
    assert len(p) == 55
    for planes in (np.s_[:, :], np.s_[:, :1]):
        found = find_bad_frames(images[planes], vacuum[planes], np.ones(images[planes].shape[:2], bool))
        assert not found.reasons


def test_reasons_of_one_kind_are_named_once() -> None:
    reasons = {(t, 0): f"dark: the median is {t} counts" for t in range(20)} | {(3, 1): "blank: no contrast"}
    assert describe(reasons, np.ones((25, 2), bool)) == (
        "21 of 50 images left out: dark: the median is 0 counts (and 19 more of the kind); blank: no contrast")


def test_dark_images_and_double_exposures_are_found_by_their_level_and_not_by_a_dose_that_follows_the_tilt() -> None:
    exposure = 1 / np.cos(np.deg2rad(TILT_DEG))
    odd = np.where(np.arange(len(TILT_DEG)) == 3, 0.1, np.where(np.arange(len(TILT_DEG)) == 17, 2.0, 1.0))
    counts = (100 * exposure * odd)[:, None, None, None] * np.ones((1, 1, 4, 4))
    present = np.ones((len(TILT_DEG), 1), bool)
    found = find_odd_levels(counts, present, None)
    assert sorted(found) == [(3, 0), (17, 0)]
    assert found[3, 0].startswith("dark") and found[17, 0].startswith("exposed twice or longer: 247.2 counts, 134.6 ")
    # A table that knows the long exposure clears it, and makes one that is not there odd.
    dose = np.where(np.arange(len(TILT_DEG)) == 9, 3.0, odd)[:, None]
    assert sorted(find_odd_levels(counts, present, dose)) == [(9, 0)]
    # A weak beam hides a double exposure among the tilts; the other image of its tilt shows it.
    pairs = 100 * np.ones((len(TILT_DEG), 2, 4, 4))
    pairs[8] *= np.array([0.72, 1.44])[:, None, None]
    assert sorted(find_odd_levels(pairs, np.ones(pairs.shape[:2], bool), None)) == [(8, 1)]


@pytest.mark.parametrize("grid", [Grid(SHAPE), Grid(SHAPE, 1.0, 7.3), Grid((40, 36), 1.6), Grid((40, 36), 1.6, -4.0)])
def test_counting_statistics_survive(grid: Grid) -> None:
    rng = np.random.default_rng(12)
    n, values, neighbours = 100.0, [], []
    for _ in range(40):
        image = (rng.poisson(n, SHAPE) / n).astype(np.float32)
        weight = np.ones(SHAPE, np.float32)
        weight[30, 20] = 0
        new, good = place_image(image, weight, np.array([1.37, -2.61]), grid)
        assert new.shape == grid.shape_xy and 0 < (good == 0).sum() < 0.4 * good.size
        noise = np.where(good > 0, new - 1, 0)
        values.append((noise[good > 0] ** 2).mean() * n * grid.ratio**2)
        neighbours.append((noise[1:] * noise[:-1]).sum() / (noise**2).sum())
    # The error of a variance from 40 · 1000 to 4600 numbers is below 1 %; the last kept frequency costs at most 3 %.
    assert np.mean(values) == pytest.approx(1.0, abs=0.04)
    assert abs(np.mean(neighbours)) < 0.03


def test_whole_pixels_copy_values_and_weights() -> None:
    rng = np.random.default_rng(13)
    image, weight = rng.random(SHAPE).astype(np.float32), np.ones(SHAPE, np.float32)
    weight[10, 11] = 0
    new, good = place_image(image, weight, np.array([3.0, -2.0]), Grid(SHAPE))
    assert np.allclose(new[:-3, 2:][good[:-3, 2:] > 0], image[3:, :-2][weight[3:, :-2] > 0], atol=1e-6)
    assert good[7, 13] == 0 and (good[-3:] == 0).all() and (good[:, :2] == 0).all()
    assert (good == 0).sum() == 1 + 3 * 64 + 2 * 72 - 6


def test_a_feature_keeps_its_place_when_turned_and_resampled() -> None:
    image = (1 + np.exp(-((X - 9) ** 2 + (Y - 5) ** 2) / 8)).astype(np.float32)
    grid = choose_grid(SHAPE, 0.5, voxel_A=0.75, size=None, angle_deg=30.0)
    new, _ = place_image(image, np.ones(SHAPE, np.float32), np.zeros(2), grid)
    x, y = ((np.arange(m) - (m - 1) / 2) * 1.5 for m in grid.shape_xy)
    seen = np.array([((new - 1) * x[:, None]).sum(), ((new - 1) * y).sum()]) / (new - 1).sum()
    assert np.abs(seen - in_plane_rotation(-30.0) @ [9, 5]).max() < 0.05
    small = crop_spectrum(scipy.fft.fft2(image - 1), (36, 32))
    u, v = (np.arange(36) - 17.5) * 2, (np.arange(32) - 15.5) * 2
    assert (small * u[:, None]).sum() / small.sum() == pytest.approx(9, abs=0.05)
    assert (small * v).sum() / small.sum() == pytest.approx(5, abs=0.05)
    with pytest.raises(DataError, match="voxel_A"):
        choose_grid(SHAPE, 0.5, voxel_A=0.3, size=None, angle_deg=0.0)


@pytest.mark.parametrize("angle_deg", [12.0, 40.3, -84.2, 91.6, 173.2, -150.0])
def test_every_pixel_of_a_turned_image_is_right_or_has_no_weight(angle_deg: float) -> None:
    rng = np.random.default_rng(15)
    places, at = rng.uniform(-40, 40, (40, 2)), np.array([4.3, -5.6])

    def scene_at(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return 1 + sum(0.1 * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 18) for a, b in places)

    grid = choose_grid(SHAPE, 0.5, voxel_A=0.0, size=None, angle_deg=angle_deg)
    assert grid.shape_xy == (SHAPE if abs(angle_deg) < 45 or abs(angle_deg) > 135 else SHAPE[::-1])
    new, good = place_image(scene_at(X, Y).astype(np.float32), np.ones(SHAPE, np.float32), at, grid)
    # From a pixel of the result to the image as recorded.
    x, y = np.meshgrid(*((np.arange(m) - (m - 1) / 2) for m in grid.shape_xy), indexing="ij")
    back = in_plane_rotation(angle_deg)
    x, y = back[0, 0] * x + back[0, 1] * y + at[0], back[1, 0] * x + back[1, 1] * y + at[1]
    held = (np.abs(x) < SHAPE[0] / 2 - 1) & (np.abs(y) < SHAPE[1] / 2 - 1)
    assert (good[held] == 1).all()
    # Fourier series ring by a few percent where an image ends.
    away = (np.abs(x) < SHAPE[0] / 2 - 4) & (np.abs(y) < SHAPE[1] / 2 - 4)
    assert np.abs(new - scene_at(x, y))[away].max() < 0.02


def test_settings_and_shapes_are_checked(scene: np.ndarray) -> None:
    with pytest.raises(SpecError, match="vacuum_rectangles"):
        PrepareSpec(vacuum="rectangles")
    with pytest.raises(SpecError, match="axis_range_deg"):
        PrepareSpec(axis_range_deg=120)
    with pytest.raises(DataError, match="tilt_deg"):
        Recorded(scene, np.zeros(3), np.zeros((12, 2)), 0.5)
    counts = poisson(np.random.default_rng(14), scene, 100, 1)
    recorded = Recorded(counts, np.linspace(-66, 66, 12), np.full((12, 2), -300.0), 0.5)
    with pytest.raises(DataError, match="table"):
        prepare(recorded, PrepareSpec(electrons="table"))
    with pytest.raises(DataError, match="region"):
        prepare(recorded, PrepareSpec(region=(0, 100, 0, 10)))
    below_zero = replace(recorded, counts=-counts)  # counts of a camera that ran over, or a background subtracted twice
    with pytest.raises(DataError, match=r"^no image is left: 24 of 24 images left out: dark: the median is -"):
        prepare(below_zero)


def test_missing_images_and_given_rectangles_pass_through_all_steps(scene: np.ndarray) -> None:
    weight = np.ones((12, 2))
    weight[4, 1] = weight[7, 0] = weight[7, 1] = 0
    dark = np.stack([scene[:, 0], 2 - scene[:, 1]], axis=1)
    counts = poisson(np.random.default_rng(15), dark, 100, 12) * weight[..., None, None].astype(np.float32)
    recorded = Recorded(counts, np.linspace(-66, 66, 12), np.full((12, 2), -300.0), 0.5, weight=weight,
                        counts_per_electron=12.0)
    spec = PrepareSpec(vacuum="rectangles", vacuum_rectangles=((0, 10, 0, 64), (62, 72, 0, 64)), electrons="gain",
                       bad_frames="keep", axis="given", axis_deg=0.0, size=(80, 60), illumination="flat", gain="keep")
    done = prepare(recorded, spec)
    assert done.series.images.shape == (12, 2, 80, 60)
    assert (done.series.weight == weight).all() and not done.excluded
    assert done.series.electrons_per_pixel[weight > 0] == pytest.approx(100, rel=0.02)
    assert [step.name for step in done.steps] == [
        "bad pixels", "gain residue", "vacuum", "electrons per pixel", "bad images", "drift between defoci",
        "tilt axis", "shifts", "region", "sense of the tilt", "sign of the defocus"]
    whole = prepare(replace(recorded, counts=counts), PrepareSpec(
        vacuum="mean", shifts="keep", axis="given", axis_deg=0.0, bad_pixels="keep", electrons="gain"))
    assert whole.poses.shift_A == pytest.approx(0)


def _practice(name: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return counts (T, F, X, Y) and truth by column (T, F) of a practice series, in the order of the tilts."""
    import csv
    folder = SHARED / "practice"
    if not folder.is_dir():
        pytest.skip("practice series are not there")
    raw = (folder / name / f"{name}.mrc").read_bytes()
    nx, ny, nz = np.frombuffer(raw[:12], "<i4")
    stack = np.frombuffer(raw[1024:], "<i2").reshape(nz, ny, nx).transpose(0, 2, 1).astype(np.float32)
    with open(folder / "truth" / name / "truth.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    truth = {key: np.array([float(row[key]) for row in rows]) for key in rows[0] if key != "fault"}
    truth["blank"] = np.array([row["fault"] == "blank" for row in rows])
    n_defoci = len(np.unique(truth["nominal_defocus_nm"]))
    shape = (len(rows) // n_defoci, n_defoci)
    order = np.argsort(truth["readback_tilt_deg"].reshape(shape)[:, 0])
    return stack.reshape(*shape, nx, ny)[order], {key: value.reshape(shape)[order] for key, value in truth.items()}


def test_a_practice_series_with_every_reality_is_prepared_as_the_truth_says() -> None:
    counts, truth = _practice("P3")
    tilt_deg = truth["readback_tilt_deg"].mean(axis=1)
    done = prepare(Recorded(counts, tilt_deg, 10 * truth["nominal_defocus_nm"], 0.42, energy_keV=300.0,
                            dose_e_A2=truth["nominal_dose_e_A2"]))
    steps = {step.name: step for step in done.steps}
    assert sorted(done.excluded) == sorted(map(tuple, np.argwhere(truth["blank"])))
    assert 15 <= steps["bad pixels"].numbers["n_hot"] <= 17 and 5 <= steps["bad pixels"].numbers["n_dead"] <= 6
    assert steps["electrons per pixel"].numbers["counts_per_electron"] == pytest.approx(15.0, rel=0.02)
    assert abs(done.axis_deg - truth["true_axis_deg"].mean()) < 0.15
    usable = ~truth["blank"]
    level = steps["vacuum"].numbers["level_counts"]
    assert level == pytest.approx(np.median(truth["vacuum_counts"][usable]), rel=0.001)
    true = np.stack([truth["true_shift_x_A"], truth["true_shift_y_A"]], -1) / truth["true_pixel_A"][..., None]
    off = ((done.shift_A / 0.42 - true) @ in_plane_rotation(-2.7).T)[usable]
    turn = np.deg2rad(np.broadcast_to(tilt_deg[:, None], usable.shape)[usable])
    terms = np.column_stack([np.cos(turn), np.sin(turn)])
    off[:, 0] -= terms @ np.linalg.lstsq(terms, off[:, 0], rcond=None)[0]
    off[:, 1] -= off[:, 1].mean()
    assert np.sqrt((off**2).mean(axis=0)).max() < 0.4
    corner = np.s_[..., 5:30, 5:30]
    images, good = done.series.images[corner], (done.series.pixel_weight[corner] > 0) & usable[..., None, None]
    noise = (images - 1) ** 2 * done.series.electrons_per_pixel[..., None, None]
    # What is left of the fixed pattern adds n SN/(S + N), about 1 %.
    assert noise[good].mean() == pytest.approx(1.01, abs=0.03)


def test_a_collection_hands_over_counts_in_the_order_of_its_tilts() -> None:
    counts, truth = _practice("P3")
    folder = SHARED / "practice" / "P3"
    recorded = record_collection(collect([folder / "P3.mrc"], table=folder / "P3.csv"))
    assert recorded.counts.shape == counts.shape and recorded.energy_keV == 300
    assert np.abs(recorded.tilt_deg - truth["readback_tilt_deg"].mean(axis=1)).max() < 0.05
    order = np.argsort(recorded.defocus_A[0])
    assert (recorded.counts[:, order] == counts[:, np.argsort(truth["nominal_defocus_nm"][0])]).all()
    assert recorded.dose_e_A2 == pytest.approx(1388.89)
