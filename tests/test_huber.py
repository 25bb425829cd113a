"""Huber total variation: its proximal operator by its definition, its limits, and its way through a run."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from aetlab import flow
from aetlab.spec.choices import settings
from tests.priors import make_prox

SHAPE = (4, 5, 6)


class _Heard:
    """Keep what a run says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def step(self, stage: str, done: int, total: int, detail: str = "") -> None: ...

    def say(self, text: str) -> None:
        self.said.append(text)


def _differences(u: np.ndarray) -> list[np.ndarray]:
    return [np.roll(u, -1, axis) - u for axis in range(3)]


@pytest.mark.parametrize(("weight", "step", "edge_V"), [(0.3, 2.0, 0.5), (0.05, 2.0, 3.0), (3.0, 0.5, 0.2)])
def test_the_proximal_operator_against_brute_force(weight: float, step: float, edge_V: float) -> None:
    """L-BFGS-B with bounds on ½‖u - v‖² + step·weight·Σ h(|Du|), which is smooth."""
    volume = np.random.default_rng(2).normal(0.5, 1.0, SHAPE)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        u = flat.reshape(SHAPE)
        differences = _differences(u)
        length = np.sqrt(sum(d**2 for d in differences))
        cost = np.where(length <= edge_V, length**2 / (2 * edge_V), length - edge_V / 2).sum()
        gradient = u - volume
        for axis, d in enumerate(differences):
            slope = d / np.maximum(length, edge_V)
            gradient = gradient + step * weight * (np.roll(slope, 1, axis) - slope)
        return 0.5 * float(((u - volume) ** 2).sum()) + step * weight * float(cost), gradient.ravel()

    brute = minimize(objective, np.maximum(volume, 0).ravel(), jac=True, bounds=[(0, None)] * volume.size,
                     method="L-BFGS-B", options={"maxiter": 20000, "ftol": 1e-15, "gtol": 1e-10}).x.reshape(SHAPE)
    found = make_prox("huber", weight, inner_iterations=1000, edge_V=edge_V)(volume.copy(), step)
    np.testing.assert_allclose(found, brute, atol=1e-6)


def test_a_tiny_edge_gives_total_variation_and_a_huge_one_the_volume() -> None:
    volume = np.random.default_rng(3).normal(0.5, 1.0, SHAPE)
    options = {"inner_iterations": 2000}
    by_tv = make_prox("tv", 0.3, **options)(volume.copy(), 2.0)
    np.testing.assert_allclose(make_prox("huber", 0.3, edge_V=1e-5, **options)(volume.copy(), 2.0), by_tv, atol=1e-3)
    free = make_prox("huber", 0.3, edge_V=1e7, **options)(volume.copy(), 2.0)
    np.testing.assert_allclose(free, np.maximum(volume, 0), atol=1e-6)


def test_warm_starts_continue_in_single_precision() -> None:
    volume = np.random.default_rng(4).normal(0.5, 1.0, SHAPE)
    limit = make_prox("huber", 0.3, inner_iterations=2000)(volume.copy(), 1.0)
    prox = make_prox("huber", 0.3, inner_iterations=4, warm_start=True)
    for _ in range(50):
        found = prox(volume.astype(np.float32), 1.0)
    assert found.dtype == np.float32 and set(prox.state) == {"dual"}
    np.testing.assert_allclose(found, limit, atol=1e-5)


def test_a_run_reconstructs_on_the_cpu_and_reports_it() -> None:
    """The edge changes the volume, and the kind is part of the record's settings."""
    heard = _Heard()
    volumes = []
    for edge_V in (1.0, 5.0):
        spec = settings(scale="smoke", reg="huber", overrides={
            "tilts.n_tilts": 4, "engine.n_iterations": 2, "simulate.n_layers": 8, "reg.edge_V": edge_V})
        series = flow.simulate(spec, flow.sample(spec))
        volumes.append(flow.reconstruct(spec, series, progress=heard).volume.potential_V)
    assert "the CPU reconstructs: reg.kind=huber has no GPU version" in heard.said
    assert volumes[0].min() >= 0 and np.abs(volumes[0] - volumes[1]).max() > 1e-3
