"""Kernels of the adaptive rules: functions of coefficients and vectors, element by element, with derivatives.

What `hypergrad.operations.Kernel` asks for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hypergrad import loops
from hypergrad.exact_rep import spread
from hypergrad.operations import Blocks, Kernel, Vector

__all__ = ["NORMALIZED", "SQUARED"]

TOLERANCE = 1e-6  # of a normalized gradient


class Squared(Kernel):
    """The kernel c * x**2."""

    def forward(self, others: Blocks, inputs: Sequence[Vector]) -> Vector:
        """x**2."""
        return np.square(inputs[0])

    def pullback(
        self, blocks: Blocks, inputs: Sequence[Vector], cotangent: Vector, d_inputs: Sequence[Vector]
    ) -> Sequence[NDArray[np.float64]]:
        """(<cotangent, x**2>,); adds 2 c x * cotangent."""
        d_c = np.empty(len(blocks.ends))
        loops.squared_pullback(*blocks.coefficients, blocks.ends, *inputs, cotangent, d_c, *d_inputs)
        return (d_c,)


class Normalized(Kernel):
    """The kernel a * x / (sqrt(u) + e), for u >= 0 and e > 0.

    Where u = 0 the derivative with respect to u is taken to be 0.  The root has none there, but training needs
    none: a running mean of squared gradients is 0 only where all those squares were, or were too small for its
    resolution; then u does not move with them, and x, a mean of the same gradients or the last of them, is 0 or
    small against e.  The limit is the same: with x = p g and u = q g**2, the kernel has at g = 0 the derivative
    a p / e, which is what comes by way of x alone.
    """

    def forward(self, others: Blocks, inputs: Sequence[Vector]) -> Vector:
        """x / (sqrt(u) + e)."""
        result = np.empty_like(inputs[0])
        loops.normalized(*others.coefficients, others.ends, *inputs, result)
        return result

    def pullback(
        self, blocks: Blocks, inputs: Sequence[Vector], cotangent: Vector, d_inputs: Sequence[Vector]
    ) -> Sequence[NDArray[np.float64]]:
        """(d_a, d_e); adds d_x and d_u."""
        d_a, d_e = np.empty((2, len(blocks.ends)))
        loops.normalized_pullback(*blocks.coefficients, blocks.ends, *inputs, cotangent, d_a, d_e, *d_inputs)
        return d_a, d_e

    def first_lost(
        self, others: Blocks, inputs: Sequence[Vector], resolutions: Sequence[float]
    ) -> tuple[int, int] | None:
        """Where u may be off by two of its units, and x / (sqrt(u) + e) by more than 1e-6 for that."""
        off = 2.0 * resolutions[1]
        if math.sqrt(off) <= TOLERANCE * np.min(others.coefficients[0], initial=math.inf):
            return None  # however small u is, beside e it does not matter
        x, u = inputs
        near = np.flatnonzero((u < off * (1e3 / TOLERANCE)) & (x != 0.0))
        if near.size == 0:
            return None
        x, u, e = x[near], u[near], spread(others.coefficients[0], others.ends)[near]
        off_root = off / (np.sqrt(u + off) + np.sqrt(u))
        lost = np.abs(x) * off_root > TOLERANCE * (np.sqrt(u) + e) ** 2
        return (1, int(near[np.argmax(lost)])) if lost.any() else None


SQUARED = Squared()
NORMALIZED = Normalized()
