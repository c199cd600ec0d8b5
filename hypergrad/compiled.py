"""The loops over elements of state vectors, compiled by Numba: exact arithmetic, and adjoints of its operations.

Each makes one pass over its vectors where NumPy would make one for each operation in it.  They are used by way of
`hypergrad.loops`.

Vectors have shape (length,): int64, with arithmetic modulo 2**64, for fixed-point numbers and heads of buffers;
float64 for all others.  Blocks are consecutive parts of them that share coefficients: ends, (blocks,), lists where
each ends; a coefficient, and the cotangent of one, has shape (blocks,).
"""

from __future__ import annotations

import functools
import math
import platform
from collections.abc import Callable

import numpy as np
from llvmlite.binding import get_host_cpu_features
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "DONE",
    "MOVE",
    "REFUSED",
    "change",
    "change_adjoint",
    "log2",
    "log_softmax",
    "log_softmax_pullback",
    "log_softmax_second_derivative",
    "moves",
    "multiply",
    "multiply_each",
    "normalized",
    "normalized_pullback",
    "refill",
    "spill",
    "squared_pullback",
    "sums",
    "sums_of_bits",
    "tanh",
    "tanh_derivative",
    "tanh_pullback",
    "tanh_second_derivative",
    "to_floats",
    "to_ratios",
    "wide_add",
    "wide_largest",
    "wide_shift",
    "wide_shift_back",
    "wide_to_floats",
]

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

_LAST = 2**63 - 1
_LAST_32 = 2**31 - 1
_PART = 1024  # elements at a time: as many as stay in the first cache
_SUMS = {"reassoc"}  # the compiler may add up the terms of a sum in any order, always the same one
_PRODUCTS = {"contract"}  # it may add a product without rounding that first


def _compiled(function: Callable, fastmath: set[str] | bool = False) -> Callable:
    """Compile it when it is first called, for the types that it then gets; keep that on disk where possible."""
    options = {"fastmath": fastmath, "error_model": "numpy", "nogil": True}  # no check for divisions by zero
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # there is no folder that can be written to
        return njit(**options)(function)


_compiled_with_sums = functools.partial(_compiled, fastmath=_SUMS)
_compiled_with_products = functools.partial(_compiled, fastmath=_PRODUCTS)


# ---- integers and floats

# Loops over vectors need conversions of vectors.  x86 has them since AVX-512; before, we make them of the bits of
# floats, with the same results: floats from 2**52 on are 1 apart, as their bits are, and those from 2**84 on 2**32.

_X86 = platform.machine().lower() in ("x86_64", "amd64")
_HAS_CONVERSIONS = not _X86 or bool(get_host_cpu_features().get("avx512dq"))
_LOWER, _MIDDLE, _UPPER = 2.0**52, 1.5 * 2.0**52, 2.0**84 + 2.0**63
_BITS_OF_LOWER, _BITS_OF_MIDDLE, _BITS_OF_UPPER = (
    int(np.float64(a).view(np.int64)) for a in (_LOWER, _MIDDLE, _UPPER)
)


@_compiled
def _to_float(a: int) -> float:
    """The nearest float, the even one of two."""
    if _HAS_CONVERSIONS:
        return np.float64(a)
    upper = np.int64(np.uint64(a) >> np.uint64(32) ^ np.uint64(_BITS_OF_UPPER)).view(np.float64)
    lower = np.int64(a & (2**32 - 1) | _BITS_OF_LOWER).view(np.float64)
    return upper - (_UPPER + _LOWER) + lower


@_compiled
def _to_integer(a: float) -> int:
    """The nearest integer, the even one of two.  |a| < 2**63."""
    if _HAS_CONVERSIONS:
        return np.int64(np.rint(a))
    upper = _small_to_integer(a * 2.0**-32)
    return (upper << 32) + _small_to_integer(a - _small_to_float(upper) * 2.0**32)


@_compiled
def _small_to_float(a: int) -> float:
    """`_to_float`, where |a| <= 2**51."""
    return np.int64(a + _BITS_OF_MIDDLE).view(np.float64) - _MIDDLE


