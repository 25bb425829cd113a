"""Count the GPU memory of a reconstruction before it starts."""

from __future__ import annotations

import math

from aetlab.core.grid import n_slices
from aetlab.gpu.atom_tiles import n_tiles
from aetlab.gpu.group import slab_widths
from aetlab.gpu.kernels import COLUMN_PAIRS, DIRECTIONS, N_PRODUCTS, PAIRS, TILE_X, TILE_Y
from aetlab.gpu.rotation import SHEARED_ROWS
from aetlab.methods.regularisers import REGULARISERS
from aetlab.methods.rotations import ROTATIONS

#: Working memory of the FFT library, in planes (X, Y) of the largest batch; it needs none for sizes that are products
#: of small primes.
_FFT_PLANES = 2
#: Planes (Z, X) on several devices: of the halos of total variation, and of the rows by which slabs are widened to
#: smooth them (8 rows on both sides of two arrays).
_HALO_PLANES, _WIDE_PLANES = 14, 32
#: Room for more atoms, as a factor of those that came.
GROWTH = 1.25
#: Bytes of the slices of a simulation that are filled and propagated together, and slices that share lists of atoms.
_PORTION_BYTES, SHARED_SLICES = 256e6, 8
#: Half-width in Å of the atoms of most elements (:func:`aetlab.forward.scattering.fit_gaussians`), window included.
_WIDEST_A = 4.5


def memory_needed_bytes(shape_zxy: tuple[int, int, int], n_tilts: int, n_defoci: int, *, n_layers_per_slice: int,
                        rotation: str, regulariser: str, mtf: bool = False, aligned: bool = False) -> int:
    """Return the bytes that :class:`~aetlab.gpu.model.GpuModel`, its proximal operator and the solver hold together.

    The few hundred MB used by the driver are not included. ``regulariser`` is ``reg.kind``; ``mtf`` says whether the
    detector blurs, ``aligned`` whether tilts are aligned, so that each has transfer functions of its own.
    """
    waves = _waves_bytes(shape_zxy, n_tilts, n_defoci, n_layers_per_slice, REGULARISERS[regulariser].blur_A is not None,
                         mtf, aligned)
    posed = 0.0
    if aligned:
        posed = exit_waves_bytes(shape_zxy, n_layers_per_slice) + equations_bytes(shape_zxy, n_tilts, n_defoci, mtf=mtf)
    return round(_volumes_bytes(shape_zxy, regulariser) + waves + posed + _table_bytes(shape_zxy, rotation))


def exit_waves_bytes(shape_zxy: tuple[int, int, int], n_layers_per_slice: int) -> int:
    """Return the bytes that a :class:`~aetlab.gpu.series_waves.GpuExitWaves` with cubic interpolation holds."""
    slices, plane = n_slices(shape_zxy[0], n_layers_per_slice), 8 * shape_zxy[1] * shape_zxy[2]
    # One wave, one working plane, one image, its transfer function and two propagators; slices are real.
    return round((4 + min(2, slices - 1) + slices / 2 + _FFT_PLANES) * plane + _table_bytes(shape_zxy, "cubic"))


def equations_bytes(shape_zxy: tuple[int, int, int], n_tilts: int, n_defoci: int, *, mtf: bool = False) -> int:
    """Return the bytes that a :class:`~aetlab.gpu.tilt_equations.GpuTiltEquations` holds, without its exit waves.

    Weights of pixels, and transfer functions of different defoci, are not included.
    """
    _, n_x, n_y = shape_zxy
    # Transfer functions and the buffer of images, three exit waves, two sets of mirrored lines; lift, low-pass filter
    # and MTF are real.
    planes = (1 + PAIRS + COLUMN_PAIRS + _FFT_PLANES * DIRECTIONS) * n_defoci + 3 + 4 + 1 + mtf / 2
    measured, rows = n_tilts * n_defoci / 2, 8 * n_defoci * n_x * (N_PRODUCTS + 2)
    return round((planes + measured) * 8 * n_x * n_y + rows)


def slab_needed_bytes(shape_zxy: tuple[int, int, int], n_tilts: int, n_defoci: int, *, n_devices: int,
                      n_layers_per_slice: int, rotation: str, regulariser: str, mtf: bool = False,
                      aligned: bool = False) -> tuple[int, ...]:
    """Return the bytes that each of ``n_devices`` holds for :class:`~aetlab.gpu.slab_model.SlabModel`.

    The parameters are those of :func:`memory_needed_bytes`.
    """
    n_z, n_x, n_y = shape_zxy
    blurred = REGULARISERS[regulariser].blur_A is not None
    of_row = 4 * n_x * n_slices(n_z, n_layers_per_slice)
    needed = []
    for i, width in enumerate(slab_widths(n_y, n_devices)):
        slab = n_z, n_x, width
        n_bytes = _volumes_bytes(slab, regulariser) + _table_bytes(slab, rotation) + of_row * width
        n_bytes += 4 * n_z * n_x * (_HALO_PLANES + (_WIDE_PLANES if blurred else 0))
        if i == 0:  # the waves, and the slices that the others send
            n_bytes += of_row * (n_y - width)
            n_bytes += _waves_bytes(shape_zxy, n_tilts, n_defoci, n_layers_per_slice, blurred, mtf, aligned)
        needed.append(round(n_bytes))
    return tuple(needed)


