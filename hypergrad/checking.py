"""Is a hypergradient right?  Comparison with finite differences, hyperparameter by hyperparameter.

hypergrad.check_hypergradient(validation_loss, hypers)      # raises HypergradientError, with a table, if not
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from autograd import value_and_grad
from numpy.typing import NDArray

from hypergrad.trees import Layout

__all__ = ["HypergradientCheck", "HypergradientError", "LeafCheck", "check_hypergradient"]

STEPS = tuple(2.0**-k for k in (4, 6, 8, 10, 12, 14, 16))  # multiples of the decays' lattice, 2**-24
TINY = 2.0**-36  # moves no decay off its multiple of 2**-24, but every other hyperparameter
NUM_NEAR = 10  # points from which the noise of the objective is estimated
NEGLIGIBLE = 1e-5  # share of the objective: a derivative uncertain by no more need not be known to a tenth
Vector = NDArray[np.float64]


class HypergradientError(AssertionError):
    """A hypergradient disagrees with finite differences.  check: the whole comparison."""

    def __init__(self, check: HypergradientCheck) -> None:
        wrong = [leaf.name for leaf in check.leaves if leaf.verdict == "wrong"]
        super().__init__(f"the hypergradient is wrong for {', '.join(wrong)}\n{check}")
        self.check = check


class LeafCheck(NamedTuple):
    """The comparison for one leaf of the hyperparameters, along the direction where it fits worst.

    analytic: the derivative along the direction, from the hypergradient.  numeric: from finite differences, with
    `uncertainty`, an estimate of its error, and the smaller `step` of those it was extrapolated from.
    on_lattice: whether the objective is a step function of this leaf (decays are multiples of 2**-24).
    verdict: "right", "wrong", or "unclear", where differences do not settle well enough to tell.
    """

    name: str
    analytic: float
    numeric: float
    uncertainty: float
    step: float
    on_lattice: bool
    verdict: str

    @property
    def error(self) -> float:
        """|analytic - numeric|, relative to the larger of the two; 0 where both are."""
        largest = max(abs(self.analytic), abs(self.numeric))
        return abs(self.analytic - self.numeric) / largest if largest else 0.0


class HypergradientCheck(NamedTuple):
    """The comparison for all leaves, in order; prints as a table."""

    leaves: tuple[LeafCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether every leaf was found right."""
        return all(leaf.verdict == "right" for leaf in self.leaves)

    def __str__(self) -> str:
        width = max(len(leaf.name) for leaf in self.leaves)
        lines = [f"{'':{width}}  {'analytic':>12} {'differences':>12} {'+-':>8} {'error':>8} {'step':>8}"]
        for leaf in self.leaves:
            note = "  (decays: multiples of 2**-24)" if leaf.on_lattice else ""
            lines.append(
                f"{leaf.name:{width}}  {leaf.analytic:12.5g} {leaf.numeric:12.5g} {leaf.uncertainty:8.1g} "
                f"{leaf.error:8.1g} {leaf.step:8.1g}  {leaf.verdict}{note}"
            )
        return "\n".join(lines)


def check_hypergradient(
    f: Callable[[Any], Any],
    hypers: Any,
    *,
    gradient: Any = None,
    directions: int = 2,
    steps: Sequence[float] = STEPS,
    rtol: float = 1e-4,
    seed: int = 0,
) -> HypergradientCheck:
    """Compare the hypergradient of f with finite differences, leaf by leaf.

    Each leaf is moved along random directions of entries +-1, by +-step for every step.  Central differences are
    extrapolated to step 0, from the two steps where that is least uncertain.  How uncertain that is depends on the
    noise of f along the direction, estimated from how far f is off a parabola.  For a decay it is mostly that of
    the lattice: decays are applied as multiples of 2**-24, so that f is a staircase.

    f(hypers): a float, differentiable by autograd; the same for the same hypers.
    hypers: a tree of float arrays, or one array.
    gradient: the hypergradient to check, a tree like hypers; that of autograd by default.
    directions: how many for each leaf.  steps: the steps, in units of the hyperparameter.  A step at which f raises
        ValueError or ArithmeticError is left out.
    rtol: the error allowed, relative to the derivative along the direction, besides twice the uncertainty.
    seed: of the directions.

    Returns the comparison.  Leaves are "unclear" where the uncertainty is more than a tenth of the derivative (and
    of 1e-5 of f itself): on the chaotic side of figure 10, or where steps are too small for the lattice of decays.
    They raise nothing; look at `passed`.
    Raises HypergradientError (an AssertionError), with a table, where a leaf is wrong; ValueError where f is not
    the same when called again, or not finite, and for fewer than two steps.
    Calls f 2 * len(steps) + 12 times for each direction and leaf, a few times more for decays very close to 1, and
    twice besides.
    """
    if len(steps) < 2 or not all(step > 0 for step in steps):
        raise ValueError(f"steps must be two or more numbers above 0, got {steps!r}")
    if directions < 1:
        raise ValueError(f"directions must be 1 or more, got {directions}")
    layout = Layout(hypers, "hypers")
    point = np.array(layout.flatten(hypers))

    def objective(vector: Any) -> Any:
        return f(layout.unflatten(vector))

    if gradient is None:
        value, slope = value_and_grad(objective)(point)
    else:
        value, slope = objective(point), layout.flatten(gradient, "gradient")
    value, again = float(value), float(objective(point))
    if not math.isfinite(value):
        raise ValueError(f"f is {value} at the hyperparameters to check")
    if value != again:
        raise ValueError(
            f"f must be the same for the same hyperparameters, got {value!r} and then {again!r}: seed its random "
            "numbers by the iteration"
        )
    random = np.random.default_rng(seed)
    compare = _Comparison(objective, point, slope, sorted(steps, reverse=True), rtol, value, random)
    leaves = []
    for name, part in zip(layout.paths, layout.slices, strict=True):
        checks = []
        for _ in range(directions):
            direction = np.zeros(layout.size)
            direction[part] = random.choice([-1.0, 1.0], part.stop - part.start)
            checks.append(compare(direction, name))
        order = ("wrong", "unclear", "right")
        leaves.append(min(checks, key=lambda check: (order.index(check.verdict), -check.error)))
    check = HypergradientCheck(tuple(leaves))
    if any(leaf.verdict == "wrong" for leaf in leaves):
        raise HypergradientError(check)
    return check


