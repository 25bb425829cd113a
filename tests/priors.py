"""Regularisers of the table by name, with their own settings as keywords."""

from __future__ import annotations

from typing import Any

from aetlab.methods.regulariser import Launcher, Problem, Prox
from aetlab.methods.regularisers import REGULARISERS

PROBLEM = Problem((8, 10, 12), 1.0, 8, 1.0)


def make_prox(kind: str, weight: float = 0.0, **own: Any) -> Prox:
    """Return the proximal operator on the CPU."""
    row = REGULARISERS[kind]
    return row.make(row.settings(**own), weight, PROBLEM).prox


def make_gpu_prox(device: Launcher, kind: str, weight: float = 0.0, **own: Any) -> Prox:
    """Return the proximal operator on ``device``."""
    row = REGULARISERS[kind]
    assert row.gpu is not None
    return row.gpu.make(device, row.settings(**own), weight, PROBLEM).prox
