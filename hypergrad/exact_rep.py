"""Exact fixed-point numbers and the information buffer that makes multiplying them reversible.

`ExactRep` holds real numbers as 64-bit integers.  Adding is exact and undone by subtracting.  Multiplying by
a ratio n / d is Algorithm 3 of Maclaurin, Duvenaud and Adams (2015): the digit that the division by d drops
goes into a `BitStore`, and the digit that the multiplication by n needs is taken from there,

    b <- b * d + (x mod d);    x <- x div d;    x <- x * n + (b mod n);    b <- b div n,

which is a bijection on pairs of integers (x, b >= 0), so multiplying by d / n takes it back bit for bit.  The
buffer grows by log2(d / n) bits per multiplication and no more.

A `BitStore` is one integer b per element, of any length: a 64-bit head, and below it 16-bit words that all
elements move at the same moments.  Those moments depend on the sequence of moduli alone, never on data, so
there is no branch, mask or Python integer per element, and going back finds every word where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping, Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypergrad import loops

__all__ = [
    "BitStore",
    "Change",
    "ExactRep",
    "FixedPointRangeError",
    "Precision",
    "Then",
    "as_ratio",
    "as_ratios",
    "carry_out_all",
    "first_not_finite",
    "refused_addition",
    "round_to_lattice",
    "spread",
]

RADIX_BITS = 52  # resolution 2**-52, range +-2**11: what the 2015 package had
FACTOR_BITS = 24  # factors are applied as n / 2**24; docs/exact-arithmetic.md has the measurements behind 24
MAX_FACTOR = 2**16
_LATTICE = 1 << FACTOR_BITS
_LEAST_FACTOR = 2.0 ** -(FACTOR_BITS + 1)  # not itself
MOST_BITS_AT_ONCE = 40  # of a factor that is a power of two
WORD_BITS = 16

# Levels count bits in units of 2**-32, as integers: sums and differences of them are exact, which is what lets the
# way back pass through the very levels of the way there.
_BIT = 1 << 32
_WORD = WORD_BITS * _BIT
_START = 22 * _BIT  # level of an empty head: it gives the rounding of tiny heads room, see BitStore._settle
_FULL, _EMPTY = 46 * _BIT, 38 * _BIT
_DIGIT = FACTOR_BITS * _BIT  # smaller digits are given as much room, see BitStore._settle
_MARKS = np.array([_FULL, _EMPTY, _WORD, _DIGIT])

_SAFE = 2.0**63 * (1 - 2.0**-40)  # bounds below this, computed in floats, are below 2**63


class FixedPointRangeError(ValueError):
    """A number that fixed point can't hold, or a factor that it can't be multiplied by.

    index: the position of the first such element, in `numbers` or among the factors.
    """

    def __init__(self, message: str, index: int, numbers: ExactRep | None = None) -> None:
        super().__init__(message)
        self.index, self.numbers = index, numbers

    def __reduce__(self) -> tuple:  # so that it comes through other processes whole
        return type(self), (str(self), self.index)


Words = MutableMapping[int, NDArray[np.uint16]]


class _Joint(NamedTuple):
    """Vectors that heads, levels and depths of several stores are parts of."""

    heads: NDArray[np.int64]
    levels: NDArray[np.int64]
    depths: NDArray[np.int64]


_NO_INTEGERS, _NO_FLOATS, _NO_WORD = np.empty(0, np.int64), np.empty(0), np.empty(0, np.uint16)
_NO_RATIOS, _NO_JOINT = np.empty((2, 0), np.int64), _Joint(_NO_INTEGERS, _NO_INTEGERS, _NO_INTEGERS)
_NOTHING_MORE = _NO_INTEGERS, _NO_FLOATS, 1.0, 0.0, _NO_FLOATS


class BitStore:
    """Last-in first-out store of digits, one stack per element, close to the entropy limit.

    Invariant: any mixture of `push` and `pop`, retraced backwards (push what was popped, pop what was pushed,
    with the same moduli), restores the store exactly.  An empty store is an endless supply of zeros.  The
    object is changed in place.

    length: number of elements.
    words: where the 16-bit words are kept, a mapping from integers to arrays; a dict by default.
    """

    def __init__(self, length: int, words: Words | None = None) -> None:
        self._length = length
        self._head: NDArray[np.int64] | None = None  # all zeros, until something is in it
        self._words: Words = {} if words is None else words  # by depth; an absent one is all zeros
        # Depth counts the words moved out of the head so far; as moved zeros and absent words are the same
        # thing it may become negative.  Level is an upper bound of log2(head + 1).  One for all elements, (1,), or,
        # after moduli that differ between them, one for each.
        self._depth = np.zeros(1, np.int64)
        self._level = np.full(1, _START)
        self._joint: _Joint | None = None  # what these are parts of

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_joint": None}  # the arrays of a duplicate are parts of none

    def __len__(self) -> int:
        return self._length

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same digits, and would hand them out in the same way."""
        if not isinstance(other, BitStore):
            return NotImplemented
        if self._length == 0 or other._length == 0:  # nothing is held, whatever levels say
            return self._length == other._length
        if self._in_use() or other._in_use():  # where neither is, their heads need not be made
            for store in (self, other):
                store._settle()
                store._make_common()
        return (
            np.array_equal(self._head, other._head)
            and np.array_equal(self._level, other._level)
            and np.array_equal(self._depth, other._depth)
            and self._words.keys() == other._words.keys()
            and all(np.array_equal(word, other._words[depth]) for depth, word in self._words.items())
        )

    __hash__ = None  # type: ignore[assignment]  # mutable

    def copy(self) -> BitStore:
        """An independent copy."""
        new = BitStore(0)
        new._length = self._length
        new._head = None if self._head is None else self._head.copy()
        new._words = {depth: word.copy() for depth, word in self._words.items()}
        new._depth, new._level = self._depth.copy(), self._level.copy()
        return new

    @property
    def nbytes(self) -> int:
        """Size of all arrays, in bytes, wherever they are kept."""
        head = 0 if self._head is None else self._head.nbytes
        return head + sum(word.nbytes for word in self._words.values())

    def push(self, N: ArrayLike, M: ArrayLike) -> None:
        """Put a base-M digit on top of every element's stack.

        N: integers, shape () or (length,), 0 <= N < M;  M: integers, shape () or (length,), 1 <= M <= 2**16.
        Raises TypeError for what is not an integer and ValueError for what is out of range or of another
        length, before anything changes.
        """
        modulus = self._check_modulus(M)
        digits = np.asarray(N)
        if digits.dtype.kind not in "iu":
            raise TypeError(f"digits must be integers, got dtype {digits.dtype}")
        if digits.shape not in ((), (self._length,)):
            raise ValueError(f"digits must be of shape () or ({self._length},), got {digits.shape}")
        if np.any(digits < 0) or np.any(digits >= modulus):
            raise ValueError(f"digits must be in 0..M-1, got {digits.min()} to {digits.max()} with M = {M}")
        self.multiply(np.array(np.broadcast_to(digits, self._length), np.int64), 1, modulus)

    def pop(self, M: ArrayLike) -> NDArray[np.int64]:
        """Take the top base-M digit off every element's stack: (length,) integers in 0..M-1.

        M: as for `push`.  Popping an empty store gives zeros.
        """
        digits = np.zeros(self._length, np.int64)
        self.multiply(digits, self._check_modulus(M), 1)
        return digits

    def multiply(self, x: NDArray[np.int64], n: ArrayLike, d: ArrayLike) -> None:
        """Algorithm 3 on x, (length,), in place: push x mod d, x <- x div d; then x <- x * n + pop n.

        n, d: positive integers, of shape () or (length,).  Inverse: the same with n and d exchanged.
        Integer arithmetic is modulo 2**64 throughout, which is right as long as the results fit.
        """
        if self._length == 0:
            return
        ratio = [np.atleast_1d(np.asarray(m, np.int64)) for m in (n, d)]
        log_n, log_d = map(_log2, ratio)
        self._settle(log_n, log_d)
        if ratio[0].size == ratio[1].size == 1:
            loops.multiply(x, self._head, *(m[0] for m in ratio))
        else:
            loops.multiply_each(x, self._head, *(np.full(self._length, m) for m in ratio))
        self._set_level(self._level + log_d - log_n)

    def pack(self) -> None:
        """Move every bit in use to the 16-bit words and free the head: the smallest form, for a store at rest.

        The next operation unpacks it.  No effect after moduli that differ between elements.
        """
        if self._level.size == 1 and self._head is not None:
            while self._head.any():
                self._spill()
            self._head = self._joint = None

    def forget(self) -> None:
        """Drop the words that come back only after more divisions than were made: for a store never emptied.

        The last few stay, as the number of words out goes up and down a little with the modulus in use.
        """
        for depth in [depth for depth in self._words if depth < self._depth.min() - 4]:
            del self._words[depth]

    def _in_use(self) -> bool:
        return self._head is not None or bool(np.any(self._level != _START))

    def _check_modulus(self, M: ArrayLike) -> int | NDArray[np.int64]:
        modulus = np.asarray(M)
        if modulus.dtype.kind not in "iu":
            raise TypeError(f"the modulus must be an integer, got dtype {modulus.dtype}")
        if modulus.shape not in ((), (self._length,)):
            raise ValueError(f"the modulus must be of shape () or ({self._length},), got {modulus.shape}")
        if np.any(modulus < 1) or np.any(modulus > 2**WORD_BITS):
            raise ValueError(f"the modulus must be in 1..2**{WORD_BITS}, got {M}")
        return modulus.astype(np.int64) if modulus.ndim else int(modulus)

    def _settle(self, log_n: NDArray[np.int64] | int = 0, log_d: NDArray[np.int64] | int = 0) -> None:
        """Move words so that the level comes to lie in [46, 62) bits where a digit is in the head.

        That is after the push of a digit of log_d and before the pop of one of log_n; it counts as if the larger of
        these had 24 bits, if it has fewer.  (Ratios in lowest terms have digits of various sizes, so words would go
        to and fro whenever the level is near a bound; counted so, it is as steady as the level is.)

        Which words are out is a function of depth and levels alone, in which those before and after can change
        places, so it is the same for a push and for the pop that undoes it.  The head stays below 2**63: each
        division may round it up against its level, by less than one part in 2**(level after it), that is 2**-22 at
        the factors we use; bit 62 has room for that.  Until 46 bits are in use nothing moves, down to 38, where
        zeros come in from below.
        """
        if self._head is None:
            self._head = np.zeros(self._length, np.int64)
        if max(np.size(log_n), np.size(log_d)) > self._level.size:
            self._make_individual()
        logs = (np.full(self._level.size, log, np.int64) for log in (log_n, log_d))
        words = np.empty(self._level.size, np.int64)
        loops.moves(self._level, self._depth, *logs, _MARKS, words)
        if words.size == 1:
            self._move(words[0])
        else:
            self._move_each(words)

    def _move(self, words: int) -> None:
        """Move so many words out of the head, or, below 0, into it."""
        for _ in range(words):
            self._spill()
        for _ in range(-words):
            self._refill()

    def _spill(self) -> None:
        word = np.empty(self._length, np.uint16)
        if loops.spill(self._head, WORD_BITS, word):
            self._words[int(self._depth[0])] = word
        self._depth += 1
        self._level -= _WORD

    def _refill(self) -> None:
        self._depth -= 1
        self._level += _WORD
        loops.refill(self._head, WORD_BITS, self._words.pop(int(self._depth[0]), _NO_WORD))

    def _move_each(self, moves: NDArray[np.int64]) -> None:
        """`_move` where elements have levels, and so depths, of their own."""
        while moves.any():
            step = np.sign(moves)
            for depth in np.unique(self._depth[step > 0]):
                rows = (step > 0) & (self._depth == depth)
                word = self._words.setdefault(int(depth), np.zeros(self._length, np.uint16))
                word[rows] = self._head[rows].astype(np.uint16)
                self._head[rows] >>= WORD_BITS
                if not word.any():
                    del self._words[int(depth)]
            for depth in np.unique(self._depth[step < 0]):
                rows = (step < 0) & (self._depth == depth)
                self._head[rows] <<= WORD_BITS
                word = self._words.get(int(depth) - 1)
                if word is not None:
                    self._head[rows] |= word[rows]
                    word[rows] = 0
                    if not word.any():
                        del self._words[int(depth) - 1]
            self._depth += step
            self._level -= step * _WORD
            moves = moves - step

    def _make_individual(self) -> None:
        if self._level.size == 1:
            self._level, self._depth = self._level.repeat(self._length), self._depth.repeat(self._length)
            self._joint = None

    def _set_level(self, level: NDArray[np.int64]) -> None:
        if level.size > self._level.size:
            self._make_individual()
        self._level[:] = level
        self._make_common()

    def _make_common(self) -> None:
        """Go back to one level for all, where it is the same for all."""
        if self._level.size > 1 and np.ptp(self._level) == 0 and np.ptp(self._depth) == 0:
            self._level, self._depth = self._level[:1].copy(), self._depth[:1].copy()


