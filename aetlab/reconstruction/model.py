"""The interface of a forward model on any device, and the parts of the solver that the device provides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from aetlab.methods.regulariser import Prior, Problem, Regulariser
from aetlab.spec import RunSpec

Array = Any


class Model(Protocol):
    """The interface of a forward model; its volumes lie on the device that computes.

    :class:`aetlab.forward.tilt_equations.PosedModel` is a part of it.
    """

    n_tilts: int
    lipschitz: float

    def cost(self, volume: Array, i_tilt: int) -> float:
        """Return the cost of ``volume`` (Z, X, Y) against the images of one tilt."""

    def descend(self, volume: Array, i_tilt: int, step: float, metric: Array | None = None) -> Any:
        """Take a step down the gradient of one tilt in place; return the cost before the step."""

    def form_potential(self, volume: Array) -> Array:
        """Return V in volts from the reconstructed ``volume``."""

    def place_tilt(self, i_tilt: int, tilt_deg: float, transfer: np.ndarray, amplitude: np.ndarray,
                   weight: np.ndarray | None = None) -> None:
        """Set angle, transfer functions and measurement of one tilt for all following calls."""


@dataclass(frozen=True)
class Parts:
    """The functions that the solver needs in addition to a model; None stands for its default on the CPU.

    ``name`` is the name of the device. ``zeros`` returns a volume of zeros, ``place`` copies an array to the device.
    ``make_prior(row, own, weight, problem)`` returns a regulariser for volumes on the device.
    """

    name: str
    zeros: Callable[[tuple[int, int, int]], Array]
    place: Callable[[np.ndarray], Array]
    make_prior: Callable[[Regulariser[Any], Any, float, Problem], Prior]
    extrapolate: Callable[[Array, Array, float], None] | None = None


def model_options(spec: RunSpec, blur_A: float) -> dict[str, Any]:
    """Return the options of a forward model on any device."""
    return {"microscope": spec.microscope, "n_layers_per_slice": spec.binning.n_layers,
            "rotation": spec.engine.rotation, "blur_A": blur_A, "likelihood": spec.engine.likelihood}
