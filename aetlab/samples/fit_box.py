"""Choose voxels and shape of the volume for a structure from a file (``scale=fit``).

Delocalisation is the distance in the image between an atom and what is diffracted by it to the spatial frequency q,
|C1 λ q + C3 λ³ q³ + C5 λ⁵ q⁵| (H. Lichte, Ultramicroscopy 38, 13, 1991): the gradient of the aberration function over
2π. Images are periodic in the simulation, so that what is delocalised beyond the box enters it on the other side.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from aetlab.core import physics
from aetlab.samples.build import LEAST_MARGIN_A
from aetlab.samples.structure_file import site_positions_A
from aetlab.spec import MicroscopeSpec, RunSpec, SampleSpec, SpecError
from aetlab.spec.bind import bind, unbind

#: The largest voxel that is chosen, in Å. The lengths of the tracing's settings are made for it.
LARGEST_VOXEL_A = 0.5
#: Voxels between the atoms and the cylinder in which sites are traced, in addition to the least margin in Å.
_TRACED_MARGIN = 2
_N_FREQUENCIES = 512


def needs_fit(settings: RunSpec) -> bool:
    """Return whether voxels or shape of ``settings`` are still to be chosen."""
    return settings.scale.voxel_A == 0 or 0 in settings.scale.shape_zxy


def fit_scale(settings: RunSpec) -> RunSpec:
    """Return ``settings`` with the voxels and the shape that ``scale=fit`` leaves open; others as they are.

    Raises
    ------
    SpecError
        If the structure file cannot be used, or settings contradict the chosen shape.
    """
    if not needs_fit(settings):
        return settings
    voxel_A = settings.scale.voxel_A or choose_voxel_A(settings.microscope)
    shape_zxy = settings.scale.shape_zxy
    if 0 in shape_zxy:
        spread_A = delocalisation_A(settings.microscope, settings.defocus.planes_nm, voxel_A)
        shape_zxy = choose_shape(*extent_of_file_A(settings.sample), voxel_A, spread_A)
    return replace(settings, scale=replace(settings.scale, voxel_A=voxel_A, shape_zxy=shape_zxy))


def choose_voxel_A(microscope: MicroscopeSpec) -> float:
    """Return a voxel in Å, a multiple of 0.01, that shows all frequencies of the aperture; at most 0.5."""
    return min(LARGEST_VOXEL_A, math.floor(50 / microscope.aperture_per_A + 1e-6) / 100)


def choose_shape(radius_A: float, height_A: float, voxel_A: float, spread_A: float) -> tuple[int, int, int]:
    """Return the voxels (z, x, y) of the smallest volume for atoms in a cylinder about the tilt axis.

    The cylinder has ``radius_A`` and ``height_A``. Its images have ``spread_A`` of room on each side. Each number is a
    multiple of 8 without prime factors above 5, for fast Fourier transforms.
    """
    margin_A = LEAST_MARGIN_A + _TRACED_MARGIN * voxel_A
    n_z = _next_good(2 * (radius_A + margin_A) / voxel_A)
    n_x = _next_good(2 * (radius_A + max(spread_A, margin_A)) / voxel_A)
    return n_z, n_x, _next_good((height_A + 2 * max(spread_A, margin_A)) / voxel_A)


def delocalisation_A(microscope: MicroscopeSpec, planes_nm: Sequence[float], voxel_A: float) -> float:
    """Return the greatest delocalisation in Å over ``planes_nm``, up to the aperture or the Nyquist frequency."""
    q_per_A = np.linspace(0, min(microscope.aperture_per_A, 0.5 / voxel_A), _N_FREQUENCIES)
    wave = physics.wavelength_A(microscope.energy_keV) * q_per_A
    spherical_A = 1e7 * (microscope.Cs_mm * wave**3 + microscope.C5_mm * wave**5)
    return float(max(np.abs(10 * plane_nm * wave + spherical_A).max() for plane_nm in planes_nm))


def describe_limits(settings: RunSpec, extent_A: tuple[float, float] | None) -> list[str]:
    """Return lines on what the voxels or the box of ``settings`` cannot show.

    ``extent_A`` are radius about the tilt axis and height of a structure from a file; None for other samples, whose
    boxes are part of their scale.
    """
    lines = []
    voxel_A, aperture_per_A = settings.scale.voxel_A, settings.microscope.aperture_per_A
    if aperture_per_A > 0.5 / voxel_A * (1 + 1e-6):
        lines.append(f"microscope.aperture_per_A={aperture_per_A:g} is beyond {0.5 / voxel_A:.3g} 1/Å, the Nyquist "
                     f"frequency of scale.voxel_A={voxel_A:g}: the images end there; scale.voxel_A="
                     f"{choose_voxel_A(settings.microscope):g} shows all of the aperture")
    if extent_A is not None:
        spread_A = delocalisation_A(settings.microscope, settings.defocus.planes_nm, voxel_A)
        _, n_x, n_y = settings.scale.shape_zxy
        room_A = min(n_x * voxel_A / 2 - extent_A[0], (n_y * voxel_A - extent_A[1]) / 2)
        if spread_A > room_A + voxel_A:
            shape = ",".join(map(str, choose_shape(*extent_A, voxel_A, spread_A)))
            lines.append(f"images are delocalised by up to {spread_A:.1f} Å, and the box leaves {room_A:.1f} Å beside "
                         "the structure: the rest enters on the other side; scale=fit or "
                         f"scale.shape_zxy=[{shape}] has room")
    return lines


def extent_of_file_A(sample: SampleSpec) -> tuple[float, float]:
    """Return radius about the tilt axis and height along it, in Å, of the atoms of a structure file."""
    if sample.kind != "file":
        raise SpecError("scale=fit cannot be used without sample=file: the needle's box is part of its scale")
    return _extent_A(json.dumps(unbind(replace(sample, vacancies=()))))


@lru_cache(maxsize=64)
def _extent_A(sample: str) -> tuple[float, float]:
    """Return the extent of the file of a ``sample`` in JSON, which the jobs of a sweep share."""
    positions_A = site_positions_A(bind(SampleSpec, json.loads(sample), "sample"))
    return (float(np.hypot(positions_A[:, 0], positions_A[:, 2]).max()), float(2 * np.abs(positions_A[:, 1]).max()))


def _next_good(least: float) -> int:
    """Return the least multiple of 8 that is not below ``least`` and has no prime factor above 5."""
    n = 8 * max(math.ceil(least / 8 - 1e-9), 1)
    while not _is_smooth(n):
        n += 8
    return n


def _is_smooth(n: int) -> bool:
    for factor in (2, 3, 5):
        while n % factor == 0:
            n //= factor
    return n == 1
