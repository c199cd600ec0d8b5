"""Update rules that divide by the root of a running mean of squared gradients: RMSProp, Adam, AdamW.

As in `rules`, each is a short program of reversible operations, and each hyperparameter may be a scalar, an array
of one value per step, or a tree of those.  The running means are kept in units of their own (`units`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import autograd.numpy as np
import numpy as onp

from hypergrad.arguments import check_number, whole_number
from hypergrad.differentiation import rounded_factor, value_of
from hypergrad.exact_rep import Precision, round_to_lattice
from hypergrad.kernels import NORMALIZED, SQUARED
from hypergrad.operations import Add, Decay, Program
from hypergrad.rules import LEAK, ONE, Rule, Schedule
from hypergrad.trees import Layout
from hypergrad.units import LEAST_DECAY, MeanUnits, mean_units

__all__ = ["Adam", "AdamW", "RMSProp"]

HEADROOM = 2.0**8  # how far gradients may grow over the largest at the start, at least
BITS_BELOW_EPSILON = 24  # of roots of second moments, where that leaves room enough
MOST_BITS = 200  # so that all scales are ordinary floats


@dataclass(frozen=True)
class RMSProp(Rule):
    """Gradients divided by the root of their running mean square.

        u <- decay * u + (1 - decay) * g**2
        v <- momentum * v + g / (sqrt(u) + epsilon);    w <- w - step_size * v

    The velocity has to be there.  Moved by a function of the gradient at w itself, w could not be moved back (see
    `Nesterov`); moved by v, it can: going back, v is known, so w is, hence g, and then v and u of the step before.

    step_size: alpha, in units of the weights.
    decay: rho, at least 2**-24 and below 1.
    epsilon: above 0, in units of the gradient.
    momentum: mu, 2**-25 < mu, applied as the nearest multiple of 2**-24.  At the default, 2**-24, v is the last
        normalized gradient but for 6e-8 of the one before: RMSProp without momentum.  That takes 24 bits per
        weight and step; momentum 0.9 takes 0.15.
    velocity, second_moment: the initial v and u >= 0, trees like the weights; zero by default.
    max_gradient: as for `Adam`.

    Source: Tieleman and Hinton 2012; with momentum Graves 2013, section 4.2; torch.optim.RMSprop.
    """

    step_size: Any
    decay: Any = 0.9
    epsilon: Any = 1e-8
    momentum: Any = LEAK
    velocity: Any = None
    second_moment: Any = None
    max_gradient: float | None = None

    states: ClassVar[Mapping[str, str]] = {"u": "second moment", "v": "velocity"}
    program: ClassVar[Program] = (
        Decay("u", "halving of u"),
        Add("u", ("gain of u",), ("g",), SQUARED),
        Decay("v", "momentum"),
        Add("v", ("1 / unit", "epsilon / unit"), ("g", "u"), NORMALIZED),
        Add("w", ("-step_size",), ("v",)),
    )

    def __post_init__(self) -> None:
        _check_max_gradient(self.max_gradient)

    def precisions(self, largest_gradient: Callable[[], float]) -> Mapping[str, Precision]:
        """As fine as leaves room for max_gradient."""
        return {"u": _precisions(self, largest_gradient, {"u": self.second_moment})["u"]}

    def advice(self, state: str, too_small: bool = False) -> str:
        """For the moments, to give them room."""
        return _advice(self, state, too_small) or Rule.advice(self, state)

    def initial(self) -> Mapping[str, Any]:
        """The initial second moment and velocity."""
        _check_second_moment(self.second_moment)
        return {"u": self.second_moment, "v": self.velocity}

    def coefficients(self, schedule: Schedule, num_steps: int) -> Mapping[str, Any]:
        """Those of g / (unit * (sqrt(U) + epsilon / unit)), with unit**2 that of u = unit**2 * U."""
        _check_epsilon(self.epsilon)
        u = self._units(schedule, num_steps)
        unit = np.sqrt(u.unit)
        return {
            "halving of u": u.halving,
            "gain of u": u.gain,
            "momentum": rounded_factor(schedule(self.momentum, "momentum")),
            "1 / unit": ONE / unit,
            "epsilon / unit": schedule(self.epsilon, "epsilon") / unit,
            "-step_size": -schedule(self.step_size, "step_size"),
        }

    def units(self, schedule: Schedule, num_steps: int) -> Mapping[str, Any]:
        """That of the second moment."""
        return {"u": self._units(schedule, num_steps).unit}

    def _units(self, schedule: Schedule, num_steps: int) -> MeanUnits:
        _check_decay(self.decay, "decay")
        return mean_units(schedule(self.decay, "decay"), num_steps, self.second_moment is None)


@dataclass(frozen=True)
class Adam(Rule):
    """Steps along the running mean of the gradient, divided by the root of that of its square.

        m <- beta1 * m + (1 - beta1) * g;    u <- beta2 * u + (1 - beta2) * g**2
        w <- w - step_size * (m / c1) / (sqrt(u / c2) + epsilon)

    where c1 = 1 - (product of beta1 over the steps so far), that is 1 - beta1**(first_step + t + 1) if it is
    constant, and c2 the same of beta2.

    step_size: alpha, in units of the weights.
    beta1, beta2: at least 2**-24 and below 1.  With beta1 = 0, w would be moved by the gradient at w itself, and
        could not be moved back (see `Nesterov`); 2**-24 comes to the same, at 24 bits per weight and step.
    epsilon: above 0, in units of the gradient.
    first_moment, second_moment: the initial m and u >= 0, trees like the weights; zero by default.
    max_gradient: the moments have room for gradients up to about this size, and raise FixedPointRangeError
        beyond it.  By default 256 times the largest entry of the gradient (and of the initial moments) at the
        start, and 2**36 times epsilon where that is more.  The moments have 123 bits (wide_rep.py): beside a
        float64 Adam, the step is right to 1e-6 of a step size for gradients down to 1e-14 of the largest, and
        however small they are where max_gradient is below 1e12 * epsilon; where it might not be,
        FixedPointRangeError names the entry.
    first_step: how many steps were done before, in a run whose moments this one takes up:

            first = train(loss, w, Adam(0.01), 500, return_state=True)
            m, u = first.state["m"], first.state["u"]
            w = train(lambda w, theta, t: loss(w, theta, t + 500), first.weights,
                      Adam(0.01, first_moment=m, second_moment=u, first_step=500), 500)

        Schedules of beta1 and beta2, if they are any, must then be those of the whole run, (first_step +
        num_steps,), as the corrections depend on all of them.  Derivatives go through the seam.

    Source: Kingma and Ba 2015, Algorithm 1; torch.optim.Adam.
    """

    step_size: Any
    beta1: Any = 0.9
    beta2: Any = 0.999
    epsilon: Any = 1e-8
    first_moment: Any = None
    second_moment: Any = None
    max_gradient: float | None = None
    first_step: int = field(default=0, kw_only=True)

    states: ClassVar[Mapping[str, str]] = {"m": "first moment", "u": "second moment"}
    program: ClassVar[Program] = (
        Decay("m", "halving of m"),
        Add("m", ("gain of m",), ("g",)),
        Decay("u", "halving of u"),
        Add("u", ("gain of u",), ("g",), SQUARED),
        Add("w", ("-step_size / unit", "epsilon / unit"), ("m", "u"), NORMALIZED),
    )

    def __post_init__(self) -> None:
        _check_max_gradient(self.max_gradient)
        whole_number(self.first_step, "first_step", 0)

    def precisions(self, largest_gradient: Callable[[], float]) -> Mapping[str, Precision]:
        """As fine as leaves room for max_gradient."""
        return _precisions(self, largest_gradient, {"m": self.first_moment, "u": self.second_moment})

    def advice(self, state: str, too_small: bool = False) -> str:
        """For the moments, to give them room."""
        return _advice(self, state, too_small) or Rule.advice(self, state)

    def initial(self) -> Mapping[str, Any]:
        """The initial moments."""
        _check_second_moment(self.second_moment)
        return {"m": self.first_moment, "u": self.second_moment}

    def coefficients(self, schedule: Schedule, num_steps: int) -> Mapping[str, Any]:
        """Those of step_size * m / (unit * (sqrt(U) + epsilon / unit)), with unit**2 that of u / c2."""
        _check_epsilon(self.epsilon)
        m, u = self._units(schedule, num_steps)
        unit = np.sqrt(u.corrected)
        return {
            "halving of m": m.halving,
            "gain of m": m.gain,
            "halving of u": u.halving,
            "gain of u": u.gain,
            "-step_size / unit": -schedule(self.step_size, "step_size") * m.corrected / unit,
            "epsilon / unit": schedule(self.epsilon, "epsilon") / unit,
        }

    def units(self, schedule: Schedule, num_steps: int) -> Mapping[str, Any]:
        """Those of both moments."""
        m, u = self._units(schedule, num_steps)
        return {"m": m.unit, "u": u.unit}

    def _units(self, schedule: Schedule, num_steps: int) -> tuple[MeanUnits, MeanUnits]:
        _check_decay(self.beta1, "beta1")
        _check_decay(self.beta2, "beta2")
        before = self.first_step
        return (
            mean_units(schedule(self.beta1, "beta1", before), num_steps, self.first_moment is None, before),
            mean_units(schedule(self.beta2, "beta2", before), num_steps, self.second_moment is None, before),
        )


@dataclass(frozen=True)
class AdamW(Adam):
    """`Adam` with decoupled weight decay: w <- (1 - step_size * weight_decay) * w before w moves.

    weight_decay: lambda, per unit of step size; 0 <= step_size * weight_decay < 1.  The factors are rounded to
        multiples of 2**-24 so that the product of those so far is always right to 2**-24 or so.

    Source: Loshchilov and Hutter 2019, Algorithm 2; torch.optim.AdamW.
    """

    weight_decay: Any = 0.01

    program: ClassVar[Program] = (
        *Adam.program[:-1],
        Decay("w", "1 - step_size * weight_decay"),
        Adam.program[-1],
    )

    def coefficients(self, schedule: Schedule, num_steps: int) -> Mapping[str, Any]:
        """Those of Adam, and the factor on the weights."""
        shrinkage = schedule(self.step_size, "step_size") * schedule(self.weight_decay, "weight_decay")
        factors = (1.0 - shrinkage) * onp.ones((num_steps, 1))
        plain = onp.array(value_of(factors))
        return {
            **super().coefficients(schedule, num_steps),
            "1 - step_size * weight_decay": factors + (_rounded_together(plain) - plain),
        }


def _rounded_together(factors: onp.ndarray) -> onp.ndarray:
    """Multiples of 2**-24 near to these, (num_steps, columns), with products so far as near to the true ones.

    Rounded each by itself, 1 - 1e-6 would be 1 - 1.01e-6 at every step, and 1 - 1e-8 be 1.
    """
    rounded, excess = onp.empty_like(factors), onp.ones(factors.shape[1])
    with onp.errstate(divide="ignore", invalid="ignore"):  # where a factor is 0, which training refuses
        for t, factor in enumerate(factors):
            rounded[t] = round_to_lattice(factor * excess)
            excess = factor * excess / rounded[t]
    return rounded


def _precisions(
    rule: RMSProp | Adam, largest_gradient: Callable[[], float], initial: Mapping[str, Any]
) -> dict[str, Precision]:
    """Those of the moments: with units in (1/2, 1], stored numbers reach twice what they stand for."""
    room = rule.max_gradient
    if room is None:
        sizes = [largest_gradient()]
        for name, value in initial.items():
            size = float(onp.max(onp.abs(_plain(value, rule.states[name])), initial=0.0))
            sizes.append(math.sqrt(size) if name == "u" else size)
        least = float(onp.min(_plain(rule.epsilon, "epsilon"), initial=1.0))
        room = max(HEADROOM * (max(sizes) or 1.0), least * 2.0 ** (61 - BITS_BELOW_EPSILON - 1))
    bits = min(max(math.ceil(math.log2(room)), -MOST_BITS), MOST_BITS)
    return {"m": Precision(122 - bits, 2), "u": Precision(122 - 2 * bits, 2)}


def _advice(rule: RMSProp | Adam, state: str, too_small: bool) -> str | None:
    if not rule.states.get(state, "").endswith("moment"):
        return None
    if too_small:
        return (
            f"set max_gradient, here {rule.max_gradient}, to little more than the largest gradient there will be, "
            "or epsilon to more"
        )
    return f"set max_gradient, here {rule.max_gradient}, to more than the largest gradient there will be"


def _plain(tree: Any, name: str) -> onp.ndarray:
    """The leaves of a tree of numbers, end to end, untraced."""
    tree = float(tree) if isinstance(tree, int) else tree
    return value_of(Layout(tree, name).flatten(tree))


def _check_max_gradient(value: float | None) -> None:
    if value is not None:
        check_number(value, "max_gradient")
    if value is not None and not 0.0 < value < math.inf:
        raise ValueError(f"max_gradient must be a number above 0, or None, got {value!r}")


def _check_decay(value: Any, name: str) -> None:
    _check(value, name, lambda x: (x >= LEAST_DECAY) & (x < 1.0), "at least 2**-24 and below 1")


def _check_epsilon(value: Any) -> None:
    _check(value, "epsilon", lambda x: x > 0.0, "above 0")


def _check_second_moment(value: Any) -> None:
    _check(value, "second_moment", lambda x: x >= 0.0, "0 or more: it is a mean of squares")


def _check(value: Any, name: str, holds: Callable[[onp.ndarray], onp.ndarray], need: str) -> None:
    """Raise ValueError, naming the element of the tree, unless holds(x) for all leaves."""
    value = float(value) if isinstance(value, int) else value
    layout = Layout(value, name)
    flat = value_of(layout.flatten(value))
    if not holds(flat).all():
        index = int(onp.argmin(holds(flat)))
        raise ValueError(f"{layout.locate(index)} must be {need}, got {float(flat[index])!r}")