def _volumes_bytes(shape_zxy: tuple[int, int, int], regulariser: str) -> float:
    """Return the bytes of the iterate, the last proximal point, and the volumes of the regulariser."""
    row = REGULARISERS[regulariser]
    return (2 + (row.gpu.volumes if row.gpu else 0)) * 4 * math.prod(shape_zxy)


def _waves_bytes(shape_zxy: tuple[int, int, int], n_tilts: int, n_defoci: int, n_layers_per_slice: int, blurred: bool,
                 mtf: bool, aligned: bool) -> float:
    """Return the bytes of a :class:`~aetlab.gpu.series_waves.SeriesWaves`."""
    n_z, n_x, n_y = shape_zxy
    plane, slices = 8 * n_x * n_y, n_slices(n_z, n_layers_per_slice)
    # Waves behind the slices, one working plane, images and transfer functions, two propagators; slices are real.
    planes = slices + 1 + 2 * n_defoci + min(2, slices - 1) + slices / 2 + _FFT_PLANES * n_defoci
    planes += slices / 2 if blurred else 0
    planes += n_defoci + 1 if mtf else 0
    planes += n_defoci * n_tilts if aligned else 0
    return planes * plane + n_tilts * n_defoci * plane / 2


def _table_bytes(shape_zxy: tuple[int, int, int], rotation: str) -> float:
    """Return the bytes that a rotation holds."""
    n_z, n_x, n_y = shape_zxy
    matrix = ROTATIONS[rotation].matrix
    if matrix:
        return n_z * n_x * (8 + 8 + 4 + 8 * matrix.capacity)
    # A block of rows of y on the padded square.
    return 4 * 2 * max(n_z, n_x) ** 2 * min(SHEARED_ROWS, n_y) + 2 * max(n_z, n_x) * (8 + 4)


def atom_slices_bytes(shape_zxy: tuple[int, int, int], n_defoci: int, n_atoms: int, *, n_layers_per_slice: int,
                      voxel_A: float, mtf: bool = False) -> int:
    """Return the bytes that a :class:`~aetlab.gpu.atom_slices.GpuAtomSlices` holds, weights of pixels included.

    ``mtf`` says whether the images are blurred.
    """
    slices, plane = n_slices(shape_zxy[0], n_layers_per_slice), 8 * shape_zxy[1] * shape_zxy[2]
    # Waves, working plane, images and two sets of transfer functions, propagators, slices, amplitudes and weights,
    # and intensities.
    planes = slices + 1 + 3 * n_defoci + min(2, slices - 1) + slices / 2 + 2 * n_defoci + _FFT_PLANES * n_defoci
    planes += n_defoci + 1 if mtf else 0
    # An atom is in all tiles that its cube reaches, at a mean position among them. Tables take less than 1 MB.
    side = 2 * _WIDEST_A / voxel_A
    tiles = (1 + side / n_layers_per_slice) * (1 + side / TILE_X) * (1 + side / TILE_Y)
    atoms = GROWTH * n_atoms * (64 + 4 * tiles) + 4 * n_tiles(shape_zxy, n_layers_per_slice) + 1e6
    return round(planes * plane + atoms)


def portion_slices(shape_zxy: tuple[int, int, int], n_layers: int) -> int:
    """Return the slices of a simulation that :class:`~aetlab.gpu.exposure.GpuExposure` holds at a time."""
    return min(n_slices(shape_zxy[0], n_layers), max(1, int(_PORTION_BYTES / (4 * shape_zxy[1] * shape_zxy[2]))))


def exposure_bytes(shape_zxy: tuple[int, int, int], n_defoci: int, n_atoms: int, *, n_layers: int, voxel_A: float,
                   limited: bool) -> int:
    """Return the bytes that a :class:`~aetlab.gpu.exposure.GpuExposure` holds.

    Shape and voxel are those of the simulation; ``limited`` says whether frequencies are cut.
    """
    plane = 8 * shape_zxy[1] * shape_zxy[2]
    # Two waves, two propagators, images, their transfer functions, their intensities and working memory.
    planes = 2 + 2 + (3 + _FFT_PLANES) * n_defoci + portion_slices(shape_zxy, n_layers) / 2
    planes += 2 if limited else 0
    n_listed, side = SHARED_SLICES * n_layers, 2 * _WIDEST_A / voxel_A
    tiles = (1 + side / n_listed) * (1 + side / TILE_X) * (1 + side / TILE_Y)
    return round(planes * plane + GROWTH * n_atoms * (64 + 4 * tiles) + 4 * n_tiles(shape_zxy, n_listed) + 1e6)
