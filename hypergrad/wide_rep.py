"""Exact fixed-point numbers of two words, for running means.

The squares of gradients that are ten orders of magnitude apart are twenty apart: more than 63 bits hold, let alone
with the six digits that each of them needs.  A `WideRep` has 124 bits, a high word and a low one of 62 bits,

    number = (high * 2**62 + low) * 2**-radix_bits,    0 <= low < 2**62,

and does what running means need (units.py): it is halved, by a power of two, the digit going from the low word into
the buffer as that of an `ExactRep` does, and added to.  A float has 53 bits, wherever they lie among the 124: each
is added without loss from 2**-(radix_bits - 53) on, and rounded below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypergrad import loops
from hypergrad.exact_rep import (
    BitStore,
    Change,
    FixedPointRangeError,
    Words,
    carry_out_all,
    refused_addition,
    spread,
)

__all__ = ["WideRep"]

_LOW_BITS = 62
_HIGH_LIMIT = 2.0**61  # of |high|


class WideRep:
    """Real numbers in 124-bit fixed point, with exactly reversible addition and halving.  Changed in place.

    Invariant: a `change`, taken back by the same with `back` the other way round, gives back the same words and the
    same buffer.  A refused one leaves no trace.

    val: (elements,), |val| < 2**(123 - radix_bits), rounded to the nearest multiple of 2**-radix_bits.
    sizes: lengths of consecutive blocks with buffers of their own; one block by default.
    words: makes what a buffer of a given length keeps its words in; see `BitStore`.
    Raises FixedPointRangeError for what is not finite or out of range.
    """

    def __init__(
        self,
        val: ArrayLike,
        radix_bits: int,
        sizes: Sequence[int] | None = None,
        words: Callable[[int], Words | None] = lambda length: None,
    ) -> None:
        values = np.asarray(val, np.float64)
        self.radix_bits = radix_bits
        self.limit = 2.0 ** (123 - radix_bits)
        self.high, self.low = np.zeros((2, values.size), np.int64)
        self._bound = 0.0  # of |high|
        self._ends = np.cumsum(sizes if sizes is not None else [values.size], dtype=np.int64)
        self.stores = [BitStore(length, words(length)) for length in np.diff(self._ends, prepend=0).tolist()]
        self._add(Change(addend=(values, np.ones(1)), ends=np.array([values.size])))

    @property
    def integers(self) -> tuple[NDArray[np.int64], ...]:
        """The words, (elements,) each."""
        return self.high, self.low

    @property
    def resolution(self) -> float:
        """What neighbouring numbers differ by."""
        return 2.0**-self.radix_bits

    @property
    def val(self) -> NDArray[np.float64]:
        """The numbers, as a new float64 array."""
        out = np.empty(self.high.size)
        loops.wide_to_floats(self.high, self.low, self.resolution, out)
        return out

    def copy(self) -> WideRep:
        """An independent copy, with its buffers in memory."""
        new = object.__new__(WideRep)
        new.__dict__.update(self.__dict__)
        new.high, new.low = self.high.copy(), self.low.copy()
        new.stores = [store.copy() for store in self.stores]
        return new

    def forget(self) -> None:
        """Let go of digits that going forward does not need."""
        for store in self.stores:
            store.forget()

    def change(self, change: Change) -> WideRep:
        """Make the change, or take it back; all of it or nothing.  Factors are powers of two up to 1."""
        carry_out_all([self._halve, self._add, lambda part: part.go_on(self)], change)
        if change.out is not None and (change.addend is None or (change.back and change.ratios is not None)):
            loops.wide_to_floats(self.high, self.low, self.resolution, change.out)
        return self

    def _halve(self, change: Change) -> None:
        """x <- x div 2**k with the digit into the buffer, or back; k of each block."""
        if change.ratios is None or (change.ratios[1] == 1).all():
            return
        shifts = np.array([int(d).bit_length() - 1 for d in change.ratios[1]])
        if np.any(change.ratios[0] != 1) or np.any(1 << shifts != change.ratios[1]):
            raise ValueError("numbers of two words are multiplied by powers of two up to 1 alone")
        if change.back:
            refused = loops.wide_shift_back(self.high, self.low, shifts, change.ends, int(_HIGH_LIMIT))
            if refused >= 0:
                raise FixedPointRangeError(
                    f"doubling {self.val[refused]:.6g} at position {refused} leaves the fixed-point range "
                    f"+-{self.limit:g}",
                    refused,
                    self,
                )
            self._bound = math.inf
        moduli = spread(change.ratios[1], change.ends)
        for store, start, end in zip(self.stores, [0, *self._ends], self._ends, strict=False):
            d = moduli[start:end]
            d = d[:1] if d.size and np.all(d == d[0]) else d
            store.multiply(self.low[start:end], *((d, 1) if change.back else (1, d)))
        if not change.back:
            loops.wide_shift(self.high, self.low, shifts, change.ends)

    def _add(self, change: Change) -> None:
        """x <- x + factors * values, rounded, or back."""
        if change.addend is None:
            return
        values, factors = change.addend
        scaled = factors * (-(2.0**self.radix_bits) if change.back else 2.0**self.radix_bits)
        most = loops.wide_largest(values, scaled, change.ends) * 2.0**-_LOW_BITS + 2.0
        if not self._bound + most < _HIGH_LIMIT:  # looked at again, as it is a bound alone
            self._bound = float(np.max(np.abs(self.high), initial=0))
        if not self._bound + most < _HIGH_LIMIT:
            error = refused_addition(self, change)  # the largest need not meet the largest
            if error is not None:
                raise error
        out = np.empty(0) if change.out is None else change.out
        loops.wide_add(self.high, self.low, values, scaled, change.ends, self.resolution, out)
        self._bound += most
