"""Recoveries that keep some states, or the last steps alone, and take up training again from there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypergrad.arguments import whole_number
from hypergrad.recoveries import Memory, NoMemory, Recovery, Reversal, SameGradients

if TYPE_CHECKING:
    from checkpoint_schedules import CheckpointAction, CheckpointSchedule, Forward

    from hypergrad.operations import Numbers
    from hypergrad.reversible import Gradient, Run, Tape

__all__ = ["Checkpointed", "Truncated"]


@dataclass(frozen=True)
class Checkpointed(Recovery):
    """Keep snapshots of the states; on the way back, train again from each to reach the steps after it.

    The trajectory is the same to the last bit.  A snapshot takes about 32 bytes per weight (for `Momentum`); where
    a factor of the rule is above one, also what the information buffers hold by then.

    every: keep a snapshot every so many steps, sqrt(num_steps) by default, and one for each step of the stretch in
        between that is under way: num_steps / every + every snapshots, and every step is taken three times.
    budget: keep at most so many snapshots instead, at the steps that make for the fewest steps in all (binomial
        schedules); num_steps / 2 steps are taken again for each step back with a budget of 1.
    Raises ValueError where either is less than 1, or both are given; ReversalError, on the way back, where a
    gradient taken again is another.

    Source: Griewank and Walther 2000 (Algorithm 799) for the binomial schedules, which are those of the library
    checkpoint_schedules.
    """

    every: int | None = None
    budget: int | None = None

    def __post_init__(self) -> None:
        if self.every is not None and self.budget is not None:
            raise ValueError(f"give every or budget, not both: got every={self.every}, budget={self.budget}")
        for name, value in (("every", self.every), ("budget", self.budget)):
            whole_number(value, name, 1, or_none=True)

    def start(self, run: Run) -> _Checkpoints:
        """The memory of one run."""
        from checkpoint_schedules import (  # light, but not needed to import hypergrad
            MultistageCheckpointSchedule,
            StorageType,
            TwoLevelCheckpointSchedule,
        )

        num_steps = max(run.num_steps, 1)
        if self.budget is not None:
            return _Checkpoints(run, MultistageCheckpointSchedule(num_steps, self.budget, 0))
        every = self.every or math.isqrt(num_steps - 1) + 1
        return _Checkpoints(run, TwoLevelCheckpointSchedule(every, every, binomial_storage=StorageType.RAM))


class _Checkpoints(Memory):
    """Snapshots of the states, by the step they come before, kept and used as a schedule says."""

    def __init__(self, run: Run, schedule: CheckpointSchedule) -> None:
        self.schedule = schedule
        self.actions: Iterator[CheckpointAction] = iter(schedule)
        self.action: Forward | None = None
        self.snapshots: dict[int, dict[str, Numbers]] = {}
        self.step = NoMemory(run).advance
        self.gradients = SameGradients()
        self.tape: Tape | None = None

    def saw(self, run: Run, gradient: Gradient) -> None:
        self.gradients.compare(run, gradient)

    def advance(self, run: Run, t: int) -> None:
        if self.action is None or t == self.action.n1:
            self.action = next(self.actions)
        self._take(run, t, self.action, with_pullback=False)

    def rest(self, run: Run) -> None:
        if self.schedule.max_n is None and run.num_steps > 0:
            self.schedule.finalize(run.num_steps)

    def recall(self, run: Run, t: int) -> Tape:
        from checkpoint_schedules import Copy, Forward, Move, Reverse

        self.snapshots.pop(t + 1, None)
        for action in self.actions:
            if isinstance(action, Move):
                run.set_states(self.snapshots.pop(action.n))
            elif isinstance(action, Copy):
                run.set_states({name: state.copy() for name, state in self.snapshots[action.n].items()})
            elif isinstance(action, Forward):
                for step in range(action.n0, action.n1):
                    self._take(run, step, action, with_pullback=True)
            elif isinstance(action, Reverse):
                break
        return self.tape

    def _take(self, run: Run, t: int, action: Forward, with_pullback: bool) -> None:
        """Take step t, with a snapshot before it, or its tape, if the action asks for them."""
        if action.write_ics and t == action.n0:
            self.snapshots[t] = {name: state.copy() for name, state in run.states.items()}
        last = action.write_adj_deps
        self.tape = self.step(run, t, with_pullback and last, on_record=last)


@dataclass(frozen=True)
class Truncated(Recovery):
    """Go back over the last steps alone, exactly, as if what came before did not depend on hyperparameters.

    Everything before is forgotten: the hypergradients of the initial weights and states are zero, those of
    schedules are zero at earlier steps, and those of theta and of constant hyperparameters lack what these did to
    earlier steps.  Memory is that of `Reversible` over `last` steps.

    last: number of steps to go back over; all of them where there are not so many.
    Raises ValueError where last < 1.
    Source: Williams and Peng 1990 (truncated backpropagation through time); Shaban et al. 2019 for hypergradients.
    """

    last: int

    def __post_init__(self) -> None:
        whole_number(self.last, "last", 1)

    def start(self, run: Run) -> Reversal:
        """The memory of one run."""
        first = max(run.num_steps - self.last, 0)
        return Reversal(run, check_every=max(1, min(self.last, run.num_steps) // 100), first=first)
