"""Ctrl-C during a reconstruction: the iteration is saved, and the next start goes on from it with the same numbers."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from aetlab import flow
from aetlab.core.nouns import Reconstruction
from aetlab.core.tilt_series import TiltSeries
from aetlab.spec import RunSpec
from aetlab.spec.choices import settings
from aetlab.store.checkpoint import CheckpointFile, PostponedStop


class Interrupter:
    """A reporter that raises SIGINT at iteration ``at`` of ``stage``, ``times`` in a row, and counts the iterations."""

    def __init__(self, stage: str = "", at: int = 0, times: int = 1) -> None:
        self.stage, self.at, self.times = stage, at, times
        self.said: list[str] = []
        self.steps: list[tuple[str, int]] = []

    def step(self, stage: str, done: int, total: int, detail: str = "") -> None:
        self.steps.append((stage, done))
        if (stage, done) == (self.stage, self.at):
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)

    def say(self, text: str) -> None:
        self.said.append(text)


def reconstruct(spec: RunSpec, series: TiltSeries, path: Path, progress: Interrupter) -> Reconstruction:
    """Reconstruct as the keeper does; a checkpoint by time alone is due after an hour."""
    with PostponedStop() as stop:
        checkpoints = CheckpointFile(path, run="r", data=series.digest(), say=progress.say, stop=stop)
        checkpoints._schedule._wait_s = 3600
        return flow.reconstruct(spec, series, progress=progress, checkpoints=checkpoints)


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Background jobs of a shell ignore SIGINT by default, and the tests that they run inherit it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def acquire() -> Callable[..., tuple[RunSpec, TiltSeries]]:
    def acquired(reg: str) -> tuple[RunSpec, TiltSeries]:
        spec = settings(scale="smoke", reg=reg, dose=1e6, overrides={
            "tilts.n_tilts": 4, "engine.n_iterations": 6, "simulate.n_layers": 16, "engine.n_threads": 1})
        return spec, flow.simulate(spec, flow.sample(spec))

    return acquired


def test_ctrl_c_in_the_search_of_the_weight_goes_on_with_the_trial_that_was_cut_off(
        acquire: Callable[..., tuple[RunSpec, TiltSeries]], tmp_path: Path) -> None:
    """In iteration 6 of the second trial of 15 iterations; the first was repeated before, and the second begun anew."""
    spec, series = acquire("tv")
    spec = dataclasses.replace(spec, reg=dataclasses.replace(spec.reg, weight="auto"))
    whole = Interrupter()
    unbroken = flow.reconstruct(spec, series, progress=whole)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(spec, series, tmp_path / "c.h5", Interrupter("weight", 21))
    again = Interrupter()
    resumed = reconstruct(spec, series, tmp_path / "c.h5", again)
    assert "goes on after 1 weights and iteration 6 of 15 of the next" in again.said
    assert [step for step in again.steps if step[0] == "weight"] == [
        step for step in whole.steps if step[0] == "weight"][21:]
    np.testing.assert_array_equal(resumed.volume.potential_V, unbroken.volume.potential_V)
    assert resumed.weight_per_V == unbroken.weight_per_V


@pytest.mark.parametrize(("reg", "stage"), [("tv", "reconstruct"), ("pos", "split")])
def test_ctrl_c_at_iteration_4_of_6_goes_on_from_there(acquire: Callable[..., tuple[RunSpec, TiltSeries]],
                                                       tmp_path: Path, reg: str, stage: str) -> None:
    spec, series = acquire(reg)
    unbroken = flow.reconstruct(spec, series)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(spec, series, tmp_path / "c.h5", Interrupter(stage, 4))
    assert signal.getsignal(signal.SIGINT) is handler
    again = Interrupter()
    resumed = reconstruct(spec, series, tmp_path / "c.h5", again)
    np.testing.assert_array_equal(resumed.volume.potential_V, unbroken.volume.potential_V)
    np.testing.assert_array_equal(resumed.cost, unbroken.cost)
    assert [done for name, done in again.steps if name == stage][1] == 5
    assert ("goes on after iteration 4 of 6" in again.said) == (stage == "reconstruct")


def test_a_signal_acts_at_once_before_the_first_iteration_and_the_second_time() -> None:
    with pytest.raises(KeyboardInterrupt), PostponedStop():
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal was postponed")
    with pytest.raises(KeyboardInterrupt), PostponedStop() as stop:
        stop.iterated()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.pending
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second signal was postponed")
    with pytest.raises(KeyboardInterrupt), PostponedStop() as stop:  # after the last iteration
        stop.iterated()
        os.kill(os.getpid(), signal.SIGINT)
