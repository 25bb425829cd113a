"""Synthetic volumes of Gaussian atoms for the tests of tracing."""

from __future__ import annotations

import numpy as np

from aetlab.core.nouns import Atoms, TracedAtoms, Volume

VOXEL_A = 0.5
O_V, SI_V = 120.0, 230.0


def place_sites(n_sites: int, shape_zxy: tuple[int, int, int], rng: np.random.Generator, *, distance: float = 3.2,
                margin: float = 3.0, width: float = 0.7, spread: float = 0.05) -> np.ndarray:
    """Return random sites (N, 5), at least ``distance`` voxels apart; 40 % have the intensity of Si, others of O."""
    points = np.empty((0, 3))
    while len(points) < n_sites:
        trial = rng.uniform(margin, np.array(shape_zxy) - 1 - margin)
        if not len(points) or ((points - trial) ** 2).sum(axis=1).min() >= distance**2:
            points = np.concatenate([points, trial[None]])
    mean = np.where(rng.random(n_sites) < 0.4, SI_V, O_V)
    intensity = mean * (1 + spread * rng.standard_normal(n_sites))
    return np.column_stack([points, intensity, np.full(n_sites, width)])


def draw_volume(sites: np.ndarray, shape_zxy: tuple[int, int, int]) -> np.ndarray:
    """Return the sum of the sites' Gaussians at the voxel centres within 8 voxels along each axis, float32."""
    volume = np.zeros(shape_zxy)
    for *centre, intensity, width in sites.tolist():
        boxes, profiles = [], []
        for place, n in zip(centre, shape_zxy, strict=True):
            axis = np.arange(max(0, int(np.ceil(place - 8))), min(n, int(np.floor(place + 8)) + 1))
            boxes.append(slice(axis[0], axis[-1] + 1))
            profiles.append(np.exp(-0.5 * ((axis - place) / width) ** 2))
        volume[tuple(boxes)] += intensity * np.einsum("i,j,k->ijk", *profiles)
    return volume.astype(np.float32)


def as_atoms(sites: np.ndarray, shape_zxy: tuple[int, int, int]) -> Atoms:
    """Return the sites as true atoms of Si and O."""
    positions_A = ((sites[:, :3] - (np.array(shape_zxy) - 1) / 2) * VOXEL_A)[:, [1, 2, 0]]
    numbers = np.where(sites[:, 3] > 0.5 * (O_V + SI_V), 14, 8)
    return Atoms(numbers, positions_A, np.zeros(len(sites), dtype=np.int64))


def as_volume(potential_V: np.ndarray) -> Volume:
    return Volume(potential_V, VOXEL_A)


def make_traced(positions_A: np.ndarray, numbers: np.ndarray, intensity_V: np.ndarray | None = None) -> TracedAtoms:
    """Return traced atoms with the given positions, elements and intensities, without standard errors."""
    n = len(numbers)
    unknown = np.full(n, np.nan)
    elements = tuple(sorted(set(np.asarray(numbers).tolist())))
    return TracedAtoms(
        positions_A=np.asarray(positions_A, dtype=np.float64).reshape(n, 3),
        intensity_V=np.full(n, 100.0) if intensity_V is None else np.asarray(intensity_V, dtype=np.float64),
        width_A=np.full(n, 0.35), signal=np.full(n, 70.0), numbers=np.asarray(numbers, dtype=np.int64),
        position_error_A=np.full((n, 3), np.nan), intensity_error_V=unknown, width_error_A=unknown,
        probability=np.ones(n), flag=np.zeros(n, dtype=np.uint8), residual_V=unknown,
        posterior=np.ones((n, len(elements))), not_atom_probability=np.zeros(n), species={"elements": elements})
