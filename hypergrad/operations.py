"""The two reversible operations that training steps are made of, each with its inverse and its adjoint.

    Decay(s, c)            s <- s * c          the remainder goes into the information buffer
    Add(s, f, ...)         s <- s + f(...)     f reads other states, coefficients and the gradient g, never s

Both act on the numbers of a state, those of an `ExactRep`, block by block; a `Group` of them in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hypergrad import loops
from hypergrad.exact_rep import BitStore, Change

__all__ = [
    "Add",
    "Blocks",
    "Decay",
    "Group",
    "Kernel",
    "Numbers",
    "Operation",
    "Program",
    "Vector",
    "grouped",
    "in_reverse",
]

Vector = NDArray[np.float64]
_NONE = np.empty(0)


class Blocks(NamedTuple):
    """The consecutive parts of the state vectors that share coefficients, (blocks,) of them.

    ends: where each ends, (blocks,), int64.  coefficients: of an operation, in its order, (blocks,) each.
    """

    ends: NDArray[np.int64]
    coefficients: Sequence[NDArray[np.float64]]


class Numbers(Protocol):
    """What the operations need of a state: an `ExactRep`, a `WideRep`, or, of one recovery, floats."""

    stores: list[BitStore]

    @property
    def integers(self) -> tuple[NDArray[np.int64], ...]:
        """The words of the numbers, (elements,) each: the same integers are the same numbers."""

    @property
    def resolution(self) -> float:
        """What neighbouring numbers differ by."""

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
        """The names of the coefficients."""
        return (self.factor,)


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

    def first_lost(
        self, others: Blocks, inputs: Sequence[Vector], resolutions: Sequence[float]
    ) -> tuple[int, int] | None:
        """Which input is too near to its resolution for the value to be right to 1e-6, and at which element."""
        return None


@dataclass(frozen=True)
class Add:
    """target <- target + kernel(coefficients, inputs); without a kernel, target + coefficient * input.

    inputs: names of other states, or "g", the gradient of the training loss at the present weights.
    Adjoint: d_coefficient = <d_target, input>; d_input += coefficient * d_target; or the kernel's pullback of
    d_target, which stays.
    """

    target: str
    coefficients: tuple[str, ...]
    inputs: tuple[str, ...]
    kernel: Kernel | None = None

    def __post_init__(self) -> None:
        if self.target in self.inputs or (self.target == "w" and "g" in self.inputs):
            raise ValueError(f"{self.target} can't be changed by a function of itself: no exact inverse")

    def values(self, blocks: Blocks, inputs: Sequence[Vector]) -> Vector:
        """What is added, but for the first of the coefficients, which it is to be multiplied by."""
        if self.kernel is None:
            return inputs[0]
        return self.kernel.forward(Blocks(blocks.ends, blocks.coefficients[1:]), inputs)


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

    @property
    def targets(self) -> tuple[str, ...]:
        """The states that change."""
        return (self.target,) if self.then is None else (self.target, self.then.target)

    @property
    def coefficients(self) -> tuple[str, ...]:
        """The names of those of all operations, first to last."""
        return tuple(name for operation in self if operation is not None for name in operation.coefficients)

    def adjoint(
        self,
        ends: NDArray[np.int64],
        coefficients: Sequence[Sequence[NDArray[np.float64]]],
        inputs: Sequence[Sequence[Vector]],
        d_target: Vector,
        d_inputs: Sequence[Vector],
        d_then: Vector,
        anew: bool,
    ) -> list[NDArray[np.float64]]:
        """The cotangents of the coefficients, (blocks,) each, as `coefficients` lists them.

        coefficients, inputs: of decay, add and then, none for what is None.  The input of decay is the target
            before, and may be left out where its factor's cotangent is of no interest.
        d_target: the cotangent of the target, which becomes that before.  d_then: of the state that `then` changes.
        d_inputs: those of the inputs of add, which are added to; anew: set, if there is no kernel.
        """
        factors, cs, y_cs = (arrays[0] if arrays else _NONE for arrays in coefficients)
        before, values, x = (vectors[0] if vectors else _NONE for vectors in inputs)
        kernel = None if self.add is None else self.add.kernel

        def pull_back(
            factors: Vector, before: Vector, cs: Vector, values: Vector, y_cs: Vector, x: Vector
        ) -> NDArray:
            d_values, d_y = d_inputs[0] if values.size else _NONE, d_then if x.size else _NONE
            found = np.empty((3, len(ends)))
            operands = factors, before, cs, values, d_values, anew, y_cs, x, d_y
            loops.change_adjoint(ends, d_target, *operands, found)
            return found

        if kernel is None:
            d_factors, d_cs, d_y_cs = pull_back(factors, before, cs, values, y_cs, x)
            of_add = [d_cs]
        else:
            _, _, d_y_cs = pull_back(_NONE, _NONE, _NONE, _NONE, y_cs, x)
            of_add = kernel.pullback(Blocks(ends, coefficients[1]), inputs[1], d_target, d_inputs)
            d_factors, _, _ = pull_back(factors, before, _NONE, _NONE, _NONE, _NONE)
        found = ([d_factors], self.decay), (of_add, self.add), ([d_y_cs], self.then)
        return [d_c for d_cs, operation in found if operation is not None for d_c in d_cs]


def grouped(program: Program) -> tuple[Group, ...]:
    """The operations, as few groups as possible."""
    groups, rest = [], list(program)
    while rest:
        decay = rest.pop(0) if isinstance(rest[0], Decay) else None
        target = decay.target if decay else rest[0].target
        add = rest.pop(0) if rest and isinstance(rest[0], Add) and rest[0].target == target else None
        reads_it = rest and isinstance(rest[0], Add) and rest[0].inputs == (target,)
        then = rest.pop(0) if reads_it and rest[0].kernel is None else None
        groups.append(Group(decay, add, then))
    return tuple(groups)


def in_reverse(groups: Sequence[Group]) -> tuple[Group, ...]:
    """The groups to undo, in this order; a gradient may have to be read between `then` and the others."""
    parts = []
    for decay, add, then in reversed(groups):
        parts += [Group(None, then)] if then else []
        parts.append(Group(decay, add))
    return tuple(parts)
