"""Kernels over many atoms at once: bounded fits of Gaussians, and their subtraction from a volume.

Notation: a site is a row (z, x, y, I, s) in voxels of the array and in V; its model is ``I exp(-r²/2s²)`` at the
voxels' centres. Each kernel works on the sites ``first`` to ``last`` and reads no result of another site, so the
result does not depend on how threads share the sites. The kernels release the interpreter lock.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from aetlab.core.kernel_cache import njit

N_PARAMETERS = 5

#: A neighbour's Gaussian counts as 0 below exp(-16), about 1e-7 of its peak.
EXPONENT_MAX = 16.0
#: Bits of a fit's status.
TOO_FEW_VOXELS = 1
AT_BOUND = 2
NOT_CONVERGED = 4


class FitInput(NamedTuple):
    """Volume (Z, X, Y), sites (N, 5) and the neighbours that are subtracted before each site is fitted.

    The neighbours of site i are ``neighbours[first_neighbour[i]:first_neighbour[i + 1]]``. Voxels within ``radius``
    of a site take part. With ``clip`` the subtraction does not lower a voxel below the smaller of 0 and its own value.
    """

    volume: np.ndarray
    sites: np.ndarray
    first_neighbour: np.ndarray
    neighbours: np.ndarray
    radius: float
    clip: bool


class FitLimits(NamedTuple):
    """Bounds of a fit, and when it ends.

    ``bounds`` (7,): greatest shift in voxels, lowest and highest I and s as factors of their start, lowest and highest
    s in voxels. A fit has converged when a step changes no length by ``tolerance`` voxels and I by no such fraction.
    """

    bounds: np.ndarray
    tolerance: float
    n_steps_max: int


class _Work(NamedTuple):
    """Working memory of one fit: parameters (shift z, x, y, I, s), their bounds and the normal equations."""

    point: np.ndarray
    low: np.ndarray
    high: np.ndarray
    normal: np.ndarray
    gradient: np.ndarray
    trial: np.ndarray
    trial_normal: np.ndarray
    trial_gradient: np.ndarray
    step: np.ndarray
    given: np.ndarray
    factor: np.ndarray
    free: np.ndarray


@njit()
def _gather(data, i_site, offsets, values):
    """Fill offsets (n, 3) of the voxels near a site and their values less the neighbours; return n.

    Places outside the volume and voxels that are not finite do not count.
    """
    volume, sites, radius = data.volume, data.sites, data.radius
    z0, x0, y0 = sites[i_site, 0], sites[i_site, 1], sites[i_site, 2]
    n_z, n_x, n_y = volume.shape
    n_voxels = 0
    for z in range(max(0, math.ceil(z0 - radius)), min(n_z - 1, math.floor(z0 + radius)) + 1):
        for x in range(max(0, math.ceil(x0 - radius)), min(n_x - 1, math.floor(x0 + radius)) + 1):
            for y in range(max(0, math.ceil(y0 - radius)), min(n_y - 1, math.floor(y0 + radius)) + 1):
                value = float(volume[z, x, y])
                if (z - z0) ** 2 + (x - x0) ** 2 + (y - y0) ** 2 > radius * radius or not math.isfinite(value):
                    continue
                floor = min(value, 0.0)
                for k in range(data.first_neighbour[i_site], data.first_neighbour[i_site + 1]):
                    j = data.neighbours[k]
                    distance2 = (z - sites[j, 0]) ** 2 + (x - sites[j, 1]) ** 2 + (y - sites[j, 2]) ** 2
                    exponent = 0.5 * distance2 / (sites[j, 4] * sites[j, 4])
                    if exponent < EXPONENT_MAX:
                        value -= sites[j, 3] * math.exp(-exponent)
                if data.clip and value < floor:
                    value = floor
                offsets[n_voxels, 0] = z - z0
                offsets[n_voxels, 1] = x - x0
                offsets[n_voxels, 2] = y - y0
                values[n_voxels] = value
                n_voxels += 1
    return n_voxels


@njit()
def _linearise(offsets, values, n_voxels, parameters, normal, gradient):
    """Return half the sum of squares at ``parameters``; fill JᵀJ and the descent direction Jᵀ(data - model)."""
    n_parameters = len(gradient)  # not a constant: the compiler would unroll every loop
    for j in range(n_parameters):
        gradient[j] = 0.0
        for k in range(j + 1):
            normal[j, k] = 0.0
    cost = 0.0
    jacobian = np.empty(n_parameters)
    intensity, width = parameters[3], parameters[4]
    inverse2 = 1.0 / (width * width)
    for i in range(n_voxels):
        d_z = offsets[i, 0] - parameters[0]
        d_x = offsets[i, 1] - parameters[1]
        d_y = offsets[i, 2] - parameters[2]
        r2 = d_z * d_z + d_x * d_x + d_y * d_y
        shape = math.exp(-0.5 * r2 * inverse2)
        model = intensity * shape
        residual = values[i] - model
        cost += 0.5 * residual * residual
        jacobian[0] = model * d_z * inverse2
        jacobian[1] = model * d_x * inverse2
        jacobian[2] = model * d_y * inverse2
        jacobian[3] = shape
        jacobian[4] = model * r2 * inverse2 / width
        for j in range(n_parameters):
            gradient[j] += jacobian[j] * residual
            for k in range(j + 1):
                normal[j, k] += jacobian[j] * jacobian[k]
    return cost


@njit()
def _solve_free(normal, gradient, free, damping, factor, step):
    """Solve the damped normal equations for the step in the free parameters, the other steps being given.

    Return False if the equations are singular.
    """
    n_parameters = len(gradient)  # not a constant: the compiler would unroll every loop
    for j in range(n_parameters):
        for k in range(j + 1):
            value = normal[j, k] if free[j] and free[k] else 0.0
            if j == k:
                value = value * (1.0 + damping) if free[j] else 1.0
            for m in range(k):
                value -= factor[j, m] * factor[k, m]
            if j > k:
                factor[j, k] = value / factor[k, k]
            elif value > 0.0:
                factor[j, j] = math.sqrt(value)
            else:
                return False
    for j in range(n_parameters):
        value = step[j]
        if free[j]:
            value = gradient[j]
            for k in range(n_parameters):
                if not free[k]:
                    value -= normal[max(j, k), min(j, k)] * step[k]
        for m in range(j):
            value -= factor[j, m] * step[m]
        step[j] = value / factor[j, j]
    for j in range(n_parameters - 1, -1, -1):
        value = step[j]
        for m in range(j + 1, n_parameters):
            value -= factor[m, j] * step[m]
        step[j] = value / factor[j, j]
    return True


@njit()
def _bounded_step(work, damping):
    """Find the step of the damped normal equations inside the bounds: a parameter that would leave ends at its bound.

    Return False if the equations are singular.
    """
    gradient, point, low, high, free = work.gradient, work.point, work.low, work.high, work.free
    step, given = work.step, work.given
    n_parameters = len(gradient)  # not a constant: the compiler would unroll every loop
    for j in range(n_parameters):
        free[j] = not ((point[j] <= low[j] and gradient[j] < 0) or (point[j] >= high[j] and gradient[j] > 0))
        given[j] = 0.0
    for _ in range(n_parameters + 1):
        for j in range(n_parameters):
            step[j] = given[j]
        if not _solve_free(work.normal, gradient, free, damping, work.factor, step):
            return False
        inside = True
        for j in range(n_parameters):
            if free[j] and not low[j] <= point[j] + step[j] <= high[j]:
                given[j] = (low[j] if step[j] < 0 else high[j]) - point[j]
                free[j] = False
                inside = False
        if inside:
            break
    return True


@njit()
def _start_fit(data, i_site, limits, work):
    """Set the bounds and the start of the fit of a site; its place stays inside the volume."""
    site, bounds, point, low, high = data.sites[i_site], limits.bounds, work.point, work.low, work.high
    for j in range(3):
        low[j] = min(max(-bounds[0], -0.5 - site[j]), 0.0)
        high[j] = max(min(bounds[0], data.volume.shape[j] - 0.5 - site[j]), 0.0)
        point[j] = 0.0
    low[3] = bounds[1] * site[3]
    high[3] = bounds[2] * site[3]
    low[4] = max(bounds[3] * site[4], bounds[5])
    high[4] = min(bounds[4] * site[4], bounds[6])
    point[3] = site[3]
    point[4] = min(max(site[4], low[4]), high[4])


@njit()
def _descend(offsets, values, n_voxels, limits, work):
    """Minimise the sum of squares from ``work.point`` by bounded Levenberg-Marquardt; return whether it converged."""
    point, trial, step, gradient, normal = work.point, work.trial, work.step, work.gradient, work.normal
    cost = _linearise(offsets, values, n_voxels, point, normal, gradient)
    damping = 1e-3
    for _ in range(limits.n_steps_max):
        if not _bounded_step(work, damping):
            return False
        change = 0.0
        for j in range(len(gradient)):
            trial[j] = min(max(point[j] + step[j], work.low[j]), work.high[j])
            scale = point[3] if j == 3 else 1.0
            change = max(change, abs(trial[j] - point[j]) / scale)
        trial_cost = _linearise(offsets, values, n_voxels, trial, work.trial_normal, work.trial_gradient)
        if trial_cost <= cost:
            cost = trial_cost
            for j in range(len(gradient)):
                point[j] = trial[j]
                gradient[j] = work.trial_gradient[j]
                for k in range(j + 1):
                    normal[j, k] = work.trial_normal[j, k]
            damping *= 0.1
        else:
            damping *= 10.0
        if change < limits.tolerance:
            return True
    return False


@njit()
def fit_gaussians(data, movable, first, last, limits, fitted, status):
    """Fit the ``movable`` sites (N,) of a :class:`FitInput` within :class:`FitLimits`; neighbours stay as given.

    Fill ``fitted`` (N, 5) and ``status`` (N,).
    """
    n_box = (2 * math.ceil(data.radius) + 1) ** 3
    offsets = np.empty((n_box, 3))
    values = np.empty(n_box)
    square = (N_PARAMETERS, N_PARAMETERS)
    work = _Work(np.empty(N_PARAMETERS), np.empty(N_PARAMETERS), np.empty(N_PARAMETERS), np.empty(square),
                 np.empty(N_PARAMETERS), np.empty(N_PARAMETERS), np.empty(square), np.empty(N_PARAMETERS),
                 np.empty(N_PARAMETERS), np.empty(N_PARAMETERS), np.zeros(square), np.empty(N_PARAMETERS, np.bool_))
    for i in range(first, last):
        if not movable[i]:
            continue
        n_voxels = _gather(data, i, offsets, values)
        if n_voxels <= N_PARAMETERS:
            status[i] = TOO_FEW_VOXELS
            continue
        _start_fit(data, i, limits, work)
        if not _descend(offsets, values, n_voxels, limits, work):
            status[i] |= NOT_CONVERGED
        for j in range(len(work.point)):
            fitted[i, j] = work.point[j] + (data.sites[i, j] if j < 3 else 0.0)
            if work.point[j] <= work.low[j] or work.point[j] >= work.high[j]:
                status[i] |= AT_BOUND


@njit()
def measure_amplitudes(data, first, last, width, amplitudes):
    """Fill the least-squares amplitude at each site of a Gaussian of ``width`` in the volume less the neighbours.

    Where voxels are missing the amplitude is uncertain, and is scaled down to the noise that a whole fit would have.
    """
    whole = (math.pi * width * width) ** 1.5
    n_box = (2 * math.ceil(data.radius) + 1) ** 3
    offsets = np.empty((n_box, 3))
    values = np.empty(n_box)
    for i in range(first, last):
        n_voxels = _gather(data, i, offsets, values)
        product, norm = 0.0, 1e-300
        for k in range(n_voxels):
            r2 = offsets[k, 0] ** 2 + offsets[k, 1] ** 2 + offsets[k, 2] ** 2
            shape = math.exp(-0.5 * r2 / (width * width))
            product += shape * values[k]
            norm += shape * shape
        amplitudes[i] = product / math.sqrt(norm * max(norm, whole))


@njit()
def linearise_fits(data, first, last, offsets, residuals, jacobians, n_voxels):
    """Fill voxel offsets, residuals (data - model) and Jacobians of each site's fit, rows 0 to last - first.

    ``offsets`` (n, n_box, 3) int, ``residuals`` (n, n_box), ``jacobians`` (n, n_box, 5) are not written beyond
    ``n_voxels`` (n,).
    """
    sites = data.sites
    place = np.empty((offsets.shape[1], 3))
    values = np.empty(offsets.shape[1])
    for i in range(first, last):
        row = i - first
        n = _gather(data, i, place, values)
        n_voxels[row] = n
        intensity, width = sites[i, 3], sites[i, 4]
        for k in range(n):
            r2 = place[k, 0] ** 2 + place[k, 1] ** 2 + place[k, 2] ** 2
            shape = math.exp(-0.5 * r2 / (width * width))
            residuals[row, k] = values[k] - intensity * shape
            for j in range(3):
                offsets[row, k, j] = round(place[k, j] + sites[i, j]) - round(sites[i, j])
                jacobians[row, k, j] = intensity * shape * place[k, j] / (width * width)
            jacobians[row, k, 3] = shape
            jacobians[row, k, 4] = intensity * shape * r2 / width**3


@njit()
def subtract_gaussians(block, z_first, sites, radius):
    """Subtract in place the sites' Gaussians, cut at ``radius``, from a block of layers that starts at ``z_first``."""
    n_z, n_x, n_y = block.shape
    along_y = np.empty(2 * math.ceil(radius) + 1)
    for i in range(sites.shape[0]):
        z0, x0, y0 = sites[i, 0] - z_first, sites[i, 1], sites[i, 2]
        exponent = -0.5 / (sites[i, 4] * sites[i, 4])
        y_low = max(0, math.ceil(y0 - radius))
        y_high = min(n_y - 1, math.floor(y0 + radius))
        for y in range(y_low, y_high + 1):
            along_y[y - y_low] = math.exp(exponent * (y - y0) ** 2)
        for z in range(max(0, math.ceil(z0 - radius)), min(n_z - 1, math.floor(z0 + radius)) + 1):
            for x in range(max(0, math.ceil(x0 - radius)), min(n_x - 1, math.floor(x0 + radius)) + 1):
                r2 = (z - z0) ** 2 + (x - x0) ** 2
                if r2 > radius * radius:
                    continue
                peak = sites[i, 3] * math.exp(exponent * r2)
                for y in range(y_low, y_high + 1):
                    if r2 + (y - y0) ** 2 <= radius * radius:
                        block[z, x, y] -= peak * along_y[y - y_low]
