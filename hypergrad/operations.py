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
from hypergrad.exact_rep import BitStore, as_ratios, spread

__all__ = ["Add", "Blocks", "Decay", "Kernel", "Numbers", "Operation", "Program", "Scaled", "Vector"]

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

    def add_multiples(
        self,
        values: Vector,
        factors: NDArray[np.float64],
        ends: NDArray[np.int64],
        sign: float,
        out: Vector | None,
    ) -> Any:
        """Add sign * factors[j] * values where block j is; out gets `val`."""

    def rational_mul_blocks(self, ratios: NDArray[np.int64], out: Vector | None) -> Any:
        """Multiply block j by n / d, where ratios[:, j] = (n, d); out gets `val`."""


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

    def forward(self, state: Numbers, blocks: Blocks, inputs: Sequence[Vector], out: Vector | None) -> None:
        """Multiply; out gets the target's numbers as floats."""
        state.rational_mul_blocks(as_ratios(blocks.coefficients[0]), out)

    def inverse(self, state: Numbers, blocks: Blocks, inputs: Sequence[Vector], out: Vector | None) -> None:
        """Divide, taking the remainder back."""
        state.rational_mul_blocks(as_ratios(blocks.coefficients[0])[::-1], out)

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

    def forward(self, state: Numbers, blocks: Blocks, inputs: Sequence[Vector], out: Vector | None) -> None:
        """Add; out gets the target's numbers as floats."""
        state.add_multiples(*self._multiples(blocks, inputs), 1.0, out)

    def inverse(self, state: Numbers, blocks: Blocks, inputs: Sequence[Vector], out: Vector | None) -> None:
        """Subtract the same."""
        state.add_multiples(*self._multiples(blocks, inputs), -1.0, out)

    def adjoint(
        self, blocks: Blocks, inputs: Sequence[Vector], d_target: Vector, d_inputs: Sequence[Vector]
    ) -> Sequence[NDArray[np.float64]]:
        """The cotangents of the coefficients, (blocks,) each; adds to d_inputs those of the inputs."""
        return self.kernel.pullback(blocks, inputs, d_target, d_inputs)

    def _multiples(self, blocks: Blocks, inputs: Sequence[Vector]) -> tuple:
        """What to add: a vector, with factors for its blocks."""
        ends, (first, *others) = blocks
        return self.kernel.forward(Blocks(ends, others), inputs), first, ends


Operation = Decay | Add
Program = tuple[Operation, ...]
