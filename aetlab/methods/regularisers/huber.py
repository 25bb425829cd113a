"""Huber total variation: total variation whose cost of small differences is quadratic, over u ≥ 0.

R(u) = Σ h(|D u|) with the periodic forward differences D and, for a difference d in V and the edge δ (P. J. Huber, Ann.
Math. Statist. 35, 73, 1964),

    h(d) = d²/(2δ) for d ≤ δ,    h(d) = d - δ/2 beyond.

Slopes below δ are smoothed and do not become stairs. Steps beyond δ are kept as by total variation, the limit δ → 0.
The conjugate is h*(p) = ½ δ p² for p ≤ 1, which :mod:`aetlab.methods.dual_solver` takes into account.
"""

from __future__ import annotations

from dataclasses import dataclass

from aetlab.core.setting import setting
from aetlab.methods.dual_solver import DualSolver, inner_iterations, warm_start
from aetlab.methods.regulariser import Prior, Problem, Regulariser


@dataclass(frozen=True, kw_only=True)
class HuberSettings:
    """The settings of the dual solver, and the edge."""

    inner_iterations: int = inner_iterations()
    warm_start: bool = warm_start()
    edge_V: float = setting("difference of neighbouring voxels from which Huber total variation counts it in full",
                            unit="V", within="(0, inf)", default=1.0)


def _make(own: HuberSettings, weight: float, problem: Problem) -> Prior:
    return Prior(DualSolver(weight, own, damping_V=own.edge_V, support=problem.support))


ROW = Regulariser(meaning="total variation with quadratic small differences, positive", label="Huber total variation",
                  settings=HuberSettings, make=_make, volumes=6, cost="inner")
