"""No regulariser: the volume is real, and the proximal operator is the identity."""

from __future__ import annotations

from typing import Any

from aetlab.methods.regulariser import Launcher, NoSettings, OnGpu, Prior, Problem, Regulariser, slab_by_slab


class Identity:
    """The identity."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def __call__(self, volume: Any, step: float) -> Any:
        return volume


def _make_on_gpu(device: Launcher, own: NoSettings, weight: float, problem: Problem) -> Prior:
    return Prior(Identity())


ROW = Regulariser(
    meaning="real", label="none", settings=NoSettings, weighted=False, cost="none",
    make=lambda own, weight, problem: Prior(Identity()),
    gpu=OnGpu(0, _make_on_gpu, slab_by_slab(_make_on_gpu)))
