r"""The row of a likelihood: how the images of the model are compared with those that were measured.

The cost of a tilt is C = Σ c(m, a) over pixels. m = |ψ|² is the intensity of the model and a = √I the amplitude of the
measured intensity I, vacuum 1; pixels have weights w. The cost is scaled such that 4n times it, for n electrons in a
vacuum pixel, is the negative log-likelihood of counts that differ little from those of vacuum. The residual of a wave
is r = f ψ, f = 2 ∂c/∂m (:mod:`aetlab.forward.multislice`, with a detector :mod:`aetlab.forward.detector`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

#: Least detected intensity (vacuum 1) that the cost of a pixel follows: a ripple of the blur may undershoot 0.
DARKEST = 1e-3

#: ``compare(of_model, amplitude, weight, row_cost)``: see :class:`Likelihood`.
Compare = Callable[[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray], None]


@dataclass(frozen=True)
class GpuKernels:
    """The comparison on a GPU.

    ``residual`` is the kernel of waves (:data:`aetlab.gpu.kernels.KERNELS`), ``arguments`` are its own. ``background``
    is that of the kernels ``compare_columns`` and ``detected_residual``: 0 compares amplitudes, a positive one Poisson
    counts.
    """

    residual: str
    arguments: tuple[float, ...]
    background: float


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """A likelihood of the table :data:`aetlab.methods.likelihoods.LIKELIHOODS`.

    Attributes
    ----------
    meaning : str
        What it compares, in a few words for help and documentation.
    compare : callable
        ``compare(waves, amplitude, weight, row_cost)`` replaces complex waves ψ (F, X, Y) by residuals f ψ and fills
        ``row_cost`` (F, X) with the cost of each row. ``weight`` (F, X, Y) is None for 1 everywhere.
    compare_detected : callable
        The same for intensities m (F, X, Y) that a detector has blurred, which it replaces by f. Intensities below
        :data:`DARKEST` count as that, with f = 0.
    gpu : GpuKernels, optional
        The version for a GPU. Without one, ``engine=auto`` reconstructs on the CPU and reports it.
    fused : bool
        Whether the fused kernels of the CPU (:mod:`aetlab.forward.simd_multislice`) compare by it. Otherwise the waves
        are propagated with the FFTs of a library, which is reported.
    refines : bool
        Whether the refinement of atoms compares by it; with another one, refine=atoms is refused.
    added_counts : float
        Counts added to those that are left out of a fit, which makes their prediction unbiased.
    """

    meaning: str
    compare: Compare
    compare_detected: Compare
    gpu: GpuKernels | None = None
    fused: bool = False
    refines: bool = False
    added_counts: float = 0.0
