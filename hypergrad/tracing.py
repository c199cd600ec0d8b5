"""A trace of backward passes: what the adjoint does on its way, and whether a gradient still means something.

trace = hypergrad.BackwardTrace()
hypergradient = grad(lambda h: validation_loss(hypergrad.train(..., monitor=trace)))(hypers)
print(trace.summary())
"""

from __future__ import annotations

import math
import warnings
from array import array
from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hypergrad.recoveries import Certificate

if TYPE_CHECKING:
    from hypergrad.reversible import BackwardStep

__all__ = ["AdjointGrowthError", "AdjointGrowthWarning", "BackwardPass", "BackwardTrace"]

GROWTH_LIMIT = 30.0  # experiments/adjoint_growth.py measures how well this tells the two regimes apart
MOST_SHOWN = 6  # passes in a summary


_active: ContextVar[tuple[BackwardTrace, ...]] = ContextVar("active traces", default=())


def told(monitor: Callable[[BackwardStep], None] | None) -> Callable[[BackwardStep], None] | None:
    """What a run tells of its backward passes: its own monitor, if any, and the traces of all `with` blocks."""
    monitors = [monitor] if monitor is not None else []
    monitors += [trace for trace in _active.get() if trace is not monitor]
    if len(monitors) < 2:
        return monitors[0] if monitors else None

    def tell_all(step: BackwardStep) -> None:
        for each in monitors:
            each(step)

    return tell_all


class AdjointGrowthWarning(UserWarning):
    """The adjoint has grown so much that hypergradients hold in a vanishing neighbourhood only."""


class AdjointGrowthError(ArithmeticError):
    """The backward pass was stopped, as the adjoint had grown too much."""


class BackwardPass:
    """What a `BackwardTrace` noted of one backward pass; all arrays are aligned with `iterations`.

    certificate: that the run was reversed bit for bit, once it was.
    """

    certificate: Certificate | None

    def __init__(self) -> None:
        self._iterations = array("q")
        self._norms: dict[str, array] = {}
        self._used, self._limit, self._growth = array("q"), array("d"), array("d")
        self._brought_in = 0.0
        self.certificate = None

    def note(self, step: BackwardStep) -> float:
        """Note one step.  Returns the growth of the adjoint."""
        self._iterations.append(step.iteration)
        self._used.append(step.buffer_bytes)
        self._limit.append(step.limit_bytes)
        for name, cotangent in step.cotangents.items():
            with np.errstate(over="ignore"):
                self._norms.setdefault(name, array("d")).append(float(np.linalg.norm(cotangent)))
        self.certificate = step.certificate
        self._brought_in = math.hypot(self._brought_in, step.outputs)
        self._growth.append(self._norms["w"][-1] / self._brought_in if self._brought_in else 0.0)
        return self._growth[-1]

    @property
    def iterations(self) -> NDArray[np.int64]:
        """The iterations in the order passed, num_steps - 1 .. 0."""
        return np.array(self._iterations, np.int64)

    @property
    def norms(self) -> dict[str, NDArray[np.float64]]:
        """By name of state ("w", "v", ...): the norms of its cotangents before each iteration."""
        return {name: np.array(norms) for name, norms in self._norms.items()}

    @property
    def growth(self) -> NDArray[np.float64]:
        """The growth of the adjoint before each iteration, see `BackwardTrace`; without unit."""
        return np.array(self._growth)

    @property
    def growth_rate(self) -> float:
        """The rate of growth of |dw| per step back: the slope of its logarithm, fitted to all steps.

        Above 0, training is sensitive to where it starts; the number is an estimate of its largest Lyapunov
        exponent.  NaN where there are fewer than two steps with norms that are not 0 or infinite.
        """
        with np.errstate(divide="ignore"):
            logs = np.log(self.norms["w"])
        fine = np.isfinite(logs)
        if np.sum(fine) < 2:
            return math.nan
        steps_back = np.arange(len(logs))[fine]
        return float(np.polyfit(steps_back, logs[fine], 1)[0])

    @property
    def buffer_bytes(self) -> NDArray[np.int64]:
        """What the information buffers take before each iteration."""
        return np.array(self._used, np.int64)

    @property
    def limit_bytes(self) -> NDArray[np.float64]:
        """What they would take at the entropy limit, log2(1 / decay) bits per number and step."""
        return np.array(self._limit)

    def summary(self, growth_limit: float = GROWTH_LIMIT) -> str:
        """A few lines: norms at both ends, the growth of the adjoint, the buffers, and the certificate."""
        lines = [f"backward pass from iteration {self._iterations[0] + 1} to {self._iterations[-1]}"]
        lines += [
            f"  |d{name}|: {norms[0]:.4g} after one step back, {norms[-1]:.4g} at the end, at most {max(norms):.4g}"
            for name, norms in self._norms.items()
        ]
        largest = float(np.max(self.growth))
        lines.append(
            f"  growth of the adjoint: {largest:.4g}, {'within' if largest <= growth_limit else 'beyond'} the "
            f"limit of {growth_limit:g}; {self.growth_rate:+.3g} per step on average (natural logarithm)"
        )
        lines.append(
            f"  buffers: {self._used[0]:,} bytes after one step back, {self._limit[0]:,.0f} at the entropy limit"
        )
        lines.append(f"  {self.certificate or 'no certificate: the recovery compares nothing'}")
        return "\n".join(lines)


