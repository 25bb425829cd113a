"""Compute cost and gradient of one tilt as :mod:`multislice` does, in single precision with fused CPU kernels.

The kernels keep the data in cache: FFT, product and inverse FFT in one pass.

A wave is a pair of float planes (2, X, Y), real and imaginary. One multislice step takes two passes over it:

- :func:`columns` works along x for ``WIDTH`` neighbouring y at a time: inverse FFT from frequencies to x, slice, FFT;
- :func:`rows` works along y for ``WIDTH`` neighbouring x at a time: FFT, product with the propagator, inverse FFT.

Between the two passes, the rows are in the scrambled order of their frequencies in x (:mod:`aetlab.core.simd_fft`).
:func:`follow` takes all passes of a tilt in one call: a call from Python takes up to a fifth of the time of a pass.
Factors are stored as (n, X/WIDTH, 2, Y, WIDTH) in scrambled order of both frequencies (:func:`pack_factors`).
Transforms are not normalised.

Sides that are not multiples of ``WIDTH`` are padded to the next multiple. X and Y below are padded sides, n_x and n_y
those of the planes. The padding is 0 wherever it is read.
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np

from aetlab.core import simd_fft
from aetlab.core.backend import empty_aligned, zeros_aligned
from aetlab.core.kernel_cache import njit
from aetlab.core.simd import WIDTH, load, splat, square_root, store, transpose_tile
from aetlab.core.simd_fft import cos_sin, scratch
from aetlab.forward.detector import Detector

_inline = njit(fastmath=simd_fft.FAST, forceinline=True)
_parallel = njit(fastmath=simd_fft.FAST, parallel=True)
_jit = njit(fastmath=simd_fft.FAST)

#: The stages of :func:`follow`, in their order.
IMAGES, COMPARE, GRADIENT = 0, 1, 2
#: The operation of :func:`columns` between its two transforms.
ENTER, TRANSMIT, BACK_TRANSMIT, RESIDUAL = 0, 1, 2, 3

_ZERO, _HALF, _TINY = (np.float32(v) for v in (0, 0.5, 1e-30))


def fits(shape_xy: tuple[int, int]) -> bool:
    """Return whether the kernels support this shape: sides of at least ``WIDTH`` with no primes other than 2, 3, 5."""
    return all(n >= WIDTH and simd_fft.factors(n) is not None for n in shape_xy)


class Path(NamedTuple):
    """Optics between the incident wave and the images: σ Δz in rad/V, factors by :func:`pack_factors`, sides and FFTs.

    ``free`` (G, 1, …) are the propagators and ``which`` (S - 1,) is the index of the one behind each slice but the
    last. ``to_end`` (1, …) leads from the last slice of the span to the last one, ``transfer`` (F, …) to the images.
    """

    phase: np.float32
    free: np.ndarray
    which: np.ndarray
    to_end: np.ndarray
    transfer: np.ndarray
    n_x: int
    n_y: int
    plan_x: simd_fft.Plan
    plan_y: simd_fft.Plan


class SimdMultislice:
    """Implement :class:`aetlab.forward.multislice.TiltCost` for float32 planes that :func:`fits` accepts.

    The parameters are those of :class:`aetlab.forward.multislice.Optics`.
    """

    def __init__(self, transfer: np.ndarray, free: np.ndarray, which: np.ndarray, phase_per_V: float,
                 mtf: np.ndarray | None = None) -> None:
        n_defoci, n_x, n_y = transfer.shape
        self._shape_xy = (n_x, n_y)
        stored = (stored_side(n_x), stored_side(n_y))
        self._unpacked = free
        packed = pack_factors(transfer)
        self._path = Path(np.float32(phase_per_V), pack_factors(free)[:, None], which, packed[:1], packed, n_x, n_y,
                          simd_fft.make_plan(n_x), simd_fft.make_plan(n_y))
        #: By slice, the propagator from the slice before it to the last slice, without a transform along x.
        self._to_end: dict[int, np.ndarray] = {}
        self._waves = empty_aligned((len(which) + 1, 2, *stored))
        self._plane = zeros_aligned((1, 2, *stored))
        self._images = zeros_aligned((n_defoci, 2, *stored))
        self._cost = empty_aligned((n_defoci, stored[1]))
        # Memory for padded copies of the arguments, if a side is not a multiple of WIDTH.
        self._room = None if stored == self._shape_xy else (
            zeros_aligned((len(which) + 1, *stored)), zeros_aligned((n_defoci, *stored)))
        self._weight_room = empty_aligned((0, *stored))
        self._detector: Detector | None = None
        self.use_mtf(mtf)

    def use_mtf(self, mtf: np.ndarray | None) -> None:
        """Use this MTF of the detector (X, Y) for all following images; None: an ideal detector."""
        self._detector = None if mtf is None else Detector(mtf, len(self._images), np.float32)

    def pack_transfer(self, transfer: np.ndarray) -> np.ndarray:
        """Return transfer functions (F, X, Y) in the form that :meth:`use_transfer` takes."""
        return pack_factors(transfer)

    def use_transfer(self, packed: np.ndarray) -> None:
        """Use these transfer functions for all following images."""
        self._path = self._path._replace(transfer=packed)

    def cost(self, slices: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None = None, *,
             span: tuple[int, int] | None = None) -> float:
        """Return the cost of ``slices`` (S, X, Y) against the measured ``amplitude`` (F, X, Y), √intensity.

        ``weight`` (F, X, Y), float32 like ``amplitude``, is the weight of each pixel; None: 1. ``span`` is as in
        :class:`aetlab.forward.multislice.TiltCost`.
        """
        given = (*self._stored(slices, amplitude), self._stored_weight(weight), span or (0, len(slices)))
        if self._detector is not None:
            return self._compare(self._detector, *given)
        self._follow((IMAGES, COMPARE), *given)
        return self._sum_cost()

    def cost_and_gradient(self, slices: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None = None, *,
                          span: tuple[int, int] | None = None) -> float:
        """Return the cost as :meth:`cost` does; overwrite ``slices`` by the gradient with respect to it, in 1/V."""
        stored, stored_amplitude = self._stored(slices, amplitude)
        given = (stored, stored_amplitude, self._stored_weight(weight), span or (0, len(slices)))
        if self._detector is not None:
            cost = self._compare(self._detector, *given)
            self._follow((GRADIENT, GRADIENT), *given)
        else:
            self._follow((IMAGES, GRADIENT), *given)
            cost = self._sum_cost()
        if stored is not slices:
            slices[...] = stored[:, : self._shape_xy[0], : self._shape_xy[1]]
        return cost

    def _stored(self, slices: np.ndarray, amplitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return both arrays in the layout of the kernels: padded copies if a side is not a multiple of ``WIDTH``."""
        if self._room is None:
            return slices, amplitude
        n_x, n_y = self._shape_xy
        for room, given in zip(self._room, (slices, amplitude), strict=True):
            room[:, :n_x, :n_y] = given
        return self._room

    def _stored_weight(self, weight: np.ndarray | None) -> np.ndarray | None:
        """Return the weight in the layout of the kernels; memory for a copy is allocated at its first use."""
        if weight is None or self._room is None:
            return weight
        if not len(self._weight_room):
            self._weight_room = zeros_aligned(self._room[1].shape)
        self._weight_room[:, :self._shape_xy[0], :self._shape_xy[1]] = weight
        return self._weight_room

    def _propagator_to_end(self, end: int) -> np.ndarray:
        """Return the packed propagator from slice ``end`` - 1 to the last one, for a step without slices between."""
        if end not in self._to_end:
            n_x, n_y = self._shape_xy
            steps = self._path.which[end - 1 :]
            factors = np.prod([(n_x * n_y * self._unpacked[i]) ** int((steps == i).sum()) for i in np.unique(steps)], 0)
            self._to_end[end] = pack_factors(factors[None] / n_y)
        return self._to_end[end]

    def _follow(self, stages: tuple[int, int], slices: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None,
                span: tuple[int, int]) -> None:
        """Follow the waves from the first to the last of ``stages``."""
        if span[1] < len(slices):
            self._path = self._path._replace(to_end=self._propagator_to_end(span[1]))
        follow(stages, slices, amplitude, weight, span, self._path, self._waves, self._plane, self._images, self._cost)

    def _sum_cost(self) -> float:
        return float(self._cost[:, : self._shape_xy[1]].sum(dtype=np.float64))

    def _compare(self, detector: Detector, slices: np.ndarray, amplitude: np.ndarray, weight: np.ndarray | None,
                 span: tuple[int, int]) -> float:
        """Return the cost of the images as ``detector`` sees them; leave their residuals, transformed along x."""
        n_x, n_y = self._shape_xy
        self._follow((IMAGES, IMAGES), slices, amplitude, weight, span)
        transform_columns(self._images, n_x, self._path.plan_x, False)
        waves = self._images[:, :, :n_x, :n_y]
        factor = waves[:, 0] ** 2 + waves[:, 1] ** 2
        cost = detector.compare(factor, amplitude[:, :n_x, :n_y], None if weight is None else weight[:, :n_x, :n_y])
        waves *= factor[:, None]
        transform_columns(self._images, n_x, self._path.plan_x, True)
        return cost


