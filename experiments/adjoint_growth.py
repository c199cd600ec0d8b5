"""Does the growth of the adjoint tell where a hypergradient means something? Figure 10's experiment, traced.

The net of figure 10 is trained at step sizes on both sides of the edge of chaos. A trace of each backward pass
notes how much the adjoint grows on its way, and warns beyond 30. Whether the gradient means something is seen
from a second run at a step size a little larger: the mean of the two gradients must predict by how much the
loss differs.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.figure import Figure

import hypergrad as hg
from experiments import figure_10
from experiments.common import Track, main
from experiments.small_net import SmallNet, loss_and_gradient, prediction_errors
from hypergrad.plotting import COLORS, PAGE_WIDTH, new_figure


@dataclass(frozen=True)
class Config(figure_10.Config):
    """Settings of figure 10; distance: to the second run; tolerance: of a gradient that means something."""

    num_step_sizes: int = 200
    distance: float = 0.002
    tolerance: float = 0.01


def trace_at(arguments: tuple[Config, float]) -> dict[str, np.ndarray]:
    """Return loss and gradient of both runs, (2,), and the trace of the first, of each step, going back.

    All NaN where a run fails.
    """
    config, log_step_size = arguments
    net, trace = SmallNet(config), hg.BackwardTrace()

    def final_loss(x: float, monitor: hg.BackwardTrace | None) -> np.ndarray:
        return net.loss_after(config.num_iterations, x, config.log_scale, monitor)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", hg.AdjointGrowthWarning)
        first = loss_and_gradient(partial(final_loss, monitor=trace), log_step_size)
    second = loss_and_gradient(partial(final_loss, monitor=None), log_step_size + config.distance)
    losses, gradients = zip(first, second, strict=True)
    complete = len(trace.growth) == config.num_iterations
    return {
        "losses": np.array(losses),
        "gradients": np.array(gradients),
        "growth": trace.growth if complete else np.full(config.num_iterations, np.nan),
        "warned": np.array(any(issubclass(w.category, hg.AdjointGrowthWarning) for w in caught)),
    }


def run(config: Config, track: Track | None = None) -> dict[str, np.ndarray]:
    """Trace training at every step size.

    losses, gradients: of the first runs. growth: (step sizes, iterations), going back. errors: of the predicted
    differences, as a share of the loss. warned: where the trace warned. Shares of step sizes: warned_rightly, of
    those warned of, where the gradient means nothing, and passed_rightly, of the others, where it means something.
    """
    log_step_sizes = np.linspace(
        config.smallest_log_step_size, config.largest_log_step_size, config.num_step_sizes
    )
    records = (track or Track()).map("step sizes", trace_at, [(config, x) for x in log_step_sizes])
    losses, gradients, growth, warned = (
        np.array([record[name] for record in records]) for name in ("losses", "gradients", "growth", "warned")
    )
    pair = np.array([0.0, config.distance])
    errors = prediction_errors(pair, losses.T, gradients.T)[0]
    finite = np.isfinite(errors)
    means_something = errors < config.tolerance
    return {
        "log_step_sizes": log_step_sizes,
        "losses": losses[:, 0],
        "gradients": gradients[:, 0],
        "growth": growth,
        "errors": errors,
        "warned": warned,
        "limit": np.array(hg.BackwardTrace().growth_limit),
        "tolerance": np.array(config.tolerance),
        "warned_rightly": share(~means_something[finite & warned]),
        "passed_rightly": share(means_something[finite & ~warned]),
        "num_failed": np.sum(~finite),
    }


def share(right: np.ndarray) -> float:
    """Return the mean; 1 of nothing."""
    return float(np.mean(right)) if right.size else 1.0


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw loss and growth against the step size, the growth on the way back, and growth against error."""
    figure, (edge_ax, way_ax, error_ax) = new_figure(1, 3, width=PAGE_WIDTH, height=2.3)
    x, growth, errors = results["log_step_sizes"], results["growth"], results["errors"]
    largest, limit = np.max(growth, axis=1), results["limit"]
    colors = np.where(results["warned"], COLORS[1], COLORS[0])
    edge_ax.plot(x, results["losses"], color="0.6", linewidth=0.7, label="Training loss")
    edge_ax.scatter(x, largest, s=3, c=colors, label="Growth of the adjoint")
    edge_ax.set(xlabel="Log step size", yscale="log", xlim=(x[0], x[-1]))
    edge_ax.legend(loc="upper left")
    for i in range(0, len(x), max(1, len(x) // 25)):
        way_ax.plot(np.arange(1, growth.shape[1] + 1), growth[i], color=colors[i], linewidth=0.6)
    way_ax.set(xlabel="Steps back", ylabel="Growth of the adjoint", yscale="log", xlim=(1, growth.shape[1]))
    error_ax.scatter(largest, errors, s=3, c=colors)
    error_ax.axhline(results["tolerance"], color="0.4", linestyle=(0, (4, 3)), linewidth=0.6)
    error_ax.axvline(limit, color="0.4", linestyle=(0, (4, 3)), linewidth=0.6)
    error_ax.set(xlabel="Growth of the adjoint", ylabel="Error of the prediction", xscale="log", yscale="log")
    for ax in (edge_ax, way_ax):
        ax.axhline(limit, color="0.4", linestyle=(0, (4, 3)), linewidth=0.6)
    return {"adjoint_growth": figure}


if __name__ == "__main__":
    main(Config, run, plot)