class BackwardTrace:
    """Notes what backward passes do at every step; to be given to `train` as its monitor.

    The growth of the adjoint is |dw_t|, the norm of the derivative of the objective with respect to the weights
    before iteration t, over the norm of what the outputs of training brought in (|dw_T|, unless `keep` is used).
    Where training forgets where it came from, it stays small.  Where training is chaotic, it grows exponentially:
    hypergradients are then exact but hold in a neighbourhood that shrinks as they grow (section 4 of the paper).

    growth_limit: the growth at which to warn, or stop.
    stop: whether to raise AdjointGrowthError there, so as not to finish a pass that will mean nothing.

    An objective may train several times, and be pulled back several times: `passes` has a `BackwardPass` for each,
    in the order they began.  The arrays here run over all of them, one after the other, and are aligned with each
    other, so that the largest growth is that of all runs.  They take some 60 bytes per step; `clear` forgets them.
    In a block `with trace:` every run is traced, whatever its own monitor.
    Source: Maclaurin et al. 2015, section 4 and figure 10.
    """

    def __init__(self, growth_limit: float = GROWTH_LIMIT, stop: bool = False) -> None:
        if not growth_limit > 0:
            raise ValueError(f"growth_limit must be above 0, got {growth_limit}")
        self.growth_limit, self.stop = growth_limit, stop
        self._tokens: list[Token] = []
        self.clear()

    def clear(self) -> None:
        """Forget all passes, so that those of another gradient are told from them."""
        self._passes: dict[object, BackwardPass] = {}  # by what their steps know them by
        self._warned: set[object] = set()

    def __enter__(self) -> BackwardTrace:
        others = (trace for trace in _active.get() if trace is not self)
        self._tokens.append(_active.set((*others, self)))
        return self

    def __exit__(self, *_: object) -> None:
        _active.reset(self._tokens.pop())

    def __call__(self, step: BackwardStep) -> None:
        """Note one step.  Warns (AdjointGrowthWarning), once in a pass, or raises AdjointGrowthError."""
        noted = self._passes.setdefault(step.backward_pass, BackwardPass())
        growth = noted.note(step)
        if not growth <= self.growth_limit and step.backward_pass not in self._warned:
            self._warned.add(step.backward_pass)
            self._object(int(noted.iterations[0]), step.iteration, growth)

    def _object(self, first: int, iteration: int, growth: float) -> None:
        what = (
            f"going back from iteration {first + 1}, the adjoint has grown {growth:.3g}-fold by iteration "
            f"{iteration} (limit {self.growth_limit:g}): training is chaotic there, and hypergradients hold for "
            "tiny changes of hyperparameters only; lower the step size, train for fewer steps, or look at the last "
            "steps alone with recovery=Truncated(last)"
        )
        if self.stop:
            raise AdjointGrowthError(what)
        warnings.warn(what, AdjointGrowthWarning, stacklevel=2)

    @property
    def passes(self) -> tuple[BackwardPass, ...]:
        """What was noted of each backward pass, in the order they began."""
        return tuple(self._passes.values())

    @property
    def iterations(self) -> NDArray[np.int64]:
        """The iterations in the order passed, num_steps - 1 .. 0 in each pass; other arrays are aligned."""
        return self._joined("iterations", np.int64)

    @property
    def norms(self) -> dict[str, NDArray[np.float64]]:
        """By name of state ("w", "v", ...): the norms of its cotangents; NaN in a pass that has no such state."""
        names = dict.fromkeys(name for each in self.passes for name in each.norms)
        return {
            name: np.concatenate(
                [each.norms.get(name, np.full(len(each.iterations), np.nan)) for each in self.passes]
            )
            for name in names
        }

    @property
    def growth(self) -> NDArray[np.float64]:
        """The growth of the adjoint before each iteration, see above; without unit."""
        return self._joined("growth")

    @property
    def growth_rate(self) -> float:
        """The largest rate of growth of |dw| per step back, of all passes (`BackwardPass.growth_rate`)."""
        rates = [each.growth_rate for each in self.passes]
        return max((rate for rate in rates if not math.isnan(rate)), default=math.nan)

    @property
    def buffer_bytes(self) -> NDArray[np.int64]:
        """What the information buffers take before each iteration."""
        return self._joined("buffer_bytes", np.int64)

    @property
    def limit_bytes(self) -> NDArray[np.float64]:
        """What they would take at the entropy limit, log2(1 / decay) bits per number and step."""
        return self._joined("limit_bytes")

    @property
    def certificate(self) -> Certificate | None:
        """That the run of the last pass was reversed bit for bit, once it was; `passes` have one each."""
        return self.passes[-1].certificate if self._passes else None

    def summary(self) -> str:
        """A few lines for each pass, or the six with the largest growth: see `BackwardPass.summary`."""
        passes = self.passes
        if not passes:
            return "no backward pass yet"
        if len(passes) == 1:
            return passes[0].summary(self.growth_limit)
        largest = np.array([np.max(each.growth) for each in passes])
        shown = np.sort(np.argsort(-largest, kind="stable")[:MOST_SHOWN])
        beyond = int(np.sum(~(largest <= self.growth_limit)))
        lines = [
            f"{len(passes)} backward passes, {beyond} of them beyond the limit of {self.growth_limit:g}; growth of "
            f"the adjoint at most {np.max(largest):.4g}, in number {int(np.argmax(largest)) + 1}"
        ]
        lines += [f"{i + 1}: {passes[i].summary(self.growth_limit)}" for i in shown]
        return "\n".join(lines)

    def _joined(self, name: str, dtype: DTypeLike = np.float64) -> NDArray:
        return np.concatenate([np.zeros(0, dtype), *(getattr(each, name) for each in self.passes)])
