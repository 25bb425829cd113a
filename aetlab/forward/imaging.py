r"""Image formation from the exit wave at the volume's centre: pupil, aberrations, envelopes, detector, binning.

Notation: spatial frequency q in 1/Å with azimuth φ (from +x towards +y), wavelength λ, scattering angle θ = λ|q|, plane
waves exp(+2πi q·r). The transfer function of a plane at defocus Δf (positive along the beam) is

    H(q) = P(|q|) · exp(2πi Δf (√(1/λ² - q²) - 1/λ)) · exp(-i χ(q)) · E_t(q) · E_s(q),    χ = (2π/λ) W(θ, φ)

with the wave aberration in the notation of Uhlemann and Haider (Ultramicroscopy 72, 109, 1998). Each complex term is
written with one amplitude and one azimuth:

    W = ½ A1 θ² cos 2(φ-φ_A1)
      + B2 θ³ cos (φ-φ_B2) + ⅓ A2 θ³ cos 3(φ-φ_A2)
      + ¼ Cs θ⁴ + S3 θ⁴ cos 2(φ-φ_S3) + ¼ A3 θ⁴ cos 4(φ-φ_A3)
      + B4 θ⁵ cos (φ-φ_B4) + D4 θ⁵ cos 3(φ-φ_D4) + ⅕ A4 θ⁵ cos 5(φ-φ_A4)
      + ⅙ C5 θ⁶ + S5 θ⁶ cos 2(φ-φ_S5) + R5 θ⁶ cos 4(φ-φ_R5) + ⅙ A5 θ⁶ cos 6(φ-φ_A5)

The envelopes are those of a weakly scattering object (Kirkland, Advanced Computing in Electron Microscopy, 2010,
section 3.2), with standard deviations instead of Kirkland's 1/e half-widths: for the focal spread σ_f,
E_t = exp(-½ σ_f² (∂ arg H/∂Δf)²); for the convergence σ_s of each component of the illumination's angle,
E_s = exp(-½ (σ_s/λ)² |∇_q arg H|²). Neither changes vacuum.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from aetlab.core import physics
from aetlab.core.backend import array_module, fft_module
from aetlab.core.grid import axial_frequencies, squared_frequencies
from aetlab.spec import MicroscopeSpec

Array = Any

#: Planes of the average of intensities over the focal spread.
N_PLANES = 7
_A_PER_NM, _A_PER_UM, _A_PER_MM = 1e1, 1e4, 1e7


class Aberration(NamedTuple):
    """One term ``factor · coefficient · θ**power · cos(symmetry · (φ - azimuth))`` of the wave aberration, in Å."""

    factor: float
    coefficient_A: float
    power: int
    symmetry: int
    azimuth_rad: float


def aberrations(microscope: MicroscopeSpec) -> tuple[Aberration, ...]:
    """Return the non-zero aberrations of ``microscope``, without defocus."""
    m = microscope
    terms = (
        (1 / 2, m.A1_nm * _A_PER_NM, 2, 2, m.A1_deg),
        (1.0, m.B2_nm * _A_PER_NM, 3, 1, m.B2_deg),
        (1 / 3, m.A2_nm * _A_PER_NM, 3, 3, m.A2_deg),
        (1 / 4, m.Cs_mm * _A_PER_MM, 4, 0, 0.0),
        (1.0, m.S3_um * _A_PER_UM, 4, 2, m.S3_deg),
        (1 / 4, m.A3_um * _A_PER_UM, 4, 4, m.A3_deg),
        (1.0, m.B4_um * _A_PER_UM, 5, 1, m.B4_deg),
        (1.0, m.D4_um * _A_PER_UM, 5, 3, m.D4_deg),
        (1 / 5, m.A4_um * _A_PER_UM, 5, 5, m.A4_deg),
        (1 / 6, m.C5_mm * _A_PER_MM, 6, 0, 0.0),
        (1.0, m.S5_mm * _A_PER_MM, 6, 2, m.S5_deg),
        (1.0, m.R5_mm * _A_PER_MM, 6, 4, m.R5_deg),
        (1 / 6, m.A5_mm * _A_PER_MM, 6, 6, m.A5_deg),
    )
    return tuple(Aberration(factor, coefficient, power, symmetry, float(np.deg2rad(azimuth_deg)))
                 for factor, coefficient, power, symmetry, azimuth_deg in terms if coefficient != 0)


def pupil(shape_xy: tuple[int, int], pixel_A: float, microscope: MicroscopeSpec) -> np.ndarray:
    """Return the transmission of the aperture, float64 (X, Y): 1 inside, 0 outside.

    With ``aperture_edge_per_A`` = w > 0 it falls as a half-cosine from 1 at cut-off - w/2 to 0 at cut-off + w/2.
    """
    q = np.sqrt(squared_frequencies(shape_xy, pixel_A))
    cut_off, width = microscope.aperture_per_A, microscope.aperture_edge_per_A
    if width == 0:
        return (q <= cut_off * (1 + 1e-9)).astype(np.float64)
    return 0.5 - 0.5 * np.sin(np.pi * np.clip((q - cut_off) / width, -0.5, 0.5))


def transfer_function(shape_xy: tuple[int, int], pixel_A: float, microscope: MicroscopeSpec, defocus_A: float, *,
                      band_limit: float = 1.0) -> np.ndarray:
    """Return the transfer function from the wave at the volume's centre to the image wave, on the FFT grid.

    Parameters
    ----------
    shape_xy : tuple of int
        Pixels of the wave.
    pixel_A : float
        Sampling of the wave in Å.
    microscope : MicroscopeSpec
        Energy, aperture, aberrations and envelopes.
    defocus_A : float
        Distance in Å from the volume's centre to the imaged plane, positive along the beam.
    band_limit : float
        Frequencies beyond this fraction of the Nyquist frequency are cut (a circle); 1 keeps all, corners included.

    Returns
    -------
    complex128 (X, Y); 1 at q = 0.
    """
    wavelength_A = physics.wavelength_A(microscope.energy_keV)
    q2 = squared_frequencies(shape_xy, pixel_A)
    slope_defocus = 2 * np.pi * axial_frequencies(shape_xy, pixel_A, wavelength_A)
    phase, slope_x, slope_y = _aberration_phase(shape_xy, pixel_A, wavelength_A, aberrations(microscope))

    amplitude = pupil(shape_xy, pixel_A, microscope) * (q2 < 1 / wavelength_A**2)
    if band_limit < 1:
        amplitude *= q2 <= (band_limit * 0.5 / pixel_A * (1 + 1e-9)) ** 2
    if microscope.focal_spread_sigma_nm > 0:
        spread_A = microscope.focal_spread_sigma_nm * _A_PER_NM
        amplitude *= np.exp(-0.5 * (spread_A * slope_defocus) ** 2)
    if microscope.convergence_sigma_mrad > 0:
        q_x, q_y = _frequency_grid(shape_xy, pixel_A)
        k_z = np.maximum(slope_defocus / (2 * np.pi) + 1 / wavelength_A, 1e-12)
        radial = -2 * np.pi * defocus_A / k_z
        gradient2 = (slope_x + radial * q_x) ** 2 + (slope_y + radial * q_y) ** 2
        spread_per_A = 1e-3 * microscope.convergence_sigma_mrad / wavelength_A
        amplitude *= np.exp(-0.5 * spread_per_A**2 * gradient2)
    return amplitude * np.exp(1j * (phase + defocus_A * slope_defocus))


def detector_mtf(shape_xy: tuple[int, int], pixel_A: float, mtf_half: float) -> np.ndarray:
    """Return the modulation transfer function of the detector, float64 (X, Y), 1 at q = 0.

    A Gaussian, ``mtf_half ** (|q| / q_half)²`` with q_half half the sampling frequency, 1/(2 ``pixel_A``): the point
    spread is a Gaussian with a standard deviation of ``√(2 ln(1/mtf_half))/π`` pixels.
    """
    return mtf_half ** (squared_frequencies(shape_xy, pixel_A) * (2 * pixel_A) ** 2)


def blur_by_detector(images: Array, mtf: np.ndarray) -> Array:
    """Return images (..., X, Y) multiplied by ``mtf`` (X, Y) in Fourier space; the mean stays the same."""
    xp, fft = array_module(images), fft_module(images)
    half = xp.asarray(mtf[:, : images.shape[-1] // 2 + 1], dtype=images.dtype)
    return fft.irfft2(fft.rfft2(images) * half, s=images.shape[-2:])


def bin_pixels(images: Array, factor: int) -> Array:
    """Return means of images (..., X, Y) over ``factor`` × ``factor`` pixels; the centre does not move."""
    if factor == 1:
        return images
    *rest, n_x, n_y = images.shape
    if n_x % factor or n_y % factor:
        raise ValueError(f"{n_x} x {n_y} pixels cannot be binned by {factor}")
    return images.reshape(*rest, n_x // factor, factor, n_y // factor, factor).mean(axis=(-3, -1))


def _frequency_grid(shape_xy: tuple[int, int], pixel_A: float) -> tuple[np.ndarray, np.ndarray]:
    """Return q_x (X, 1) and q_y (1, Y) in 1/Å."""
    return np.fft.fftfreq(shape_xy[0], pixel_A)[:, None], np.fft.fftfreq(shape_xy[1], pixel_A)[None, :]


def _aberration_phase(shape_xy: tuple[int, int], pixel_A: float, wavelength_A: float,
                      terms: tuple[Aberration, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return -χ in rad and its gradient in rad Å along q_x and q_y, each float64 (X, Y)."""
    q_x, q_y = _frequency_grid(shape_xy, pixel_A)
    # cos(m (φ - φ0)) θ^p = θ^(p - m) Re[(θ_x + i θ_y)^m e^(-i m φ0)], a polynomial, defined at q = 0.
    angle = wavelength_A * (q_x + 1j * q_y)
    square = np.abs(angle) ** 2
    phase, slope_x, slope_y = (np.zeros(shape_xy) for _ in range(3))
    for factor, coefficient_A, power, m, azimuth_rad in terms:
        scale = -2 * np.pi / wavelength_A * factor * coefficient_A
        k = (power - m) // 2
        turned = np.exp(-1j * m * azimuth_rad)
        pattern = turned * angle**m
        phase += scale * square**k * pattern.real
        radial = 2 * k * square ** (k - 1) * pattern.real if k else np.zeros(shape_xy)
        turning = m * turned * angle ** (m - 1) if m else np.zeros(shape_xy, complex)
        slope_x += scale * wavelength_A * (radial * angle.real + square**k * turning.real)
        slope_y += scale * wavelength_A * (radial * angle.imag - square**k * turning.imag)
    return phase, slope_x, slope_y


def planes_of_spread(microscope: MicroscopeSpec) -> tuple[MicroscopeSpec, np.ndarray, np.ndarray]:
    """Return a microscope without focal spread, and changes of the defocus in Å (K,) and weights (K,) that replace it.

    The weighted mean of the intensities at these planes is that of a normal distribution of the defocus, by
    Gauss-Hermite quadrature; the envelope of the transfer function is its limit for weak scattering.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(N_PLANES)
    return (replace(microscope, focal_spread_sigma_nm=0.0), 10 * microscope.focal_spread_sigma_nm * nodes,
            weights / weights.sum())
