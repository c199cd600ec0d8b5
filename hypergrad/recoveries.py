"""Recoveries: how the backward pass of `train` gets back what each step of training had read.

A recovery makes a memory for each run.  The engine calls memory.advance(run, t) in place of a plain step on the
way forward, memory.rest(run) at its end, and memory.recall(run, t) on the way back, for t = num_steps - 1 .. 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from hypergrad import loops
from hypergrad.arguments import whole_number
from hypergrad.errors import ADVICE, CoefficientRangeError, NonFiniteGradientError, ReversalError
from hypergrad.exact_rep import ExactRep, FixedPointRangeError, Precision, Words
from hypergrad.spilling import WordsOnDisk
from hypergrad.wide_rep import WideRep

if TYPE_CHECKING:
    from hypergrad.operations import Numbers
    from hypergrad.reversible import Gradient, Run, Tape

__all__ = [
    "Certificate",
    "CoefficientRangeError",
    "Memory",
    "NoMemory",
    "NonFiniteGradientError",
    "Recovery",
    "Reversal",
    "ReversalError",
    "Reversible",
    "SameGradients",
    "Stored",
]


_MULTIPLIER = 0x5851F42D4C957F2D  # odd


class Recovery:
    """A way to get the trajectory back."""

    def represent(self, values: NDArray[np.float64], precision: Precision, sizes: Sequence[int]) -> Numbers:
        """The numbers that training works with; sizes are those of blocks with buffers of their own."""
        kind = ExactRep if precision.words == 1 else WideRep
        return kind(values, radix_bits=precision.radix_bits, sizes=sizes, words=self.words)

    def words(self, length: int) -> Words | None:
        """What a buffer of this length keeps its words in; None for memory."""
        return None

    def start(self, run: Run) -> Memory:
        """The memory of one run, which is at its initial state."""
        raise NotImplementedError


@dataclass(frozen=True)
class Certificate:
    """That a training run was reversed bit for bit, as found by comparing integers on the way back.

    first, num_steps: the iterations gone back to and from.
    checked: the iterations before which the checksums of every leaf of every state were those of the way forward.
    num_values: how many numbers, weights and all, were compared one by one with the initial ones, as were the
        buffers, which must be empty; 0 where the way back ended earlier (`Truncated`).
    """

    first: int
    num_steps: int
    checked: tuple[int, ...]
    num_values: int

    def __str__(self) -> str:
        end = (
            f"all {self.num_values:,} initial values came back, and the buffers are empty"
            if self.num_values
            else f"checksums agree at iteration {self.first}, where the way back ends"
        )
        return (
            f"{self.num_steps - self.first:,} steps reversed bit for bit: checksums agree before "
            f"{len(self.checked):,} iterations on the way; {end}"
        )


class Memory:
    """What a recovery keeps of one run."""

    certificate: Certificate | None = None  # once the way back has ended, of a recovery that compares

    def advance(self, run: Run, t: int) -> None:
        """Have the run take step t, and keep what it takes to recall it."""
        raise NotImplementedError

    def rest(self, run: Run) -> None:
        """The way forward has ended."""

    def recall(self, run: Run, t: int) -> Tape | None:
        """What the operations of step t read; None if that is forgotten.  Called after recall(t + 1)."""
        raise NotImplementedError

    def saw(self, run: Run, gradient: Gradient) -> None:
        """A gradient was evaluated, for the first time or again."""


@dataclass(frozen=True)
class Reversible(Recovery):
    """Recover the trajectory by running training backwards: exact, in memory close to the entropy limit.

    check_every: steps between two comparisons, by checksum, of the recovered states with the true ones;
        num_steps / 100 by default.  The initial state is compared in full in any case.
    spill_to: a folder for the buffers' full words, in files without names; in memory by default.
    Raises ReversalError, on the way back, where they differ; ValueError where check_every < 1;
    FileNotFoundError where there is no such folder.
    Source: Maclaurin et al. 2015, section 2.
    """

    check_every: int | None = None
    spill_to: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        whole_number(self.check_every, "check_every", 1, or_none=True)
        if self.spill_to is not None and not Path(self.spill_to).is_dir():
            raise FileNotFoundError(f"spill_to must be a folder, got {str(self.spill_to)!r}: make it first")

    def words(self, length: int) -> Words | None:
        """Memory, or the folder."""
        return None if self.spill_to is None else WordsOnDisk(length, self.spill_to)

    def start(self, run: Run) -> Reversal:
        """The memory of one run."""
        return Reversal(run, self.check_every or max(1, run.num_steps // 100))


class Reversal(Memory):
    """The buffers in the states are all the memory there is, but for a few checksums.

    first: the step to go back to; what came before is forgotten.
    """

    def __init__(self, run: Run, check_every: int, first: int = 0) -> None:
        self.check_every, self.first = check_every, first
        self.checksums: dict[int, NDArray[np.int64]] = {}
        self._before_first = NoMemory(run).advance
        self._checked: list[int] = []

    def advance(self, run: Run, t: int) -> None:
        """Take step t."""
        if t < self.first:
            self._before_first(run, t)
            return
        if t == self.first or t % self.check_every == 0:
            self.checksums[t] = self._checksum(run)
        run.forward_step(t, on_record=False)

    def rest(self, run: Run) -> None:
        """Pack the buffers."""
        for state in run.states.values():
            for store in state.stores:
                store.pack()

    def recall(self, run: Run, t: int) -> Tape | None:
        """Undo step t, and compare what came back where there is something to compare it with."""
        if t < self.first:
            return None
        try:
            tape = run.reverse_step(t)
        except (FixedPointRangeError, NonFiniteGradientError) as error:
            self._fail(run, t, f"undoing iteration {t} failed: {error}")
        num_values = 0
        if t == 0:
            num_values = self._compare_with_start(run)
        elif t in self.checksums:
            self._compare_checksums(run, t)
        if t in self.checksums:
            self._checked.append(t)
        if t == self.first:
            self.certificate = Certificate(self.first, run.num_steps, tuple(self._checked), num_values)
        return tape

    def _checksum(self, run: Run) -> NDArray[np.int64]:
        """The sum, modulo 2**64, of each leaf of each state."""
        return np.array([self._sums(run, state) for state in run.states.values()])

    @staticmethod
    def _sums(run: Run, state: Numbers) -> NDArray[np.int64]:
        total = np.zeros(len(run.layout.ends), np.int64)
        for word in state.integers:
            loops.sums(word, run.layout.ends, sums := np.empty_like(total))
            total = _MULTIPLIER * total + sums  # so that what one word lacks is not made up for by another
        return total

    def _compare_checksums(self, run: Run, t: int) -> None:
        wrong = self.checksums[t] != self._checksum(run)
        if wrong.any():
            state, leaf = np.argwhere(wrong)[0]
            where = run.title(list(run.states)[state], run.layout.paths[leaf])
            self._fail(run, t, f"{where} is not what it was before iteration {t}", where)

    def _compare_with_start(self, run: Run) -> int:
        """The number of values compared."""
        starts = run.initial_states()
        for name, start in starts.items():
            state = run.states[name]
            pairs = zip(state.integers, start.integers, strict=True)
            wrong = np.flatnonzero(np.any([found != true for found, true in pairs], axis=0))
            if wrong.size:
                index = int(wrong[0])
                leaf = next(i for i, part in enumerate(run.layout.slices) if index < part.stop)
                self._fail(
                    run,
                    0,
                    f"{wrong.size} of {run.layout.size} initial values differ, first "
                    f"{run.title(name, run.layout.locate(index))}",
                    run.title(name, run.layout.paths[leaf]),
                )
            if state.stores != start.stores:
                where = run.title(name)
                self._fail(run, 0, f"digits are left in the information buffer of {where}", where)
        return len(starts) * run.layout.size

    def _fail(self, run: Run, t: int, what: str, leaf: str | None = None) -> NoReturn:
        right = min(self._checked, default=run.num_steps)
        finer = "" if self.check_every == 1 else "; recovery=Reversible(check_every=1) finds the iteration"
        raise ReversalError(
            f"weights not restored: running training backwards from iteration {run.num_steps} was right "
            f"down to iteration {right}, but then {what}. {ADVICE}{finer}",
            iteration=t,
            right_until=right,
            leaf=leaf,
        )


@dataclass(frozen=True)
class Stored(Recovery):
    """Keep what every step read: the reference to test against, in memory O(weights x steps).

    pullbacks: whether to keep the gradients as well, with all that their pullbacks use (activations, minibatches),
        rather than to take them again on the way back.
    Raises ReversalError, on the way back, where a gradient taken again is another.
    """

    pullbacks: bool = False

    def start(self, run: Run) -> _Tapes:
        """The memory of one run."""
        return _Tapes(run, self.pullbacks)


class _Tapes(Memory):
    """What each step read; without pullbacks gradients are evaluated again on the way back."""

    def __init__(self, run: Run, pullbacks: bool) -> None:
        self.pullbacks = pullbacks
        self.step = NoMemory(run).advance
        self.tapes: dict[int, Tape] = {}
        self.gradients = SameGradients()

    def saw(self, run: Run, gradient: Gradient) -> None:
        if not self.pullbacks:  # else none is taken again
            self.gradients.compare(run, gradient)

    def advance(self, run: Run, t: int) -> None:
        self.tapes[t] = self.step(run, t, self.pullbacks, on_record=True)

    def recall(self, run: Run, t: int) -> Tape:
        return self.tapes.pop(t)


class SameGradients:
    """The checksums of all gradients of a run, leaf by leaf, by which those that are taken again are compared."""

    def __init__(self) -> None:
        self.checksums: dict[tuple[int, int], NDArray[np.int64]] = {}  # by iteration, and number in the step

    def compare(self, run: Run, gradient: Gradient) -> None:
        """Note the gradient, or raise ReversalError where it is not the one noted before."""
        checksum = np.empty(len(run.layout.ends), np.int64)
        loops.sums_of_bits(gradient.value, run.layout.ends, checksum)
        wrong = self.checksums.setdefault((gradient.t, gradient.number), checksum) != checksum
        if wrong.any():
            leaf = run.layout.paths[int(np.argmax(wrong))]
            raise ReversalError(
                f"the gradient at iteration {gradient.t}, taken again on the way back, is another than before, "
                f"first with respect to {leaf}. {ADVICE}",
                iteration=gradient.t,
                leaf=leaf,
            )


class NoMemory(Memory):
    """For a run that will not be differentiated."""

    def __init__(self, run: Run) -> None:
        self._forgets = run.only_shrinks

    def advance(self, run: Run, t: int, with_pullback: bool = False, on_record: bool = False) -> Tape:
        """Take step t and let go of the digits in the buffers, if none of them can return to the states."""
        tape = run.forward_step(t, with_pullback, on_record)
        if self._forgets:
            for state in run.states.values():
                state.forget()
        return tape
