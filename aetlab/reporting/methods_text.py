"""A paragraph of methods for a paper, written from the record of a run: settings, numbers and versions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from aetlab.core.physics import SYMBOLS
from aetlab.methods.regularisers import REGULARISERS
from aetlab.reporting.stored_run import StoredRun
from aetlab.reporting.tables import device_name, dose_text
from aetlab.spec import RunSpec, coarse_layers, coarse_refinement_layers

#: Packages whose versions the paragraph states.
_PACKAGES = ("numpy", "scipy", "numba")
#: Aberrations of the microscope that are stated where they are not 0.
_ABERRATIONS = ("Cs_mm", "C5_mm", "A1_nm", "B2_nm", "A2_nm", "S3_um", "A3_um", "D4_um", "B4_um", "A4_um", "S5_mm",
                "R5_mm", "A5_mm")


def methods_text(run: StoredRun) -> str:
    """Return a paragraph on how the atoms of ``run`` were found; every number in it is one of the record."""
    return " ".join([_data(run), _microscope(run), _reconstruction(run), _atoms(run), *_validation(run),
                     _software(run)])


def _data(run: StoredRun) -> str:
    spec = run.spec
    tilt_deg, weight = run.array("tilt_series/tilt_deg"), run.array("tilt_series/weight")
    defocus_nm, electrons = run.array("tilt_series/defocus_nm"), run.array("tilt_series/electrons_per_pixel")
    present = weight > 0
    seen = present.any(axis=1)
    planes = [f"{defocus_nm[own, j].mean():.4g}" for j, own in enumerate(present.T) if own.any()]
    made = {"simulated": "was simulated", "measured": "was recorded", "given": "was used"}[spec.data.kind]
    dose = "without noise" if math.isinf(spec.dose.total_e_A2) else (
        f"with {dose_text(spec.dose.total_e_A2)} e/Å² in all, a mean of {electrons[present].mean():.4g} effective "
        "electrons in a vacuum pixel of an image")
    held = "" if spec.data.held_out == 0 else (
        f" {int(run.array('validation/images/held_out').sum())} images were held out of every step.")
    span = f"{tilt_deg[seen].min():.4g}° to {tilt_deg[seen].max():.4g}°"
    return (f"A tilt series of {int(present.sum())} images at {int(seen.sum())} tilts from {span} and at a nominal "
            f"defocus of {_listed(planes)} nm (overfocus positive) {made} {dose}, in pixels of {run.voxel_A:.4g} Å."
            f"{held}")


def _microscope(run: StoredRun) -> str:
    m = run.spec.microscope
    parts = [f"a pupil of {m.aperture_per_A:.4g} 1/Å", f"a focal spread of {m.focal_spread_sigma_nm:.4g} nm",
             f"a convergence of {m.convergence_sigma_mrad:.4g} mrad (standard deviations)"]
    for name in _ABERRATIONS:
        value = getattr(m, name)
        if value:
            symbol, unit = name.split("_")
            parts.append(f"{symbol} = {value:.4g} {unit.replace('um', 'µm')}")
    if m.blur_sigma_A:
        parts.append(f"a blur of the images by movements of {m.blur_sigma_A:.4g} Å (standard deviation)")
    if m.mtf_values:
        parts.append("the measured modulation transfer function of the detector")
    elif m.mtf_half < 1:
        parts.append(f"a detector whose modulation transfer function is {m.mtf_half:.4g} at half the Nyquist frequency")
    return f"The model has electrons of {m.energy_keV:.4g} keV, {_listed(parts)}."


def _reconstruction(run: StoredRun) -> str:
    spec = run.spec
    n_z, n_x, n_y = spec.scale.shape_zxy
    row = REGULARISERS[spec.reg.kind]
    weight_per_V = run.metrics.get("weight_per_V", math.nan)
    weighted = f" with a weight of {weight_per_V:.3g} 1/V" if row.weighted and math.isfinite(weight_per_V) else ""
    align = (" Shift, defocus, brightness and the direction of the tilt axis of every tilt were aligned to the volume "
             "during the iterations.") if spec.align.enabled else ""
    support = (" Positions across the tilt axis that the images show to be vacuum were left out."
               if spec.engine.support == "images" else "")
    n_tiles = spec.tile.count(n_y)
    tiles = f" It was reconstructed in {n_tiles} overlapping tiles along the tilt axis." if n_tiles > 1 else ""
    return (f"The electrostatic potential in {n_x} × {n_y} × {n_z} voxels (x, y along the tilt axis, z along the beam) "
            "was reconstructed from all images at once by accelerated incremental proximal gradient descent through a "
            "multislice model (D. Ren, M. Chen, L. Waller and C. Ophus, A Practical Reconstruction Method for "
            "Three-Dimensional Phase Contrast Atomic Electron Tomography, 2018), with slices of "
            f"{spec.binning.n_layers} voxels{_coarse(spec)}, {spec.engine.rotation} interpolation of the rotated "
            f"volume and the {spec.engine.likelihood} likelihood. The regulariser was {spec.reg.kind} "
            f"({row.meaning}){weighted}; there were {len(run.history.cost)} iterations.{support}{align}{tiles}")


def _coarse(spec: RunSpec) -> str:
    """Return how the slices of the first iterations differ, in words; empty if they do not."""
    n_layers = coarse_layers(spec)
    return "" if n_layers == spec.binning.n_layers else (
        f" in the last {spec.binning.fine_iterations} iterations and of {n_layers} voxels before")


def _atoms(run: StoredRun) -> str:
    spec, metrics = run.spec, run.metrics
    numbers = run.array("traced/numbers")
    text = (f"Atoms were traced by fits of Gaussians to the volume and named by their signal ({_counts(numbers)}).")
    if "refined/positions_A" not in run.array_names:
        return text
    free = ["positions", "occupancies"] + [words for on, words in (
        (spec.refine.poses, "turn, shift and height of every tilt"),
        (spec.refine.imaging, "defocus and brightness of every image"),
        (spec.refine.image_shifts, "the shift of every image"),
        (spec.refine.magnification, "the relative magnification of each plane of the defocus"),
        (spec.refine.thermal, "a thermal factor of each element"),
        (spec.refine.contrast, "a common factor of the contrast"),
        (any(name.startswith("refined_lens_") for name in metrics), "aberrations of the lens")) if on]
    sigma_pm = 100 * run.array("refined/position_error_A")
    sigma_pm = sigma_pm[(np.isfinite(sigma_pm) & (sigma_pm > 0)).all(axis=1)]
    errors = "" if not len(sigma_pm) else " Standard errors of the positions (medians) are " + _listed(
        [f"{value:.2f}" for value in np.median(sigma_pm, axis=0)]) + " pm along x, y and z."
    thermal = [f"B = {value:.3f} Å² for {name.split('_')[2]}" for name, value in metrics.items()
               if name.startswith("refined_thermal_")]
    weakened = int(metrics.get("refined_n_weakened_images", 0))
    weights = f" {weakened} images that fit much worse than the others have lower weights." if weakened else ""
    if "refined_contrast" in metrics:
        thermal.append(f"a contrast of {metrics['refined_contrast']:.4f}")
    for name, words in (("A1", "two-fold astigmatism"), ("B2", "axial coma"), ("A2", "three-fold astigmatism")):
        if f"refined_lens_{name}_nm" in metrics:
            nm, error, deg = (metrics[f"refined_lens_{name}_{key}"] for key in ("nm", "error_nm", "deg"))
            thermal.append(f"a {words} of {nm:.3g} ± {error:.2g} nm at {deg:.1f}°, which the images showed")
    found = f" The fit gave {_listed(thermal)}." if thermal else ""
    return (f"{text} They were refined against the images through the multislice model ({_listed(free)} free), with "
            f"slices of {_refined_slices(spec)}, which left {_counts(run.array('refined/numbers'))}."
            f"{_sampling(spec)}{weights}{found}{errors}")


def _refined_slices(spec: RunSpec) -> str:
    n_layers, n_coarse = spec.binning.n_layers, coarse_refinement_layers(spec)
    return f"{n_layers} voxels" if n_coarse == n_layers else (
        f"{n_coarse} voxels in all rounds but the last, which had {n_layers}")


def _sampling(spec: RunSpec) -> str:
    return "" if spec.refine.sampling == "coarse" else (
        " What pixels twice as fine, without the mean over a voxel, change in the modelled amplitudes was subtracted "
        "from the measured ones, at the atoms of each fit.")


def _validation(run: StoredRun) -> list[str]:
    metrics, lines = run.metrics, []
    for model, words in (("volume", "the volume"), ("atoms", "the refined atoms")):
        if f"r_factor_{model}" in metrics:
            chi = metrics.get("chi_square_reduced_atoms" if model == "atoms" else "chi_square_volume", math.nan)
            chi_text = f", and χ² per {'degree of freedom' if model == 'atoms' else 'value'} is {chi:.3f}"
            counts = f" ({100 * metrics[f'r_factor_counts_{model}']:.2f} % is that of counting noise alone)"
            value = f"{100 * metrics[f'r_factor_{model}']:.2f} %"
            lines.append(f"The R factor of the amplitudes of all images is {value} for {words}"
                         + (f"{counts}{chi_text}." if math.isfinite(chi) else "."))
            if f"held_out_r_factor_{model}" in metrics:
                lines.append(f"It is {100 * metrics[f'held_out_r_factor_{model}']:.2f} % for the images held out.")
    if "resolution_0143_A" in metrics:
        split = run.environment.get("halves_of")
        how = "each count given to one of them at random" if split == "counts" else "alternate images in each"
        fine, coarse, fine_wedge, coarse_wedge = (
            f"{metrics[f'resolution_{name}_A']:.2f} Å" for name in ("0143", "05", "0143_wedge", "05_wedge"))
        lines.append(
            f"Two reconstructions from independent halves of the data ({how}) have a Fourier shell correlation above "
            f"0.143 to {fine} and above 0.5 to {coarse} (along the missing wedge {fine_wedge} and {coarse_wedge}; two "
            f"voxels are {2 * run.voxel_A:.2f} Å). {metrics['halves_n_common']:.0f} atoms were found in both halves, "
            f"{metrics['halves_distance_pm']:.1f} pm apart (median). From these, the atoms found are estimated to be "
            f"{metrics['halves_found_percent']:.1f} % of those there, with a position error of "
            f"{metrics['halves_position_error_pm']:.1f} pm (mean in 3D, without errors common to both halves).")
    return lines


def _software(run: StoredRun) -> str:
    environment = run.environment
    versions = environment.get("versions", {})
    used = ", ".join(f"{name} {versions[name]}" for name in _PACKAGES if name in versions)
    commit = f" (commit {environment['commit']})" if environment.get("commit") else ""
    digest = f", series of SHA-256 {run.spec.data.digest}" if run.spec.data.digest else ""
    return (f"Computed by aetlab {versions.get('aetlab', 'of an unknown version')}{commit} with {used} on "
            f"{device_name(run)}; record {run.identity}, seed {run.spec.seed}{digest}.")


def _counts(numbers: np.ndarray) -> str:
    values, counts = np.unique(numbers[numbers > 0], return_counts=True)
    return _listed([f"{count} {SYMBOLS[value]}" for value, count in zip(values, counts, strict=True)]) or "no atoms"


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""
