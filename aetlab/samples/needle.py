"""The needle of the paper: crystalline silicon under a shell of amorphous silica, its axis along the tilt axis y.

The outer surface is a cone of half-angle τ that ends in a sphere tangent to it (a cylinder with a hemisphere where
τ = 0); the core is the region deeper than the shell is thick, so that the shell covers cone and apex alike. The base is
a plane cut. The apex points to +y. Silicon is the diamond structure, a = 5.431 Å, its cube axes along x, y and z: the
needle's axis is [001], and the beam runs along [100] at a tilt of 0° and along a <110> direction at 45°.

Silica is one tiled cell, turned and shifted at random as a whole. Its atoms in the core, and those nearer to a core
atom than a least distance, are removed, as in the paper. The cell ships with the project: a cube of
1 000 SiO2, periodic on all sides, made by scripts/make_silica.py of the source tree, which describes the method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from aetlab.core.nouns import Atoms
from aetlab.spec import ScaleSpec, SpecError

SILICON_A = 5.431
PART_NAMES = ("core", "shell")

_DIAMOND = np.array([(0, 0, 0), (0, 2, 2), (2, 0, 2), (2, 2, 0), (1, 1, 1), (1, 3, 3), (3, 1, 3), (3, 3, 1)]) / 4
SILICA_FILE = Path(__file__).parent / "data" / "silica.extxyz"
SILICA_SHA256 = "3a7fcb5d1857ea0a29d714069b8cdc5604d9a17c4681bdfe98a8e71a09857a43"


@dataclass(frozen=True)
class NeedleShape:
    """Outer surface of the needle; the surface of the core lies ``shell_A`` deeper.

    ``apex_radius_A`` is the radius of the sphere at the tip, ``base_radius_A`` that of the outer surface at the base;
    ``apex_y_A`` and ``base_y_A`` are the heights of apex and base about the volume's centre.
    """

    apex_radius_A: float
    base_radius_A: float
    apex_y_A: float
    base_y_A: float
    taper_rad: float
    shell_A: float

    def depth_A(self, positions_A: np.ndarray) -> np.ndarray:
        """Return the depth in Å (N,) of positions (N, 3) under the outer surface, base ignored; negative outside."""
        radius = np.hypot(positions_A[:, 0], positions_A[:, 2])
        above = positions_A[:, 1] - (self.apex_y_A - self.apex_radius_A)
        sin, cos = math.sin(self.taper_rad), math.cos(self.taper_rad)
        on_sphere = above * cos - radius * sin > 0
        height = np.where(on_sphere, np.hypot(radius, above), radius * cos + above * sin)
        return self.apex_radius_A - height

    def outer_radius_A(self, y_A: np.ndarray) -> np.ndarray:
        """Return the radius of the outer surface at heights ``y_A`` in Å; 0 beyond the apex."""
        above = np.asarray(y_A, dtype=float) - (self.apex_y_A - self.apex_radius_A)
        sin, cos = math.sin(self.taper_rad), math.cos(self.taper_rad)
        on_sphere = above > self.apex_radius_A * sin
        sphere = np.sqrt(np.maximum(self.apex_radius_A**2 - above**2, 0))
        return np.where(on_sphere, np.where(above < self.apex_radius_A, sphere, 0),
                        (self.apex_radius_A - above * sin) / cos)


def needle_shape(scale: ScaleSpec) -> NeedleShape:
    """Return the needle of ``scale``; raises SpecError if taper or length leave no core or no room for the apex."""
    taper = math.radians(scale.taper_deg)
    sin, cos = math.sin(taper), math.cos(taper)
    base = scale.core_radius_A + scale.shell_thickness_A / cos
    apex_radius = (base * cos - scale.length_A * sin) / (1 - sin)
    if apex_radius <= scale.shell_thickness_A:
        raise SpecError(f"scale.taper_deg={scale.taper_deg!r} cannot be used: over scale.length_A={scale.length_A!r} "
                        f"it leaves no core at the tip; take a smaller angle, a shorter needle or a wider core")
    if apex_radius > scale.length_A:
        raise SpecError(f"scale.length_A={scale.length_A!r} cannot be used: the rounded apex alone needs "
                        f"{apex_radius:.1f} Å; take a longer needle or a narrower core")
    apex_y = scale.shape_zxy[2] * scale.voxel_A / 2 - scale.apex_gap_A
    return NeedleShape(apex_radius, base, apex_y, apex_y - scale.length_A, taper, scale.shell_thickness_A)


def build_needle(scale: ScaleSpec, min_distance_A: float, rng: np.random.Generator) -> Atoms:
    """Return all atoms of the needle, also outside the volume: parts core (0) and shell (1).

    ``rng`` turns and shifts the silica. ``min_distance_A`` is the least distance of a shell atom from a core atom.
    """
    shape = needle_shape(scale)
    core_A = _silicon(shape)
    numbers, shell_A = _silica(shape, rng)
    if min_distance_A > 0 and len(core_A) and len(shell_A):
        distance_A, _ = cKDTree(core_A).query(shell_A, distance_upper_bound=min_distance_A)
        free = distance_A >= min_distance_A
        numbers, shell_A = numbers[free], shell_A[free]
    if len(core_A) == 0 or (len(shell_A) == 0 and scale.shell_thickness_A > 0):
        raise SpecError(f"scale.core_radius_A={scale.core_radius_A!r} with scale.shell_thickness_A="
                        f"{scale.shell_thickness_A!r} makes a needle without atoms of both: make them larger")
    return Atoms(np.concatenate([np.full(len(core_A), 14), numbers]).astype(np.int64), np.vstack([core_A, shell_A]),
                 np.repeat([0, 1], [len(core_A), len(shell_A)]), PART_NAMES)


def _bounds_A(shape: NeedleShape) -> tuple[np.ndarray, np.ndarray]:
    radius = max(shape.base_radius_A, shape.apex_radius_A)
    return np.array([-radius, shape.base_y_A, -radius]), np.array([radius, shape.apex_y_A, radius])


def _silicon(shape: NeedleShape) -> np.ndarray:
    """Return the core atoms (N, 3) in Å; the midpoint of two neighbours lies at the volume's centre."""
    low, high = (np.floor(bound / SILICON_A).astype(int) for bound in _bounds_A(shape))
    cells = np.stack(np.meshgrid(*[np.arange(a - 1, b + 2) for a, b in zip(low, high, strict=True)], indexing="ij"), -1)
    positions_A = ((cells.reshape(-1, 1, 3) + _DIAMOND - 1 / 8) * SILICON_A).reshape(-1, 3)
    inside = (shape.depth_A(positions_A) >= shape.shell_A) & (positions_A[:, 1] >= shape.base_y_A)
    return positions_A[inside]


