"""Update rules, each a short program of reversible operations.

A rule has its hyperparameters as fields.  Each may be a scalar, an array of one value per step, or a tree of
those that matches the weights or a prefix of them (one value per layer, say).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from hypergrad.arguments import check_number
from hypergrad.differentiation import rounded_factor
from hypergrad.exact_rep import Precision
from hypergrad.operations import Add, Decay, Program

__all__ = ["HeavyBall", "Momentum", "Nesterov", "Rule", "Schedule"]

Schedule = Callable[
    ..., Any
]  # of (value, name), and of the number of steps before the first, if there are some

ONE = np.ones((1, 1))
LEAK = 2.0**-24  # the least factor that leaves a trace of what it multiplies


RULE_PROVIDES = ("program", "states", "initial", "coefficients", "precisions", "units", "advice")

OTHER_NAMES = {  # that other libraries have, for hyperparameters of ours, and for rules
    "lr": ("step_size",),
    "learning_rate": ("step_size",),
    "momentum": ("decay", "beta1"),
    "mass": ("decay", "momentum"),
    "mu": ("momentum", "decay"),
    "rho": ("decay",),
    "betas": ("beta1", "beta2"),
    "b1": ("beta1",),
    "b2": ("beta2",),
    "eps": ("epsilon",),
}
OTHER_RULES = {"nesterov": "hypergrad.Nesterov", "weight_decay": "hypergrad.AdamW"}


class Rule(Protocol):
    """What the engine asks of an update rule."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Raise TypeError for keywords that the rule does not have, with those that it has."""
        names = [each.name for each in fields(cls)] if is_dataclass(cls) else list(kwargs)
        for name in kwargs:
            if name in names:
                continue
            ours = [each for each in OTHER_NAMES.get(name, ()) if each in names]
            hint = f": here it is {' and '.join(ours)}" if ours else ""
            hint = f": that is {OTHER_RULES[name]}" if name in OTHER_RULES else hint
            raise TypeError(f"{cls.__name__} has no argument {name}{hint}; it takes {', '.join(names)}")
        return super().__new__(cls)

    program: Program  # the operations of one step, in order
    states: Mapping[str, str]  # name in the program -> name in messages, of every state but the weights "w"

    def precisions(self, largest_gradient: Callable[[], float]) -> Mapping[str, Precision]:
        """By state, how finely it is kept; `Precision()` for those left out.

        largest_gradient(): the largest |entry| of the gradient at the initial weights.
        """
        return {}

    def advice(self, state: str, too_small: bool = False) -> str:
        """What to do where a state leaves its range, or is too small for its resolution."""
        return "lower the step size, or rescale the problem"

    def initial(self) -> Mapping[str, Any]:
        """The initial value of each state: a tree like the weights, or None for zeros."""

    def coefficients(self, schedule: Schedule, num_steps: int) -> Mapping[str, Any]:
        """The coefficients that the program names, each of shape (1 or num_steps, 1 or number of leaves).

        schedule(value, name) brings a hyperparameter to that shape; what follows is written with
        autograd.numpy.  The factor of a `Decay` goes through `rounded_factor`.
        """

    def units(self, schedule: Schedule, num_steps: int) -> Mapping[str, Any]:
        """By state, what its numbers after each step are counted in, (num_steps, 1 or number of leaves).

        One for those left out, and for all before the first step.
        """
        return {}


class VelocityRule(Rule, Protocol):
    """What the rules with a velocity share: how finely it is kept."""

    max_velocity: float | None

    def __post_init__(self) -> None:
        if self.max_velocity is None:
            return
        check_number(self.max_velocity, "max_velocity")
        if not 2.0**-20 < self.max_velocity < 2048.0:
            raise ValueError(
                f"max_velocity must be above 2**-20 and below 2048, or None, got {self.max_velocity!r}"
            )

    def precisions(self, largest_gradient: Callable[[], float]) -> Mapping[str, Precision]:
        """As fine as leaves room for max_velocity."""
        if self.max_velocity is None:
            return {}
        return dict.fromkeys(self.states, Precision(63 - (math.floor(math.log2(self.max_velocity)) + 1)))

    def advice(self, state: str, too_small: bool = False) -> str:
        """To make room, where there is less than by default."""
        if self.max_velocity is not None and state in self.states:
            return f"set max_velocity, here {self.max_velocity:g}, to more than the velocity will reach"
        return super().advice(state)


