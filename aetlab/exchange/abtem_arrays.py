"""Volumes and tilt series to and from abTEM.

An image of abTEM is (x, y), a potential (slice, x, y) with projected potentials in V Å.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import numpy as np

from aetlab.core.backend import to_numpy
from aetlab.core.errors import AetlabError
from aetlab.core.nouns import TiltSeries, Volume

if TYPE_CHECKING:
    import abtem


@overload
def to_abtem(thing: Volume) -> abtem.PotentialArray: ...
@overload
def to_abtem(thing: TiltSeries) -> abtem.Images: ...
def to_abtem(thing: Volume | TiltSeries) -> abtem.PotentialArray | abtem.Images:
    """Return a volume as a potential with one slice for each layer, or a tilt series as images (T, F, X, Y).

    The images have an axis of tilts in degrees and one of C10 in Å, the defocus from the centre of the volume,
    overfocus positive as here (abTEM's ``defocus`` is -C10).

    Raises
    ------
    ValueError
        For a series whose defoci differ between tilts.
    AetlabError
        Without abTEM.
    """
    try:
        import abtem
        from abtem.core.axes import NonLinearAxis
    except ImportError:
        raise AetlabError("to_abtem needs abtem, which is not installed: pip install 'abtem>=1.0.8'") from None

    if isinstance(thing, Volume):
        voxel_A = float(thing.voxel_A)
        projected = to_numpy(thing.potential_V).astype(np.float32) * np.float32(voxel_A)
        return abtem.PotentialArray(projected, slice_thickness=voxel_A, sampling=voxel_A)
    if (thing.defocus_A != thing.defocus_A[0]).any():
        raise ValueError("the defoci differ between tilts; abTEM's images have one axis of defoci for all of them")
    axes: list[Any] = [NonLinearAxis(label="tilt", units="deg", values=tuple(thing.tilt_deg.tolist())),
            NonLinearAxis(label="C10", units="Å", values=tuple(thing.defocus_A[0].tolist()))]
    return abtem.Images(to_numpy(thing.images), sampling=float(thing.pixel_A), ensemble_axes_metadata=axes)


@overload
def from_abtem(thing: abtem.PotentialArray) -> Volume: ...
@overload
def from_abtem(thing: abtem.Images) -> TiltSeries: ...
def from_abtem(thing: abtem.PotentialArray | abtem.Images) -> Volume | TiltSeries:
    """Return the volume (Z, X, Y) in V of a potential, or the tilt series of images with the axes of :func:`to_abtem`.

    Raises
    ------
    ValueError
        If slices are not as thick as pixels are wide, if pixels are not square, or if the images have other axes.
    """
    import abtem

    computed: Any = thing.compute()
    array = np.asarray(computed.to_cpu().array, np.float32)
    sides_A = np.array(thing.sampling)
    if isinstance(thing, abtem.PotentialArray):
        sides_A = np.array([*sides_A, *thing.slice_thickness])
    if np.ptp(sides_A) > 1e-3 * sides_A.mean():
        raise ValueError(f"pixels and slices of {sides_A.min():g} to {sides_A.max():g} Å are not cubes")
    side_A = float(sides_A.mean())
    if isinstance(thing, abtem.PotentialArray):
        return Volume(array / np.float32(side_A), side_A)
    axes: list[Any] = thing.ensemble_axes_metadata
    labels = [axis.label for axis in axes]
    if labels != ["tilt", "C10"]:
        raise ValueError(f"the images have the axes {', '.join(labels) or 'none'}; they need tilt (deg) and C10 (Å)")
    tilt_deg, defocus_A = (np.array(axis.values, float) for axis in axes)
    return TiltSeries(array, tilt_deg, defocus_A, side_A)
