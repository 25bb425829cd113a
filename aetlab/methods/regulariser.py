"""The row of a regulariser: what settings, help, estimates, memory, figures and the fit need to know of it.

A regulariser R enters a reconstruction by its proximal operator prox(v) = argmin_u ½ ‖u - v‖² + step · weight · R(u).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np

from aetlab.core.slabs import Slabs

Array = Any
Own = TypeVar("Own")


class Prox(Protocol):
    """A proximal operator that works in place; ``state`` holds by name the arrays kept between calls."""

    state: dict[str, Array]

    def __call__(self, volume: Array, step: float) -> Array: ...


class Iterate(Protocol):
    """The part of the solver's state to which a regulariser may adapt."""

    @property
    def n_done(self) -> int:
        """Return the number of iterations done."""

    @property
    def proximal(self) -> Array:
        """Return the last proximal point (Z, X, Y)."""


class Launcher(Protocol):
    """The part of a GPU (:class:`aetlab.gpu.device.Device`) that a proximal operator uses."""

    def zeros(self, shape: tuple[int, ...], dtype: type) -> Array:
        """Return a new array of zeros."""

    def upload(self, values: np.ndarray) -> Array:
        """Return a copy of ``values`` on the device."""

    def launch(self, kernel: str, extent: tuple[int, int, int], *arguments: Any) -> None:
        """Run a kernel of :data:`aetlab.gpu.kernels.KERNELS`."""


class Launchers(Protocol):
    """The part of several GPUs (:class:`aetlab.gpu.group.Group`) that a proximal operator of slabs uses."""

    @property
    def devices(self) -> Sequence[Launcher]:
        """Return the devices in the order of the slabs."""

    @property
    def transfer(self) -> Callable[[int, Array, int, Array], Any]:
        """Return what makes a transfer of: number of a device, its array, number of another device, its array."""

    @property
    def exchange(self) -> Callable[[Sequence[Any]], None]:
        """Return what does transfers."""

    def zeros(self, shape: tuple[int, ...], dtype: type) -> Slabs:
        """Return a new array (..., Y) of zeros in slabs."""

    def widen(self, volume: Slabs, reach: int) -> Slabs:
        """Return the slabs of ``volume`` with ``reach`` more rows of y on both sides, 0 outside the volume."""


@dataclass(frozen=True)
class Problem:
    """Facts about a reconstruction: shape of the volume, voxel in Å, fitted tilts, and standard deviation of g in Å.

    ``support`` (Z, X) are the positions that are reconstructed, None for all; the volume is 0 at the others.
    """

    shape_zxy: tuple[int, int, int]
    voxel_A: float
    n_tilts: int
    blur_A: float
    support: np.ndarray | None = None


@dataclass(frozen=True)
class Prior:
    """A regulariser in use.

    ``adapt`` is called before each iteration and returns True if momentum must be reset. ``metric`` returns the factors
    (Z, X, Y) of the step of each voxel, or None for 1 everywhere. ``settled`` iterations are done when ``adapt`` has
    changed the regulariser for the last time.
    """

    prox: Prox
    adapt: Callable[[Iterate], bool] | None = None
    metric: Callable[[], Array | None] | None = None
    settled: int = 0


@dataclass(frozen=True)
class OnGpu(Generic[Own]):
    """The GPU version of a regulariser.

    ``volumes`` is the number of volumes that it holds on the GPU. ``make(device, own, weight, problem)`` returns it.
    ``in_slabs(devices, own, weight, problem)`` returns that for several GPUs, on volumes in slabs along y. Without it,
    only one GPU can be used. If the operator treats every voxel alone, it is :func:`slab_by_slab` of ``make``.
    """

    volumes: float
    make: Callable[[Launcher, Own, float, Problem], Prior]
    in_slabs: Callable[[Launchers, Own, float, Problem], Prior] | None = None


class _SlabBySlab:
    """A proximal operator without state for each slab."""

    def __init__(self, of_slabs: Sequence[Prox]) -> None:
        self.state: dict[str, Array] = {}
        self._of_slabs = of_slabs

    def __call__(self, volume: Slabs, step: float) -> Slabs:
        for prox, slab in zip(self._of_slabs, volume.arrays, strict=True):
            prox(slab, step)
        return volume


def slab_by_slab(make: Callable[[Launcher, Own, float, Problem], Prior]) -> Callable[
        [Launchers, Own, float, Problem], Prior]:
    """Return the version for several GPUs of an operator without state that treats every voxel alone."""
    def in_slabs(devices: Launchers, own: Own, weight: float, problem: Problem) -> Prior:
        return Prior(_SlabBySlab([make(device, own, weight, problem).prox for device in devices.devices]))

    return in_slabs


@dataclass(frozen=True, kw_only=True)
class Regulariser(Generic[Own]):
    """A regulariser of the table :data:`aetlab.methods.regularisers.REGULARISERS`.

    Attributes
    ----------
    meaning : str
        What it demands of the volume, in a few words for help and documentation.
    label : str
        Its name in figures.
    settings : type
        Frozen dataclass of its own settings, each a :func:`aetlab.core.setting.setting` with a default. They become
        settings ``reg.NAME`` that are read with this regulariser alone. Regularisers may share a setting.
    make : callable
        ``make(own, weight, problem)`` returns the :class:`Prior` on the CPU; ``weight`` is in 1/V.
    gpu : OnGpu, optional
        The version for a GPU. Without one, ``engine=auto`` reconstructs on the CPU and reports it.
    weighted : bool
        Whether it has a weight: ``reg.weight`` and ``reg.rule_factor``.
    volumes : float
        Volumes in memory that it holds in addition to the iterate and the last proximal point.
    cost : str
        Work of a proximal step, for estimates: ``none``, a ``pass`` over the volume, or an ``inner`` iteration, whose
        number is its own setting ``inner_iterations``.
    step : callable, optional
        ``step(own, problem)`` returns the first step in units of the inverse Lipschitz constant of one tilt; by default
        it is ``engine.step``.
    blur_A : callable, optional
        If given, the volume of the solver is c of V = g ∗ c. ``blur_A(own)`` returns the standard deviation of g in Å;
        None stands for the narrowest atom.
    """

    meaning: str
    label: str
    settings: type[Own]
    make: Callable[[Own, float, Problem], Prior]
    gpu: OnGpu[Own] | None = None
    weighted: bool = True
    volumes: float = 0.0
    cost: Literal["none", "pass", "inner"] = "pass"
    step: Callable[[Own, Problem], float] | None = None
    blur_A: Callable[[Own], float | None] | None = None

    def own(self, settings: object) -> Own:
        """Return the own settings of this regulariser from ``settings``, which has attributes of their names."""
        names = [field.name for field in dataclasses.fields(self.settings)]  # pyrefly: ignore[bad-argument-type]
        return self.settings(**{name: getattr(settings, name) for name in names})


@dataclass(frozen=True)
class NoSettings:
    """The settings of a regulariser without any."""
