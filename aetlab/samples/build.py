"""Atoms in the volume, built from the settings, less vacancies, and the region in which atoms are scored."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from aetlab.core.errors import DataError
from aetlab.core.nouns import Atoms
from aetlab.samples.needle import build_needle, needle_shape
from aetlab.samples.structure_file import read_structure
from aetlab.spec import SampleSpec, ScaleSpec, SpecError, VacancyRegion

#: Least distance in Å of every atom from the faces of the volume, at every tilt.
LEAST_MARGIN_A = 2.0


def build_sample(sample: SampleSpec, scale: ScaleSpec, rng: np.random.Generator) -> Atoms:
    """Return the atoms of the sample inside the volume, without those removed as vacancies.

    Every atom keeps :data:`LEAST_MARGIN_A` from the faces of the volume at every tilt; only the base of a long
    needle may leave through the bottom face (-y). ``counts`` holds ``n_all``, ``n_in_volume`` and ``n_vacancies``, and
    ``n_partial`` and ``n_drawn`` if the sites of a file are occupied in part.

    Raises
    ------
    SpecError
        A sample that does not fit, a needle that cannot be made, a file that cannot be used; the message says which
        setting to change.
    """
    require_box(scale)
    if sample.kind == "needle":
        atoms = build_needle(scale, sample.min_distance_A, rng)
        _check_needle_fits(scale)
    else:
        atoms = read_structure(sample, rng)
        _check_file_fits(atoms, sample, scale)
    n_all = len(atoms)
    half_A = scale.voxel_A * scale.shape_zxy[2] / 2
    atoms = atoms.select(np.abs(atoms.positions_A[:, 1]) <= half_A)
    counts = {"n_all": n_all, "n_in_volume": len(atoms), **atoms.counts}
    atoms = dataclasses.replace(atoms, counts=counts)
    return remove_vacancies(atoms, sample.vacancies, rng)


def require_box(scale: ScaleSpec) -> None:
    """Raise :class:`SpecError` if the volume is still to be fitted to a structure."""
    if scale.voxel_A == 0 or 0 in scale.shape_zxy:
        raise SpecError("scale=fit is not joined with its structure yet: settings = aetlab.fit_scale(settings)")


def require_elements(atoms: Atoms) -> None:
    """Raise :class:`DataError` if an atom has no element, which other programs and the tracer write as number 0."""
    if (atoms.numbers == 0).any():
        raise DataError(f"Atoms.numbers: {int((atoms.numbers == 0).sum())} of {len(atoms)} atoms have the number 0; "
                        "name their elements, or leave them out by atoms.select(atoms.numbers > 0)")


def describe_reading(atoms: Atoms, sample: SampleSpec, seed: int) -> list[str]:
    """Return lines about what a structure file left to chance, and what was decided on reading it."""
    lines = [f"{sample.path}: {note}" for note in atoms.notes]
    if "n_partial" in atoms.counts:
        lines.append(f"{sample.path}: {atoms.counts['n_partial']} sites are occupied in part; "
                     f"{atoms.counts['n_drawn']} atoms were drawn for them at random with seed={seed}")
    return lines


def in_scoring_region(positions_A: np.ndarray, sample: SampleSpec, scale: ScaleSpec) -> np.ndarray:
    """Return which positions (N, 3) in Å are scored, bool (N,).

    Those are the positions in the volume at heights y where the needle is no wider than ``scale.scoring_diameter_A``.
    """
    n_z, n_x, n_y = scale.shape_zxy
    half_A = scale.voxel_A / 2 * np.array([n_x, n_y, n_z])
    inside = np.all(np.abs(positions_A) <= half_A, axis=1)
    if sample.kind == "needle":
        inside &= 2 * needle_shape(scale).outer_radius_A(positions_A[:, 1]) <= scale.scoring_diameter_A
    return inside


def sample_elements(atoms: Atoms) -> tuple[int, ...]:
    """Return the atomic numbers of the elements in ``atoms``, ascending."""
    return tuple(int(Z) for Z in np.unique(atoms.numbers))


def _check_needle_fits(scale: ScaleSpec) -> None:
    shape = needle_shape(scale)
    n_z, n_x, n_y = scale.shape_zxy
    room_A = min(n_z, n_x) * scale.voxel_A / 2 - LEAST_MARGIN_A
    widest_A = max(shape.base_radius_A, shape.apex_radius_A)
    if widest_A > room_A:
        height_A = n_y * scale.voxel_A - 2 * LEAST_MARGIN_A
        raise SpecError(f"scale.core_radius_A={scale.core_radius_A!r} cannot be used: with its shell the needle has a "
                        f"radius of {widest_A:.1f} Å, and the volume has room for {room_A:.1f} Å at every tilt; take a "
                        f"thinner needle or scale.shape_zxy={least_shape(widest_A, height_A, scale.voxel_A)}")
    if scale.apex_gap_A < LEAST_MARGIN_A:
        raise SpecError(f"scale.apex_gap_A={scale.apex_gap_A!r} cannot be used: the apex needs {LEAST_MARGIN_A} Å")
    below_A = n_y * scale.voxel_A - scale.apex_gap_A - scale.length_A
    if 0 < below_A < LEAST_MARGIN_A:
        raise SpecError(f"scale.length_A={scale.length_A!r} cannot be used: the base ends {below_A:.2f} Å above the "
                        f"bottom face; leave {LEAST_MARGIN_A} Å, or let the needle reach out of the volume")


def _check_file_fits(atoms: Atoms, sample: SampleSpec, scale: ScaleSpec) -> None:
    n_z, n_x, n_y = scale.shape_zxy
    radius_A = float(np.hypot(atoms.positions_A[:, 0], atoms.positions_A[:, 2]).max())
    height_A = float(np.abs(atoms.positions_A[:, 1]).max())
    room_A = min(n_z, n_x) * scale.voxel_A / 2 - LEAST_MARGIN_A
    room_y_A = n_y * scale.voxel_A / 2 - LEAST_MARGIN_A
    if radius_A > room_A or height_A > room_y_A:
        raise SpecError(f"sample.path={sample.path!r} does not fit: the structure needs a radius of {radius_A:.1f} Å "
                        f"about the tilt axis and {2 * height_A:.1f} Å along it, and scale={scale.name} has room for "
                        f"{room_A:.1f} Å and {2 * room_y_A:.1f} Å; choose scale=fit, or set sample.crop or "
                        f"scale.shape_zxy={least_shape(radius_A, 2 * height_A, scale.voxel_A)}")


def least_shape(radius_A: float, height_A: float, voxel_A: float) -> str:
    """Return the voxels (z, x, y) that hold a cylinder about the tilt axis with margins, as ``[64,64,80]``."""
    widths_A = (2 * radius_A, 2 * radius_A, height_A)
    counts = [8 * math.ceil((width_A + 2 * LEAST_MARGIN_A) / voxel_A / 8 - 1e-9) for width_A in widths_A]
    return f"[{','.join(map(str, counts))}]"


def remove_vacancies(atoms: Atoms, regions: tuple[VacancyRegion, ...], rng: np.random.Generator) -> Atoms:
    """Remove the given fraction (rounded to whole atoms) of the atoms in each region, one region after the other.

    Where regions overlap, the later one draws from the atoms that the earlier ones left. ``counts`` gains
    ``n_vacancies``, and ``n_vacancies_<i>`` for region i. Raises SpecError for a region that names a part the sample
    does not have, an empty region with a fraction above 0, or if no atom is left.
    """
    present = np.ones(len(atoms), dtype=bool)
    counts = dict(atoms.counts)
    for i_region, region in enumerate(regions):
        setting = f"sample.vacancies[{i_region}]"
        inside = present.copy()
        if region.part != "all":
            if region.part not in atoms.part_names:
                raise SpecError(f"{setting}.part={region.part!r} cannot be used: this sample has the parts "
                                f"{', '.join(atoms.part_names)}")
            inside &= atoms.part == atoms.part_names.index(region.part)
        for axis, (low, high) in enumerate((region.x_A, region.y_A, region.z_A)):
            inside &= (atoms.positions_A[:, axis] >= low) & (atoms.positions_A[:, axis] < high)
        candidates = np.flatnonzero(inside)
        if region.fraction > 0 and len(candidates) == 0:
            raise SpecError(f"{setting}={region.part!r} cannot be used: no atoms of the sample lie in this region")
        n_removed = round(region.fraction * len(candidates))
        present[rng.choice(candidates, n_removed, replace=False)] = False
        counts[f"n_vacancies_{i_region}"] = n_removed
    if len(atoms) and not present.any():
        fractions = [region.fraction for region in regions]
        raise SpecError(f"sample.vacancies={fractions!r} (fractions) cannot be used: no atom of the sample is left; "
                        "give smaller fractions or regions")
    counts["n_vacancies"] = int((~present).sum())
    return dataclasses.replace(atoms.select(present), counts=counts)
