"""The two reversible operations that training steps are made of, each with its inverse and its adjoint.

    Decay(s, c)            s <- s * c          the remainder goes into the information buffer
    Add(s, f, ...)         s <- s + f(...)     f reads other states, coefficients and the gradient g, never s

Both act on the numbers of a state, those of an `ExactRep`, block by block: `blocks` lists the parts of the vectors
that share coefficients, as (slice, coefficients), with one entry where all do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hypergrad.exact_rep import BitStore, as_ratio

__all__ = ["Add", "Blocks", "Decay", "Kernel", "Numbers", "Operation", "Program", "Scaled", "Vector"]

Vector = NDArray[np.float64]
Blocks = Sequence[tuple[slice, Sequence[float]]]


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

    def add_units(self, units: Vector) -> Any:
        """Add units * 2**-radix_bits."""

    def sub_units(self, units: Vector) -> Any:
        """Subtract units * 2**-radix_bits."""

    def rational_mul_blocks(self, ratios: Sequence[tuple]) -> Any:
        """Multiply block j by ratios[j] = (n, d)."""


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

    def forward(self, state: Numbers, blocks: Blocks, inputs: Sequence[Vector]) -> None:
        """Multiply."""
        state.rational_mul_blocks([as_ratio(factor) for _, (factor,) in blocks])

    def inverse(self, state: Numbers, blocks: Blocks, inputs: Sequence[Vector]) -> None:
        """Divide, taking the remainder back."""
        state.rational_mul_blocks([as_ratio(factor)[::-1] for _, (factor,) in blocks])

    def adjoint(
        self, coefficients: Sequence[float], inputs: Sequence[Vector], d_target: Vector
    ) -> tuple[Sequence[float], Sequence[Vector]]:
        """(d_factor, nothing); changes d_target.  inputs: the target before, or none if d_factor is not wanted."""
        d_factor = [np.einsum("i,i", d_target, before) for before in inputs]
        d_target *= coefficients[0]
        return d_factor, ()


class Kernel(Protocol):
    """A function of coefficients (numbers) and vectors, element by element, with its derivative.

    It is proportional to the first of its coefficients, so that this can take the unit of the result.
    """

    def forward(
        self, coefficients: Sequence[float], inputs: Sequence[Vector], out: Vector | None = None
    ) -> Vector:
        """The value, in `out` or a new array: the same bits for the same arguments.  Must not change the inputs."""

    def pullback(
        self, coefficients: Sequence[float], inputs: Sequence[Vector], cotangent: Vector
    ) -> tuple[Sequence[float], Sequence[Vector]]:
        """The cotangents of the coefficients and of the inputs."""


class Scaled:
    """The kernel c * x."""

    def forward(
        self, coefficients: Sequence[float], inputs: Sequence[Vector], out: Vector | None = None
    ) -> Vector:
        """c * x."""
        return np.multiply(inputs[0], coefficients[0], out=out)

    def pullback(
        self, coefficients: Sequence[float], inputs: Sequence[Vector], cotangent: Vector
    ) -> tuple[Sequence[float], Sequence[Vector]]:
        """(<cotangent, x>, c * cotangent)."""
        return (np.einsum("i,i", cotangent, inputs[0]),), (coefficients[0] * cotangent,)


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

    def forward(self, state: Numbers, blocks: Blocks, inputs: Sequence[Vector]) -> None:
        """Add."""
        state.add_units(self._change(state, blocks, inputs))

    def inverse(self, state: Numbers, blocks: Blocks, inputs: Sequence[Vector]) -> None:
        """Subtract the same."""
        state.sub_units(self._change(state, blocks, inputs))

    def adjoint(
        self, coefficients: Sequence[float], inputs: Sequence[Vector], d_target: Vector
    ) -> tuple[Sequence[float], Sequence[Vector]]:
        """(d_coefficients, d_inputs)."""
        return self.kernel.pullback(coefficients, inputs, d_target)

    def _change(self, state: Numbers, blocks: Blocks, inputs: Sequence[Vector]) -> Vector:
        """What to add, in units of 2**-radix_bits."""
        change, unit = np.empty(blocks[-1][0].stop), 2.0**state.radix_bits
        with np.errstate(over="ignore"):  # out of range is what it then is
            for part, (first, *others) in blocks:
                self.kernel.forward((first * unit, *others), [x[part] for x in inputs], out=change[part])
        return change


Operation = Decay | Add
Program = tuple[Operation, ...]
