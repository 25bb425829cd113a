"""List the kernels of the ``*.cu`` files in this folder, with their files and thread layouts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: y values per thread in the rotation (``LANES`` of rotation.cu).
_LANES = 4
#: Layers of a thread in a step of total variation (``DEEP`` of volume.cu).
_DEEP = 8
#: Longest side of the planes of fused.cu, and the columns of a block there.
LONGEST, COLUMNS = 1440, 4
#: Rows and columns of a tile of atoms.cu, and the largest number of voxels of an atom along x or y there.
TILE_X, TILE_Y, MOST_CELLS = 8, 32, 64
#: Columns of the equations of alignment.cu (residual included), and their products.
N_COLUMNS, N_PRODUCTS = 9, 45
#: Planes of an image there: waves and their derivatives, pairs of real quantities, and pairs of columns.
DIRECTIONS, PAIRS, COLUMN_PAIRS = 6, 3, 5
#: Largest number of voxels about a site of fits.cu.
MOST_BOX = 512


@dataclass(frozen=True)
class Kernel:
    """A kernel: a block of ``block`` threads (x, y, z) processes ``items`` items of the extent of a launch.

    ``waits`` is True if the threads of a block wait for each other, False if they are independent.
    """

    source: str
    block: tuple[int, int, int]
    items: tuple[int, int, int]
    waits: bool = False

    def grid(self, extent: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the number of blocks (x, y, z) that cover ``extent`` items."""
        x, y, z = (-(-n // k) for n, k in zip(extent, self.items, strict=True))
        return x, y, z


def _each(source: str, *block: int) -> Kernel:
    return Kernel(source, (block[0], block[1], block[2]), (block[0], block[1], block[2]))


def _fused(n_threads: int) -> Kernel:
    return Kernel("fused.cu", (n_threads, 1, 1), (1, 1, 1), waits=True)


#: Extents: ``rotate_*`` (Y, X, S), ``add_adjoint*`` and ``tv_*`` (Y, X, Z), ``build_rotation`` (X, Z, 1), ``*residual``
#: (rows of all images, 1, 1), ``sum_cost`` and ``set_tilt`` (1, 1, 1), ``*columns*``
#: (blocks of columns of all planes, 1, 1), but ``copy_columns`` (values, 1, 1), ``*rows*`` (X, 1, 1), ``deposit_atoms``
#: (tiles of all slices, 1, 1), ``gather_atoms`` (atoms, 1, 1), ``fit_gaussians`` (sites, 1, 1), ``*maxima``
#: (Z · X, 1, 1), ``sum_amplitudes``, ``form_columns`` and ``sum_products`` (rows of all images, 1, 1), ``correlate``
#: (X, 1, 1), ``sum_groups`` (sums, 1, 1), ``find_best_shift`` (1, 1, 1), ``shear_*`` (blocks of rows of y of all lines,
#: 1, 1), ``bin_layers`` (rows of y, X, S), all others (pixels or voxels, 1, 1).
KERNELS: dict[str, Kernel] = {
    "set_tilt": _each("rotation.cu", 1, 1, 1),
    "build_rotation": _each("rotation.cu", 32, 4, 1),
    "rotate_linear": Kernel("rotation.cu", (32, 8, 1), (32 * _LANES, 8, 1)),
    "rotate_cubic": Kernel("rotation.cu", (32, 8, 1), (32 * _LANES, 8, 1)),
    "add_adjoint": Kernel("rotation.cu", (32, 8, 1), (32 * _LANES, 8, 1)),
    "add_adjoint_in_metric": Kernel("rotation.cu", (32, 8, 1), (32 * _LANES, 8, 1)),
    "shear_in": Kernel("shear.cu", (256, 1, 1), (1, 1, 1), waits=True),
    "shear_columns": Kernel("shear.cu", (256, 1, 1), (1, 1, 1), waits=True),
    "shear_rows": Kernel("shear.cu", (256, 1, 1), (1, 1, 1), waits=True),
    "shear_out": Kernel("shear.cu", (256, 1, 1), (1, 1, 1), waits=True),
    "bin_layers": _each("shear.cu", 32, 8, 1),
    "blur_axis": _each("rotation.cu", 256, 1, 1),
    "enter": _each("multislice.cu", 256, 1, 1),
    "transmit": _each("multislice.cu", 256, 1, 1),
    "multiply": _each("multislice.cu", 256, 1, 1),
    "multiply_conjugate": _each("multislice.cu", 256, 1, 1),
    "to_images": _each("multislice.cu", 256, 1, 1),
    "from_images": _each("multislice.cu", 256, 1, 1),
    "residual": Kernel("multislice.cu", (128, 1, 1), (1, 1, 1), waits=True),
    "poisson_residual": Kernel("multislice.cu", (128, 1, 1), (1, 1, 1), waits=True),
    "intensities": _each("multislice.cu", 256, 1, 1),
    "weigh": _each("multislice.cu", 256, 1, 1),
    "detected_residual": Kernel("multislice.cu", (128, 1, 1), (1, 1, 1), waits=True),
    "sum_cost": Kernel("multislice.cu", (256, 1, 1), (1, 1, 1), waits=True),
    "back_transmit": _each("multislice.cu", 256, 1, 1),
    "transmit_columns": _fused(256),
    "back_columns": _fused(256),
    "compare_columns": _fused(256),
    "multiply_columns": _fused(256),
    "transform_columns": _fused(256),
    "propagate_rows": _fused(128),
    "rows_to_images": _fused(128),
    "rows_from_images": _fused(128),
    "deposit_atoms": Kernel("atoms.cu", (256, 1, 1), (1, 1, 1), waits=True),
    "gather_atoms": Kernel("atoms.cu", (64, 1, 1), (1, 1, 1), waits=True),
    "blur_axis_nearest": _each("candidates.cu", 256, 1, 1),
    "subtract": _each("candidates.cu", 256, 1, 1),
    "count_maxima": Kernel("candidates.cu", (32, 1, 1), (1, 1, 1), waits=True),
    "write_maxima": Kernel("candidates.cu", (32, 1, 1), (1, 1, 1), waits=True),
    "fit_gaussians": Kernel("fits.cu", (32, 1, 1), (1, 1, 1), waits=True),
    **{name: _each("alignment.cu", 256, 1, 1)
       for name in ("differentiate", "turn_slopes", "pose_images", "pair_products", "multiply_real", "weigh_measured",
                    "show_modulation", "mirror_lines", "shift_lines", "take_lines", "pose_transfer",
                    "pack_amplitudes", "place_amplitudes", "pack_weights", "place_weights")},
    **{name: Kernel("alignment.cu", (128, 1, 1), (1, 1, 1), waits=True)
       for name in ("sum_amplitudes", "sum_groups", "form_columns", "correlate")},
    "sum_products": Kernel("alignment.cu", (64, 1, 1), (1, 1, 1), waits=True),
    "find_best_shift": Kernel("alignment.cu", (256, 1, 1), (1, 1, 1), waits=True),
    "tv_primal": _each("volume.cu", 32, 8, 1),
    "tv_step": Kernel("volume.cu", (32, 8, 1), (32, 8, _DEEP)),
    "tv_primal_in_slab": _each("volume.cu", 32, 8, 1),
    "tv_step_in_slab": Kernel("volume.cu", (32, 8, 1), (32, 8, _DEEP)),
    "copy_columns": _each("volume.cu", 256, 1, 1),
    "soft_threshold": _each("volume.cu", 256, 1, 1),
    "sparsify": _each("volume.cu", 256, 1, 1),
    "clip_negative": _each("volume.cu", 256, 1, 1),
    "extrapolate": _each("volume.cu", 256, 1, 1),
}

#: The files of the kernels.
SOURCES = tuple(sorted({kernel.source for kernel in KERNELS.values()}))


def read_source(name: str) -> str:
    """Return the text of one of :data:`SOURCES`, with the functions that they share."""
    parts = ("common.cuh", "fft.cuh", name)
    return "".join((Path(__file__).parent / part).read_text(encoding="utf-8") for part in parts)