class _Comparison(NamedTuple):
    """What the comparisons along all directions share; see `check_hypergradient`."""

    objective: Callable[[Vector], Any]
    point: Vector
    slope: Vector
    steps: Sequence[float]
    rtol: float
    value: float
    random: np.random.Generator

    def __call__(self, direction: Vector, name: str) -> LeafCheck:
        analytic = float(self.slope @ direction)
        differences = [(step, self._difference(direction, step)) for step in self.steps]
        moves = any(difference != 0.0 for _, difference in differences)
        on_lattice = moves and self._difference(direction, TINY) == 0.0
        noise = self._noise(direction) if moves else self._noise_of_a_stair(direction)
        numeric, uncertainty, step = min(_extrapolations(differences, noise), key=lambda triple: triple[1])
        if not uncertainty <= max(0.1 * abs(numeric), NEGLIGIBLE * abs(self.value)):
            verdict = "unclear"
        elif abs(analytic - numeric) <= self.rtol * max(abs(analytic), abs(numeric)) + 2 * uncertainty:
            verdict = "right"
        else:
            verdict = "wrong"
        return LeafCheck(name, analytic, numeric, uncertainty, step, on_lattice, verdict)

    def _noise_of_a_stair(self, direction: Vector) -> float:
        """Where nothing moves at the steps asked for: infinite if that is for the lattice, else 0."""
        further_off = (abs(self._difference(direction, step)) for step in STEPS)
        return math.inf if any(difference > 0.0 for difference in further_off) else 0.0  # NaN is not above 0

    def _difference(self, direction: Vector, step: float) -> float:
        return (self._at(direction, step) - self._at(direction, -step)) / (2 * step)

    def _at(self, direction: Vector, shift: float) -> float:
        try:
            return float(self.objective(self.point + shift * direction))
        except (ValueError, ArithmeticError):  # out of a hyperparameter's domain, or of that of training
            return math.nan

    def _noise(self, direction: Vector) -> float:
        """How far the objective may be off a smooth function: off a parabola, in the nearest window that tells.

        There are two sources.  Multiplying leaves digits of the buffer in the velocity, a few 1e-9 a step; and
        decays go from multiple to multiple of 2**-24.  A window of a stair or two does not tell: there, the
        objective takes few values only.
        """
        for window in reversed(self.steps):
            shifts = self.random.uniform(-1.0, 1.0, NUM_NEAR)
            values = np.array([self._at(direction, window * shift) for shift in shifts])
            if not np.all(np.isfinite(values)):
                break
            if len(set(values)) > NUM_NEAR // 2:
                parabola = np.polynomial.Polynomial.fit(shifts, values, 2)
                off = np.abs(values - parabola(shifts))
                spread = math.sqrt(3 * np.sum(off**2) / (NUM_NEAR - 3))  # half the width, if spread evenly
                return max(spread, float(np.max(off)))
        return math.inf


def _extrapolations(
    differences: Sequence[tuple[float, float]], noise: float
) -> Iterator[tuple[float, float, float]]:
    """(value at step 0, its uncertainty, the smaller step), from every two neighbouring steps.

    Central differences are off by a multiple of step**2, which Richardson's extrapolation removes, and by noise /
    step.  The uncertainty is the change by the extrapolation, or since the last one if that is larger, and noise.
    """
    finite = [(step, value) for step, value in differences if math.isfinite(value)]
    yield math.nan, math.inf, math.nan
    last = None
    for (large, at_large), (small, at_small) in pairwise(finite):
        change = (at_small - at_large) / ((large / small) ** 2 - 1.0)
        value = at_small + change
        if last is not None or len(finite) == 2:
            since = 0.0 if last is None else abs(value - last)
            yield value, max(abs(change), since) + noise / small, small
        last = value
