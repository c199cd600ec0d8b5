"""The net of figure 10 and of the research log's first entries, and its loss along one hyperparameter.

It is trained on the first rows of MNIST, raw pixels, on minibatches in order, always from the same random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import autograd.numpy as np
from autograd import value_and_grad
from matplotlib.figure import Figure

import hypergrad as hg
from experiments.common import Record, Track
from hypergrad.mnist import load_data
from hypergrad.nn_utils import BatchList, make_nn_funs
from hypergrad.plotting import COLORS, PAGE_WIDTH, new_figure

LARGEST_SHOWN = 1e5


class Settings(Protocol):
    """What the net needs of an experiment's Config."""

    seed: int
    layer_sizes: tuple[int, ...]
    num_rows: int
    batch_size: int
    decay: float


class SmallNet:
    """The net, its rows and its random numbers."""

    def __init__(self, config: Settings):
        self.decay = config.decay
        self.X, self.T = (rows[: config.num_rows].copy() for rows in load_data()[:2])
        self.batches = BatchList(config.num_rows, config.batch_size)
        self.parser, _, self.loss, _ = make_nn_funs(config.layer_sizes)
        random = np.random.RandomState(config.seed)
        random.randn(len(self.parser.vect))  # in 2015, an initial velocity, times 0
        self.noise = random.randn(len(self.parser.vect))

    def minibatch_loss(self, weights: np.ndarray, theta: None, t: int) -> np.ndarray:
        """Return the training loss on minibatch t."""
        rows = self.batches[t % len(self.batches)]
        return self.loss(weights, self.X[rows], self.T[rows])

    def loss_after(
        self,
        num_iterations: int,
        log_step_size: float,
        log_scale: float,
        monitor: hg.BackwardTrace | None = None,
    ) -> np.ndarray:
        """Return the training loss on all rows after training with this step size from weights of this scale."""
        start = self.noise * np.exp(log_scale)
        rule = hg.Momentum(np.exp(log_step_size), self.decay)
        weights = hg.train(self.minibatch_loss, start, rule, num_iterations, monitor=monitor)
        return self.loss(weights, self.X, self.T)


def loss_and_gradient(loss: Callable[[float], np.ndarray], x: float) -> tuple[float, float]:
    """Return loss(x) and its gradient, NaN where training fails.

    It fails where a weight leaves the range of the exact arithmetic, or a gradient is not finite.
    """
    try:
        return value_and_grad(loss)(x)
    except (hg.FixedPointRangeError, hg.NonFiniteGradientError):
        return np.nan, np.nan


def at_point(
    arguments: tuple[Callable[[int, float], np.ndarray], float, Sequence[int]],
) -> dict[str, np.ndarray]:
    """Return loss(n, x) and its gradient with respect to x, for one x and several n."""
    loss, x, counts = arguments
    losses, gradients = zip(*(loss_and_gradient(partial(loss, n), x) for n in counts), strict=True)
    return {"losses": np.array(losses), "gradients": np.array(gradients)}


def sweep(
    track: Track,
    loss: Callable[[int, float], np.ndarray],
    points: np.ndarray,
    counts: Sequence[int],
    long_count: int,
    long_every: int,
) -> Record:
    """Return the loss after several numbers of iterations at every point, and its gradient.

    loss(n, x): after n iterations at x; it must survive pickling.  long_count: one more, larger number of
    iterations, at every long_every-th point only.
    losses, gradients: (points, counts).  errors: see `prediction_errors`.  long_*: the same, for long_count.
    """
    results = {"points": points, "counts": np.array(counts), "long_count": np.array(long_count)}
    for prefix, some_points, some_counts in (
        ("", points, tuple(counts)),
        ("long_", points[::long_every], (long_count,)),
    ):
        items = [(loss, x, some_counts) for x in some_points]
        records = track.map(f"{prefix}runs".replace("_", " "), at_point, items)
        losses, gradients = (np.array([r[name] for r in records]) for name in ("losses", "gradients"))
        results[f"{prefix}points"] = some_points
        results[f"{prefix}losses"], results[f"{prefix}gradients"] = losses, gradients
        results[f"{prefix}errors"] = prediction_errors(some_points, losses, gradients)
    return results


def prediction_errors(points: np.ndarray, losses: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Return by how much gradients fail to predict the change of the loss to the next point, as a share of it.

    The change is predicted by the trapezoidal rule.  losses, gradients: (points, counts); the result a row less.
    """
    predicted = (gradients[1:] + gradients[:-1]) / 2 * np.diff(points)[:, None]
    return np.abs(np.diff(losses, axis=0) - predicted) / ((losses[1:] + losses[:-1]) / 2)


def draw_sweep(results: Record, label: str) -> Figure:
    """Draw loss and gradient against the hyperparameter, a column for each number of iterations.

    Gradients beyond LARGEST_SHOWN are drawn at the edge.
    """
    counts = [*results["counts"], results["long_count"]]
    figure, axes = new_figure(2, len(counts), PAGE_WIDTH, 3.0, sharex=True, sharey="row")
    for j, (count, (loss_ax, gradient_ax)) in enumerate(zip(counts, axes.T, strict=True)):
        prefix, column = ("", j) if j < len(results["counts"]) else ("long_", 0)
        x = results[f"{prefix}points"]
        losses, gradients = results[f"{prefix}losses"][:, column], results[f"{prefix}gradients"][:, column]
        loss_ax.plot(x, losses, color=COLORS[0], linewidth=0.6)
        gradient_ax.plot(
            x, np.gradient(losses, x), color="0.6", linewidth=0.6, label="Differences of neighbours"
        )
        gradients = np.clip(gradients, -LARGEST_SHOWN, LARGEST_SHOWN)
        gradient_ax.plot(x, gradients, ".", color=COLORS[1], markersize=1.5, label="Hypergradient")
        loss_ax.set_title("1 iteration" if count == 1 else f"{count} iterations")
    axes[0, 0].set(ylabel="Training loss", yscale="log")
    axes[1, 0].set(ylabel="Gradient of the loss", xlim=(x[0], x[-1]))
    axes[1, 0].set_yscale("symlog", linthresh=0.01)
    axes[1, 0].set(ylim=(-2 * LARGEST_SHOWN, 2 * LARGEST_SHOWN), yticks=[-1e4, -1e2, -1, 0, 1, 1e2, 1e4])
    figure.supxlabel(label, fontsize=8)
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, markerscale=4)
    return figure
