"""Arrays in slabs along the tilt axis, each slab on a device of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

Array = Any
#: Returns a block in which work on arrays is done by one device.
Within = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Slabs:
    """An array (..., Y) in slabs along its last axis.

    Attributes
    ----------
    arrays : tuple of arrays
        The slabs (..., Y_k) in their order along y.
    within : tuple of callables
        For each slab, the block in which its device works on arrays.
    """

    arrays: tuple[Array, ...]
    within: tuple[Within, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the whole array."""
        return (*self.arrays[0].shape[:-1], sum(array.shape[-1] for array in self.arrays))

    @property
    def dtype(self) -> Any:
        """Return the type of the values."""
        return self.arrays[0].dtype

    def copy(self) -> Slabs:
        """Return a copy, on the same devices."""
        return self.map(lambda array: array.copy())

    def map(self, work: Callable[..., Array], *others: Slabs) -> Slabs:
        """Return the slabs that ``work`` returns for each slab and those of ``others``, on the same devices."""
        return Slabs(tuple(self.each(work, *others)), self.within)

    def each(self, work: Callable[..., Any], *others: Slabs) -> Iterator[Any]:
        """Yield what ``work`` returns for each slab and those of ``others``, on its device."""
        for i, within in enumerate(self.within):
            with within():
                yield work(self.arrays[i], *(other.arrays[i] for other in others))

    def __setitem__(self, index: Any, values: Slabs) -> None:
        """Copy ``values`` to all elements; ``index`` is ``...``."""
        assert index is ...
        for _ in self.each(_assign, values):
            pass


def each_slab(work: Callable[..., Any], volume: Array, *others: Array) -> list[Any]:
    """Return what ``work`` returns for each slab of ``volume`` and ``others``, or for an array that is not in slabs."""
    return list(volume.each(work, *others)) if isinstance(volume, Slabs) else [work(volume, *others)]


def map_slabs(work: Callable[..., Array], volume: Array, *others: Array) -> Array:
    """Return the array that ``work`` returns for ``volume`` and ``others``, in slabs if they are."""
    return volume.map(work, *others) if isinstance(volume, Slabs) else work(volume, *others)


def _assign(array: Array, values: Array) -> None:
    array[...] = values
