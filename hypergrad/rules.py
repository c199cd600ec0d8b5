"""Update rules, each a short program of reversible operations.

A rule has its hyperparameters as fields.  Each may be a scalar, an array of one value per step, or a tree of
those that matches the weights or a prefix of them (one value per layer, say).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from hypergrad.differentiation import rounded_factor
from hypergrad.operations import Add, Decay, Program

__all__ = ["Momentum", "Rule"]

Schedule = Callable[[Any, str], Any]


class Rule(Protocol):
    """What the engine asks of an update rule."""

    program: Program  # the operations of one step, in order
    states: Mapping[str, str]  # name in the program -> name in messages, of every state but the weights "w"
    radix_bits: Mapping[str, int]  # resolution 2**-radix_bits, range +-2**(63 - radix_bits); 52 for others

    def initial(self) -> Mapping[str, Any]:
        """The initial value of each state: a tree like the weights, or None for zeros."""

    def coefficients(self, schedule: Schedule, num_steps: int) -> Mapping[str, Any]:
        """The coefficients that the program names, each of shape (1 or num_steps, 1 or number of leaves).

        schedule(value, name) brings a hyperparameter to that shape; what follows is written with
        autograd.numpy.  The factor of a `Decay` goes through `rounded_factor`.
        """


@dataclass(frozen=True)
class Momentum:
    """Stochastic gradient descent with momentum, in the convention of the paper (with 1 - decay).

        v <- decay * v - (1 - decay) * g;    w <- w + step_size * v

    step_size: alpha, in units of weights per unit of gradient.
    decay: gamma, 2**-25 < gamma, applied as the nearest multiple of 2**-24; at 1 the velocity never changes.
    velocity: the initial v, a tree like the weights; zero by default.

    Algorithm 1 as printed moves by the old velocity; Algorithm 2 and the 2015 package use the new one, and so
    do we.  Source: Maclaurin et al. 2015, Algorithm 1.
    """

    step_size: Any
    decay: Any
    velocity: Any = None

    states: ClassVar[Mapping[str, str]] = {"v": "velocity"}
    radix_bits: ClassVar[Mapping[str, int]] = {}
    program: ClassVar[Program] = (
        Decay("v", "decay"),
        Add("v", ("decay - 1",), ("g",)),
        Add("w", ("step_size",), ("v",)),
    )

    def initial(self) -> Mapping[str, Any]:
        """The initial velocity."""
        return {"v": self.velocity}

    def coefficients(self, schedule: Schedule, num_steps: int) -> Mapping[str, Any]:
        """The decay as it is really applied, so that what runs is exactly momentum at that decay."""
        decay = rounded_factor(schedule(self.decay, "decay"))
        return {
            "decay": decay,
            "decay - 1": decay - 1.0,
            "step_size": schedule(self.step_size, "step_size"),
        }
