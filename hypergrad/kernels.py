"""Kernels of the adaptive rules: functions of coefficients and vectors, element by element, with derivatives.

What `hypergrad.operations.Kernel` asks for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hypergrad.operations import Vector

__all__ = ["NORMALIZED", "SQUARED"]


class Squared:
    """The kernel c * x**2."""

    def forward(
        self, coefficients: Sequence[float], inputs: Sequence[Vector], out: Vector | None = None
    ) -> Vector:
        """c * x**2, never negative where c is not."""
        squares = np.multiply(inputs[0], inputs[0], out=out)
        squares *= coefficients[0]
        return squares

    def pullback(
        self, coefficients: Sequence[float], inputs: Sequence[Vector], cotangent: Vector
    ) -> tuple[Sequence[float], Sequence[Vector]]:
        """(<cotangent, x**2>), (2 c x * cotangent)."""
        product = inputs[0] * cotangent
        d_c = np.einsum("i,i", product, inputs[0])
        product *= 2.0 * coefficients[0]
        return (d_c,), (product,)


class Normalized:
    """The kernel a * x / (sqrt(u) + e), for u >= 0 and e > 0.

    Where u = 0 the derivative with respect to u is taken to be 0.  The root has none there, but training needs
    none: a running mean of squared gradients is 0 only where all those squares were, or were too small for its
    resolution; then u does not move with them, and x, a mean of the same gradients or the last of them, is 0 or
    small against e.  The limit is the same: with x = p g and u = q g**2, the kernel has at g = 0 the derivative
    a p / e, which is what comes by way of x alone.
    """

    def forward(
        self, coefficients: Sequence[float], inputs: Sequence[Vector], out: Vector | None = None
    ) -> Vector:
        """a * x / (sqrt(u) + e)."""
        a, e = coefficients
        x, u = inputs
        result = np.sqrt(u, out=out)
        result += e
        np.divide(x, result, out=result)
        result *= a
        return result

    def pullback(
        self, coefficients: Sequence[float], inputs: Sequence[Vector], cotangent: Vector
    ) -> tuple[Sequence[float], Sequence[Vector]]:
        """(d_a, d_e), (d_x, d_u)."""
        a, e = coefficients
        x, u = inputs
        root = np.sqrt(u)
        scale = root + e
        d_x = cotangent / scale
        d_a = np.einsum("i,i", d_x, x)
        d_x *= a
        d_scale = np.divide(x, scale, out=scale)
        d_scale *= d_x  # less a sign, which the last two results get
        d_e = -np.sum(d_scale)
        np.copyto(root, np.inf, where=root == 0.0)
        root *= -2.0
        d_u = np.divide(d_scale, root, out=d_scale)
        return (d_a, d_e), (d_x, d_u)


SQUARED = Squared()
NORMALIZED = Normalized()