def pack_factors(factors: np.ndarray) -> np.ndarray:
    """Return frequency factors (n, n_x, n_y) in the layout of :func:`rows`, float32 (n, X/WIDTH, 2, n_y, WIDTH)."""
    n, n_x, n_y = factors.shape
    sorted_ = factors[:, simd_fft.scrambled_order(n_x)][:, :, simd_fft.scrambled_order(n_y)]
    parts = np.zeros((n, 2, stored_side(n_x), n_y), np.float32)
    parts[:, 0, :n_x], parts[:, 1, :n_x] = sorted_.real, sorted_.imag
    packed = empty_aligned((n, parts.shape[2] // WIDTH, 2, n_y, WIDTH))
    packed[...] = parts.reshape(n, 2, packed.shape[1], WIDTH, n_y).transpose(0, 2, 1, 4, 3)
    return packed


def stored_side(n: int) -> int:
    """Return the padded length of a side of ``n``: the next multiple of ``WIDTH``."""
    return -(-n // WIDTH) * WIDTH


@_parallel
def columns(kind, planes, phase, slice_V, wave, amplitude, weight, cost, n_x, plan, forward):
    """Apply the operation ``kind`` between an inverse FFT along x and, if ``forward``, an FFT back to frequencies.

    ``planes`` (F, 2, X, Y) are the waves, changed in place if ``forward``. The operations are:

    - ENTER: start from the incident wave 1 and multiply by exp(i phase ``slice_V``) (X, Y); ``planes`` is not read;
    - TRANSMIT: multiply by exp(i phase slice_V); ENTER and TRANSMIT also store the result in ``wave`` (2, X, Y);
    - BACK_TRANSMIT: ``planes`` is the adjoint φ and ``wave`` the wave behind the slice; replace ``slice_V`` by the
      gradient phase Im(φ wave*), and φ by φ exp(-i phase slice_V);
    - RESIDUAL: replace ψ by w (ψ - a ψ/|ψ|) with ``amplitude`` a (F, X, Y) and ``weight`` w (F, X, Y; None: 1); write
      ½ Σ_x w |ψ - a ψ/|ψ||² to ``cost`` (F, Y).
    """
    n_planes, _, stored_x, n_y = planes.shape
    blocks = n_y // WIDTH
    im = n_x * WIDTH
    to_im = stored_x * n_y
    for item in nb.prange(n_planes * blocks):
        f, y = item // blocks, item % blocks * WIDTH
        buffer = scratch(2 * im)
        here = f * 2 * to_im + y
        if kind != ENTER:
            for x in range(n_x):
                store(buffer, x * WIDTH, load(planes, here + x * n_y))
                store(buffer, im + x * WIDTH, load(planes, here + to_im + x * n_y))
            simd_fft.inverse(buffer, np.int64(0), im, n_x, plan)
        if kind == ENTER:
            for x in range(n_x):
                i, at = x * WIDTH, x * n_y + y
                c, s = cos_sin(load(slice_V, at) * phase)
                store(buffer, i, c)
                store(buffer, im + i, s)
                store(wave, at, c)
                store(wave, to_im + at, s)
        elif kind == TRANSMIT:
            for x in range(n_x):
                i, at = x * WIDTH, x * n_y + y
                c, s = cos_sin(load(slice_V, at) * phase)
                a, b = load(buffer, i), load(buffer, im + i)
                a, b = a * c - b * s, a * s + b * c
                store(buffer, i, a)
                store(buffer, im + i, b)
                store(wave, at, a)
                store(wave, to_im + at, b)
        elif kind == BACK_TRANSMIT:
            for x in range(n_x):
                i, at = x * WIDTH, x * n_y + y
                c, s = cos_sin(load(slice_V, at) * phase)
                a, b = load(buffer, i), load(buffer, im + i)
                store(slice_V, at, (b * load(wave, at) - a * load(wave, to_im + at)) * phase)
                store(buffer, i, a * c + b * s)
                store(buffer, im + i, b * c - a * s)
        else:
            total = splat(_ZERO)
            for x in range(n_x):
                i, at = x * WIDTH, f * to_im + x * n_y + y
                a, b = load(buffer, i), load(buffer, im + i)
                # The small constant gives a residual of 0 in a dark pixel without a branch.
                modulus = square_root(a * a + b * b + _TINY)
                difference = modulus - load(amplitude, at)
                residual = difference if weight is None else load(weight, at) * difference
                total = total + residual * difference
                factor = residual / modulus
                store(buffer, i, a * factor)
                store(buffer, im + i, b * factor)
            store(cost, f * n_y + y, total * _HALF)
        if forward:
            simd_fft.forward(buffer, np.int64(0), im, n_x, plan)
            for x in range(n_x):
                store(planes, here + x * n_y, load(buffer, x * WIDTH))
                store(planes, here + to_im + x * n_y, load(buffer, im + x * WIDTH))


@_parallel
def transform_columns(planes, n_x, plan, forward):
    """Apply an FFT along x to planes (F, 2, X, Y) in place: to frequencies if ``forward``, else back from them."""
    n_planes, _, stored_x, n_y = planes.shape
    blocks = n_y // WIDTH
    im = n_x * WIDTH
    to_im = stored_x * n_y
    for item in nb.prange(n_planes * blocks):
        here = item // blocks * 2 * to_im + item % blocks * WIDTH
        buffer = scratch(2 * im)
        for x in range(n_x):
            store(buffer, x * WIDTH, load(planes, here + x * n_y))
            store(buffer, im + x * WIDTH, load(planes, here + to_im + x * n_y))
        if forward:
            simd_fft.forward(buffer, np.int64(0), im, n_x, plan)
        else:
            simd_fft.inverse(buffer, np.int64(0), im, n_x, plan)
        for x in range(n_x):
            store(planes, here + x * n_y, load(buffer, x * WIDTH))
            store(planes, here + to_im + x * n_y, load(buffer, im + x * WIDTH))


@_inline
def _load_rows(planes, f, block, buffer, n_x, n_y):
    """Load rows of plane f, transposed, into ``buffer`` (2, Y, WIDTH)."""
    for part in range(2):
        first = (2 * f + part) * n_x * n_y + block * WIDTH * n_y
        for y in range(0, n_y, WIDTH):
            transpose_tile(planes, first + y, n_y, buffer, (part * n_y + y) * WIDTH, WIDTH)


@_inline
def _store_rows(buffer, planes, f, block, n_x, n_y):
    for part in range(2):
        first = (2 * f + part) * n_x * n_y + block * WIDTH * n_y
        for y in range(0, n_y, WIDTH):
            transpose_tile(buffer, (part * n_y + y) * WIDTH, WIDTH, planes, first + y, n_y)


@_parallel
def rows(adjoint, source, factors, target, n_y, plan):
    """Compute ``target[f] = F⁻¹ factors[f] F source[0]`` along y, or its adjoint.

    The adjoint is ``target[0] = F⁻¹ Σ_f factors[f]* F source[f]``. ``source`` and ``target`` (1 or F, 2, X, Y) may be
    the same array if both hold one plane.
    """
    n_x, stored_y = source.shape[2], source.shape[3]
    im, end = stored_y * WIDTH, n_y * WIDTH
    for index in nb.prange(n_x // WIDTH):
        block = np.int64(index)  # the index of a parallel loop is unsigned: inner functions would compile twice
        spectrum, product = scratch(2 * im), scratch(2 * im)
        for i in range(end, im):
            product[i] = product[im + i] = 0
        for f in range(factors.shape[0]):
            if adjoint or f == 0:
                _load_rows(source, f, block, spectrum, n_x, stored_y)
                simd_fft.forward(spectrum, np.int64(0), im, n_y, plan)
            first = (f * factors.shape[1] + block) * 2 * end
            for i in range(0, end, WIDTH):
                a, b = load(spectrum, i), load(spectrum, im + i)
                c, s = load(factors, first + i), load(factors, first + end + i)
                if not adjoint:
                    store(product, i, a * c - b * s)
                    store(product, im + i, a * s + b * c)
                elif f == 0:
                    store(product, i, a * c + b * s)
                    store(product, im + i, b * c - a * s)
                else:
                    store(product, i, load(product, i) + (a * c + b * s))
                    store(product, im + i, load(product, im + i) + (b * c - a * s))
            if not adjoint or f == factors.shape[0] - 1:
                simd_fft.inverse(product, np.int64(0), im, n_y, plan)
                _store_rows(product, target, 0 if adjoint else f, block, n_x, stored_y)


@_jit
def follow(stages, slices, amplitude, weight, span, path, waves, plane, images, cost):
    """Follow the waves of one tilt through the stages from ``stages[0]`` to ``stages[1]``.

    - IMAGES: fill ``waves`` (S, 2, X, Y) behind the ``slices`` (S, X, Y) of the ``span`` (first, end), and ``images``
      (F, 2, X, Y), transformed along x;
    - COMPARE: replace ``images`` by their residuals, and fill ``cost`` (F, Y);
    - GRADIENT: replace the slices of the span by the gradient with respect to them.
    """
    first, end = span
    phase, n_x, n_y, plan_x, plan_y = path.phase, path.n_x, path.n_y, path.plan_x, path.plan_y
    for stage in range(stages[0], stages[1] + 1):
        if stage == IMAGES:
            columns(ENTER, plane, phase, slices[first], waves[first], amplitude, weight, cost, n_x, plan_x, True)
            for m in range(first + 1, end):
                rows(False, plane, path.free[path.which[m - 1]], plane, n_y, plan_y)
                columns(TRANSMIT, plane, phase, slices[m], waves[m], amplitude, weight, cost, n_x, plan_x, True)
            if end < len(slices):
                rows(False, plane, path.to_end, plane, n_y, plan_y)
            rows(False, plane, path.transfer, images, n_y, plan_y)
        elif stage == COMPARE:
            columns(RESIDUAL, images, phase, slices[0], waves[0], amplitude, weight, cost, n_x, plan_x, True)
        else:
            rows(True, images, path.transfer, plane, n_y, plan_y)
            if end < len(slices):
                rows(True, plane, path.to_end, plane, n_y, plan_y)
            for m in range(end - 1, first - 1, -1):
                columns(BACK_TRANSMIT, plane, phase, slices[m], waves[m], amplitude, weight, cost, n_x, plan_x,
                        m > first)
                if m > first:
                    rows(True, plane, path.free[path.which[m - 1]], plane, n_y, plan_y)
