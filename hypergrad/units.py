"""Units that decay: how a running mean of any size is kept in fixed point without loss.

A factor that isn't a power of two replaces up to 24 of the low bits of a fixed-point number by digits from the
buffer (Algorithm 3): noise of 2**-28 per step at the usual radix.  Beside a weight or a velocity that is little.
The mean square of gradients of 1e-6 would drown in it.  Nor can such a factor be applied to numbers of two words
(wide_rep.py), which those means need.

So a running mean x <- b * x + (1 - b) * y is kept as a stored number X and a unit, x = unit * X.  The unit
takes the decay, unit <- b * unit, and each time it passes 1/2 it is doubled and X is halved, which pushes one
bit into the buffer:

    X <- halving * X + (1 - b) / unit * y        halving: 1, or now and then a power of two below

On average the buffer grows by log2(1 / b) bits per step, as before, but a halving moves X by less than its last
bit, and b need not be rounded.  The units depend on the decays alone and are known before training.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import autograd.numpy as np
import numpy as onp

from hypergrad.differentiation import value_of
from hypergrad.exact_rep import MOST_BITS_AT_ONCE

__all__ = ["LEAST_DECAY", "MeanUnits", "mean_units"]

LEAST_DECAY = 2.0**-24  # `Decay` takes no power of two below 2**-24


class MeanUnits(NamedTuple):
    """The units of a running mean at every step, each of shape (num_steps, 1 or number of leaves).

    halving: the factor on the stored numbers, a power of two, of no consequence to derivatives.
    gain: (1 - decay) / unit, the factor on what is averaged: stored <- halving * stored + gain * y.
    unit: what the mean is counted in after that: mean = unit * stored.
    corrected: the same for the mean corrected for a start at zero, mean / (1 - product of the decays so far).
    """

    halving: onp.ndarray
    gain: Any
    unit: Any
    corrected: Any


def mean_units(decay: Any, num_steps: int, starts_at_zero: bool, first_step: int = 0) -> MeanUnits:
    """The units of x <- decay * x + (1 - decay) * y; differentiable.

    decay: shape (1 or first_step + num_steps, 1 or number of leaves), LEAST_DECAY <= decay < 1.
    starts_at_zero: whether x is zero before the first step, in whatever unit.  Then `corrected` is what stays in
        (1/2, 1]: the corrected mean lies within the range of y from the first step on, and with it the stored
        numbers, whereas x itself starts low in it, at (1 - decay) * y.  If not, it is `unit`, 1 at the start.
    first_step: steps done before, whose decays count in the correction alone.
    """
    logs = np.log2(decay)
    if len(logs) == 1:
        log_before = first_step * logs[0]
    else:
        log_before, logs, decay = np.sum(logs[:first_step], axis=0), logs[first_step:], decay[first_step:]
    log_product = np.cumsum(logs * onp.ones((num_steps, 1)), axis=0)
    correction = -np.expm1(math.log(2.0) * (log_before + log_product))
    size = onp.array(value_of(log_product - np.log2(correction) if starts_at_zero else log_product))
    doublings = onp.floor(-size)
    start = doublings[:1] if starts_at_zero else onp.zeros_like(doublings[:1])
    halving = onp.exp2(-onp.diff(doublings, axis=0, prepend=start))
    steep = onp.any(halving < 2.0**-MOST_BITS_AT_ONCE, axis=1)
    if steep.any():
        t = int(onp.argmax(steep))
        raise ValueError(
            f"a decay of a running mean falls too far at iteration {t}, to {value_of(decay)[t].min():g}: the mean "
            f"so far would lose more than {MOST_BITS_AT_ONCE} bits at once; let it fall over several iterations"
        )
    unit = np.exp2(log_product + doublings)
    return MeanUnits(halving, (1.0 - decay) / unit, unit, unit / correction)
