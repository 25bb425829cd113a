"""Accelerated incremental proximal gradient descent (algorithm 3 of the paper).

An iteration visits the tilts in random order and descends along the gradient of each. One proximal step and one
Nesterov step follow. If the cost of an iteration, summed over its tilts as they are visited, exceeds that of the
previous iteration, momentum is reset and the iterate returns to the last proximal point. The next iteration is accepted
at any cost, since a shorter step alone raises it. If the iteration diverged, the step is also halved.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from aetlab.core.backend import to_numpy
from aetlab.core.slabs import each_slab
from aetlab.methods.regulariser import Prox
from aetlab.solve import kernels_numba as kernels

#: An iteration has diverged when its cost exceeds this multiple of n_tilts times the cost of the very first tilt.
DIVERGED = 4.0

#: Halvings of the step after which the solver gives up.
MAX_HALVINGS = 30


@dataclass
class State:
    """State of a reconstruction; with the random generator it is enough to resume bit for bit.

    ``volume`` is the iterate at the start of the next iteration, ``proximal`` the last proximal point (the result),
    ``limit`` the cost beyond which an iteration has diverged. ``renewals`` are the iterations before which momentum was
    reset or the model changed; their costs may rise. ``changes`` are the relative changes of the proximal point in
    iterations that were accepted, if the solver has a tolerance.
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
    changes: list[float] = field(default_factory=list)

    @property
    def n_done(self) -> int:
        """Return the number of iterations done."""
        return len(self.cost)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of a checkpoint, those of the proximal operator (``kept``) included."""
        arrays = {"volume": self.volume, "proximal": self.proximal, **{f"prox_{k}": a for k, a in self.kept.items()}}
        return {name: to_numpy(array) for name, array in arrays.items()}

    def values(self) -> dict[str, Any]:
        """Return the other values of a checkpoint, which JSON can hold."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("volume", "proximal", "kept")}

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> State:
        """Return the state with these :meth:`arrays` and :meth:`values`."""
        kept = {name.removeprefix("prox_"): a for name, a in arrays.items() if name.startswith("prox_")}
        return cls(arrays["volume"], arrays["proximal"], kept, **values)


