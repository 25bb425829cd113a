"""Slices of projected potential from atoms, and the adjoint of its derivative; all positions in voxels.

An atom is Σ_g w_g P_g(z) P_g(x) P_g(y), P_g the mean of a Gaussian over a voxel (along z: its sum over the layers of a
slice). Along y a fixed window of whole vectors is used, along x and z the voxels within reach. The kernels run on one
thread; tilts are distributed among threads. Tables: :mod:`aetlab.refinement.tables`.
"""

from __future__ import annotations

import math

import numpy as np

from aetlab.core.kernel_cache import njit
from aetlab.core.simd import load, load_eight, splat, splat_eight, store

_FAST = {"contract", "nsz"}
_inline = njit(error_model="numpy", fastmath=_FAST, forceinline=True)
_serial = njit(error_model="numpy", fastmath=_FAST)

N_GAUSSIANS = 8


@_inline
def _profile(cumulative, centre, first, n, stride, last_edge, n_reach, value, slope):
    """Fill ``value`` and ``slope`` (n, 8) with the means over ``n`` cells and their derivatives d/d centre.

    Cells are ``stride`` voxels wide and start at the edge ``first - 0.5``; no edge lies beyond ``last_edge``.
    ``cumulative`` (STEPS + 1, R, 2, 8) is the table of the element.
    """
    steps = cumulative.shape[0] - 1
    offset = first - 0.5 - centre
    whole = math.floor(offset)
    fine = (offset - whole) * steps
    i = min(int(fine), steps - 1)
    number = cumulative.dtype.type
    t, one, two, three, four = number(fine - i), number(1), number(2), number(3), number(4)
    h01 = t * t * (three - two * t)
    h00 = one - h01
    h10 = t * (one - t) * (one - t)
    h11 = t * t * (t - one)
    d01 = number(6) * t * (one - t) * number(steps)
    d10 = (one + t * (three * t - four)) * number(steps)
    d11 = t * (three * t - two) * number(steps)
    n_rows = cumulative.shape[1]
    to_next = n_rows * 2 * N_GAUSSIANS
    left = left_slope = splat_eight(number(0))
    for e in range(n + 1):
        r = min(max(int(whole) + n_reach + min(e * stride, last_edge - first), 0), n_rows - 1)
        at = (i * n_rows + r) * 2 * N_GAUSSIANS
        v0, s0 = load_eight(cumulative, at), load_eight(cumulative, at + N_GAUSSIANS)
        v1, s1 = load_eight(cumulative, at + to_next), load_eight(cumulative, at + to_next + N_GAUSSIANS)
        right = (v0 * h00 + s0 * h10) + (v1 * h01 + s1 * h11)
        right_slope = (v1 - v0) * d01 + (s0 * d10 + s1 * d11)
        if e > 0:
            store(value, (e - 1) * N_GAUSSIANS, right - left)
            store(slope, (e - 1) * N_GAUSSIANS, left_slope - right_slope)
        left, left_slope = right, right_slope


@_inline
def _extent(centre, reach, n):
    """Return the first of n voxels within ``reach`` of ``centre``, and the number of such voxels."""
    low = max(int(math.ceil(centre - reach)), 0)
    return low, min(int(math.floor(centre + reach)) + 1, n) - low


