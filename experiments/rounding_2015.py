"""Training with the rounding of the 2015 package: what its published digits need.

That package multiplied the velocity by the next multiple of 2^-16 above the decay, 0.990005 for 0.99, while
1 - decay kept its value, and so did the decay in the derivative of the product. All else is as in `hypergrad`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import autograd.numpy as np
from autograd import grad
from autograd.extend import defvjp, primitive

import hypergrad as hg
from hypergrad.differentiation import value_of
from hypergrad.reversible import Step


@primitive
def decayed(velocity: np.ndarray, decay: float) -> np.ndarray:
    """Return the velocity times the next multiple of 2^-16 above the decay, which is below 1."""
    return velocity * ((np.floor(decay * 2.0**16) + 1) / 2.0**16)


defvjp(
    decayed,
    lambda ans, velocity, decay: lambda g: g * decay,
    lambda ans, velocity, decay: lambda g: np.sum(g * velocity),
)


def train(
    loss: Callable[[np.ndarray, Any, int], np.ndarray],
    weights: np.ndarray,
    rule: hg.Momentum,
    num_steps: int,
    theta: Any = None,
    callback: Callable[[Step], None] | None = None,
) -> np.ndarray:
    """Return the trained weights, as `hypergrad.train` does, but in floats and with that rounding.

    weights: one array. rule: its step size and decay are scalars or schedules, below 1; it starts at rest.
    autograd keeps every step.
    """
    step_sizes, decays = (value * np.ones(num_steps) for value in (rule.step_size, rule.decay))
    velocity = np.zeros(np.shape(weights))
    for t in range(num_steps):
        gradient = grad(loss)(weights, theta, t)
        if callback is not None:
            callback(Step(t, value_of(weights), {"v": value_of(velocity)}, value_of(gradient)))
        velocity = decayed(velocity, decays[t]) - (1 - decays[t]) * gradient
        weights = weights + step_sizes[t] * velocity
    return weights
