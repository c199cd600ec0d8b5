"""Figure 10: chaos at large step sizes, where gradients of the training loss lose their meaning (section 4).

One net is trained 1,000 times, each time with a slightly larger step size, from the same weights and on the same
minibatches. Up to a point the loss at the end of training is a smooth function of the step size, and its gradient
agrees with the differences between neighbours. Beyond it training is chaotic: the gradient is still exact, but
holds on a neighbourhood far smaller than the distance between two runs. In 2015 that point was near a log step
size of 1.48, and the smallest loss, 0.00244, beyond it, near 1.66.
"""

from __future__ import annotations

from dataclasses import dataclass

import autograd.numpy as np
from matplotlib.figure import Figure

from experiments.common import Track, main
from experiments.small_net import SmallNet, loss_and_gradient
from hypergrad.plotting import COLORS, new_figure

RUNS_PER_CALL = 10  # between two checkpoints


@dataclass(frozen=True)
class Config:
    """Settings of the paper; rows are raw pixels, in order."""

    seed: int = 0
    layer_sizes: tuple[int, ...] = (784, 200, 50, 10)
    num_rows: int = 1000
    batch_size: int = 250
    num_iterations: int = 50
    decay: float = 0.9
    log_scale: float = -2.0
    smallest_log_step_size: float = 0.5
    largest_log_step_size: float = 2.5
    num_step_sizes: int = 1000

    @classmethod
    def quick(cls) -> Config:
        """A small net on few rows, for a few steps."""
        return cls(layer_sizes=(784, 8, 10), num_rows=100, batch_size=25, num_iterations=6, num_step_sizes=31)


def train_at(arguments: tuple[Config, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the final training loss at each of these log step sizes, and its gradient, NaN where a run fails."""
    config, log_step_sizes = arguments
    net = SmallNet(config)

    def final_loss(log_step_size: float) -> np.ndarray:
        return net.loss_after(config.num_iterations, log_step_size, config.log_scale)

    pairs = [loss_and_gradient(final_loss, log_step_size) for log_step_size in log_step_sizes]
    losses, gradients = zip(*pairs, strict=True)
    return {"losses": np.array(losses), "gradients": np.array(gradients)}


def run(config: Config, track: Track | None = None) -> dict[str, np.ndarray]:
    """Train at every step size; return losses, their gradients, and the differences between neighbours.

    gradients and differences are both derivatives with respect to the log step size; differences[i] is taken over
    the two runs beside run i.
    """
    log_step_sizes = np.linspace(
        config.smallest_log_step_size, config.largest_log_step_size, config.num_step_sizes
    )
    parts = np.array_split(log_step_sizes, -(-config.num_step_sizes // RUNS_PER_CALL))
    records = (track or Track()).map("step sizes", train_at, [(config, part) for part in parts])
    losses, gradients = (
        np.concatenate([record[name] for record in records]) for name in ("losses", "gradients")
    )
    return {
        "log_step_sizes": log_step_sizes,
        "losses": losses,
        "gradients": gradients,
        "differences": np.gradient(losses, log_step_sizes),
        "num_failed": np.sum(np.isnan(losses)),
    }


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw the loss above its gradient, against the log step size."""
    figure, (loss_ax, gradient_ax) = new_figure(2, 1, height=3.6, sharex=True)
    x, best = results["log_step_sizes"], np.nanargmin(results["losses"])
    loss_ax.plot(x, results["losses"], color=COLORS[0], linewidth=0.6)
    loss_ax.plot(x[best], results["losses"][best], "o", color="black")
    loss_ax.set(ylabel="Training loss", yscale="log")
    gradient_ax.plot(x, results["differences"], color="0.6", linewidth=0.6, label="Differences of neighbours")
    gradient_ax.plot(x, results["gradients"], ".", color=COLORS[1], markersize=1.5, label="Hypergradient")
    gradient_ax.set(xlabel="Log step size", ylabel="Gradient of the loss", xlim=(x[0], x[-1]))
    gradient_ax.set_yscale("symlog", linthresh=0.1)
    decades = np.ceil(np.log10(np.nanmax(np.abs(results["gradients"])) + 1.0))
    marks = 10.0 ** (max(1.0, decades // 3) * np.arange(1, 4))
    gradient_ax.set_yticks([*-marks[::-1], 0.0, *marks])  # those that come by themselves overlap around zero
    gradient_ax.legend(loc="upper left", markerscale=4)
    return {"figure_10": figure}


if __name__ == "__main__":
    main(Config, run, plot)