def _joined(stores: Sequence[BitStore]) -> _Joint | None:
    """The heads, levels and depths of all, end to end; None where elements of one have levels of their own."""
    joint = stores[0]._joint
    if joint is not None and len({id(store._joint) for store in stores}) == 1:
        return joint
    if any(store._level.size != 1 for store in stores):
        return None
    for store in stores:
        store._settle()
    wholes = []
    for name in ("_head", "_level", "_depth"):
        parts = [getattr(store, name) for store in stores]
        wholes.append(parts[0] if len(parts) == 1 else np.concatenate(parts))
        ends = np.cumsum([part.size for part in parts])
        for store, part in zip(stores, np.split(wholes[-1], ends[:-1]), strict=True):
            setattr(store, name, part)
    joint = _Joint(*wholes)
    for store in stores:
        store._joint = joint
    return joint


class Precision(NamedTuple):
    """How finely a state is kept: resolution 2**-radix_bits, in one word of 63 bits or two of 123."""

    radix_bits: int = RADIX_BITS
    words: int = 1

    @property
    def limit(self) -> float:
        """What numbers must stay below."""
        return 2.0 ** ((63 if self.words == 1 else 123) - self.radix_bits)


class Then(NamedTuple):
    """To which other numbers to add the result of a `Change`: y <- y + factors * x; out gets those as floats."""

    numbers: ExactRep
    factors: NDArray[np.float64]
    out: NDArray[np.float64] | None


