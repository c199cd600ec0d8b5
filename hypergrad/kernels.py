"""Kernels of the adaptive rules: functions of coefficients and vectors, element by element, with derivatives.

What `hypergrad.operations.Kernel` asks for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hypergrad import loops
from hypergrad.operations import Blocks, Vector

__all__ = ["NORMALIZED", "SQUARED"]


class Squared:
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


class Normalized:
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


SQUARED = Squared()
NORMALIZED = Normalized()