@_inline
def _window(centre, window, n):
    """Return the first of ``window`` voxels about ``centre`` that all lie among n."""
    return min(max(int(math.floor(centre)) - window // 2 + 1, 0), n - window)


@_inline
def _place(centre, reach, n_layers, n_z, n_x, n_y, window):
    """Return first slice, number of slices, first row along x, number of rows and first voxel along y of an atom.

    The number of slices is 0 if the atom lies outside the volume.
    """
    layer, n_deep = _extent(centre[0], reach, n_z)
    x0, n_wide = _extent(centre[1], reach, n_x)
    first = layer // n_layers
    n_cut = (layer + n_deep - 1) // n_layers - first + 1
    if n_deep <= 0 or n_wide <= 0 or centre[2] < -reach or centre[2] > n_y - 1 + reach:
        n_cut = 0
    return first, n_cut, x0, n_wide, _window(centre[2], window, n_y)


@_serial
def deposit(slices, centres, kinds, occupancy, n_layers, n_z, tables, lanes):
    """Fill ``slices`` (S, X, Y) with the potential of the atoms in V: sums over ``n_layers`` of ``n_z`` voxel layers.

    ``centres`` (N, 3) are z, x, y in voxels, ``kinds`` (N,) rows of ``tables``, ``occupancy`` (N,).
    """
    cumulative, weight, reach, n_reach, window = tables
    n_slices, n_x, n_y = slices.shape
    size = 2 * n_reach + window + 4
    z_value, z_slope = np.empty((size, 8), slices.dtype), np.empty((size, 8), slices.dtype)
    x_value, x_slope = np.empty((size, 8), slices.dtype), np.empty((size, 8), slices.dtype)
    y_value, y_slope = np.empty((size, 8), slices.dtype), np.empty((size, 8), slices.dtype)
    along_y = np.empty(8 * window, slices.dtype)
    slices[:] = 0
    for i in range(centres.shape[0]):
        kind = kinds[i]
        first, n_cut, x0, n_wide, y0 = _place(centres[i], reach[kind], n_layers, n_z, n_x, n_y, window)
        if n_cut == 0:
            continue
        z, x, y = centres[i, 0], centres[i, 1], centres[i, 2]
        table = cumulative[kind]
        _profile(table, z, first * n_layers, n_cut, n_layers, n_z, n_reach, z_value, z_slope)
        _profile(table, x, x0, n_wide, 1, n_x, n_reach, x_value, x_slope)
        _profile(table, y, y0, window, 1, n_y, n_reach, y_value, y_slope)
        for g in range(8):
            for j in range(window):
                along_y[g * window + j] = y_value[j, g] * weight[kind, g] * occupancy[i]
        for m in range(n_cut):
            for k in range(n_wide):
                row = ((first + m) * n_x + x0 + k) * n_y + y0
                for j in range(0, window, lanes):
                    total = load(slices, row + j)
                    for g in range(8):
                        total = total + load(along_y, g * window + j) * (z_value[m, g] * x_value[k, g])
                    store(slices, row + j, total)


@_serial
def gather(gradient, centres, kinds, occupancy, n_layers, n_z, tables, lanes, out):
    """Fill ``out`` (N, 4) with d/dz, d/dx, d/dy per voxel and d/d occupancy of Σ ``gradient`` (S, X, Y) · slices.

    This is the adjoint of the derivative of :func:`deposit`.
    """
    cumulative, weight, reach, n_reach, window = tables
    n_slices, n_x, n_y = gradient.shape
    size = 2 * n_reach + window + 4
    z_value, z_slope = np.empty((size, 8), gradient.dtype), np.empty((size, 8), gradient.dtype)
    x_value, x_slope = np.empty((size, 8), gradient.dtype), np.empty((size, 8), gradient.dtype)
    y_value, y_slope = np.empty((size, 8), gradient.dtype), np.empty((size, 8), gradient.dtype)
    along_y, slope_y = np.empty(8 * window, gradient.dtype), np.empty(8 * window, gradient.dtype)
    sums = np.empty(4 * lanes, gradient.dtype)
    nothing = splat(gradient.dtype.type(0))
    for i in range(centres.shape[0]):
        out[i, :] = 0
        kind = kinds[i]
        first, n_cut, x0, n_wide, y0 = _place(centres[i], reach[kind], n_layers, n_z, n_x, n_y, window)
        if n_cut == 0:
            continue
        z, x, y = centres[i, 0], centres[i, 1], centres[i, 2]
        table = cumulative[kind]
        _profile(table, z, first * n_layers, n_cut, n_layers, n_z, n_reach, z_value, z_slope)
        _profile(table, x, x0, n_wide, 1, n_x, n_reach, x_value, x_slope)
        _profile(table, y, y0, window, 1, n_y, n_reach, y_value, y_slope)
        for g in range(8):
            for j in range(window):
                along_y[g * window + j] = y_value[j, g] * weight[kind, g]
                slope_y[g * window + j] = y_slope[j, g] * weight[kind, g]
        by_z, by_x, by_y, by_occupancy = nothing, nothing, nothing, nothing
        for m in range(n_cut):
            start = ((first + m) * n_x + x0) * n_y + y0
            for j in range(0, window, lanes):
                for g in range(8):
                    flat, steep = nothing, nothing
                    for k in range(n_wide):
                        values = load(gradient, start + k * n_y + j)
                        flat = flat + values * x_value[k, g]
                        steep = steep + values * x_slope[k, g]
                    across = load(along_y, g * window + j)
                    whole = flat * across
                    by_occupancy = by_occupancy + whole * z_value[m, g]
                    by_z = by_z + whole * z_slope[m, g]
                    by_x = by_x + steep * across * z_value[m, g]
                    by_y = by_y + flat * load(slope_y, g * window + j) * z_value[m, g]
        store(sums, 0, by_z)
        store(sums, lanes, by_x)
        store(sums, 2 * lanes, by_y)
        store(sums, 3 * lanes, by_occupancy)
        for axis in range(4):
            total = 0.0
            for j in range(lanes):
                total += sums[axis * lanes + j]
            out[i, axis] = total if axis == 3 else total * occupancy[i]
