"""Limited-memory BFGS with a preconditioner.

Nocedal and Wright, Numerical Optimization (2006), algorithm 7.4, with the preconditioner in the place of γ·1. The
preconditioner is scaled by the latest curvature. There is no line search: a step of length 1 is taken unless it raises
the cost. A rejected step still contributes its curvature pair; a new direction is tried from the same point, with its
length halved once for each rejection. Pairs of non-positive curvature are discarded, so that every direction descends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Vector = np.ndarray

#: Number of curvature pairs that are kept.
MEMORY = 12
#: Consecutive rejected steps before the minimisation stops.
FAILURES_MAX = 6


@dataclass(frozen=True)
class Descent:
    """Result of a minimisation: ``point`` with its ``cost`` and ``gradient``, and the costs of all passes.

    ``decrement`` is the length of the last step proposed, in the metric of the preconditioner:
    √(gᵀ H g). ``stopped`` is ``converged``, ``passes`` (all used up) or ``no descent``.
    """

    point: Vector
    cost: float
    gradient: Vector
    costs: tuple[float, ...]
    decrement: float
    stopped: str


def minimize_lbfgs(point: Vector, evaluate: Callable[[Vector], tuple[float, Vector]],
                   precondition: Callable[[Vector], Vector], *, n_passes: int, tolerance: float,
                   limit: Callable[[Vector], Vector],
                   settled: Callable[[Vector], bool] = lambda direction: True) -> Descent:
    """Minimise a smooth function from ``point`` (P,) in at most ``n_passes`` evaluations.

    Parameters
    ----------
    point
        Where to begin.
    evaluate
        Cost and gradient at a point: one pass.
    precondition
        A positive symmetric approximation of the inverse Hessian, applied to a vector.
    n_passes, tolerance
        Evaluations at most; stop when the decrement √(gᵀ H g) is below ``tolerance``.
    limit
        Shortens a step where parts of it are too long to be trusted.
    settled
        Whether the step proposed is small enough in those parts of it that the decrement of all hides.
    """
    cost, gradient = evaluate(point)
    costs = [cost]
    pairs: deque[tuple[Vector, Vector, float]] = deque(maxlen=MEMORY)
    stopped, failures = "passes", 0
    while True:
        direction = -_apply_inverse(gradient, pairs, precondition)
        decrement = float(np.sqrt(max(-float(direction @ gradient), 0.0)))
        if decrement < tolerance and settled(direction):
            stopped = "converged"
            break
        if failures > FAILURES_MAX:
            stopped = "no descent"
            break
        if len(costs) >= n_passes:
            break
        step = limit(0.5**failures * direction)
        new_cost, new_gradient = evaluate(point + step)
        costs.append(new_cost)
        change = new_gradient - gradient
        curvature = float(step @ change)
        if curvature > 1e-10 * float(np.linalg.norm(step) * np.linalg.norm(change)):
            pairs.append((step, change, 1 / curvature))
        if new_cost <= cost:
            point, cost, gradient, failures = point + step, new_cost, new_gradient, 0
        else:
            failures += 1
    return Descent(point, cost, gradient, tuple(costs), decrement, stopped)


def _apply_inverse(gradient: Vector, pairs: deque[tuple[Vector, Vector, float]],
                   precondition: Callable[[Vector], Vector]) -> Vector:
    """Apply the approximate inverse Hessian: the two loops of L-BFGS."""
    q = gradient.copy()
    factors = []
    for step, change, rho in reversed(pairs):
        factor = rho * float(step @ q)
        q -= factor * change
        factors.append(factor)
    q = precondition(q)
    if pairs:
        step, change, rho = pairs[-1]
        q *= 1 / (rho * float(change @ precondition(change)))
    for (step, change, rho), factor in zip(pairs, reversed(factors), strict=True):
        q += step * (factor - rho * float(change @ q))
    return q