@dataclass(frozen=True)
class Momentum(VelocityRule):
    """Stochastic gradient descent with momentum, in the convention of the paper (with 1 - decay).

        v <- decay * v - (1 - decay) * g;    w <- w + step_size * v

    step_size: alpha, in units of weights per unit of gradient.
    decay: gamma, 2**-25 < gamma, applied as the nearest multiple of 2**-24; at 1 the velocity never changes.
    velocity: the initial v, a tree like the weights; zero by default.
    max_velocity: how large an entry of v may become, below 2048, the default.  Multiplying leaves digits of the
        buffer in the low bits of v, noise of max_velocity * 2**-39: with 32, a 64th of that of the default.

    Algorithm 1 as printed moves by the old velocity; Algorithm 2 and the 2015 package use the new one, and so
    do we.  Source: Maclaurin et al. 2015, Algorithm 1.
    """

    step_size: Any
    decay: Any
    velocity: Any = None
    max_velocity: float | None = None

    states: ClassVar[Mapping[str, str]] = {"v": "velocity"}
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


@dataclass(frozen=True)
class HeavyBall(VelocityRule):
    """Stochastic gradient descent with momentum, in the convention of today's libraries (no 1 - momentum).

        v <- momentum * v + g;    w <- w - step_size * v

    The same as `Momentum` with step size step_size / (1 - momentum), as long as neither changes over time.

    step_size, velocity, max_velocity: as for `Momentum`.
    momentum: mu, 2**-25 < mu, applied as the nearest multiple of 2**-24.

    Source: Polyak 1964; `momentum` of torch.optim.SGD, decay of optax.trace.
    """

    step_size: Any
    momentum: Any
    velocity: Any = None
    max_velocity: float | None = None

    states: ClassVar[Mapping[str, str]] = {"v": "velocity"}
    program: ClassVar[Program] = (
        Decay("v", "momentum"),
        Add("v", ("1",), ("g",)),
        Add("w", ("-step_size",), ("v",)),
    )

    def initial(self) -> Mapping[str, Any]:
        """The initial velocity."""
        return {"v": self.velocity}

    def coefficients(self, schedule: Schedule, num_steps: int) -> Mapping[str, Any]:
        """The momentum as it is really applied."""
        return {
            "momentum": rounded_factor(schedule(self.momentum, "momentum")),
            "1": ONE,
            "-step_size": -schedule(self.step_size, "step_size"),
        }


@dataclass(frozen=True)
class Nesterov(VelocityRule):
    """Stochastic gradient descent with Nesterov's momentum, by way of a state that holds the last gradient.

        q <- leak * q + g;    v <- momentum * v + g;    w <- w - step_size * (q + momentum * v)

    With leak = 0 this is Nesterov's momentum as today's libraries have it (torch.optim.SGD with nesterov=True).
    But then w moves by the gradient at w itself: the factor by which a step shrinks volumes of (w, v) is
    momentum**N det(1 - step_size * Hessian), which depends on w, whereas that of any sequence of reversible
    operations is the product of its decays.  So no such sequence on (w, v) alone is this step, and going back
    means to solve w + step_size * g(w) = ... for w.  What a gradient step forgets must be kept instead: q does,
    and its decay by `leak` moves log2(1 / leak) bits per weight and step into the buffer.

    step_size, momentum, velocity: as for `HeavyBall`.  max_velocity: as for `Momentum`, for q as well.
    leak: the share of the last but one gradient in q, 2**-25 < leak.  At the default, 2**-24, the update is
        the standard one but for 6e-8 of the last gradient, and takes 24 bits per weight and step (a stored
        copy: 64), besides those of the momentum.  At 2**-10 it is off by 0.1 % of the last gradient, for 10 bits.

    Source: Nesterov 1983, in the form of Sutskever et al. 2013, section 2, at the look-ahead weights.
    """

    step_size: Any
    momentum: Any
    velocity: Any = None
    leak: Any = LEAK
    max_velocity: float | None = None

    states: ClassVar[Mapping[str, str]] = {"q": "last gradient", "v": "velocity"}
    program: ClassVar[Program] = (
        Decay("q", "leak"),
        Add("q", ("1",), ("g",)),
        Decay("v", "momentum"),
        Add("v", ("1",), ("g",)),
        Add("w", ("-step_size",), ("q",)),
        Add("w", ("-step_size * momentum",), ("v",)),
    )

    def initial(self) -> Mapping[str, Any]:
        """No last gradient, and the initial velocity."""
        return {"q": None, "v": self.velocity}

    def coefficients(self, schedule: Schedule, num_steps: int) -> Mapping[str, Any]:
        """The momentum as it is really applied."""
        step_size = schedule(self.step_size, "step_size")
        momentum = rounded_factor(schedule(self.momentum, "momentum"))
        return {
            "leak": rounded_factor(schedule(self.leak, "leak")),
            "1": ONE,
            "momentum": momentum,
            "-step_size": -step_size,
            "-step_size * momentum": -step_size * momentum,
        }
