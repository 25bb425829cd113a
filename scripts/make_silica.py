"""Make the amorphous silica cell that ships with aetlab, in about seven minutes on one core.

    python scripts/make_silica.py                  # writes aetlab/samples/data/silica.extxyz
    python scripts/make_silica.py --output cell.extxyz --seed 7

A random network of 1 000 sites is made by bond switches (silica_network.py) and scaled to the density of silica glass.
An oxygen is put on each bond, and the cell is relaxed on springs and on the CHIK pair potential (silica_relax.py). The
script needs only numpy, scipy and numba. The same seed gives the same file with the same versions of these on the same
kind of processor; elsewhere rounding may lead to other switches and a cell of the same quality. The qualities printed
at the end (silica_quality.py) are a test.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

import numpy as np
from silica_network import random_network
from silica_quality import qualities
from silica_relax import decorate, relax_on_chik, relax_on_springs

SEED = 1
N_CELLS = 5
N_SWEEPS = 1500
KT_EV = (0.49, 0.13)
DENSITY_G_CM3 = 2.20
MASS_SIO2_U = 60.0843
G_CM3_PER_U_A3 = 1.66053907
OXYGEN_OFFSET_A = 0.47
OUTPUT = Path(__file__).parents[1] / "aetlab" / "samples" / "data" / "silica.extxyz"


def make_cell(seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return atomic numbers (N,), positions (N, 3) in [0, side) and the side of the cube, in Å."""
    rng = np.random.default_rng(seed)
    sites, neighbours, network_side = random_network(N_CELLS, N_SWEEPS, KT_EV, rng)
    n_silicon = len(sites)
    side_A = (n_silicon * MASS_SIO2_U * G_CM3_PER_U_A3 / DENSITY_G_CM3) ** (1 / 3)
    positions_A, bonds = decorate(sites * side_A / network_side, neighbours, side_A, OXYGEN_OFFSET_A, rng)
    positions_A = relax_on_springs(positions_A, bonds, side_A)
    positions_A, energy_eV = relax_on_chik(positions_A, n_silicon, side_A)
    print(f"CHIK energy {energy_eV / n_silicon:.3f} eV a SiO2")
    return np.repeat([14, 8], [n_silicon, len(bonds)]), positions_A % side_A, side_A


def write_cell(path: Path, numbers: np.ndarray, positions_A: np.ndarray, side_A: float, seed: int) -> None:
    """Write extended XYZ with four decimals."""
    side = f"{side_A:.4f}"
    rows = [f"{'Si' if Z == 14 else 'O':2s} {x:9.4f} {y:9.4f} {z:9.4f}"
            for Z, (x, y, z) in zip(numbers, positions_A, strict=True)]
    header = (f'Lattice="{side} 0.0 0.0 0.0 {side} 0.0 0.0 0.0 {side}" Properties=species:S:1:pos:R:3 pbc="T T T" '
              f'seed={seed} made_by="scripts/make_silica.py of aetlab"')
    path.write_text("\n".join([str(len(numbers)), header, *rows]) + "\n", encoding="ascii")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    start = time.perf_counter()
    numbers, positions_A, side_A = make_cell(arguments.seed)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_cell(arguments.output, numbers, positions_A, side_A, arguments.seed)
    for name, value in qualities(numbers, positions_A, side_A).items():
        print(f"{name:24s} {value:.4f}")
    digest = hashlib.sha256(arguments.output.read_bytes()).hexdigest()
    print(f"{arguments.output}: {len(numbers)} atoms, sha256 {digest}, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