class Change(NamedTuple):
    """x <- x * n / d;  x <- x + factors * values, rounded.  What is None is left out.

    ratios: n and d of each block, (2, blocks).
    addend: values, (elements,), and factors, (blocks,).
    ends: where blocks end, (blocks,), the last one with the elements; by default those with buffers of their own.
    back: whether to take it back instead, last to first.
    out: (elements,), gets `val`, which costs less than to ask for it later.
    then: what to add the result to, after that.
    """

    ratios: NDArray[np.int64] | None = None
    addend: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    ends: NDArray[np.int64] | None = None
    back: bool = False
    out: NDArray[np.float64] | None = None
    then: Then | None = None

    def go_on(self, result: Any) -> None:
        """Make what `then` says, if anything, as a change of its own; result: the numbers that are added."""
        if self.then is not None:
            numbers, factors, out = self.then
            addend = result.val.reshape(-1), factors
            numbers.change(Change(addend=addend, ends=self.ends, back=self.back, out=out))


def carry_out_all(parts: Sequence[Callable[[Change], Any]], change: Change) -> None:
    """Carry out each part of a change, or, last to first, take it back; where one is refused, none of them."""
    done: list[Callable[[Change], Any]] = []
    try:
        for part in reversed(parts) if change.back else parts:
            part(change)
            done.append(part)
    except FixedPointRangeError:
        inverse = change._replace(back=not change.back)
        for part in reversed(done):
            part(inverse)
        raise


