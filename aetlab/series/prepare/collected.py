"""Collected files as the images that the preparation takes."""

from __future__ import annotations

import numpy as np

from aetlab.series.collect import Collection
from aetlab.series.prepare.nouns import Recorded


def record_collection(collection: Collection) -> Recorded:
    """Return the images of a collection, all read, with what its table, headers and microscope say.

    The dose is left out where it is not known for every image that is used.
    """
    dose, used = collection.dose_e_A2, collection.weight > 0
    known = bool(np.isfinite(dose[used]).all() and (dose[used] > 0).all())
    microscope, gain = collection.microscope, collection.header.get("counts_per_electron")
    table = microscope.mtf if microscope else None
    return Recorded(
        collection.read_all(), collection.tilt_deg, collection.defocus_A, collection.pixel_A, collection.weight,
        dose_e_A2=np.where(used, dose, 0.0) if known else None,
        counts_per_electron=float(gain) if gain else None,
        energy_keV=microscope.spec.energy_keV if microscope else None,
        dqe=microscope.spec.dqe if microscope else 1.0,
        mtf=(table.cycles_per_pixel, table.mtf) if table else None, axis_deg=axis_of(collection),
        sense=microscope.sense if microscope else "", lens=microscope.spec if microscope else None)


def axis_of(collection: Collection) -> float | None:
    """Return the direction of the tilt axis in degrees by the microscope's file, else by the log; None if unknown."""
    if collection.microscope is not None and collection.microscope.axis_deg is not None:
        return collection.microscope.axis_deg
    found = collection.header.get("axis_deg")
    return None if found is None else float(found)
