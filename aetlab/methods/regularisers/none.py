"""No regulariser: the volume is real, and the proximal operator is the identity."""

from __future__ import annotations

from typing import Any

from aetlab.methods.regulariser import NoSettings, OnGpu, Prior, Regulariser


class Identity:
    """The identity."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def __call__(self, volume: Any, step: float) -> Any:
        return volume


ROW = Regulariser(
    meaning="real", label="none", settings=NoSettings, weighted=False, cost="none",
    make=lambda own, weight, problem: Prior(Identity()),
    gpu=OnGpu(0, lambda device, own, weight, problem: Prior(Identity())))
