"""Exact gradients through a whole training run, by running it backwards bit for bit.

    weights = hypergrad.train(loss, weights, hypergrad.Momentum(step_size, decay), num_steps, theta)

is differentiable by autograd with respect to the initial weights, theta and every hyperparameter of the rule.
"""

from hypergrad.adaptive import Adam, AdamW, RMSProp
from hypergrad.approximate import FloatReversal, Interpolated
from hypergrad.checking import HypergradientCheck, HypergradientError, LeafCheck, check_hypergradient
from hypergrad.checkpoints import Checkpointed, Truncated
from hypergrad.domains import Interval
from hypergrad.exact_rep import BitStore, ExactRep, FixedPointRangeError
from hypergrad.outer_loop import History, MinimizeResult, minimize
from hypergrad.recoveries import (
    Certificate,
    CoefficientRangeError,
    NonFiniteGradientError,
    ReversalError,
    Reversible,
    Stored,
)
from hypergrad.reversible import BackwardStep, Step, Trained, train
from hypergrad.rules import HeavyBall, Momentum, Nesterov
from hypergrad.tracing import AdjointGrowthError, AdjointGrowthWarning, BackwardPass, BackwardTrace
from hypergrad.util import logistic, logit

__all__ = [
    "Adam",
    "AdamW",
    "AdjointGrowthError",
    "AdjointGrowthWarning",
    "BackwardPass",
    "BackwardStep",
    "BackwardTrace",
    "BitStore",
    "Certificate",
    "Checkpointed",
    "CoefficientRangeError",
    "ExactRep",
    "FixedPointRangeError",
    "FloatReversal",
    "HeavyBall",
    "History",
    "HypergradientCheck",
    "HypergradientError",
    "Interpolated",
    "Interval",
    "LeafCheck",
    "MinimizeResult",
    "Momentum",
    "Nesterov",
    "NonFiniteGradientError",
    "RMSProp",
    "ReversalError",
    "Reversible",
    "Step",
    "Stored",
    "Trained",
    "Truncated",
    "check_hypergradient",
    "logistic",
    "logit",
    "minimize",
    "train",
]
__version__ = "0.1.0"
