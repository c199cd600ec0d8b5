"""Linear transformations of images and of other vectors, as matrices.

`translate` shifts an image; `matrix_exp` goes a distance along the one-parameter family of transformations that
a generator makes, and can be differentiated with respect to both.
"""

from __future__ import annotations

import operator
from typing import Any

import autograd.numpy as np
from autograd.extend import defvjp, primitive

__all__ = ["matrix_exp", "translate"]

Array = Any  # a float array, or what autograd puts in its place while it traces


def translate(Lx: int, Ly: int, nx: int, ny: int) -> np.ndarray:
    """The matrix that shifts an image by nx pixels along x and ny along y, filling with zeros from the edge.

    Image: Ly rows of Lx pixels, flattened row by row, so that pixel (x, y) has the index y * Lx + x.
    nx, ny: whole numbers, of either sign and any size; what was at (x, y) comes to (x + nx, y + ny).
    Returns a matrix (Lx * Ly, Lx * Ly) of zeros and ones.  Raises TypeError for a fraction of a pixel, ValueError
    for an image without pixels.
    """
    Lx, Ly, nx, ny = (operator.index(number) for number in (Lx, Ly, nx, ny))
    if Lx < 1 or Ly < 1:
        raise ValueError(f"expected an image of at least one pixel, got {Lx} x {Ly}")
    return np.kron(np.eye(Ly, k=-ny), np.eye(Lx, k=-nx))


def matrix_exp(A: Array, t: Array) -> Array:
    """The matrix exponential exp(A t), (n, n), of any square matrix A, (n, n), and a number t.

    Differentiable in both, any number of times.  (The 2015 package's was right for symmetric A only.)
    Raises ValueError where A is not square, something is not finite, or the result is too large for a float.
    """
    if np.ndim(A) != 2 or np.shape(A)[0] != np.shape(A)[1] or np.ndim(t) != 0:
        raise ValueError(f"expected a square matrix and a number, got shapes {np.shape(A)} and {np.shape(t)}")
    return _expm(np.array(A) * t)


@primitive
def _expm(M: np.ndarray) -> np.ndarray:
    from scipy.linalg import expm

    if not np.all(np.isfinite(M)):
        raise ValueError("matrix_exp: an entry of A t is not finite")
    with np.errstate(over="ignore", invalid="ignore"):
        result = expm(M)
    if not np.all(np.isfinite(result)):
        raise ValueError(
            f"matrix_exp: the result overflows; the largest entry of |A t| is {np.abs(M).max():g}"
        )
    return result


@primitive
def _expm_derivative(M: np.ndarray, E: np.ndarray) -> np.ndarray:
    """The derivative of exp(M) in the direction E (Frechet derivative), linear in E."""
    from scipy.linalg import expm_frechet

    return expm_frechet(M, E, compute_expm=False)


def _expm_derivative_vjp(ans: Array, M: Array, E: Array) -> Any:
    # exp of [[M, E], [0, M]] has the derivative of exp(M) along E in its upper right block, so a derivative of
    # that derivative is a first derivative of the larger matrix's exponential.
    def vjp(g: Array) -> Array:
        n, zero = len(M), np.zeros(np.shape(M))
        larger, seed = _blocks(M, E, zero, M), _blocks(zero, g, zero, zero)
        pulled_back = _expm_derivative(np.transpose(larger), seed)
        return pulled_back[:n, :n] + pulled_back[n:, n:]

    return vjp


def _blocks(a: Array, b: Array, c: Array, d: Array) -> Array:
    return np.concatenate([np.concatenate([a, b], axis=1), np.concatenate([c, d], axis=1)])


# The adjoint of a derivative of exp at M is the derivative at M transposed.
defvjp(_expm, lambda ans, M: lambda g: _expm_derivative(np.transpose(M), g))
defvjp(
    _expm_derivative,
    _expm_derivative_vjp,
    lambda ans, M, E: lambda g: _expm_derivative(np.transpose(M), g),
)
