"""Continue an interrupted reconstruction where it was: in the search for its number of iterations, or in its fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from aetlab import solve
from aetlab.core.seeds import generator


@runtime_checkable
class Checkpoints(Protocol):
    """The interface of checkpoints: store the state of a reconstruction, so that an interrupted one can continue."""

    def load(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Return the arrays and values last saved, and set ``rng`` to its saved state; None if there are none."""

    def due(self) -> bool:
        """Return whether the state should be saved now."""

    def save(self, arrays: dict[str, np.ndarray], values: dict[str, Any], rng: np.random.Generator) -> None:
        """Save the state."""


class Resumption:
    """The state of the stage in which a reconstruction was interrupted, and what the stages before it have found.

    ``notes`` are those values by name, ``arrays`` those of the stage besides the solver's. Without ``checkpoints``
    nothing is saved, and every stage starts from its beginning.
    """

    def __init__(self, checkpoints: Checkpoints | None, seed: int) -> None:
        self._checkpoints, self._seed = checkpoints, seed
        self._rng = generator(seed, "tilt order")
        self.arrays, values = (checkpoints.load(self._rng) if checkpoints else None) or ({}, {})
        self._stage = values.pop("stage", "")
        self.notes: dict[str, Any] = values.pop("notes", {})
        self._values = values

    def begin(self, stage: str) -> tuple[np.random.Generator, solve.State | None]:
        """Return the generator of the order of tilts and the state to continue ``stage`` from or None."""
        if stage != self._stage:
            return generator(self._seed, "tilt order"), None
        return self._rng, solve.State.restore(self.arrays, self._values)

    def keep(self, stage: str, state: solve.State, rng: np.random.Generator, notes: Mapping[str, Any], *,
             arrays: Mapping[str, np.ndarray] | None = None, at_once: bool = False) -> None:
        """Save the state of ``stage`` after an iteration if it is due, or ``at_once``."""
        if self._checkpoints and (self._checkpoints.due() or at_once):
            values = {**state.values(), "stage": stage, "notes": dict(notes)}
            self._checkpoints.save({**state.arrays(), **(arrays or {})}, values, rng)
