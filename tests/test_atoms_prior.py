"""The prior for atoms: its blur, its proximal step in a metric, and its adaptation."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize as scipy_minimize

from aetlab.core.nouns import TiltSeries
from aetlab.forward.blur import Blur, gaussian_kernel, narrowest_atom_A
from aetlab.forward.model import ForwardModel
from aetlab.forward.multislice import Multislice
from aetlab.forward.series_optics import series_optics
from aetlab.methods.regulariser import Problem
from aetlab.methods.regularisers.atoms import AtomsPrior, AtomsSettings
from aetlab.methods.rotations import rotate_and_bin
from aetlab.reconstruction.fit import blur_A, step_of
from aetlab.solve import Solution, State, Stopping, minimize
from aetlab.spec import MicroscopeSpec, RegSpec, SpecError
from tests.words import spec_of

SHAPE = (8, 10, 12)
#: A blur of 1 voxel, and own settings in which weights reach as far.
PROBLEM = Problem(SHAPE, 1.0, 8, 1.0)
SCHEDULE = AtomsSettings(metric_at=2, metric_floor=0.05, reweight_at=(3, 5), reweight_sigma_A=1.0,
                         reweight_softness=0.3, reweight_gain=1.5)


def test_blur_is_its_own_adjoint() -> None:
    rng = np.random.default_rng(1)
    u, v = rng.standard_normal(SHAPE), rng.standard_normal(SHAPE)
    blur = Blur(0.9, SHAPE, np.float64)
    blurred_u, blurred_v = u.copy(), v.copy()
    blur.blur_slices(blurred_u)
    blur.blur_slices(blurred_v)
    assert np.vdot(blurred_u, v) == pytest.approx(np.vdot(u, blurred_v), rel=1e-12)
    assert np.vdot(blur.blur_volume(u), v) == pytest.approx(np.vdot(u, blur.blur_volume(v)), rel=1e-12)


def test_blur_is_a_truncated_gaussian() -> None:
    volume = np.random.default_rng(2).standard_normal(SHAPE)
    blur = Blur(0.8, SHAPE, np.float64)
    slices = volume.copy()
    blur.blur_slices(slices)
    by_scipy = dict(sigma=0.8, mode="constant", radius=4)
    np.testing.assert_allclose(slices, gaussian_filter(volume, axes=(1, 2), **by_scipy), atol=1e-12)
    np.testing.assert_allclose(blur.blur_volume(volume), gaussian_filter(volume, **by_scipy), atol=1e-12)
    half = gaussian_kernel(0.8)
    assert 2 * half.sum() - half[0] == pytest.approx(1.0)


@pytest.mark.parametrize("tilt_deg", [0.0, 31.7, 90.0])
def test_blur_commutes_with_rotation(tilt_deg: float) -> None:
    """Blurring the volume before its rotation equals blurring the slice after it, for one slice of all layers."""
    volume = np.zeros((31, 33, 35))
    volume[15, 18, 16] = volume[13, 14, 19] = 1.0
    volume = gaussian_filter(volume, 1.2)
    blur = Blur(1.5, (1, 33, 35), np.float64)
    first = rotate_and_bin(blur.blur_volume(volume), tilt_deg, 31)
    then = rotate_and_bin(volume, tilt_deg, 31)
    blur.blur_slices(then)
    np.testing.assert_allclose(first, then, atol=0.01 * then.max())


def test_narrowest_atom_of_the_papers_microscope() -> None:
    """Aperture 1/Å: 1/π Å; thermal √(B/8π²); a voxel of 0.5 Å: 0.144 Å. Coarse voxels cut the aperture."""
    by_hand = math.sqrt((1 / math.pi) ** 2 + 0.6 / (8 * math.pi**2) + 0.25 / 12)
    assert narrowest_atom_A(MicroscopeSpec(), 0.5, 0.6) == pytest.approx(by_hand)
    assert by_hand == pytest.approx(0.36, abs=0.01)
    # Voxels of 1 Å cut the aperture at 0.5/Å.
    assert narrowest_atom_A(MicroscopeSpec(), 1.0, 0.6) == pytest.approx(
        math.sqrt((2 / math.pi) ** 2 + 0.6 / (8 * math.pi**2) + 1 / 12))


def test_proximal_step_in_a_metric_against_brute_force() -> None:
    """argmin_u ½ Σ (u - v)²/d + step · weight · Σ a u over u ≥ 0."""
    rng = np.random.default_rng(3)
    volume = rng.normal(0.5, 1.0, (3, 2, 2))
    metric, weights = rng.uniform(0.1, 3, (2, *volume.shape))
    prior = AtomsPrior(0.4, SCHEDULE, PROBLEM)
    prior.state.update(metric=metric, weights=weights)

    def objective(u: np.ndarray) -> float:
        u = u.reshape(volume.shape)
        return float((0.5 * (u - volume) ** 2 / metric + 0.6 * 0.4 * weights * u).sum())

    found = scipy_minimize(objective, np.ones(volume.size), bounds=[(0, None)] * volume.size, tol=1e-14).x
    np.testing.assert_allclose(prior(volume.copy(), 0.6).ravel(), found, atol=1e-5)
    plain = AtomsPrior(0.4, SCHEDULE, PROBLEM)(volume.copy(), 0.6)
    np.testing.assert_allclose(plain, np.maximum(volume - 0.24, 0), atol=1e-12)


def test_metric_and_weights_follow_the_solution() -> None:
    volume = np.zeros(SHAPE)
    volume[4, 5, 6] = 10.0
    prior = AtomsPrior(0.1, SCHEDULE, PROBLEM)
    state = State(volume.copy(), volume, {}, step=4.0, cost=[1.0, 1.0], seconds=[0.0, 0.0])
    assert prior.adapt(state)
    metric = prior.metric
    assert metric is not None
    sums = [gaussian_filter(metric.mean(axis=axis), math.sqrt(2)).max() for axis in (0, 1)]
    assert max(sums) == pytest.approx(1.0)
    near = gaussian_filter(volume, 1.0, mode="constant")
    expected = near / np.sqrt((near[near > 0] ** 2).mean()) + 0.05
    np.testing.assert_allclose(metric / metric[0, 0, 0], expected / 0.05, rtol=1e-6)
    state.cost.append(1.0)
    assert not prior.adapt(state)
    weights = prior.state["weights"]
    # gain · δ / (m/p + δ), m the smoothed solution and p its median where it exceeds a fifth of its greatest value.
    share = near / np.median(near[near > 0.2 * near.max()])
    np.testing.assert_allclose(weights, 1.5 * 0.3 / (share + 0.3), rtol=1e-6)
    assert weights[4, 5, 6] < 0.5 < 1.4 < weights[0, 0, 0] <= 1.5


@pytest.mark.parametrize("axis", [0, 1])
def test_a_row_of_atoms_along_the_beam_of_some_tilt_bounds_the_metric(axis: int) -> None:
    """Tilts about y look along z and x: the projection along each is at most 1, and 1 along the row."""
    volume = np.zeros(SHAPE)
    volume[(slice(None), 5, 6) if axis == 0 else (4, slice(None), 6)] = 10.0
    prior = AtomsPrior(0.1, SCHEDULE, PROBLEM)
    prior.adapt(State(volume.copy(), volume, {}, step=4.0, cost=[1.0, 1.0], seconds=[0.0, 0.0]))
    sums = [gaussian_filter(prior.state["metric"].mean(axis=k), math.sqrt(2)).max() for k in (0, 1)]
    assert sums[axis] == pytest.approx(1.0) and sums[1 - axis] < 0.9


def test_an_empty_solution_leaves_metric_and_weights_at_1() -> None:
    prior = AtomsPrior(0.1, SCHEDULE, PROBLEM)
    empty = np.zeros(SHAPE, np.float32)
    for n_done in (2, 3):
        prior.adapt(State(empty.copy(), empty, {}, step=4.0, cost=[1.0] * n_done))
    np.testing.assert_array_equal(prior.state["metric"], 1)
    np.testing.assert_array_equal(prior.state["weights"], 1)


class _Peaks:
    """Images of a few peaks by the model itself, at few tilts, and fits of them with a schedule."""

    def __init__(self) -> None:
        shape, tilt_deg = (24, 26, 32), np.arange(0, 180, 22.5)
        self.peaks = np.zeros(shape, np.float32)
        for z, x, y in ((8, 9, 10), (8, 14, 20), (15, 12, 9), (14, 17, 22), (11, 8, 16)):
            self.peaks[z, x, y] = 400.0
        blank = TiltSeries(np.ones((len(tilt_deg), 2, *shape[1:])), tilt_deg, np.array([200.0, 450.0]), 0.5)
        multislice = Multislice(series_optics(blank, shape, MicroscopeSpec(), 4))
        blur = Blur(0.7, (6, *shape[1:]))
        images = np.empty_like(blank.images)
        for i, angle_deg in enumerate(tilt_deg):
            slices = rotate_and_bin(self.peaks, angle_deg, 4)
            blur.blur_slices(slices)
            images[i] = np.abs(multislice.images(slices)) ** 2
        self.model = ForwardModel(dataclasses.replace(blank, images=images), shape, microscope=MicroscopeSpec(),
                                  n_layers_per_slice=4, blur_A=0.35)

    def run(self, schedule: AtomsSettings, n_iterations: int, **options: object) -> Solution:
        prior = AtomsPrior(1e-6, schedule, PROBLEM)
        return minimize(
            np.zeros_like(self.peaks), lambda volume, i, step: self.model.descend(volume, i, step, prior.metric),
            prior, Stopping(n_iterations=n_iterations), n_tilts=self.model.n_tilts, step=4 / self.model.lipschitz,
            adapt=prior.adapt, decay=0.7, **{"rng": np.random.default_rng(0), **options})


@pytest.fixture(scope="module")
def peaks() -> _Peaks:
    return _Peaks()


def test_the_metric_finds_peaks_in_a_quarter_of_the_iterations(peaks: _Peaks) -> None:
    never = dataclasses.replace(SCHEDULE, metric_at=10**6, reweight_at=())
    plain, adapted = peaks.run(never, 60), peaks.run(SCHEDULE, 15)
    errors = [np.linalg.norm(solution.volume - peaks.peaks) for solution in (plain, adapted)]
    assert errors[1] < errors[0]
    assert adapted.state.renewals == [SCHEDULE.metric_at]


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(peaks: _Peaks) -> None:
    whole = peaks.run(SCHEDULE, 10)
    for cut in (2, 4):
        rng = np.random.default_rng(0)
        begun = peaks.run(SCHEDULE, cut, rng=rng)
        arrays = {name: a.copy() for name, a in begun.state.arrays().items()}
        values = json.loads(json.dumps(begun.state.values()))
        resumed = peaks.run(SCHEDULE, 10, rng=rng, resume=State.restore(arrays, values))
        np.testing.assert_array_equal(resumed.volume, whole.volume)
        np.testing.assert_array_equal(resumed.cost, whole.cost)


@pytest.mark.parametrize(("words", "step"), [
    (["experiment=sparse"], 4.0), (["scale=small"], 1.51), (["scale=small", "tilts=180"], 0.50),
    (["scale=paper"], 4.0), (["reg.step=2"], 2.0)])
def test_step_follows_how_densely_the_tilts_sample(words: list[str], step: float) -> None:
    spec = spec_of(*words, "reg=atoms")
    assert step_of(spec, spec.tilts.n_tilts) == pytest.approx(step, abs=0.01)
    plain = dataclasses.replace(spec, reg=RegSpec(kind="tv"))
    assert step_of(plain, spec.tilts.n_tilts) == spec.engine.step


def test_the_blur_is_the_setting_or_that_of_the_narrowest_atom() -> None:
    assert blur_A(spec_of("reg=tv")) == 0
    assert blur_A(spec_of("reg=atoms", "reg.blur_A=0.5")) == 0.5
    assert 0.3 < blur_A(spec_of("reg=atoms")) < 0.4


@pytest.mark.parametrize(("name", "value"), [("blur_A", 0.0), ("step", -1.0), ("metric_at", 0), ("reweight_at", (0,)),
                                             ("metric_floor", 0.0), ("reweight_softness", 0.0)])
def test_unusable_settings_are_refused(name: str, value: object) -> None:
    with pytest.raises(SpecError, match=f"reg.{name}"):
        RegSpec(kind="atoms", **{name: value})
