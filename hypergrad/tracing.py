"""A trace of the backward pass: what the adjoint does on its way, and whether a gradient still means something.

trace = hypergrad.BackwardTrace()
hypergradient = grad(lambda h: validation_loss(hypergrad.train(..., monitor=trace)))(hypers)
print(trace.summary())
"""

from __future__ import annotations

import math
import warnings
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hypergrad.recoveries import Certificate

if TYPE_CHECKING:
    from hypergrad.reversible import BackwardStep

__all__ = ["AdjointGrowthError", "AdjointGrowthWarning", "BackwardTrace"]

GROWTH_LIMIT = 30.0  # experiments/adjoint_growth.py measures how well this tells the two regimes apart


_active: ContextVar[BackwardTrace | None] = ContextVar("active trace", default=None)


def active_trace() -> BackwardTrace | None:
    """The trace of the `with` block that is being run, if any."""
    return _active.get()


class AdjointGrowthWarning(UserWarning):
    """The adjoint has grown so much that hypergradients hold in a vanishing neighbourhood only."""


class AdjointGrowthError(ArithmeticError):
    """The backward pass was stopped, as the adjoint had grown too much."""


class BackwardTrace:
    """Notes what the backward pass does at every step; to be given to `train` as its monitor.

    The growth of the adjoint is |dw_t|, the norm of the derivative of the objective with respect to the weights
    before iteration t, over the norm of what the outputs of training brought in (|dw_T|, unless `keep` is used).
    Where training forgets where it came from, it stays small.  Where training is chaotic, it grows exponentially:
    hypergradients are then exact but hold in a neighbourhood that shrinks as they grow (section 4 of the paper).

    growth_limit: the growth at which to warn, or stop.
    stop: whether to raise AdjointGrowthError there, so as not to finish a pass that will mean nothing.
    A second backward pass starts the trace afresh.  In a block `with trace:` it is the monitor of every run that
    has none of its own.  Source: Maclaurin et al. 2015, section 4 and figure 10.
    """

    def __init__(self, growth_limit: float = GROWTH_LIMIT, stop: bool = False) -> None:
        if not growth_limit > 0:
            raise ValueError(f"growth_limit must be above 0, got {growth_limit}")
        self.growth_limit, self.stop = growth_limit, stop
        self._tokens: list[Token] = []
        self.certificate: Certificate | None = None  # that the run was reversed bit for bit, once it was
        self._clear()

    def _clear(self) -> None:
        self._iterations: list[int] = []
        self._norms: dict[str, list[float]] = {}
        self._bytes: list[tuple[int, float]] = []
        self._outputs: list[float] = []
        self._growth: list[float] = []
        self._warned = False
        self.certificate = None

    def __enter__(self) -> BackwardTrace:
        self._tokens.append(_active.set(self))
        return self

    def __exit__(self, *_: object) -> None:
        _active.reset(self._tokens.pop())

    def __call__(self, step: BackwardStep) -> None:
        """Note one step.  Warns (AdjointGrowthWarning), once in a pass, or raises AdjointGrowthError."""
        if self._iterations and step.iteration >= self._iterations[-1]:
            self._clear()
        self._iterations.append(step.iteration)
        self._outputs.append(step.outputs)
        self._bytes.append((step.buffer_bytes, step.limit_bytes))
        for name, cotangent in step.cotangents.items():
            with np.errstate(over="ignore"):
                self._norms.setdefault(name, []).append(float(np.linalg.norm(cotangent)))
        self.certificate = step.certificate
        brought_in = math.hypot(*self._outputs)
        self._growth.append(self._norms["w"][-1] / brought_in if brought_in else 0.0)
        if self._growth[-1] > self.growth_limit and not self._warned:
            self._warned = True
            self._object(step.iteration)

    def _object(self, iteration: int) -> None:
        what = (
            f"going back from iteration {self._iterations[0] + 1}, the adjoint has grown "
            f"{self._growth[-1]:.3g}-fold by iteration {iteration} (limit {self.growth_limit:g}): training is "
            "chaotic there, and hypergradients hold for tiny changes of hyperparameters only; lower the step size, "
            "train for fewer steps, or look at the last steps alone with recovery=Truncated(last)"
        )
        if self.stop:
            raise AdjointGrowthError(what)
        warnings.warn(what, AdjointGrowthWarning, stacklevel=2)

    @property
    def iterations(self) -> NDArray[np.int64]:
        """The iterations in the order passed, num_steps - 1 .. 0; everything else is aligned with them."""
        return np.array(self._iterations, np.int64)

    @property
    def norms(self) -> dict[str, NDArray[np.float64]]:
        """By name of state ("w", "v", ...): the norms of its cotangents before each iteration."""
        return {name: np.array(norms) for name, norms in self._norms.items()}

    @property
    def growth(self) -> NDArray[np.float64]:
        """The growth of the adjoint before each iteration, see above; without unit."""
        return np.array(self._growth)

    @property
    def growth_rate(self) -> float:
        """The rate of growth of |dw| per step back: the slope of its logarithm, fitted to all steps.

        Above 0, training is sensitive to where it starts; the number is an estimate of its largest Lyapunov
        exponent.  NaN where there are fewer than two steps with norms that are not 0 or infinite.
        """
        with np.errstate(divide="ignore"):
            logs = np.log(self.norms["w"]) if self._iterations else np.zeros(0)
        fine = np.isfinite(logs)
        if np.sum(fine) < 2:
            return math.nan
        steps_back = np.arange(len(logs))[fine]
        return float(np.polyfit(steps_back, logs[fine], 1)[0])

    @property
    def buffer_bytes(self) -> NDArray[np.int64]:
        """What the information buffers take before each iteration."""
        return np.array([used for used, _ in self._bytes], np.int64)

    @property
    def limit_bytes(self) -> NDArray[np.float64]:
        """What they would take at the entropy limit, log2(1 / decay) bits per number and step."""
        return np.array([limit for _, limit in self._bytes])

    def summary(self) -> str:
        """A few lines: norms at both ends, the growth of the adjoint, the buffers, and the certificate."""
        if not self._iterations:
            return "no backward pass yet"
        first, last = self._iterations[0], self._iterations[-1]
        lines = [f"backward pass from iteration {first + 1} to {last}"]
        lines += [
            f"  |d{name}|: {norms[0]:.4g} after one step back, {norms[-1]:.4g} at the end, at most {max(norms):.4g}"
            for name, norms in self._norms.items()
        ]
        verdict = "beyond" if max(self._growth) > self.growth_limit else "within"
        lines.append(
            f"  growth of the adjoint: {max(self._growth):.4g}, {verdict} the limit of {self.growth_limit:g}; "
            f"{self.growth_rate:+.3g} per step on average (natural logarithm)"
        )
        used, limit = self._bytes[0]
        lines.append(f"  buffers: {used:,} bytes after one step back, {limit:,.0f} at the entropy limit")
        lines.append(f"  {self.certificate or 'no certificate: the recovery compares nothing'}")
        return "\n".join(lines)