@_compiled
def _small_to_integer(a: float) -> int:
    """`_to_integer`, where |a| <= 2**51."""
    return np.float64(a + _MIDDLE).view(np.int64) - _BITS_OF_MIDDLE


# ---- exact arithmetic


@_compiled
def to_ratios(factors: Floats, bits: int, most: float, least_power: float, ratios: Integers) -> int:
    """ratios[:, j] <- n, d in lowest terms, with n / d the multiple of 2**-bits nearest to factors[j].

    Powers of two are taken as they are, down to least_power.
    Returns the first j whose factor is not above 2**-(bits + 1), so that n would be 0, or above most; or -1.
    """
    lattice = 1 << bits
    for j in range(factors.size):
        factor = factors[j]
        if 0.5 / lattice < factor <= most:
            n = np.int64(np.rint(factor * lattice))
            common = min(n & -n, lattice)  # a smaller d replaces fewer low bits of x: less noise
            ratios[0, j], ratios[1, j] = n // common, lattice // common
        elif least_power <= factor <= 0.5 / lattice and math.frexp(factor)[0] == 0.5:
            ratios[0, j], ratios[1, j] = 1, np.int64(1.0 / factor)
        else:
            return j
    return -1


@_compiled
def moves(
    levels: Integers, depths: Integers, log_n: Integers, log_d: Integers, marks: Integers, words: Integers
) -> None:
    """words <- how many must leave heads, or, below 0, return, for a push of d and a pop of n."""
    for j in range(levels.size):
        words[j] = _words(levels[j], depths[j], log_n[j], log_d[j], marks)


