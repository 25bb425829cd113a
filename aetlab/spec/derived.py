"""Quantities that follow from the settings of a run.

The values of settings are part of a run's identity. How these quantities follow from them is code that decides numbers
(:func:`aetlab.store.identity.code_id`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from aetlab.core.physics import wavelength_A
from aetlab.spec.acquisition import MicroscopeSpec, TiltsSpec, WedgeSpec

if TYPE_CHECKING:
    from aetlab.spec.reconstruction import AlignSpec
    from aetlab.spec.run import RunSpec

#: Thickness of a coarse slice in units of the depth of focus.
_DEPTH_SHARE = 0.2


def blurs_images(microscope: MicroscopeSpec) -> bool:
    """Return whether images are blurred, by the detector or by a movement."""
    return microscope.mtf_half < 1 or bool(microscope.mtf_values) or microscope.blur_sigma_A > 0


def tilt_angles_deg(tilts: TiltsSpec, wedge: WedgeSpec) -> tuple[float, ...]:
    """Return the tilt angles in degrees, in the order of acquisition.

    Equal steps are those of the full series; the tilts in the missing wedge are left out.
    """
    if tilts.n_tilts is not None:
        step = tilts.span_deg / tilts.n_tilts
        limit = tilts.span_deg - wedge.missing_deg
        return tuple(i * step for i in range(tilts.n_tilts) if i * step < limit - 1e-9)
    if tilts.angles_deg is not None:
        return tilts.angles_deg
    assert tilts.start_deg is not None and tilts.stop_deg is not None and tilts.step_deg is not None
    # A millionth of a step: the stop counts as reached in spite of rounding.
    n_steps = math.floor((tilts.stop_deg - tilts.start_deg) / tilts.step_deg + 1e-6)
    return tuple(tilts.start_deg + i * tilts.step_deg for i in range(n_steps + 1))


def tilt_span_deg(tilts: TiltsSpec, wedge: WedgeSpec) -> float:
    """Return the span of the tilt angles in degrees.

    For equal steps it is ``span_deg`` less the missing wedge: one step more than the last angle. For a list or a range
    it is the difference of the extreme angles, at most 180.
    """
    if tilts.n_tilts is not None:
        return tilts.span_deg - wedge.missing_deg
    angles_deg = tilt_angles_deg(tilts, wedge)
    return min(max(angles_deg) - min(angles_deg), 180.0)


def missing_wedge_deg(tilts: TiltsSpec, wedge: WedgeSpec) -> float:
    """Return the missing wedge in degrees.

    For equal steps it is ``wedge.missing_deg``. For a list or a range it is what the span leaves of 180.
    """
    return wedge.missing_deg if tilts.n_tilts is not None else 180.0 - tilt_span_deg(tilts, wedge)


def with_fewer_tilts(tilts: TiltsSpec, shrink: float) -> TiltsSpec:
    """Return tilts whose number is divided by ``shrink`` (at least 1) and whose span stays.

    Of a list or a range, the angles of evenly spaced ranks are kept, both extremes among them; at least two are.
    """
    if tilts.n_tilts is not None:
        return replace(tilts, n_tilts=round(tilts.n_tilts / shrink))
    angles_deg = sorted(tilt_angles_deg(tilts, WedgeSpec()))
    n_kept = max(round(len(angles_deg) / shrink), 2)
    ranks = (round(i * (len(angles_deg) - 1) / (n_kept - 1)) for i in range(n_kept))
    return TiltsSpec(angles_deg=tuple(angles_deg[rank] for rank in ranks))


def dose_per_image_e_A2(spec: RunSpec) -> float:
    """Return the electrons per Å² of one image: the total dose divided by the number of images acquired."""
    n_images = len(tilt_angles_deg(spec.tilts, spec.wedge)) * len(spec.defocus.planes_nm)
    return spec.dose.total_e_A2 / n_images


def averages_pixels(spec: RunSpec) -> bool:
    """Return whether images are means over the area of their pixels in front of the detector, which binning makes."""
    return spec.data.kind == "simulated" and spec.simulate.oversample > 1


def coarse_layers(spec: RunSpec) -> int:
    """Return the layers of a coarse slice, at least ``binning.n_layers`` and at most those of the volume.

    By the rule, the phase π λ q² t/2 that a wave at the edge q of the aperture gains over half the thickness t of a
    slice is at most π/10: t is 1/5 of the depth of focus 1/(λ q²).
    """
    return _coarse_layers(spec, spec.binning.coarse)


def coarse_refinement_layers(spec: RunSpec) -> int:
    """Return the layers of a slice in all rounds of a refinement but the last.

    Rule and limits are those of :func:`coarse_layers`.
    """
    return _coarse_layers(spec, spec.refine.coarse)


def refinement_layers(spec: RunSpec) -> tuple[int, ...]:
    """Return the different layers of a slice in a refinement: those of the last round, then the coarse ones."""
    return tuple(dict.fromkeys((spec.binning.n_layers, coarse_refinement_layers(spec))))


def _coarse_layers(spec: RunSpec, n_layers: int | str) -> int:
    if isinstance(n_layers, str):
        depth_A = 1 / (wavelength_A(spec.microscope.energy_keV) * spec.microscope.aperture_per_A**2)
        n_layers = int(_DEPTH_SHARE * depth_A / spec.scale.voxel_A)
    return max(min(n_layers, spec.scale.shape_zxy[0]), spec.binning.n_layers)


def alignment_smoothing_A(align: AlignSpec, iteration: int) -> float:
    """Return the smoothing of the alignment before ``iteration``, which is one of ``align.at``."""
    return align.smoothing_A[min(align.at.index(iteration), len(align.smoothing_A) - 1)]


def leaves_counts_out(spec: RunSpec) -> bool:
    """Return whether counts are left out of the fit to find its number of iterations.

    This needs ``reg.iterations_factor`` above 0, noise, tilts that are not aligned, and images that are counts, which
    prepared images of a microscope are not.
    """
    return (spec.reg.iterations_factor > 0 and math.isfinite(spec.dose.total_e_A2) and not spec.align.enabled
            and spec.data.kind != "measured")