def refused_addition(numbers: Any, change: Change) -> FixedPointRangeError | None:
    """What to raise for the first element to which its value can't be added, if there is one.

    numbers: with `val` and `limit`, an `ExactRep`, say.
    """
    values, factors = change.addend
    with np.errstate(over="ignore", invalid="ignore"):  # what is out of range is so here, too
        changes = (-1.0 if change.back else 1.0) * spread(factors, change.ends) * values
    index = first_not_finite(changes)
    if index is not None:
        return FixedPointRangeError(
            f"{changes[index]} at position {index} can't be held in fixed point", index, numbers
        )
    sums = numbers.val.reshape(-1) + changes
    outside = np.maximum(np.abs(sums), np.abs(changes)) >= numbers.limit * (1 - 2.0**-40)
    if not outside.any():
        return None
    index = int(np.argmax(outside))
    return FixedPointRangeError(
        f"{sums[index]:.6g} at position {index} leaves the fixed-point range +-{numbers.limit:g}",
        index,
        numbers,
    )


class ExactRep:
    """Real numbers in 64-bit fixed point, with exactly reversible addition and multiplication.

    Invariant: any sequence of `add`, `sub`, `mul`, `div`, `rational_mul`, undone in reverse order (each by its
    counterpart with the same operand), gives back the same integers and the same buffer.  The object is
    changed in place; every operation returns it.

    val: shape S, |val| < 2**(63 - radix_bits), rounded to the nearest multiple of 2**-radix_bits.  With
        `from_intrep`, integers: the fixed-point numbers themselves.
    sizes: lengths of consecutive blocks of the flattened array that take factors of their own (the layers of a
        network, say); one block by default.
    words: makes what a buffer of a given length keeps its words in; see `BitStore`.
    Raises FixedPointRangeError (a ValueError) for what is not finite or out of range, before anything changes.
    Source: Maclaurin et al. 2015, section 2.2 and Algorithm 3.
    """

    def __init__(
        self,
        val: ArrayLike,
        from_intrep: bool = False,
        radix_bits: int = RADIX_BITS,
        sizes: Sequence[int] | None = None,
        words: Callable[[int], Words | None] = lambda length: None,
    ) -> None:
        self.radix_bits = radix_bits
        self.limit = 2.0 ** (63 - radix_bits)
        shape = np.shape(val)
        if from_intrep:
            ints = np.asarray(val)
            if ints.dtype.kind not in "iu":
                raise TypeError(f"from_intrep takes integers, got dtype {ints.dtype}")
            self.intrep = ints.astype(np.int64, order="C")
            self._bound = math.inf  # of |intrep|; found when needed
        else:
            self.intrep = np.zeros(shape, np.int64)
            self._bound = 0
        self._ends = np.cumsum(sizes if sizes is not None else [self._flat.size], dtype=np.int64)
        if self._ends[-1:].tolist() != [self._flat.size]:
            raise ValueError(f"block sizes {sizes} do not add up to the {self._flat.size} elements")
        lengths = np.diff(self._ends, prepend=0).tolist()
        self.stores = [BitStore(length, words(length)) for length in lengths]
        if not from_intrep:
            self.add(np.asarray(val, np.float64))

    @property
    def _flat(self) -> NDArray[np.int64]:
        return self.intrep.reshape(-1)

    @property
    def integers(self) -> tuple[NDArray[np.int64], ...]:
        """The words of the numbers, (elements,) each: one."""
        return (self._flat,)

    @property
    def resolution(self) -> float:
        """What neighbouring numbers differ by."""
        return 2.0**-self.radix_bits

    @property
    def val(self) -> NDArray[np.float64]:
        """The numbers, as a new float64 array."""
        out = np.empty(self.intrep.shape)
        loops.to_floats(self._flat, self.resolution, out.reshape(-1))
        return out

    @property
    def aux(self) -> BitStore:
        """The information buffer (of the first block, where there are several: see `stores`)."""
        return self.stores[0]

    def __eq__(self, other: object) -> bool:
        """Whether numbers and buffers are equal bit for bit."""
        if not isinstance(other, ExactRep):
            return NotImplemented
        same = self.radix_bits == other.radix_bits and np.array_equal(self.intrep, other.intrep)
        return same and self.stores == other.stores

    __hash__ = None  # type: ignore[assignment]  # mutable

    def copy(self) -> ExactRep:
        """An independent copy, with its buffers in memory."""
        new = copy(self)
        new.intrep = self.intrep.copy()
        new.stores = [store.copy() for store in self.stores]
        return new

    def forget(self) -> None:
        """Let go of digits that no `div` will ask for: for numbers that are only ever made smaller."""
        for store in self.stores:
            store.forget()

    def add(self, A: ArrayLike) -> ExactRep:
        """Add A, shape () or that of val, rounded to fixed point.  Undone by `sub` of the same A."""
        return self.change(self._addition(A))

    def sub(self, A: ArrayLike) -> ExactRep:
        """Subtract A, shape () or that of val, rounded to fixed point.  Undone by `add` of the same A."""
        return self.change(self._addition(A)._replace(back=True))

    def mul(self, a: ArrayLike) -> ExactRep:
        """Multiply by a ratio, keeping the remainder in the buffer.  Undone by `div` of the same a.

        a: shape () or that of val, 2**-25 < a <= 2**16, applied as the nearest multiple of 2**-24.
        Raises ValueError where a is not finite, not positive, or out of that range.
        """
        return self.rational_mul(*as_ratio(a))

    def div(self, a: ArrayLike) -> ExactRep:
        """Divide by a, as `mul` multiplies by it.  Undone by `mul` of the same a."""
        n, d = as_ratio(a)
        return self.rational_mul(d, n)

    def rational_mul(self, n: ArrayLike, d: ArrayLike) -> ExactRep:
        """Multiply by n / d (Algorithm 3).  Undone by `rational_mul(d, n)`.

        n, d: integers in 1..2**40, each of shape () or that of val.
        """
        numerator, denominator = _as_modulus(n, self.intrep.shape), _as_modulus(d, self.intrep.shape)
        if isinstance(numerator, int) and isinstance(denominator, int):
            if numerator == denominator:
                return self
            ratios = np.array([[numerator], [denominator]]).repeat(len(self.stores), 1)
            return self.change(Change(ratios))
        return self._multiply_elements(*(np.full(self._flat.size, m) for m in (numerator, denominator)))

    def _multiply_elements(self, n: NDArray[np.int64], d: NDArray[np.int64]) -> ExactRep:
        """Multiply each by a ratio of its own, (elements,)."""
        reach = self._reach(n, d)
        parts = (np.split(vector, self._ends[:-1]) for vector in (self._flat, n, d))
        for store, *part in zip(self.stores, *parts, strict=True):
            store.multiply(*part)
        self._bound = reach
        return self

    def change(self, change: Change) -> ExactRep:
        """Make the change, in one pass where that can be.  Undone by the same with `back` the other way round."""
        change = change if change.ends is not None else change._replace(ends=self._ends)
        joint = _NO_JOINT if change.ratios is None else _joined(self.stores)
        if joint is not None and self._pass(change, joint) == loops.DONE:
            return self
        if change.then is not None or (change.ratios is not None and change.addend is not None):
            return self._change_one_by_one(change)  # so that what can't be done is found
        if change.addend is not None:
            raise refused_addition(self, change)
        ratios = [spread(m, change.ends) for m in (change.ratios[::-1] if change.back else change.ratios)]
        if joint is None:  # the elements of a buffer have levels of their own
            self._multiply_elements(*ratios)
            if change.out is not None:
                loops.to_floats(self._flat, self.resolution, change.out)
        else:  # the largest factor need not meet the largest number
            reach, self._bound = self._reach(*ratios), 0.0
            self._pass(change, joint)
            self._bound = reach
        return self

    def _pass(self, change: Change, joint: _Joint) -> int:
        """`change`, as far as `loops.change` can make it; what that returns."""
        values, factors = change.addend or (_NO_FLOATS, _NO_FLOATS)
        then = change.then
        words = np.empty(joint.levels.size, np.int64)
        went, bound, other_bound = loops.change(
            self._flat,
            *joint,
            _MARKS,
            words,
            _NO_RATIOS if change.ratios is None else change.ratios,
            values,
            factors,
            change.ends,
            change.back,
            2.0**self.radix_bits,
            float(self._bound),
            _SAFE,
            _NO_FLOATS if change.out is None else change.out,
            *(_NOTHING_MORE if then is None else then.numbers._as_target(then)),
        )
        if went == loops.MOVE:
            for store, count in zip(self.stores, words.tolist(), strict=True):
                if count:
                    store._move(count)
            return self._pass(change, joint)
        if went == loops.DONE:
            self._bound = bound
            if then is not None:
                then.numbers._bound = other_bound
        return went

    def _as_target(self, then: Then) -> tuple:
        """What `loops.change` is to know of the numbers that are added to."""
        out = _NO_FLOATS if then.out is None else then.out
        return self._flat, then.factors, 2.0**self.radix_bits, float(self._bound), out

    def _change_one_by_one(self, change: Change) -> ExactRep:
        """`change` in several passes."""

        def multiply(part: Change) -> None:
            if part.ratios is not None:
                self.change(Change(part.ratios, ends=part.ends, back=part.back))

        def add(part: Change) -> None:
            if part.addend is not None:
                self.change(Change(addend=part.addend, ends=part.ends, back=part.back))

        carry_out_all([multiply, add, lambda part: part.go_on(self)], change)
        if change.out is not None:
            loops.to_floats(self._flat, self.resolution, change.out)
        return self

    def _reach(self, n: NDArray[np.int64], d: NDArray[np.int64]) -> float:
        """A bound of |intrep| once it is multiplied by n / d, (elements,); raises where that is too much."""
        growth = n / d
        products = np.abs(self._flat.astype(np.float64)) * growth
        reach = float(np.max(products, initial=0.0)) + float(np.max(n, initial=0))
        if np.any(growth > 1.0) and not reach < _SAFE:
            index = int(np.argmax(products))
            raise FixedPointRangeError(
                f"multiplying gives {products[index] * 2.0**-self.radix_bits:.6g}, out of the fixed-point "
                f"range +-{self.limit:g}",
                index,
                self,
            )
        return reach

    def _addition(self, A: ArrayLike) -> Change:
        values = np.asarray(A, np.float64)
        if values.shape != self.intrep.shape and values.ndim:
            raise ValueError(f"operand of shape {values.shape} does not match the shape {self.intrep.shape}")
        values = np.full(self.intrep.shape, values).reshape(-1)
        return Change(addend=(values, np.ones(1)), ends=np.array([self._flat.size]))


