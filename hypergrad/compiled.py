"""The loops over elements that exact arithmetic is made of, compiled by Numba: Algorithm 3 as one reads it.

Numbers and heads of buffers are int64 arrays, (length,), changed in place; see `hypergrad.exact_rep`.  Integer
arithmetic is modulo 2**64.  In NumPy the same takes some 40 passes over memory for a training step and its undoing.

This module is imported when the first loop runs, as Numba takes about as long to load as everything else.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["accumulate", "multiply", "multiply_each", "to_floats"]


def _compiled(function: Callable) -> Callable:
    """Compile it for the types of its arguments when it is first called, and keep that on disk if possible."""
    options = {"error_model": "numpy", "nogil": True}  # division by zero raises nothing: a check would cost
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no folder that can be written to
        return njit(**options)(function)


@_compiled
def multiply(x: NDArray[np.int64], head: NDArray[np.int64], n: int, d: int) -> None:
    """Push x mod d to head, x <- x div d;  x <- x * n + pop n from head.  1 <= n, d <= 2**40; 0 <= head * d."""
    shift_n, inverse_n = _reciprocal(n)
    shift_d, inverse_d = _reciprocal(d)
    for i in range(x.size):
        quotient, digit = _divmod(x[i], d, shift_d, inverse_d)
        b, digit_back = _divmod(head[i] * d + digit, n, shift_n, inverse_n)
        x[i] = quotient * n + digit_back
        head[i] = b


@_compiled
def multiply_each(
    x: NDArray[np.int64], head: NDArray[np.int64], n: NDArray[np.int64], d: NDArray[np.int64]
) -> None:
    """`multiply` by ratios of their own, n and d of shape (length,)."""
    for i in range(x.size):
        b = head[i] * d[i] + x[i] % d[i]
        x[i] = x[i] // d[i] * n[i] + b % n[i]
        head[i] = b // n[i]


@_compiled
def accumulate(x: NDArray[np.int64], units: NDArray[np.float64], sign: int) -> None:
    """x <- x + sign * units, rounded to the nearest integer, to the even one of two.  |units| < 2**63."""
    for i in range(x.size):
        x[i] += sign * np.int64(np.rint(units[i]))


@_compiled
def to_floats(x: NDArray[np.int64], unit: float, out: NDArray[np.float64]) -> None:
    """out <- x * unit."""
    for i in range(x.size):
        out[i] = np.float64(x[i]) * unit


@_compiled
def _reciprocal(m: int) -> tuple[int, float]:
    """What `_divmod` needs of m: k where m = 2**k, otherwise -1; and 1 / m."""
    shift = 0
    while 1 << shift < m:
        shift += 1
    return shift if 1 << shift == m else -1, 1.0 / m


@_compiled
def _divmod(a: int, m: int, shift: int, inverse: float) -> tuple[int, int]:
    """a div m and a mod m, without a division.

    In floats, a * inverse is off the true quotient by less than 3 * 2**-53 of it and is rounded towards zero.  So the
    remainder at that quotient is below 2**12 + m and exact as a float, and at the next one it is within m
    of the right one.
    """
    if shift >= 0:
        return a >> shift, a & (m - 1)
    quotient = np.int64(np.float64(a) * inverse)
    quotient += np.int64(np.floor(np.float64(a - quotient * m) * inverse))
    rest = a - quotient * m
    over = np.int64(rest >= m) - np.int64(rest < 0)
    return quotient + over, rest - over * m
