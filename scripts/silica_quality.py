"""Quality measures of a silica structure: coordination, bond lengths and angles, neutron structure factor."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

#: Neutron scattering lengths in fm (V. F. Sears, Neutron News 3 (1992) 26).
SCATTERING_LENGTH_FM = {14: 4.1491, 8: 5.803}

#: Si and O nearer than this are bonded: the gap between the first and the second shell.
BOND_CUTOFF_A = 2.0


def qualities(numbers: np.ndarray, positions_A: np.ndarray, side_A: float) -> dict[str, float]:
    """Return measures of a periodic cube of SiO2; each name ends in its unit."""
    silicon_A, oxygen_A = positions_A[numbers == 14] % side_A, positions_A[numbers == 8] % side_A
    silicon, oxygen = cKDTree(silicon_A, boxsize=side_A), cKDTree(oxygen_A, boxsize=side_A)
    about_silicon = silicon.query_ball_tree(oxygen, BOND_CUTOFF_A)
    about_oxygen = oxygen.query_ball_tree(silicon, BOND_CUTOFF_A)
    bonds_A, at_silicon_deg = _bonds_and_angles(silicon_A, oxygen_A, about_silicon, side_A)
    _, at_oxygen_deg = _bonds_and_angles(oxygen_A, silicon_A, about_oxygen, side_A)
    counts, edges = np.histogram(bonds_A, np.arange(1.4, 2.0, 0.004))
    smooth = np.convolve(counts, np.ones(5), "same")
    volume_A3 = side_A**3
    return {
        "density_g_cm3": (28.0855 * len(silicon_A) + 15.9994 * len(oxygen_A)) * 1.66053907 / volume_A3,
        "si_with_4_o_percent": 100 * float(np.mean([len(near) == 4 for near in about_silicon])),
        "o_with_2_si_percent": 100 * float(np.mean([len(near) == 2 for near in about_oxygen])),
        "si_o_peak_A": float(edges[smooth.argmax()] + 0.002),
        "si_o_mean_A": float(bonds_A.mean()),
        "si_o_least_A": float(bonds_A.min()),
        "o_o_least_A": float(oxygen.query(oxygen_A, 2)[0][:, 1].min()),
        "si_si_least_A": float(silicon.query(silicon_A, 2)[0][:, 1].min()),
        "o_si_o_mean_deg": float(at_silicon_deg.mean()),
        "o_si_o_spread_deg": float(at_silicon_deg.std()),
        "si_o_si_mean_deg": float(at_oxygen_deg.mean()),
        "si_o_si_spread_deg": float(at_oxygen_deg.std()),
        **_first_sharp_peak(numbers, positions_A, side_A),
    }


def _bonds_and_angles(centres_A: np.ndarray, others_A: np.ndarray, near: list[list[int]], side_A: float,
                      ) -> tuple[np.ndarray, np.ndarray]:
    lengths, angles = [], []
    for centre, indices in zip(centres_A, near, strict=True):
        arms = others_A[indices] - centre
        arms -= side_A * np.round(arms / side_A)
        length = np.linalg.norm(arms, axis=1)
        cosines = (arms @ arms.T) / np.outer(length, length)
        lengths.append(length)
        angles.append(np.degrees(np.arccos(np.clip(cosines[np.triu_indices(len(indices), 1)], -1, 1))))
    return np.concatenate(lengths), np.concatenate(angles)


def _first_sharp_peak(numbers: np.ndarray, positions_A: np.ndarray, side_A: float) -> dict[str, float]:
    """Return the position of the first peak of S(q) and the strongest single reflection up to 2.6 1/Å.

    The position is the centre of mass of S(q) above two thirds of the peak, from 1.1 to 2.0 1/Å. In a crystal the
    strongest reflection is of the order of the number of atoms.
    """
    index = np.arange(-16, 17)
    reflections = np.stack(np.meshgrid(index[16:], index, index, indexing="ij"), -1).reshape(-1, 3)
    q_per_A = 2 * np.pi / side_A * np.linalg.norm(reflections, axis=1)
    kept = (q_per_A > 0.5) & (q_per_A < 2.6)
    reflections, q_per_A = reflections[kept], q_per_A[kept]
    weight = np.where(numbers == 14, SCATTERING_LENGTH_FM[14], SCATTERING_LENGTH_FM[8])
    phases = [np.exp(2j * np.pi / side_A * positions_A @ block.T) for block in np.array_split(reflections, 40)]
    factor = np.concatenate([np.abs(weight @ phase) ** 2 for phase in phases]) / np.sum(weight**2)
    grid = np.arange(1.1, 2.0, 0.02)
    kernel = np.exp(-((grid[:, None] - q_per_A) ** 2) / (2 * 0.05**2))
    smooth = (kernel @ factor) / kernel.sum(1)
    excess = np.maximum(smooth - 2 / 3 * smooth.max(), 0)
    peak_per_A = float((grid * excess).sum() / excess.sum())
    return {"first_sharp_peak_per_A": peak_per_A, "strongest_reflection": float(factor.max())}
