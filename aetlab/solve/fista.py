"""Accelerated incremental proximal gradient descent (algorithm 3 of the paper).

An iteration visits the tilts in random order and steps down the gradient of each; then come one proximal step and one
Nesterov step. If the cost of an iteration, summed over the tilts on its way, rose against the iteration before,
momentum is reset and the iterate falls back to the last proximal point; the iteration after that is taken as it comes,
since a shorter step alone makes its cost higher. If it diverged, the step is halved besides.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from aetlab.core.backend import to_numpy
from aetlab.solve import kernels_numba as kernels
from aetlab.solve.prox import Prox

#: An iteration has diverged when its cost exceeds this multiple of n_tilts times the cost of the very first tilt.
DIVERGED = 4.0

#: Halvings of the step after which the solver gives up.
MAX_HALVINGS = 30


@dataclass
class State:
    """Where a reconstruction stands: enough, with the random generator, to go on bit for bit.

    ``volume`` is the iterate that the next iteration begins with, ``proximal`` the last proximal point (the result),
    ``limit`` the cost beyond which an iteration has diverged.
    """

    volume: np.ndarray
    proximal: np.ndarray
    kept: dict[str, np.ndarray]
    step: float
    momentum: float = 1.0
    limit: float = math.inf
    cost: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    restarts: list[int] = field(default_factory=list)
    halvings: list[int] = field(default_factory=list)
    renewals: list[int] = field(default_factory=list)

    @property
    def n_done(self) -> int:
        """Iterations done."""
        return len(self.cost)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of a checkpoint; ``kept`` are those of the proximal operator."""
        arrays = {"volume": self.volume, "proximal": self.proximal, **{f"prox_{k}": a for k, a in self.kept.items()}}
        return {name: to_numpy(array) for name, array in arrays.items()}

    def values(self) -> dict[str, Any]:
        """The plain values of a checkpoint, fit for JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("volume", "proximal", "kept")}

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> State:
        """The state whose :meth:`arrays` and :meth:`values` these are."""
        kept = {name.removeprefix("prox_"): a for name, a in arrays.items() if name.startswith("prox_")}
        return cls(arrays["volume"], arrays["proximal"], kept, **values)


@dataclass(frozen=True)
class Solution:
    """The last proximal point, with one entry an iteration of cost and seconds, and why the solver stopped.

    ``restarts`` and ``halvings`` are the iterations after which momentum was reset because the cost rose, and the step
    halved because it diverged.
    """

    volume: np.ndarray
    cost: np.ndarray
    seconds: np.ndarray
    restarts: tuple[int, ...]
    halvings: tuple[int, ...]
    step: float
    stopped: str
    state: State


def minimize(volume0: Any, descend: Callable[[Any, int, float], Any], prox: Prox, *, n_tilts: int,
             n_iterations: int, step: float, rng: np.random.Generator, decay: float = 1.0,
             adapt: Callable[[State], bool] | None = None,
             extrapolate: Callable[[Any, Any, float], None] | None = None,
             enough: Callable[[State], str] | None = None,
             on_iteration: Callable[[State], None] | None = None, resume: State | None = None) -> Solution:
    """Minimise a sum of costs over tilts, regularised by ``prox``.

    Parameters
    ----------
    volume0 : float (Z, X, Y)
        Where to start, in V; it becomes the iterate. The array may live on a GPU if ``descend``, ``prox`` and
        ``extrapolate`` work there.
    descend : callable
        ``descend(volume, i_tilt, step)`` steps down the gradient of one tilt in place; it returns the cost before, a
        float or a scalar of the device, which is not waited for until all tilts are visited.
    prox : Prox
        ``prox(volume, step)``, in place; its ``state`` is part of a checkpoint.
    n_tilts, n_iterations : int
        Tilts of an iteration, and iterations.
    step : float
        Step in V², for a gradient in 1/V.
    rng : numpy.random.Generator
        Orders the tilts.
    decay : float
        Factor of the step at each reset: below 1, the step shrinks once the cost is down to where single tilts pull it
        about, which is what lets incremental steps converge (1: the paper's constant step).
    adapt : callable, optional
        Called with the :class:`State` before each iteration; it may change the step and what ``descend`` and ``prox``
        do. Where it returns True momentum starts anew, and the cost of that iteration and the next may rise.
    extrapolate : callable, optional
        ``extrapolate(volume, proximal, beta)``, Nesterov's step in place for arrays that are not NumPy's.
    enough : callable, optional
        Called with the :class:`State` after each iteration, it tells why this one was the last; empty to go on.
    on_iteration : callable, optional
        Called with the :class:`State` after each iteration; its arrays change in the next.
    resume : State, optional
        Go on from here; ``rng`` must be where it was then. ``volume0`` and ``step`` are not used.
    """
    state = resume or State(volume0, volume0.copy(), {}, step)
    prox.state.update(state.kept)
    # One that was cut off may have been about to end.
    reason = enough(state) if enough is not None and state.cost else ""
    while state.n_done < n_iterations and len(state.halvings) <= MAX_HALVINGS and not reason:
        started = time.perf_counter()
        if adapt is not None and adapt(state):
            state.renewals.append(state.n_done)
            _fall_back(state)
        cost = _visit_tilts(state, descend, rng.permutation(n_tilts))
        if not cost <= state.limit:
            state.step /= 2
            state.halvings.append(state.n_done)
            _fall_back(state)
        elif state.cost and cost > state.cost[-1] and not _may_rise(state):
            state.restarts.append(state.n_done)
            state.step *= decay
            _fall_back(state)
        else:
            state.volume = prox(state.volume, state.step)
            following = (1 + math.sqrt(1 + 4 * state.momentum**2)) / 2
            (extrapolate or _extrapolate)(state.volume, state.proximal, (state.momentum - 1) / following)
            state.momentum = following
        state.kept = prox.state
        state.cost.append(cost)
        state.seconds.append(time.perf_counter() - started)
        if on_iteration is not None:
            on_iteration(state)
        reason = enough(state) if enough is not None else ""
    if not reason:
        reason = (f"all {n_iterations} iterations done" if state.n_done >= n_iterations else
                  f"diverged at every step down to {state.step:.3g} V²")
    return Solution(state.proximal, np.array(state.cost), np.array(state.seconds), tuple(state.restarts),
                    tuple(state.halvings), state.step, reason, state)


def _visit_tilts(state: State, descend: Callable[[Any, int, float], Any], order: np.ndarray) -> float:
    """Step down the tilts in ``order``; the sum of their costs, cut short where it is seen to diverge.

    Of costs that are floats; what a device is still computing is asked for at the end alone.
    """
    total: Any = 0.0
    first: Any = None
    for i_tilt in order:
        cost = descend(state.volume, int(i_tilt), state.step)
        first = cost if first is None else first
        total = total + cost
        if isinstance(total, float):
            _limit(state, first, len(order))
            if not total <= state.limit:
                break
    _limit(state, first, len(order))
    return float(total)


def _limit(state: State, first: Any, n_tilts: int) -> None:
    """Set the limit of divergence by the cost of the very first tilt."""
    if math.isinf(state.limit):
        state.limit = DIVERGED * n_tilts * float(first)


def _may_rise(state: State) -> bool:
    """Whether the cost of this iteration is taken as it comes: after a reset, and in a new metric."""
    return state.n_done - 1 in (*state.restarts[-1:], *state.renewals) or state.n_done in state.renewals


def _fall_back(state: State) -> None:
    """Reset momentum at the last proximal point."""
    state.momentum = 1.0
    state.volume[...] = state.proximal


def _extrapolate(volume: np.ndarray, proximal: np.ndarray, beta: float) -> None:
    """Nesterov's step: ``volume`` moves on by ``beta`` times its change against ``proximal``, which takes its place."""
    n_y = volume.shape[-1]
    kernels.extrapolate(volume.reshape(-1, n_y), proximal.reshape(-1, n_y), volume.dtype.type(beta))
