"""Workers share the cores and GPUs of a machine by the class of their launcher, not by the name of its choice."""

from __future__ import annotations

import pytest

from aetlab.cli.workers import HERE, Launcher, Workers, count_workers, share_machine
from aetlab.core import backend
from aetlab.core.files import StorageError
from aetlab.spec import RunSpec

POOL = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"


@pytest.mark.parametrize(("n_jobs", "n_runs", "n_workers", "n_threads"), [
    (-1, 100, 12, 1), (-1, 3, 3, 4), (2, 100, 2, 6), (-2, 100, 11, 1), (-20, 5, 1, 12), (20, 20, 20, 1)])
def test_a_pool_divides_the_cores(n_jobs: int, n_runs: int, n_workers: int, n_threads: int, smoke_spec: RunSpec,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "n_cores", lambda: 12)
    workers = count_workers(Launcher("mine", POOL, n_jobs), n_runs)
    assert workers == Workers(n_workers)
    assert share_machine(smoke_spec, workers).engine.n_threads == n_threads


def test_a_pool_on_gpus_has_a_worker_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,3")
    assert count_workers(Launcher("mine", POOL, -1, on_gpus=True), 100) == Workers(3, n_gpus=1)
    assert count_workers(Launcher("mine", POOL, -1, on_gpus=True), 100, 2) == Workers(1, n_gpus=2)
    with pytest.raises(StorageError, match=r"cannot be used: engine.devices=4 exceeds the visible GPUs \(3\)"):
        count_workers(Launcher("mine", POOL, -1, on_gpus=True), 100, 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(StorageError, match="hydra/launcher=mine cannot be used: no GPU is visible"):
        count_workers(Launcher("mine", POOL, -1, on_gpus=True), 100)


def test_other_launchers_share_nothing(smoke_spec: RunSpec) -> None:
    assert count_workers(HERE, 9) == Workers(in_this_process=True)
    elsewhere = count_workers(Launcher("far", "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"), 9)
    assert elsewhere == Workers() and share_machine(smoke_spec, elsewhere) is smoke_spec