def first_not_finite(values: NDArray[np.float64]) -> int | None:
    """The position of the first entry that is NaN or infinite, if there is one; values: (elements,)."""
    finite = np.isfinite(values)
    return None if finite.all() else int(np.argmin(finite))


def spread(factors: NDArray, ends: NDArray[np.int64]) -> NDArray:
    """The factor of every element, (elements,), of those of blocks, (blocks,), which end at `ends`."""
    return np.repeat(factors, np.diff(ends, prepend=0))


def round_to_lattice(factor: ArrayLike) -> NDArray[np.float64]:
    """The factors that `ExactRep.mul` really applies: the nearest multiples of 2**-24, as float64."""
    return np.rint(np.asarray(factor, np.float64) * 2.0**FACTOR_BITS) * 2.0**-FACTOR_BITS


def as_ratio(a: ArrayLike) -> tuple:
    """Integers n, d with n / d the multiple of 2**-24 nearest to a, in lowest terms where a is a scalar.

    A scalar power of two is taken as it is, down to 2**-40.
    Raises FixedPointRangeError where a is not finite, not positive, or not in 2**-25 < a <= 2**16.
    """
    factor = np.asarray(a, np.float64)
    if factor.ndim == 0:
        return tuple(as_ratios(factor.reshape(1))[:, 0].tolist())
    fits = (factor > _LEAST_FACTOR) & (factor <= MAX_FACTOR)  # False for NaN
    if not fits.all():
        raise _refused_factor(factor, int(np.argmin(fits)))
    return np.rint(factor * _LATTICE).astype(np.int64), _LATTICE