@dataclass(frozen=True)
class Solution:
    """The last proximal point, cost and seconds of each iteration, and the reason for stopping.

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


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """When a fit ends: after ``n_iterations``, or earlier by one of two rules.

    The relative change of the proximal point (of its root mean square) in an accepted iteration falls below
    ``tolerance`` (0 for never) once ``not_before`` iterations are done; or ``enough``, which is called with the
    :class:`State` and ``not_before`` after each iteration, returns the reason for stopping instead of an empty string.
    """

    n_iterations: int
    tolerance: float = 0.0
    not_before: int = 0
    enough: Callable[[State, int], str] | None = None

    def reason(self, state: State) -> str:
        """Return why the fit ends before ``n_iterations`` are done; empty if it goes on."""
        if converged(state, self.tolerance, self.not_before):
            return f"the volume changed by less than {self.tolerance:g} of itself"
        return self.enough(state, self.not_before) if self.enough is not None and state.cost else ""


def minimize(volume0: Any, descend: Callable[[Any, int, float], Any], prox: Prox, stopping: Stopping, *, n_tilts: int,
             step: float, rng: np.random.Generator, decay: float = 1.0, adapt: Callable[[State], bool] | None = None,
             extrapolate: Callable[[Any, Any, float], None] | None = None,
             on_iteration: Callable[[State], None] | None = None, resume: State | None = None) -> Solution:
    """Minimise a sum of costs over tilts, regularised by ``prox``.

    Parameters
    ----------
    volume0 : float (Z, X, Y)
        Initial volume in V; it becomes the iterate. The array may live on a GPU if ``descend``, ``prox`` and
        ``extrapolate`` work there.
    descend : callable
        ``descend(volume, i_tilt, step)`` steps along the negative gradient of one tilt in place. It returns the cost
        before the step, a float or a scalar of the device, which is read after all tilts are visited.
    prox : Prox
        ``prox(volume, step)``, in place; its ``state`` is part of a checkpoint.
    stopping : Stopping
        Number of iterations, and the rules that end the fit earlier.
    n_tilts : int
        Tilts of an iteration.
    step : float
        Step in V², for a gradient in 1/V.
    rng : numpy.random.Generator
        Orders the tilts.
    decay : float
        Factor of the step at each reset. Below 1 the step shrinks once the cost fluctuates from tilt to tilt, which
        lets incremental steps converge (1: the paper's constant step).
    adapt : callable, optional
        Called with the :class:`State` before each iteration; it may change the step, ``descend`` and ``prox``. If
        it returns True, momentum is reset, and the cost of that iteration and the next may rise.
    extrapolate : callable, optional
        ``extrapolate(volume, proximal, beta)``, Nesterov's step in place for arrays that are not NumPy's.
    on_iteration : callable, optional
        Called with the :class:`State` after each iteration; the next iteration overwrites its arrays.
    resume : State, optional
        State to resume from; ``rng`` must have its state of then. ``volume0`` and ``step`` are not used.
    """
    state = resume or State(volume0, volume0.copy(), {}, step)
    prox.state.update(state.kept)
    reason = stopping.reason(state)  # an interrupted reconstruction may have been complete
    while state.n_done < stopping.n_iterations and len(state.halvings) <= MAX_HALVINGS and not reason:
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
            if stopping.tolerance > 0:
                state.changes.append(_relative_change(state.volume, state.proximal))
            following = (1 + math.sqrt(1 + 4 * state.momentum**2)) / 2
            (extrapolate or _extrapolate)(state.volume, state.proximal, (state.momentum - 1) / following)
            state.momentum = following
        state.kept = prox.state
        state.cost.append(cost)
        state.seconds.append(time.perf_counter() - started)
        if on_iteration is not None:
            on_iteration(state)
        reason = stopping.reason(state)
    if not reason:
        reason = (f"all {stopping.n_iterations} iterations done" if state.n_done >= stopping.n_iterations else
                  f"diverged at every step down to {state.step:.3g} V²")
    return Solution(state.proximal, np.array(state.cost), np.array(state.seconds), tuple(state.restarts),
                    tuple(state.halvings), state.step, reason, state)


def converged(state: State, tolerance: float, not_before: int = 0) -> bool:
    """Return whether the last iteration was accepted and changed the proximal point by less than ``tolerance``."""
    last = state.n_done - 1
    return (state.n_done > not_before and bool(state.changes) and state.changes[-1] < tolerance
            and last not in (*state.restarts[-1:], *state.halvings[-1:]))


def _visit_tilts(state: State, descend: Callable[[Any, int, float], Any], order: np.ndarray) -> float:
    """Visit the tilts in ``order`` and return the sum of their costs; stop early where it diverges.

    Only costs that are floats are compared on the way; those of a device are read at the end.
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
    """Set the limit of divergence from the cost of the first tilt."""
    if math.isinf(state.limit):
        state.limit = DIVERGED * n_tilts * float(first)


def _may_rise(state: State) -> bool:
    """Return whether the cost of this iteration may rise: after a reset, and in a new metric."""
    return state.n_done - 1 in (*state.restarts[-1:], *state.renewals) or state.n_done in state.renewals


def _fall_back(state: State) -> None:
    """Reset momentum and return to the last proximal point."""
    state.momentum = 1.0
    state.volume[...] = state.proximal


def _relative_change(volume: Any, before: Any, n_planes: int = 32) -> float:
    """Return ‖volume - before‖ / ‖volume‖, computed for ``n_planes`` planes at a time; 0 if both are 0."""
    def squares(volume: Any, before: Any) -> tuple[float, float]:
        changed = whole = 0.0
        for first in range(0, len(volume), n_planes):
            part = volume[first : first + n_planes]
            changed += float(((part - before[first : first + n_planes]) ** 2).sum())
            whole += float((part**2).sum())
        return changed, whole

    changed, whole = (math.fsum(sums) for sums in zip(*each_slab(squares, volume, before), strict=True))
    return math.sqrt(changed / whole) if changed else 0.0


def _extrapolate(volume: np.ndarray, proximal: np.ndarray, beta: float) -> None:
    """Do Nesterov's step: add ``beta`` · (``volume`` - ``proximal``); ``proximal`` becomes the old ``volume``."""
    n_y = volume.shape[-1]
    kernels.extrapolate(volume.reshape(-1, n_y), proximal.reshape(-1, n_y), volume.dtype.type(beta))
