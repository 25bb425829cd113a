"""Each proximal operator against long minimisation of its own definition, on a non-cubic shape."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from aetlab.methods.prox_kernels import BLOCK
from aetlab.spec import RegSpec, SpecError
from tests.priors import make_prox

SHAPE = (4, 5, 6)


def _total_variation(u: np.ndarray, smooth: float = 0.0) -> float:
    """Isotropic, periodic; the volume may be flattened."""
    u = u.reshape(SHAPE)
    return float(np.sqrt(sum((np.roll(u, -1, axis) - u) ** 2 for axis in range(3)) + smooth).sum())


def _objective(kind: str, u: np.ndarray, volume: np.ndarray, threshold: float) -> float:
    regulariser = {"tv": _total_variation(u), "lasso": float(np.abs(u).sum()), "pos": 0.0, "none": 0.0}[kind]
    return 0.5 * float(((u - volume) ** 2).sum()) + threshold * regulariser


@pytest.mark.parametrize(("kind", "weight", "step"), [("tv", 0.3, 2.0), ("lasso", 0.3, 2.0), ("pos", 0.0, 2.0),
                                                     ("none", 0.0, 2.0)])
def test_no_point_near_the_result_has_a_lower_objective(kind: str, weight: float, step: float) -> None:
    """The result minimises ½‖u - v‖² + step·weight·R(u): no feasible step in a random direction lowers it."""
    rng = np.random.default_rng(1)
    volume = rng.normal(0.5, 1.0, SHAPE)
    u = make_prox(kind, weight, **({"inner_iterations": 3000} if kind == "tv" else {}))(volume.copy(), step)
    best = _objective(kind, u, volume, step * weight)
    for size in (1e-3, 1e-2, 1e-1):
        for _ in range(50):
            other = u + size * rng.standard_normal(SHAPE)
            if kind in ("tv", "pos"):
                other = np.maximum(other, 0)
            assert _objective(kind, other, volume, step * weight) >= best - 1e-9


@pytest.mark.parametrize(("weight", "step"), [(0.05, 2.0), (0.3, 2.0), (3.0, 0.5)])
def test_total_variation_against_quasi_newton(weight: float, step: float) -> None:
    """L-BFGS-B with bounds on the (slightly smoothed) definition finds the same volume."""
    volume = np.random.default_rng(2).normal(0.5, 1.0, SHAPE)

    def smoothed(flat: np.ndarray) -> tuple[float, np.ndarray]:
        u = flat.reshape(SHAPE)
        differences = [np.roll(u, -1, axis) - u for axis in range(3)]
        length = np.sqrt(sum(d**2 for d in differences) + 1e-10)
        gradient = u - volume
        for axis, d in enumerate(differences):
            gradient = gradient + step * weight * (np.roll(d / length, 1, axis) - d / length)
        return 0.5 * float(((u - volume) ** 2).sum()) + step * weight * float(length.sum()), gradient.ravel()

    bounds = [(0, None)] * volume.size
    brute = minimize(smoothed, np.maximum(volume, 0).ravel(), jac=True, bounds=bounds, method="L-BFGS-B",
                     options={"maxiter": 20000, "maxfun": 40000, "ftol": 1e-15, "gtol": 1e-10}).x.reshape(SHAPE)
    u = make_prox("tv", weight, inner_iterations=3000)(volume.copy(), step)
    np.testing.assert_allclose(u, brute, atol=2e-3)


def test_fifteen_inner_iterations_are_near_the_limit() -> None:
    """The setting of the paper is a converged one at the thresholds in use."""
    volume = np.random.default_rng(3).normal(0.5, 1.0, SHAPE)
    few = make_prox("tv", 0.1)(volume.copy(), 1.0)
    many = make_prox("tv", 0.1, inner_iterations=3000)(volume.copy(), 1.0)
    assert np.abs(few - many).max() < 0.01


@pytest.mark.parametrize("n_x", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
def test_total_variation_does_not_depend_on_its_blocks(n_x: int) -> None:
    """The blocked, in-place dual iteration is the textbook one at any number of rows."""
    rng = np.random.default_rng(4)
    volume = rng.normal(0.5, 1.0, (3, n_x, 5))
    threshold, n_inner = 0.4, 7
    p = r = np.zeros((3, *volume.shape))
    t = 1.0
    for _ in range(n_inner):
        u = np.maximum(0, volume - threshold * sum(np.roll(r[a], 1, a) - r[a] for a in range(3)))
        ascent = r + np.stack([np.roll(u, -1, a) - u for a in range(3)]) / (12 * threshold)
        q, p = p, ascent / np.maximum(1, np.sqrt((ascent**2).sum(0)))
        following = (1 + np.sqrt(1 + 4 * t**2)) / 2
        r, t = p + (t - 1) / following * (p - q), following
    expected = np.maximum(0, volume - threshold * sum(np.roll(p[a], 1, a) - p[a] for a in range(3)))
    np.testing.assert_allclose(make_prox("tv", 0.2, inner_iterations=n_inner)(volume, 2.0), expected, atol=1e-12)


def test_calls_without_warm_start_keep_no_state() -> None:
    rng = np.random.default_rng(5)
    prox = make_prox("tv", 0.2)
    first, second = rng.normal(0.5, 1.0, SHAPE), rng.normal(0.5, 1.0, SHAPE)
    prox(first.copy(), 1.0)
    np.testing.assert_array_equal(prox(second.copy(), 1.0), make_prox("tv", 0.2)(second.copy(), 1.0))


def test_warm_starts_continue_the_inner_iteration() -> None:
    """Calls on the same volume converge together although each has few inner iterations."""
    volume = np.random.default_rng(6).normal(0.5, 1.0, SHAPE)
    limit = make_prox("tv", 0.3, inner_iterations=3000)(volume.copy(), 1.0)
    prox = make_prox("tv", 0.3, inner_iterations=3, warm_start=True)
    first = np.abs(prox(volume.copy(), 1.0) - limit).max()
    for _ in range(100):
        last = np.abs(prox(volume.copy(), 1.0) - limit).max()
    assert last < 1e-3 < first


def test_lasso_is_the_soft_threshold_and_its_moreau_partner_the_clip() -> None:
    """v = prox_f(v) + prox_f*(v); the conjugate of a weighted 1-norm is the indicator of a box."""
    volume = np.random.default_rng(7).normal(0, 2.0, SHAPE)
    u = make_prox("lasso", 0.5)(volume.copy(), 2.0)
    np.testing.assert_allclose(volume - u, np.clip(volume, -1.0, 1.0), atol=1e-15)
    assert (u < 0).any()


@pytest.mark.parametrize("kind", ["tv", "lasso", "pos", "none"])
def test_works_in_place_in_single_precision(kind: str) -> None:
    volume = np.random.default_rng(8).normal(0.5, 1.0, SHAPE).astype(np.float32)
    double = make_prox(kind, 0.3)(volume.astype(np.float64), 1.0)
    single = make_prox(kind, 0.3)(volume, 1.0)
    assert single is volume
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, double, atol=1e-5)


def test_unknown_regulariser_names_the_choices() -> None:
    with pytest.raises(SpecError, match="choose one of atoms, .*lasso, none, pos, tv"):
        RegSpec(kind="ridge")


def test_eight_warm_iterations_are_nearer_to_the_limit_than_fifteen_cold_ones() -> None:
    """Volumes that settle as those of a reconstruction do; the dual variables follow them at half the cost."""
    rng = np.random.default_rng(9)
    settled, change = rng.normal(0.5, 1.0, (8, 10, 12)), rng.normal(0.0, 1.0, (8, 10, 12))
    warm = make_prox("tv", 0.4, inner_iterations=8, warm_start=True)
    for k in range(12):
        volume = settled + 0.6**k * change
        by_warm = warm(volume.copy(), 1.0)
    limit = make_prox("tv", 0.4, inner_iterations=3000)(volume.copy(), 1.0)
    by_cold = make_prox("tv", 0.4, inner_iterations=15)(volume.copy(), 1.0)
    assert np.linalg.norm(by_warm - limit) < np.linalg.norm(by_cold - limit)
    assert np.linalg.norm(by_warm - limit) < 0.01 * np.linalg.norm(limit)
