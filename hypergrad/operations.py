"""The two reversible operations that training steps are made of, each with its inverse and its adjoint.

    Decay(s, c)            s <- s * c          the remainder goes into the information buffer
    Add(s, f, ...)         s <- s + f(...)     f reads other states, coefficients and the gradient g, never s

Both act on the numbers of a state, those of an `ExactRep`, block by block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hypergrad import loops
from hypergrad.exact_rep import BitStore, Change, spread

__all__ = [
    "Add",
    "Blocks",
    "Decay",
    "Group",
    "Kernel",
    "Numbers",
    "Operation",
    "Program",
    "Scaled",
    "Vector",
    "grouped",
    "in_reverse",
]

Vector = NDArray[np.float64]


class Blocks(NamedTuple):
    """The consecutive parts of the state vectors that share coefficients, (blocks,) of them.

    ends: where each ends, (blocks,), int64.  coefficients: of an operation, in its order, (blocks,) each.
    """

    ends: NDArray[np.int64]
    coefficients: Sequence[NDArray[np.float64]]


class Numbers(Protocol):
    """What the operations need of a state: in all but one recovery (`FloatReversal`) it is an `ExactRep`."""

    stores: list[BitStore]
    radix_bits: int

    @property
    def val(self) -> Vector:
        """The numbers, as a new float64 array."""

    def copy(self) -> Numbers:
        """An independent copy."""

    def forget(self) -> None:
        """Let go of digits that going forward does not need."""

    def change(self, change: Change) -> Any:
        """Multiply and add, or take that back."""


@dataclass(frozen=True)
class Decay:
    """target <- target * factor, exactly reversible (Maclaurin et al. 2015, Algorithm 3).

    Adjoint: d_factor = <d_target, target before>; d_target <- factor * d_target.
    """

    target: str
    factor: str

    @property
    def coefficients(self) -> tuple[str, ...]:
        """The names of the coefficients, in the order that `blocks` lists their values."""
        return (self.factor,)

    def adjoint(
        self, blocks: Blocks, inputs: Sequence[Vector], d_target: Vector, d_inputs: Sequence[Vector]
    ) -> Sequence[NDArray[np.float64]]:
        """(d_factor,), or nothing where inputs, the target before, is left out; changes d_target."""
        ends, (factors,) = blocks
        if not inputs:
            d_target *= spread(factors, ends)
            return ()
        d_factors = np.empty(len(ends))
        loops.decay_adjoint(factors, ends, *inputs, d_target, d_factors)
        return (d_factors,)


class Kernel(Protocol):
    """A function of coefficients and vectors, element by element, with its derivative.

    It is proportional to the first of its coefficients.
    """

    def forward(self, others: Blocks, inputs: Sequence[Vector]) -> Vector:
        """The value where the first coefficient is 1, of the other ones: the same bits for the same arguments.

        It may be one of the inputs; they must not be changed.
        """

    def pullback(
        self, blocks: Blocks, inputs: Sequence[Vector], cotangent: Vector, d_inputs: Sequence[Vector]
    ) -> Sequence[NDArray[np.float64]]:
        """The cotangents of the coefficients, (blocks,) each; adds to d_inputs those of the inputs."""


class Scaled:
    """The kernel c * x."""

    def forward(self, others: Blocks, inputs: Sequence[Vector]) -> Vector:
        """x."""
        return inputs[0]

    def pullback(
        self, blocks: Blocks, inputs: Sequence[Vector], cotangent: Vector, d_inputs: Sequence[Vector]
    ) -> Sequence[NDArray[np.float64]]:
        """(<cotangent, x>,); adds c * cotangent."""
        d_c = np.empty(len(blocks.ends))
        loops.scaled_pullback(*blocks.coefficients, blocks.ends, *inputs, cotangent, d_c, *d_inputs)
        return (d_c,)


SCALED = Scaled()


@dataclass(frozen=True)
class Add:
    """target <- target + kernel(coefficients, inputs).

    inputs: names of other states, or "g", the gradient of the training loss at the present weights.
    Adjoint: the kernel's pullback of d_target; d_target stays.
    """

    target: str
    coefficients: tuple[str, ...]
    inputs: tuple[str, ...]
    kernel: Kernel = SCALED

    def __post_init__(self) -> None:
        if self.target in self.inputs or (self.target == "w" and "g" in self.inputs):
            raise ValueError(f"{self.target} can't be changed by a function of itself: no exact inverse")

    def adjoint(
        self, blocks: Blocks, inputs: Sequence[Vector], d_target: Vector, d_inputs: Sequence[Vector]
    ) -> Sequence[NDArray[np.float64]]:
        """The cotangents of the coefficients, (blocks,) each; adds to d_inputs those of the inputs."""
        return self.kernel.pullback(blocks, inputs, d_target, d_inputs)


Operation = Decay | Add
Program = tuple[Operation, ...]


class Group(NamedTuple):
    """Operations that come one after the other and are carried out in one pass over the numbers.

        x <- x * factor  (decay);    x <- x + ...  (add);    y <- y + c * x  (then)

    Some of them may be None.  What `add` reads is there before the pass: its own target, which it does not read, is
    all that has changed.
    """

    decay: Decay | None
    add: Add | None
    then: Add | None = None

    @property
    def target(self) -> str:
        """The state that decay and add change."""
        return (self.decay or self.add).target


def grouped(program: Program) -> tuple[Group, ...]:
    """The operations, as few groups as possible."""
    groups, rest = [], list(program)
    while rest:
        decay = rest.pop(0) if isinstance(rest[0], Decay) else None
        target = decay.target if decay else rest[0].target
        add = rest.pop(0) if rest and isinstance(rest[0], Add) and rest[0].target == target else None
        reads_it = rest and isinstance(rest[0], Add) and rest[0].inputs == (target,)
        then = rest.pop(0) if reads_it and rest[0].kernel is SCALED else None
        groups.append(Group(decay, add, then))
    return tuple(groups)


def in_reverse(groups: Sequence[Group]) -> tuple[Group, ...]:
    """The groups to undo, in this order; a gradient may have to be read between `then` and the others."""
    parts = []
    for decay, add, then in reversed(groups):
        parts += [Group(None, then)] if then else []
        parts.append(Group(decay, add))
    return tuple(parts)