@_compiled
def _words(level: int, depth: int, log_n: int, log_d: int, marks: Integers) -> int:
    """As `hypergrad.exact_rep.BitStore` says: by what the digits in the head and in the words below amount to."""
    full, empty, word, digit = marks[0], marks[1], marks[2], marks[3]
    total = level + log_d + max(digit - max(log_n, log_d), 0) + depth * word
    return max((total - full) // word, min((total - empty) // word, 0)) - depth


@_compiled
def spill(head: Integers, bits: int, word: NDArray[np.uint16]) -> bool:
    """word <- the low bits of head;  head <- the others, moved down.  Returns whether word is not all zeros."""
    some = 0
    for i in range(head.size):
        low = head[i] & ((1 << bits) - 1)
        word[i] = low
        some |= low
        head[i] >>= bits
    return some != 0


@_compiled
def refill(head: Integers, bits: int, word: NDArray[np.uint16]) -> None:
    """The inverse of `spill`; all zeros are meant where word has no elements."""
    for i in range(head.size):
        head[i] <<= bits
    for i in range(word.size):
        head[i] |= np.int64(word[i])


@_compiled
def log2(m: Integers, out: Integers) -> None:
    """out <- log2(m) in units of 2**-32.  1 <= m <= 2**40."""
    for j in range(m.size):
        out[j] = _log2(m[j])


@_compiled
def _log2(m: int) -> int:
    """log2(m) in units of 2**-32, within 8 of them: by squaring, in integers, and so the same everywhere."""
    whole = 0
    while m >> (whole + 1) > 0:
        whole += 1
    if m == 1 << whole:
        return np.int64(whole) << 32
    power = np.uint64(m) << np.uint64(31) >> np.uint64(whole) if whole < 31 else np.uint64(m >> (whole - 31))
    log = np.int64(whole)
    for _ in range(32):
        power = power * power >> np.uint64(31)
        log <<= 1
        if power >> np.uint64(32) > 0:
            power >>= np.uint64(1)
            log += 1
    return log


@_compiled
def _carry(a: Integers, b: Integers, m: int) -> None:
    """b <- b * m + a mod m;  a <- a div m.  1 <= m <= 2**40.

    A division of integers takes several times as long as all the rest, so quotients are had in floats.

    That by m * 2**s, where s >= 0 is the least with m * 2**s > 2**14, is below 2**49, so floats are within 3/16 of
    it; and the rest, once they are rounded, is within +-11/16 of m * 2**s.  With s = 0 its sign says what is left
    to do.  Otherwise the rest is exact in floats, and (rest + 1/2) / m has the same floor as rest / m, and is no
    nearer to an integer than 1 / 2m, which is more than rounding does to it; the floor is that less 1/2, rounded.
    """
    bits = 0
    while 1 << bits < m:
        bits += 1
    s = max(15 - bits, 0)
    inverse, coarse = 1.0 / m, 1.0 / (m << s)
    if 1 << bits == m:
        for i in range(a.size):
            b[i] = (b[i] << bits) + (a[i] & (m - 1))
            a[i] >>= bits
    elif s == 0 and m <= _LAST_32:
        m &= _LAST_32  # so that the compiler knows, too: products take fewer instructions
        for i in range(a.size):
            quotient = _small_to_integer(_to_float(a[i]) * inverse)
            rest = a[i] - quotient * m
            negative = rest >> 63
            b[i] = b[i] * m + rest + (m & negative)
            a[i] = quotient + negative
    else:
        for i in range(a.size):
            quotient = _small_to_integer(_to_float(a[i]) * coarse)
            rest = a[i] - (quotient * m << s)
            second = _small_to_integer((_small_to_float(rest) + (0.5 - 0.5 * m)) * inverse)
            b[i] = b[i] * m + rest - second * m
            a[i] = (quotient << s) + second


@_compiled
def to_floats(x: Integers, unit: float, out: Floats) -> None:
    """out <- x * unit."""
    for i in range(x.size):
        out[i] = _to_float(x[i]) * unit


@_compiled
def multiply_each(x: Integers, head: Integers, n: Integers, d: Integers) -> None:
    """`multiply` with n and d for every element, (length,)."""
    for i in range(x.size):
        b = head[i] * d[i] + x[i] % d[i]
        x[i], head[i] = x[i] // d[i] * n[i] + b % n[i], b // n[i]


DONE, MOVE, REFUSED = range(3)  # how `change` went


@_compiled
def change(
    x: Integers,
    head: Integers,
    levels: Integers,
    depths: Integers,
    marks: Integers,
    words: Integers,
    ratios: Integers,
    values: Floats,
    factors: Floats,
    ends: Integers,
    back: bool,
    unit: float,
    bound: float,
    limit: float,
    out: Floats,
    y: Integers,
    y_factors: Floats,
    y_unit: float,
    y_bound: float,
    y_out: Floats,
) -> tuple[int, float, float]:
    """x <- x * n / d by way of head (Algorithm 3);  x <- x + factors * unit * values, rounded;  out <- x / unit.

    y <- y + y_factors * y_unit * (x / unit), rounded, with the x that comes out;  y_out <- y / y_unit.
    back: the inverse, last to first; out gets the x that was there before.
    Each of these is left out where its vectors have no elements.

    ratios: n and d of each block, (2, blocks), 1 <= n, d <= 2**40.
    levels, depths, marks: of the buffers that head is part of, and when they are full and empty, the size of words
        and of digits; levels become those after it.
    bound, y_bound: of |x| and |y|; below 2**62 there is a faster way to add, to the same results.
    limit: for what multiplying by a factor above one gives.

    Returns how it went, and the bounds after it.  If it is not DONE, nothing is changed, and
        MOVE: words, of the size of levels, says how many must leave each head before it, or, below 0, return
        REFUSED: a product may come to the limit, or a sum, or what is added, is not within +-2**63
    """
    multiplies, adds = ratios.size > 0, values.size > 0
    n, d = (ratios[1], ratios[0]) if back else (ratios[0], ratios[1])
    growth, numerator = 1.0, 0.0
    if multiplies:
        growth = 0.0
        for j in range(ratios.shape[1]):
            growth = max(growth, n[j] / d[j])
            numerator = max(numerator, np.float64(n[j]))
        if growth > 1.0 and not (back and adds) and not bound * growth + numerator < limit:
            return REFUSED, bound, y_bound
        if not _settle(n, d, levels, depths, marks, words):
            return MOVE, bound, y_bound
    operands = ratios, values, factors, ends
    target = y, y_factors, y_unit, y_out
    before = bound if back else bound * growth + numerator  # it is added to
    most = (limit - numerator) / growth if back and growth > 1.0 else math.inf  # before it is multiplied
    bounds = before, most, y_bound
    stop, largest, y_largest = _pass(x, head, operands, x.size, back, True, unit, bounds, out, target)
    if stop >= 0:
        unbounded = math.inf, math.inf, math.inf
        _pass(x, head, operands, stop, not back, False, unit, unbounded, out, target)
        if multiplies:
            _settle(d, n, levels, depths, marks, words)
        return REFUSED, bound, y_bound
    if adds:
        bound = largest + 1.0
    if multiplies and (back or not adds):
        bound = bound * growth + numerator
    return DONE, bound, y_largest + 1.0 if y.size > 0 else y_bound


@_compiled
def _pass(
    x: Integers,
    head: Integers,
    operands: tuple[Integers, Floats, Floats, Integers],
    size: int,
    back: bool,
    checked: bool,
    unit: float,
    bounds: tuple[float, float, float],
    out: Floats,
    target: tuple[Integers, Floats, float, Floats],
) -> tuple[int, int, int]:
    """`change`, for the first `size` elements; where something is refused it stops, if checked.

    Returns for how many it must then be undone, or -1; and the largest |x| and |y| after adding, or one less.

    A part after the other goes through all that, which is faster than an element after the other, as a processor
    works on several elements at once where the instructions for one are few; and than all of one after all of
    another, as a part stays in the cache.
    """
    ratios, values, factors, ends = operands
    bound, most, y_bound = bounds
    y, y_factors, y_unit, y_out = target
    multiplies, adds, goes_on = ratios.size > 0, values.size > 0, y.size > 0
    resolution, y_resolution = 1.0 / unit, 1.0 / y_unit
    scratch = np.empty(_PART if goes_on and (back or out.size == 0) else 0)
    none = scratch[:0]
    largest, y_largest = 0, 0
    for j in range(ends.size):
        first, end = ends[j - 1] if j > 0 else 0, min(ends[j], size)
        factor, y_factor = factors[j] * unit if adds else 0.0, y_factors[j] * y_unit if goes_on else 0.0
        for start in range(first, end, _PART):
            part = slice(start, min(start + _PART, end))
            found, y_found = 0, 0
            if back:
                floats = scratch[: part.stop - start]
                if goes_on:
                    to_floats(x[part], resolution, floats)
                    y_found = _accumulate(y[part], floats, -y_factor, y_bound, y_resolution, y_out[part])
                if adds:
                    sums = none if multiplies else out[part]
                    found = _accumulate(x[part], values[part], -factor, bound, resolution, sums)
                if checked and (max(found, y_found) == _LAST or not found < most):
                    if adds:
                        _accumulate(x[part], values[part], factor, math.inf, resolution, none)
                    if goes_on:
                        _accumulate(y[part], floats, y_factor, math.inf, y_resolution, none)
                    return start, 0, 0
                if multiplies:
                    multiply(x[part], head[part], ratios[1, j], ratios[0, j])
                if out.size > 0 and (multiplies or not adds):
                    to_floats(x[part], resolution, out[part])
            else:
                floats = out[part] if out.size > 0 else scratch[: part.stop - start]
                if multiplies:
                    multiply(x[part], head[part], ratios[0, j], ratios[1, j])
                if adds:
                    found = _accumulate(x[part], values[part], factor, bound, resolution, floats)
                elif floats.size > 0:
                    to_floats(x[part], resolution, floats)
                if goes_on:
                    y_found = _accumulate(y[part], floats, y_factor, y_bound, y_resolution, y_out[part])
                if checked and max(found, y_found) == _LAST:
                    return part.stop, 0, 0
            largest, y_largest = max(largest, found), max(y_largest, y_found)
    return -1, largest, y_largest


@_compiled
def _settle(
    n: Integers, d: Integers, levels: Integers, depths: Integers, marks: Integers, words: Integers
) -> bool:
    """levels <- those after multiplying by n / d, if no words must move for it; otherwise words says how many."""
    moving, growth = 0, np.empty(levels.size, np.int64)
    for j in range(levels.size):
        log_n, log_d = _log2(n[j]), _log2(d[j])
        growth[j] = log_d - log_n
        words[j] = _words(levels[j], depths[j], log_n, log_d, marks)
        moving |= words[j]
    if moving == 0:
        for j in range(levels.size):
            levels[j] += growth[j]
    return moving == 0


@_compiled
def multiply(x: Integers, head: Integers, n: int, d: int) -> None:
    """Algorithm 3: push x mod d to head, x <- x div d;  x <- x * n + pop n from head.

    1 <= n, d <= 2**40;  head >= 0 and head * d + d <= 2**63.
    """
    _carry(x, head, d)  # push x mod d
    _carry(head, x, n)  # pop b mod n


@_compiled
def _accumulate(
    x: Integers, values: Floats, factor: float, bound: float, resolution: float, out: Floats
) -> int:
    """x <- x + factor * values, rounded to the nearest integer, to the even one of two; out <- x * resolution.

    Returns the largest |x|, or one less, or 2**63 - 1 where a sum or product is too large.
    """
    if bound < 2.0**62 and _are_small(values, factor):
        if out.size > 0:
            return _add_small(x, values, factor, resolution, out)
        return _add_small(x, values, factor, resolution, None)
    if out.size > 0:
        return _add(x, values, factor, resolution, out)
    return _add(x, values, factor, resolution, None)


@_compiled
def _are_small(values: Floats, factor: float) -> bool:
    """Whether all products are of the size that `_small_to_integer` takes."""
    outside = 0
    for i in range(values.size):
        outside |= np.int64(not abs(factor * values[i]) < 2.0**51)  # 1 for NaN
    return outside == 0


@_compiled
def _add_small(x: Integers, values: Floats, factor: float, resolution: float, out: Floats | None) -> int:
    """`_accumulate`, where no sum or product can be too large."""
    largest = 0
    for i in range(x.size):
        total = x[i] + _small_to_integer(factor * values[i])
        largest = max(largest, total ^ (total >> 63))
        x[i] = total
        if out is not None:
            out[i] = _to_float(total) * resolution
    return largest


@_compiled
def _add(x: Integers, values: Floats, factor: float, resolution: float, out: Floats | None) -> int:
    """`_accumulate`, whatever the values are."""
    largest, outside = 0, 0
    for i in range(x.size):
        change = factor * values[i]
        finite = abs(change) < 2.0**63  # False for NaN
        step = _to_integer(change if finite else 0.0)
        total = x[i] + step
        overflow = (x[i] ^ total) & (step ^ total)  # negative where both have the other sign
        outside |= overflow | (np.int64(finite) - 1)
        largest = max(largest, total ^ (total >> 63))  # |total|, or one less
        x[i] = total
        if out is not None:
            out[i] = _to_float(total) * resolution
    return largest if outside >= 0 else _LAST


# ---- numbers of two words, as `hypergrad.wide_rep.WideRep` has them

_WIDE = 62  # bits of the low word


@_compiled
def wide_largest(values: Floats, factors: Floats, ends: Integers) -> float:
    """The largest |factor * value|; infinite where one is NaN."""
    largest, outside = 0.0, 0
    for j in range(ends.size):
        for i in _block(ends, j):
            product = abs(factors[j] * values[i])
            outside |= np.int64(not product < math.inf)
            largest = max(largest, product)
    return largest if outside == 0 else math.inf


@_compiled
def wide_to_floats(high: Integers, low: Integers, unit: float, out: Floats) -> None:
    """out <- (high * 2**62 + low) * unit, with low brought to +-2**61: so small negative ones are exact."""
    for i in range(high.size):
        nearer = low[i] >> (_WIDE - 1)
        lower = _to_float(low[i] - (nearer << _WIDE))
        out[i] = _to_float(high[i] + nearer) * (2.0**_WIDE * unit) + lower * unit


@_compiled
def wide_add(
    high: Integers, low: Integers, values: Floats, factors: Floats, ends: Integers, unit: float, out: Floats
) -> None:
    """x <- x + factor * value, rounded to the nearest integer, for x = high * 2**62 + low;  out <- x * unit.

    Either part of a product has its sign, and is exact: so those of the opposite factor take back what these do.
    out is left out where it has no elements.
    """
    for j in range(ends.size):
        first, end = ends[j - 1] if j > 0 else 0, ends[j]
        for start in range(first, end, _PART):
            part = slice(start, min(start + _PART, end))
            _wide_add(high[part], low[part], values[part], factors[j])
            if out.size > 0:
                wide_to_floats(high[part], low[part], unit, out[part])


@_compiled
def _wide_add(high: Integers, low: Integers, values: Floats, factor: float) -> None:
    for i in range(high.size):
        product = factor * values[i]
        upper = np.trunc(product * 2.0**-_WIDE)
        total = low[i] + _to_integer(product - upper * 2.0**_WIDE)  # in +-2**63
        high[i] += _to_integer(upper) + (total >> _WIDE)
        low[i] = total & ((1 << _WIDE) - 1)


@_compiled
def wide_shift(high: Integers, low: Integers, shifts: Integers, ends: Integers) -> None:
    """The low bits of high become the high ones of low, whose own low ones have left."""
    for j in range(ends.size):
        shift = shifts[j]
        for i in _block(ends, j):
            low[i] |= (high[i] & ((1 << shift) - 1)) << (_WIDE - shift)
            high[i] >>= shift


@_compiled
def wide_shift_back(high: Integers, low: Integers, shifts: Integers, ends: Integers, limit: int) -> int:
    """The inverse of `wide_shift`; or the first element that it would bring to the limit, with nothing changed."""
    for j in range(ends.size):
        for i in _block(ends, j):
            if not -limit <= high[i] << shifts[j] < limit or high[i] << shifts[j] >> shifts[j] != high[i]:
                return np.int64(i)
    for j in range(ends.size):
        shift = shifts[j]
        for i in _block(ends, j):
            high[i] = high[i] << shift | low[i] >> (_WIDE - shift)
            low[i] &= (1 << (_WIDE - shift)) - 1
    return -1


@_compiled
def sums(x: Integers, ends: Integers, out: Integers) -> None:
    """The sum of each block."""
    for j in range(ends.size):
        total = np.int64(0)
        for i in _block(ends, j):
            total += x[i]
        out[j] = total


@_compiled
def sums_of_bits(x: Floats, ends: Integers, out: Integers) -> None:
    """The sum of the bits of each block, read as integers; those of -0.0 are those of 0.0."""
    for j in range(ends.size):
        total = np.int64(0)
        for i in _block(ends, j):
            total += np.float64(x[i] + 0.0).view(np.int64)
        out[j] = total


# ---- adjoints: d is the cotangent of the result; cotangents of inputs are added to, those of coefficients are set


@_compiled
def change_adjoint(
    ends: Integers,
    d_x: Floats,
    factors: Floats,
    before: Floats,
    cs: Floats,
    values: Floats,
    d_values: Floats,
    anew: bool,
    y_cs: Floats,
    x: Floats,
    d_y: Floats,
    d_coefficients: Floats,
) -> None:
    """Of x <- factors * x, where x was `before`;  x <- x + cs * values;  y <- y + y_cs * x.

    Last to first, a part after the other, as in `change`; what has no elements is left out, and so are products
    with `before`.  x: as it comes out.  d_x becomes the cotangent of `before`.
    anew: whether to set d_values, rather than to add to them.
    d_coefficients: (3, blocks), those of factors, cs and y_cs.
    """
    for j in range(ends.size):
        first, end = ends[j - 1] if j > 0 else 0, ends[j]
        d_factor, d_c, d_y_c = 0.0, 0.0, 0.0
        for start in range(first, end, _PART):
            part = slice(start, min(start + _PART, end))
            if d_y.size > 0:
                d_y_c += _dot(d_y[part], x[part])
                _add_multiple(d_x[part], y_cs[j], d_y[part])
            if values.size > 0:
                d_c += _dot(d_x[part], values[part])
                if anew:
                    _set_multiple(d_values[part], cs[j], d_x[part])
                else:
                    _add_multiple(d_values[part], cs[j], d_x[part])
            if before.size > 0:
                d_factor += _dot(d_x[part], before[part])
            if factors.size > 0:
                _set_multiple(d_x[part], factors[j], d_x[part])
        d_coefficients[0, j], d_coefficients[1, j], d_coefficients[2, j] = d_factor, d_c, d_y_c


@_compiled_with_sums
def _dot(a: Floats, b: Floats) -> float:
    """The sum of a * b."""
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@_compiled
def _add_multiple(a: Floats, c: float, b: Floats) -> None:
    """a <- a + c * b."""
    for i in range(a.size):
        a[i] += c * b[i]


@_compiled
def _set_multiple(a: Floats, c: float, b: Floats) -> None:
    """a <- c * b."""
    for i in range(a.size):
        a[i] = c * b[i]


@_compiled_with_sums
def squared_pullback(cs: Floats, ends: Integers, x: Floats, d: Floats, d_cs: Floats, d_x: Floats) -> None:
    """Of c * x**2."""
    for j in range(ends.size):
        c, total = cs[j], 0.0
        for i in _block(ends, j):
            total += d[i] * x[i] * x[i]
            d_x[i] += 2.0 * c * x[i] * d[i]
        d_cs[j] = total


@_compiled
def normalized(es: Floats, ends: Integers, x: Floats, u: Floats, out: Floats) -> None:
    """out <- x / (sqrt(u) + e)."""
    for j in range(ends.size):
        e = es[j]
        for i in _block(ends, j):
            out[i] = x[i] / (np.sqrt(u[i]) + e)


@_compiled_with_sums
def normalized_pullback(
    factors: Floats,
    es: Floats,
    ends: Integers,
    x: Floats,
    u: Floats,
    d: Floats,
    d_factors: Floats,
    d_es: Floats,
    d_x: Floats,
    d_u: Floats,
) -> None:
    """Of a * x / (sqrt(u) + e), for factors a; by way of u it is 0 where u = 0, see `hypergrad.kernels`."""
    for j in range(ends.size):
        a, e, total_a, total_e = factors[j], es[j], 0.0, 0.0
        for i in _block(ends, j):
            root = np.sqrt(u[i])
            scale = root + e
            d_quotient = d[i] / scale
            d_scale = -a * d_quotient * (x[i] / scale)
            total_a += d_quotient * x[i]
            total_e += d_scale
            d_x[i] += a * d_quotient
            d_u[i] += d_scale / (2.0 * root) if root > 0.0 else 0.0
        d_factors[j], d_es[j] = total_a, total_e


# ---- between the matrix products of `hypergrad.networks`: arrays of shape (rows, units), b and u of (units,)

_C = tuple(1.0 / math.factorial(k) for k in range(14))  # of the series of exp
_LOG_2 = float.fromhex("0x1.62e42feep-1")  # the first 32 bits: times k it is exact
_LOG_2_REST = float.fromhex("0x1.a39ef35793c76p-33")


@_compiled
def tanh(s: Floats, b: Floats, slope: Floats) -> None:
    """s <- tanh(s + b);  slope <- the derivative there."""
    for i in range(s.shape[0]):
        for k in range(s.shape[1]):
            s[i, k] = -2.0 * (s[i, k] + b[k])
    for start in range(0, s.size, _PART):
        part = slice(start, start + _PART)
        _tanh(s.reshape(-1)[part], slope.reshape(-1)[part])


@_compiled_with_products
def _tanh(s: Floats, slope: Floats) -> None:
    """s <- tanh(-s / 2);  slope <- the derivative there."""
    for i in range(s.size):
        s[i] = _exp(s[i])
    for i in range(s.size):
        y = 2.0 / (1.0 + s[i]) - 1.0
        s[i], slope[i] = y, 1.0 - y * y


@_compiled_with_products
def _exp(x: float) -> float:
    """exp(x), within two units in the last place; for |x| > 708 that of +-708.

    2**k * exp(r), with |r| < 0.35, from the series of exp(r) up to r**13 / 13!.  NumPy is as fast where it has
    vectors of 512 bits, and takes four times as long elsewhere.
    """
    x = -708.0 if x < -708.0 else x
    x = 708.0 if x > 708.0 else x
    k = _small_to_integer(x * 1.4426950408889634)
    r = x - _small_to_float(k) * _LOG_2 - _small_to_float(k) * _LOG_2_REST
    r2 = r * r
    r4 = r2 * r2
    low = _C[2] + _C[3] * r + (_C[4] + _C[5] * r) * r2
    middle = _C[6] + _C[7] * r + (_C[8] + _C[9] * r) * r2
    high = _C[10] + _C[11] * r + (_C[12] + _C[13] * r) * r2
    series = 1.0 + (r + r2 * (low + r4 * (middle + r4 * high)))
    return series * np.int64((k + 1023) << 52).view(np.float64)


@_compiled
def log_softmax(s: Floats, b: Floats, p: Floats) -> None:
    """p <- softmax(s + b), of each row;  s <- its logarithm."""
    for i in range(s.shape[0]):
        largest = -np.inf
        for k in range(s.shape[1]):
            s[i, k] += b[k]
            largest = max(largest, s[i, k])
        for k in range(s.shape[1]):
            s[i, k] -= largest  # so that no exponential overflows
    flat, exponentials = s.reshape(-1), p.reshape(-1)
    for i in range(flat.size):
        exponentials[i] = _exp(flat[i])
    for i in range(s.shape[0]):
        total = 0.0
        for k in range(s.shape[1]):
            total += p[i, k]
        shift = np.log(total)
        for k in range(s.shape[1]):
            p[i, k] /= total
            s[i, k] -= shift


@_compiled
def tanh_pullback(d: Floats, slope: Floats, sums: Floats) -> None:
    """d <- slope * d;  sums <- the sum of each column of it."""
    sums[:] = 0.0
    for i in range(d.shape[0]):
        for k in range(d.shape[1]):
            d[i, k] *= slope[i, k]
            sums[k] += d[i, k]


@_compiled
def tanh_derivative(Rs: Floats, more: Floats | None, u: Floats, slope: Floats, Ra: Floats) -> None:
    """Rs <- Rs + more + u;  Ra <- slope * Rs."""
    for i in range(Rs.shape[0]):
        for k in range(Rs.shape[1]):
            Rs[i, k] += u[k] if more is None else more[i, k] + u[k]
            Ra[i, k] = slope[i, k] * Rs[i, k]


@_compiled
def tanh_second_derivative(
    Rd: Floats, more: Floats, slope: Floats, a: Floats, Rs: Floats, d: Floats, sums: Floats
) -> None:
    """Rd <- slope * (Rd + more) - 2 a * Rs * d;  sums <- the sum of each column of it."""
    sums[:] = 0.0
    for i in range(Rd.shape[0]):
        for k in range(Rd.shape[1]):
            Rd[i, k] = slope[i, k] * (Rd[i, k] + more[i, k]) - 2.0 * a[i, k] * Rs[i, k] * d[i, k]
            sums[k] += Rd[i, k]


@_compiled
def log_softmax_pullback(c: Floats, p: Floats, d: Floats, sums: Floats) -> None:
    """d <- c - p * (row sum of c);  sums <- the sum of each column of it."""
    sums[:] = 0.0
    for i in range(c.shape[0]):
        total = c[i].sum()
        for k in range(c.shape[1]):
            d[i, k] = c[i, k] - p[i, k] * total
            sums[k] += d[i, k]


@_compiled
def log_softmax_second_derivative(
    Rs: Floats, more: Floats | None, u: Floats, p: Floats, c: Floats, Rd: Floats, sums: Floats
) -> None:
    """Rs <- R log p, of Rs + more + u;  Rd <- -p * R log p * (row sum of c);  sums <- the sum of each column."""
    sums[:] = 0.0
    for i in range(Rs.shape[0]):
        mean, total = 0.0, c[i].sum()
        for k in range(Rs.shape[1]):
            Rs[i, k] += u[k] if more is None else more[i, k] + u[k]
            mean += p[i, k] * Rs[i, k]
        for k in range(Rs.shape[1]):
            Rs[i, k] -= mean
            Rd[i, k] = -p[i, k] * Rs[i, k] * total
            sums[k] += Rd[i, k]


@_compiled
def _block(ends: Integers, j: int) -> range:
    """The indices of block j; unsigned, as one that might be negative keeps a loop from being vectorised."""
    return range(np.uint64(ends[j - 1] if j > 0 else 0), np.uint64(ends[j]))
