"""The solver on sums of quadratics whose answers are known, and its restarts, halvings and checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from aetlab.methods.regulariser import Prox
from aetlab.solve import State, Stopping, minimize, rule_weight
from tests.priors import make_prox

SHAPE = (4, 5, 6)
N_TILTS = 3
#: First volumes by regulariser; the kernels of total variation are compiled for single precision, as runs use them.
START = {kind: np.zeros(SHAPE, np.float32 if kind == "tv" else float) for kind in ("none", "pos", "lasso", "tv")}


class Quadratic:
    """Σ_i ½ ‖d_i (u - target)‖²: the tilts agree, so incremental steps converge to the target."""

    def __init__(self, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.target = rng.uniform(0.5, 2.0, SHAPE)
        self._curvature = rng.uniform(0.1, 1.0, (N_TILTS, *SHAPE))
        self.order: list[int] = []

    def cost(self, volume: np.ndarray) -> float:
        return float(0.5 * (self._curvature * (volume - self.target) ** 2).sum())

    def descend(self, volume: np.ndarray, i_tilt: int, step: float) -> float:
        self.order.append(i_tilt)
        error = volume - self.target
        volume -= step * self._curvature[i_tilt] * error
        return float(0.5 * (self._curvature[i_tilt] * error**2).sum())


def _prox(kind: str) -> Prox:
    return make_prox(kind, 0.01, **({"warm_start": True} if kind == "tv" else {}))


def _minimize(problem: Quadratic, n_iterations: int = 60, step: float = 0.5, kind: str = "pos", *,
              enough: Callable[[State, int], str] | None = None, **options: object):
    stopping = Stopping(n_iterations=n_iterations, enough=enough)
    return minimize(START[kind].copy(), problem.descend, _prox(kind), stopping, n_tilts=N_TILTS, step=step,
                    rng=np.random.default_rng(2), **options)


def test_converges_to_the_common_minimum() -> None:
    problem = Quadratic()
    solution = _minimize(problem)
    np.testing.assert_allclose(solution.volume, problem.target, atol=1e-3)
    assert len(solution.cost) == len(solution.seconds) == 60
    assert solution.stopped == "all 60 iterations done"
    assert solution.halvings == ()


def test_visits_every_tilt_once_an_iteration_in_changing_order() -> None:
    problem = Quadratic()
    _minimize(problem, 10)
    orders = np.array(problem.order).reshape(10, N_TILTS)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(N_TILTS), (10, 1)))
    assert len(np.unique(orders, axis=0)) > 1


def test_first_two_iterations_follow_the_published_sequence() -> None:
    """U2 = V1 (t1 = 1 gives no momentum yet), U3 = V2 + (t2 - 1)/t3 (V2 - V1)."""
    problem = Quadratic()
    seen: list[np.ndarray] = []
    _minimize(problem, 2, step=0.1, on_iteration=lambda s: seen.extend((s.proximal.copy(), s.volume.copy())))
    v1, u2, v2, u3 = seen
    t2 = (1 + np.sqrt(5)) / 2
    t3 = (1 + np.sqrt(1 + 4 * t2**2)) / 2
    np.testing.assert_array_equal(u2, v1)
    np.testing.assert_allclose(u3, v2 + (t2 - 1) / t3 * (v2 - v1), rtol=1e-12)


def test_a_rise_of_the_cost_resets_momentum_at_the_last_proximal_point() -> None:
    """Momentum overshoots the minimum of a well-conditioned problem; the iteration that shows it is discarded."""
    problem = Quadratic()
    history: list[tuple[np.ndarray, np.ndarray, float]] = []
    solution = _minimize(
        problem, on_iteration=lambda s: history.append((s.volume.copy(), s.proximal.copy(), s.momentum)))
    assert solution.restarts
    for i in solution.restarts:
        assert solution.cost[i] > solution.cost[i - 1]
        volume, proximal, momentum = history[i]
        np.testing.assert_array_equal(proximal, history[i - 1][1])
        np.testing.assert_array_equal(volume, proximal)
        assert momentum == 1.0


def test_each_reset_shortens_the_step_and_none_follows_another() -> None:
    """A shorter step alone raises the cost of an iteration: reset again, it would shrink to nothing."""
    steps: list[float] = []
    solution = _minimize(Quadratic(), 40, decay=0.5, on_iteration=lambda s: steps.append(s.step))
    assert len(solution.restarts) >= 2
    assert np.diff(solution.restarts).min() >= 2
    for i in range(1, len(steps)):
        assert steps[i] == steps[i - 1] * (0.5 if i in solution.restarts else 1.0)


def test_divergence_halves_the_step_and_continues_from_the_last_good_iterate() -> None:
    problem = Quadratic()
    solution = _minimize(problem, 200, step=40.0, kind="none")
    assert solution.halvings
    assert solution.step == 40.0 / 2 ** len(solution.halvings)
    np.testing.assert_allclose(solution.volume, problem.target, atol=1e-2)


def test_not_a_number_is_a_divergence() -> None:
    problem = Quadratic()
    calls = []

    def descend(volume: np.ndarray, i_tilt: int, step: float) -> float:
        calls.append(i_tilt)
        cost = problem.descend(volume, i_tilt, step)
        if len(calls) == 8:
            volume[...] = np.nan
            return np.nan
        return cost

    solution = minimize(np.zeros(SHAPE), descend, make_prox("pos"), Stopping(n_iterations=60), n_tilts=N_TILTS,
                        step=0.4, rng=np.random.default_rng(2))
    assert solution.halvings == (2,)
    np.testing.assert_allclose(solution.volume, problem.target, atol=1e-2)


def test_a_callback_ends_the_solver_and_a_resumed_run_takes_no_further_step() -> None:
    told = "the cost is low enough"
    whole = _minimize(Quadratic(), 60)
    level = float(whole.cost[4])
    solution = _minimize(Quadratic(), 60, enough=lambda state, settled: told if state.cost[-1] <= level else "")
    assert solution.stopped == told
    np.testing.assert_array_equal(solution.cost, whole.cost[:5])
    again = _minimize(Quadratic(), 60, enough=lambda state, settled: told if state.cost[-1] <= level else "",
                      resume=State.restore(solution.state.arrays(), solution.state.values()))
    assert again.stopped == told and len(again.cost) == 5
    np.testing.assert_array_equal(again.volume, solution.volume)


def test_a_diverging_problem_ends_with_its_reason() -> None:
    solution = minimize(np.zeros(SHAPE), lambda volume, i_tilt, step: float("nan"), make_prox("pos"),
                        Stopping(n_iterations=1000), n_tilts=N_TILTS, step=1.0, rng=np.random.default_rng(2))
    assert solution.stopped.startswith("diverged")
    assert len(solution.cost) < 100
    np.testing.assert_array_equal(solution.volume, 0)


@pytest.mark.parametrize("kind", ["tv", "lasso"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(kind: str) -> None:
    """Through the arrays and the JSON of a checkpoint, with the dual variables of a warm-started TV."""
    whole = _minimize(Quadratic(), 12, kind=kind)
    checkpoints = []
    rng = np.random.default_rng(2)

    def keep(state: State) -> None:
        if state.n_done == 5:
            arrays = {name: a.copy() for name, a in state.arrays().items()}
            checkpoints.append((arrays, json.dumps(state.values()), json.dumps(rng.bit_generator.state)))

    options = dict(n_tilts=N_TILTS, step=0.5)
    minimize(START[kind].copy(), Quadratic().descend, _prox(kind), Stopping(n_iterations=5), rng=rng,
             on_iteration=keep, **options)
    arrays, values, rng_state = checkpoints[0]
    later = np.random.default_rng(99)
    later.bit_generator.state = json.loads(rng_state)
    resumed = minimize(np.zeros(SHAPE), Quadratic().descend, _prox(kind), Stopping(n_iterations=12),
                       rng=later, resume=State.restore(arrays, json.loads(values)), **options)
    np.testing.assert_array_equal(resumed.volume, whole.volume)
    np.testing.assert_array_equal(resumed.cost, whole.cost)
    assert resumed.restarts == whole.restarts


def test_rule_weight_follows_dose_and_images() -> None:
    """∝ 1/√n_e where shot noise rules, ∝ √n_images, and finite at infinite dose."""
    base = dict(interaction=6.5262e-4, voxel_A=0.5, floor=0.0)

    def alike(n_images: int, electrons: float) -> dict[str, np.ndarray]:
        return {"electrons_per_pixel": np.full((n_images, 1), electrons), "image_weights": np.ones((n_images, 1))}

    one = rule_weight(0.4, **alike(180, 70.0), **base)
    assert one == pytest.approx(0.4 * 6.5262e-4 * 0.5 * np.sqrt(180) / np.sqrt(4 * 70.0))
    assert rule_weight(0.4, **alike(180, 280.0), **base) == pytest.approx(one / 2)
    assert rule_weight(0.4, **alike(720, 70.0), **base) == pytest.approx(2 * one)
    floored = rule_weight(0.4, interaction=6.5262e-4, voxel_A=0.5, **alike(180, float("inf")))
    assert floored == pytest.approx(0.4 * 6.5262e-4 * 0.5 * np.sqrt(180) * 0.01)


def test_rule_weight_adds_the_noise_of_images_that_differ() -> None:
    """Four images of 10, 30, 20 and 20 electrons, the last of half the weight; their noise by hand."""
    electrons, weights = np.array([[10.0, 30.0], [20.0, 20.0]]), np.array([[0.5, 1.5], [1.0, 0.5]])
    found = rule_weight(2.0, interaction=1e-3, voxel_A=0.5, electrons_per_pixel=electrons, image_weights=weights)
    variance = 0.25 * (1 / 40 + 1e-4) + 2.25 * (1 / 120 + 1e-4) + 1 * (1 / 80 + 1e-4) + 0.25 * (1 / 80 + 1e-4)
    assert found == pytest.approx(2.0 * 1e-3 * 0.5 * np.sqrt(variance))
    missing = rule_weight(2.0, interaction=1e-3, voxel_A=0.5, electrons_per_pixel=electrons,
                          image_weights=np.array([[0.0, 0.0], [1.0, 0.0]]))
    assert missing == pytest.approx(2.0 * 1e-3 * 0.5 * np.sqrt(1 / 80 + 1e-4))
