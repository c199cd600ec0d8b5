"""Update rules of the outer loop, in today's conventions: plain steps, momentum, RMSprop, Adam.

Each is a frozen set of options with two methods: `init(x)` makes a state, `step(x, g, state)` returns the next x
and state, new arrays.  (The functions in optimizers.py are those of 2015, with its conventions.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["METHODS", "Adam", "Gradient", "MetaOptimizer", "Momentum", "RMSprop"]

Vector = NDArray[np.float64]


class State(NamedTuple):
    """Number of steps taken, velocity or first moment, second moment."""

    count: int
    first: Vector
    second: Vector


class MetaOptimizer(Protocol):
    """An update rule."""

    def init(self, x: Vector) -> State:
        """The state before the first step."""

    def step(self, x: Vector, g: Vector, state: State) -> tuple[Vector, State]:
        """The next point and state, given the gradient at x."""


class _Base:
    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            below = 1.0 if name in ("momentum", "decay", "beta1", "beta2") else np.inf
            if not 0.0 <= value < below or (value == 0.0 and name in ("learning_rate", "eps")):
                raise ValueError(
                    f"{name} of {type(self).__name__} must be above 0 and below {below:g}, got {value}"
                )

    def init(self, x: Vector) -> State:
        """All zeros."""
        return State(0, np.zeros_like(x), np.zeros_like(x))


@dataclass(frozen=True)
class Gradient(_Base):
    """x <- x - learning_rate * g."""

    learning_rate: float = 0.1

    def step(self, x: Vector, g: Vector, state: State) -> tuple[Vector, State]:
        """The next point and state."""
        return x - self.learning_rate * g, state._replace(count=state.count + 1)


@dataclass(frozen=True)
class Momentum(_Base):
    """v <- momentum * v + g;  x <- x - learning_rate * v, as torch.optim.SGD has it."""

    learning_rate: float = 0.1
    momentum: float = 0.9

    def step(self, x: Vector, g: Vector, state: State) -> tuple[Vector, State]:
        """The next point and state."""
        v = self.momentum * state.first + g
        return x - self.learning_rate * v, State(state.count + 1, v, state.second)


@dataclass(frozen=True)
class RMSprop(_Base):
    """u <- decay * u + (1 - decay) * g**2;  x <- x - learning_rate * g / (sqrt(u) + eps), as torch.optim has it."""

    learning_rate: float = 0.01
    decay: float = 0.9
    eps: float = 1e-8

    def step(self, x: Vector, g: Vector, state: State) -> tuple[Vector, State]:
        """The next point and state."""
        u = self.decay * state.second + (1.0 - self.decay) * g**2
        return x - self.learning_rate * g / (np.sqrt(u) + self.eps), State(state.count + 1, state.first, u)


@dataclass(frozen=True)
class Adam(_Base):
    """Adam with bias correction (Kingma and Ba 2015, Algorithm 1)."""

    learning_rate: float = 0.04
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def step(self, x: Vector, g: Vector, state: State) -> tuple[Vector, State]:
        """The next point and state."""
        count = state.count + 1
        m = self.beta1 * state.first + (1.0 - self.beta1) * g
        u = self.beta2 * state.second + (1.0 - self.beta2) * g**2
        corrected_m, corrected_u = m / (1.0 - self.beta1**count), u / (1.0 - self.beta2**count)
        return x - self.learning_rate * corrected_m / (np.sqrt(corrected_u) + self.eps), State(count, m, u)


METHODS = {"gradient": Gradient, "momentum": Momentum, "rmsprop": RMSprop, "adam": Adam}
