"""Check that a tilt series and the results of a run belong to its settings, and take up what the series decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from aetlab.core.backend import to_numpy
from aetlab.core.errors import DataError
from aetlab.core.nouns import Reconstruction, RefinedAtoms, TiltSeries
from aetlab.spec import (
    DataSpec,
    DefocusSpec,
    DoseSpec,
    RunSpec,
    SpecError,
    TiltsSpec,
    WedgeSpec,
    dose_per_image_e_A2,
    tilt_angles_deg,
)

#: Tilts and defoci of settings and series are equal within this many degrees and Å; defoci of measured series are
#: rounded to a thousandth of an Å.
_EQUAL = 2e-3
#: Least and greatest mean of an image that can have a vacuum of 1, and those beyond which that is doubtful. A sample
#: takes from the mean what it scatters beyond the aperture; shot noise leaves the mean as it is, but not the median.
_POSSIBLE = (0.05, 20.0)
_LIKELY = (0.3, 1.5)


def check_series(settings: RunSpec, series: TiltSeries, say: Callable[[str], None]) -> None:
    """Check that ``series`` has the pixels of ``settings`` and a vacuum near 1.

    ``say`` receives a line on tilts or defoci that are not those of the settings, and on images whose vacuum is
    doubtful.

    Raises
    ------
    SpecError
        If the images do not fit the volume.
    DataError
        If the images are not intensities with vacuum 1.
    """
    _check_pixels(settings, series)
    differing = [*_differing_geometry(settings, series)]
    if differing:
        say(f"the {' and '.join(differing)} of the series are not those of the settings; those of the series count")
    _check_vacuum(series, say)


def settings_of_given(settings: RunSpec, series: TiltSeries, reconstruction: Reconstruction,
                      refined: RefinedAtoms | None) -> RunSpec:
    """Return ``settings`` of a given ``series``: with its digest, and its tilts, defoci and dose if they differ.

    Raises
    ------
    SpecError
        If images or volume do not have the voxels of the settings, or if there are refined atoms and the settings have
        no refinement, or vice versa.
    """
    _check_pixels(settings, series)
    volume, scale = reconstruction.volume, settings.scale
    if tuple(volume.potential_V.shape) != tuple(scale.shape_zxy):
        raise SpecError(f"scale.shape_zxy={scale.shape_zxy!r} cannot be used: the reconstructed volume has "
                        f"{tuple(volume.potential_V.shape)} voxels; give the settings of the reconstruction")
    if not np.isclose(volume.voxel_A, scale.voxel_A, rtol=1e-6):
        raise SpecError(f"scale.voxel_A={scale.voxel_A!r} cannot be used: the reconstructed volume has voxels of "
                        f"{volume.voxel_A:g} Å; give the settings of the reconstruction")
    if (settings.refine.kind == "none") != (refined is None):
        raise SpecError(f"refine.kind={settings.refine.kind!r} cannot be used "
                        + ("without refined atoms: give refined=, or choose refine=none" if refined is None
                           else "with refined atoms: give the settings of their refinement, or leave out refined="))
    differing = _differing_geometry(settings, series)
    spec = replace(settings, data=DataSpec(kind="given", digest=series.digest()))
    if "tilts" in differing:
        spec = replace(spec, tilts=TiltsSpec(angles_deg=tuple(float(angle) for angle in series.tilt_deg)),
                       wedge=WedgeSpec())
    if "defoci" in differing:
        spec = replace(spec, defocus=DefocusSpec(planes_nm=tuple(round(float(one), 4)
                                                                 for one in _mean_defocus_A(series) / 10)))
    electrons_per_pixel = dose_per_image_e_A2(settings) * scale.voxel_A**2 * settings.microscope.dqe
    if not np.isclose(series.mean_electrons_per_pixel, electrons_per_pixel, rtol=1e-6) or differing:
        total = float(series.electrons_per_pixel[series.weight > 0].sum())
        spec = replace(spec, dose=DoseSpec(total_e_A2=total / (series.pixel_A**2 * settings.microscope.dqe)))
    return spec


def _check_pixels(settings: RunSpec, series: TiltSeries) -> None:
    if settings.tile.enabled:
        raise SpecError("tile.n and tile.rows cannot be used here: python -m aetlab.run makes and joins tiles")
    shape_xy, wanted = tuple(series.images.shape[2:]), tuple(settings.scale.shape_zxy[1:])
    if shape_xy != wanted:
        raise SpecError(f"scale.shape_zxy={settings.scale.shape_zxy!r} cannot be used: its (x, y) of {wanted} voxels "
                        f"must be the images' {shape_xy} pixels")
    if not np.isclose(series.pixel_A, settings.scale.voxel_A, rtol=1e-6):
        raise SpecError(f"scale.voxel_A={settings.scale.voxel_A!r} cannot be used: the images have pixels of "
                        f"{series.pixel_A:g} Å, and voxels must have the same size")


def _differing_geometry(settings: RunSpec, series: TiltSeries) -> tuple[str, ...]:
    """Return which of tilts and defoci of ``series`` differ from those of ``settings``."""
    pairs = {"tilts": (series.tilt_deg, tilt_angles_deg(settings.tilts, settings.wedge)),
             "defoci": (_mean_defocus_A(series), 10.0 * np.array(settings.defocus.planes_nm))}
    return tuple(name for name, (own, wanted) in pairs.items()
                 if len(own) != len(wanted) or not np.allclose(own, wanted, rtol=0, atol=_EQUAL))


def _mean_defocus_A(series: TiltSeries) -> np.ndarray:
    """Return the mean defocus (F,) in Å of the images that are present, of all where none is."""
    present = series.weight > 0
    weight = np.where(present.any(axis=0), present, True)
    return np.asarray(np.average(series.defocus_A, axis=0, weights=weight.astype(float)))


def _check_vacuum(series: TiltSeries, say: Callable[[str], None]) -> None:
    """Check the means of the images: their median must be possible, and ``say`` hears of one that is unlikely."""
    means = []
    for i_tilt, i_image in np.argwhere(series.weight > 0):
        image = to_numpy(series.images[i_tilt, i_image])
        if series.pixel_weight is not None:
            image = image[to_numpy(series.pixel_weight[i_tilt, i_image]) > 0]
        if image.size:
            means.append(float(image.mean(dtype=np.float64)))
    middle = float(np.median(means)) if means else 1.0
    rule = f"the median of the images' means is {middle:.4g}"
    if not _POSSIBLE[0] <= middle <= _POSSIBLE[1]:
        raise DataError(f"images: {rule}, wanted intensities with vacuum 1, whose means lie between {_POSSIBLE[0]:g} "
                        f"and {_POSSIBLE[1]:g}: divide each image by its mean in vacuum")
    if not _LIKELY[0] <= middle <= _LIKELY[1]:
        say(f"{rule}, and vacuum must be 1: divide each image by its mean in vacuum if it is not")