def _silica(shape: NeedleShape, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return atomic numbers (N,) and positions (N, 3) in Å of the shell: the cell tiled, turned and shifted."""
    cell_numbers, cell_A, side_A = load_silica()
    turn = Rotation.random(None, rng)
    shift_A = rng.uniform(0, side_A, 3)
    low, high = _bounds_A(shape)
    centre, reach = (low + high) / 2, float(np.linalg.norm(high - low)) / 2
    centre_in_cell = turn.inv().apply(centre) - shift_A
    first, last = (np.floor((centre_in_cell + sign * reach) / side_A).astype(int) for sign in (-1, 1))
    numbers, positions = [], []
    for corner in np.ndindex(*(last - first + 1)):
        origin_A = (first + corner) * side_A
        middle_A = turn.apply(origin_A + side_A / 2 + shift_A)
        if np.any(middle_A < low - side_A) or np.any(middle_A > high + side_A):
            continue
        tile_A = turn.apply(cell_A + origin_A + shift_A)
        depth_A = shape.depth_A(tile_A)
        inside = (depth_A >= 0) & (depth_A < shape.shell_A) & (tile_A[:, 1] >= shape.base_y_A)
        numbers.append(cell_numbers[inside])
        positions.append(tile_A[inside])
    return np.concatenate(numbers), np.concatenate(positions)


@cache
def load_silica() -> tuple[np.ndarray, np.ndarray, float]:
    """Return atomic numbers (N,), positions (N, 3) in [0, side) and the side of the cube, both in Å."""
    lines = SILICA_FILE.read_text(encoding="ascii").splitlines()
    side_A = float(lines[1].split('Lattice="')[1].split()[0])
    rows = [line.split() for line in lines[2:2 + int(lines[0])]]
    numbers = np.array([{"Si": 14, "O": 8}[row[0]] for row in rows])
    return numbers, np.array([[float(value) for value in row[1:4]] for row in rows]), side_A
