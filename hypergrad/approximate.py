"""Recoveries that give the trajectory back nearly, or not at all: to compare with, and to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hypergrad.exact_rep import (
    BitStore,
    Change,
    FixedPointRangeError,
    Precision,
    carry_out_all,
    first_not_finite,
    spread,
)
from hypergrad.recoveries import Memory, NoMemory, NonFiniteGradientError, Recovery, ReversalError

if TYPE_CHECKING:
    from hypergrad.operations import Numbers, Vector
    from hypergrad.reversible import Run, Tape

__all__ = ["FloatReversal", "Interpolated"]


@dataclass(frozen=True)
class Interpolated(Recovery):
    """Take the trajectory for a straight line from the first states to the last, as DrMAD does.

    An approximation that keeps two states, whatever num_steps is.  Each step of the backward pass takes the
    training step anew from its place on the line.  The velocity or moments before it are on a line of their own.

    Source: Fu et al. 2016, "DrMAD: Distilling Reverse-Mode Automatic Differentiation for Optimizing
    Hyperparameters of Deep Neural Networks", section 3.
    """

    def start(self, run: Run) -> _Line:
        """The memory of one run."""
        return _Line(run)


class _Line(Memory):
    """The states at both ends."""

    def __init__(self, run: Run) -> None:
        self.first = _values(run)
        self.step = NoMemory(run).advance

    def advance(self, run: Run, t: int) -> None:
        self.step(run, t)

    def rest(self, run: Run) -> None:
        self.last = _values(run)

    def recall(self, run: Run, t: int) -> Tape:
        share = t / run.num_steps
        point = {name: (1 - share) * self.first[name] + share * self.last[name] for name in self.first}
        run.set_states(run.represent(point))
        return run.forward_step(t, with_pullback=True)


def _values(run: Run) -> dict[str, Vector]:
    return {name: state.val for name, state in run.states.items()}


@dataclass(frozen=True)
class FloatReversal(Recovery):
    """Train in floats, and run that backwards, dividing where training multiplied: what fails without the buffer.

    Rounding errors grow by 1 / decay with every step back.  For teaching, and to see what the exact arithmetic is
    for; never for results.

    dtype: of the states, a floating-point type.
    Raises ReversalError, on the way back, where what comes back is out of the range of the exact arithmetic;
    TypeError for another dtype.
    Source: Maclaurin et al. 2015, section 2.1.
    """

    dtype: DTypeLike = np.float64

    def __post_init__(self) -> None:
        if np.dtype(self.dtype).kind != "f":
            raise TypeError(f"dtype must be a floating-point type, like numpy.float32, got {self.dtype}")

    def represent(self, values: NDArray[np.float64], precision: Precision, sizes: Sequence[int]) -> Numbers:
        """Floats."""
        return _Floats(values, np.dtype(self.dtype), sizes, precision.limit)

    def start(self, run: Run) -> _FloatReversal:
        """The memory of one run."""
        return _FloatReversal()


class _FloatReversal(Memory):
    """Nothing is kept."""

    def advance(self, run: Run, t: int) -> None:
        run.forward_step(t, on_record=False)

    def recall(self, run: Run, t: int) -> Tape:
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                tape = run.reverse_step(t)
        except (FixedPointRangeError, NonFiniteGradientError) as error:
            raise self._failure(t) from error
        if not all(state.in_range for state in run.states.values()):
            raise self._failure(t)
        return tape

    @staticmethod
    def _failure(t: int) -> ReversalError:
        return ReversalError(
            f"training in floats, run backwards, went out of range at iteration {t}: rounding errors grow "
            "by 1 / decay with every step; recovery=Reversible() keeps the digits that are lost here",
            iteration=t,
        )


class _Floats:
    """Numbers that round as floats do; the counterpart of `ExactRep` in operations.  Changed in place."""

    def __init__(
        self, values: NDArray[np.float64], dtype: np.dtype, sizes: Sequence[int], limit: float
    ) -> None:
        self.floats, self.limit = np.array(values, dtype), limit
        self.stores = [BitStore(size) for size in sizes]  # these stay empty

    @property
    def val(self) -> NDArray[np.float64]:
        return self.floats.astype(np.float64)

    @property
    def in_range(self) -> bool:
        return bool(np.all(np.abs(self.floats) < self.limit))  # False for NaN

    def copy(self) -> _Floats:
        return _Floats(self.floats, self.floats.dtype, [len(store) for store in self.stores], self.limit)

    @property
    def integers(self) -> tuple[NDArray[np.int64], ...]:
        return ()

    @property
    def resolution(self) -> float:
        return 0.0  # relative to the numbers

    def forget(self) -> None:
        pass

    def change(self, change: Change) -> _Floats:
        carry_out_all([self._multiply, self._add, lambda part: part.go_on(self)], change)
        if change.out is not None:
            change.out[:] = self.floats
        return self

    def _multiply(self, change: Change) -> None:
        if change.ratios is not None:
            n, d = change.ratios[::-1] if change.back else change.ratios
            self.floats *= spread((n / d).astype(self.floats.dtype), change.ends)

    def _add(self, change: Change) -> None:
        if change.addend is None:
            return
        values, factors = change.addend
        index = first_not_finite(values)
        if index is not None:
            raise FixedPointRangeError(f"{values[index]} at position {index} can't be added", index, self)
        sign = -1.0 if change.back else 1.0
        self.floats += (sign * spread(factors, change.ends) * values).astype(self.floats.dtype)