def as_ratios(factors: NDArray[np.float64]) -> NDArray[np.int64]:
    """n and d, (2, blocks), of each of the scalars `factors`, (blocks,): see `as_ratio`."""
    ratios = np.empty((2, factors.size), np.int64)
    wrong = loops.to_ratios(factors, FACTOR_BITS, MAX_FACTOR, 2.0**-MOST_BITS_AT_ONCE, ratios)
    if wrong >= 0:
        raise _refused_factor(factors, wrong)
    return ratios


def _refused_factor(factors: NDArray[np.float64], index: int) -> FixedPointRangeError:
    return FixedPointRangeError(
        f"a factor must be above 2**-{FACTOR_BITS + 1}, to be invertible, and at most 2**16, got "
        f"{factors.flat[index]}",
        index,
    )


def _as_modulus(m: ArrayLike, shape: tuple[int, ...]) -> int | NDArray[np.int64]:
    values = np.asarray(m)
    if values.dtype.kind not in "iu":
        raise TypeError(f"the terms of a ratio must be integers, got dtype {values.dtype}")
    if values.shape not in ((), shape):
        raise ValueError(f"the terms of a ratio must be of shape () or {shape}, got {values.shape}")
    if np.any(values < 1) or np.any(values > 1 << (FACTOR_BITS + 16)):
        raise ValueError(f"the terms of a ratio must be in 1..2**{FACTOR_BITS + 16}, got {m}")
    return int(values) if values.ndim == 0 else values.astype(np.int64).reshape(-1)


def _log2(M: NDArray[np.int64]) -> NDArray[np.int64]:
    """log2 in the unit of levels."""
    logs = np.empty(M.shape, np.int64)
    loops.log2(M, logs)
    return logs
