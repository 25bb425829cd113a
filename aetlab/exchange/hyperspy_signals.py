"""Volumes and tilt series as HyperSpy signals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aetlab.core.backend import to_numpy
from aetlab.core.errors import AetlabError
from aetlab.core.nouns import TiltSeries, Volume

if TYPE_CHECKING:
    import hyperspy.api


def to_hyperspy(thing: Volume | TiltSeries) -> hyperspy.api.signals.Signal2D:
    """Return a stack of images with calibrated axes: the layers of a volume, or the images of a tilt series.

    HyperSpy shows an image with rows downwards; the data are (z, y, x), or (tilt, defocus, y, x), with x along rows.
    Lengths are in Å from the centre of the volume. The axis of tilts holds their values, for they need not be
    equidistant, and ``metadata.Acquisition_instrument.TEM`` holds ``defocus_A`` (T, F).

    Raises
    ------
    AetlabError
        Without HyperSpy.
    """
    try:
        import hyperspy.api as hs
    except ImportError:
        raise AetlabError("to_hyperspy needs hyperspy, which is not installed: pip install 'hyperspy>=2.2'") from None

    if isinstance(thing, Volume):
        data, step_A = to_numpy(thing.potential_V).transpose(0, 2, 1), float(thing.voxel_A)
        first = [{"name": "z", "size": len(data), "scale": step_A, "units": "Å",
                  "offset": -(len(data) - 1) / 2 * step_A}]
    else:
        data, step_A = to_numpy(thing.images).transpose(0, 1, 3, 2), float(thing.pixel_A)
        first = [{"name": "tilt", "axis": np.asarray(thing.tilt_deg, float), "units": "°"},
                 {"name": "defocus", "size": data.shape[1]}]
    plane = [{"name": name, "size": n, "scale": step_A, "units": "Å", "offset": -(n - 1) / 2 * step_A}
             for name, n in zip(("y", "x"), data.shape[-2:], strict=True)]
    signal = hs.signals.Signal2D(np.ascontiguousarray(data), axes=[*first, *plane])
    title, quantity = (("electrostatic potential", "Potential (V)") if isinstance(thing, Volume)
                       else ("tilt series", "Intensity (vacuum 1)"))
    signal.metadata.General.title = title
    signal.metadata.set_item("Signal.quantity", quantity)
    if isinstance(thing, TiltSeries):
        signal.metadata.set_item("Acquisition_instrument.TEM.defocus_A", thing.defocus_A)
    return signal
