"""Figure 1: gradient descent through gradient descent, on a loss of two weights (section 1).

The step sizes and decays of all 50 steps are learned: their gradient leads back through the whole descent.
In 2015 the losses at the end of the three meta-iterations were 395.30, 356.57 and 356.34. With the rounding of that
package (`rounding_2015`) we get these numbers; the figure shows descent at the decays as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import autograd.numpy as np
from autograd import grad, make_vjp
from matplotlib.figure import Figure

import hypergrad as hg
from experiments import rounding_2015
from experiments.common import main
from hypergrad.optimizers import simple_sgd
from hypergrad.plotting import COLORS, new_figure


@dataclass(frozen=True)
class Config:
    """Settings of the paper; nothing is random."""

    initial_weights: tuple[float, float] = (1.4, 3.9)
    num_iterations: int = 50
    log_step_size: float = -4.5
    decay: float = 0.99
    num_meta_iterations: int = 3
    meta_step_size: float = 0.01
    meta_decay: float = 0.9
    grid_size: int = 31

    @classmethod
    def quick(cls) -> Config:
        """Few steps, a coarse grid."""
        return cls(num_iterations=8, grid_size=9)


def toy_loss(w1: np.ndarray, w2: np.ndarray) -> np.ndarray:
    """Rosenbrock's valley with a slope along it, squashed to between 0 and 800."""
    valley = 100 * (w2 - w1**2) ** 2 + (1 - w1) ** 2 + 200 * w1
    return 800 * hg.logistic(valley / 500)


def training_loss(w: np.ndarray, theta: None = None, t: int = 0) -> np.ndarray:
    """Return the loss of one pair of weights; the same in every iteration."""
    return toy_loss(w[0], w[1])


def descend(config: Config, hypers: np.ndarray, callback: Callable, train: Callable) -> np.ndarray:
    """Return the trained weights; hypers: a log step size, then a logit decay, for every iteration."""
    log_step_sizes, logit_decays = hypers[: config.num_iterations], hypers[config.num_iterations :]
    rule = hg.Momentum(step_size=np.exp(log_step_sizes), decay=hg.logistic(logit_decays))
    start = np.array(config.initial_weights)
    return train(training_loss, start, rule, config.num_iterations, callback=callback)


def learn(config: Config, train: Callable) -> tuple[np.ndarray, np.ndarray]:
    """Learn the schedules; return the weights and the hyperparameters of every meta-iteration."""
    trajectories, schedules, T = [], [], config.num_iterations

    def hypergradient(hypers: np.ndarray, i: int) -> np.ndarray:
        path: list[np.ndarray] = []
        pull_back, w = make_vjp(lambda h: descend(config, h, lambda s: path.append(s.weights), train))(hypers)
        trajectories.append([*path, w])
        schedules.append(hypers.reshape(2, T))
        return pull_back(grad(training_loss)(w))

    simple_sgd(
        hypergradient,
        np.concatenate([np.full(T, config.log_step_size), np.full(T, hg.logit(config.decay))]),
        num_iters=config.num_meta_iterations,
        step_size=config.meta_step_size,
        mass=config.meta_decay,
    )
    return np.array(trajectories), np.array(schedules)


def run(config: Config) -> dict[str, np.ndarray]:
    """Learn the schedules; return each meta-iteration's trajectory and schedules, and the loss surface."""
    paths, schedules = learn(config, hg.train)
    paths_2015, _ = learn(config, rounding_2015.train)
    losses = toy_loss(paths[..., 0], paths[..., 1])
    w1, w2 = np.meshgrid(np.linspace(-2, 2.5, config.grid_size), np.linspace(-1, 4.5, config.grid_size))
    return {
        "trajectories": paths,
        "trajectory_losses": losses,
        "final_losses": losses[:, -1],
        "final_losses_rounded_up": toy_loss(paths_2015[:, -1, 0], paths_2015[:, -1, 1]),
        "step_sizes": np.exp(schedules[:, 0]),
        "decays": hg.logistic(schedules[:, 1]),
        "grid_w1": w1,
        "grid_w2": w2,
        "grid_loss": toy_loss(w1, w2),
    }


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw the loss as a wireframe and each meta-iteration's trajectory on it."""
    figure, ax = new_figure(height=2.6, subplot_kw={"projection": "3d", "computed_zorder": False})
    figure.set_layout_engine("none")  # constrained layout takes no account of labels in three dimensions
    ax.set_position((-0.06, 0.0, 1.0, 1.06))
    surface = [results[f"grid_{name}"] for name in ("w1", "w2", "loss")]
    rows, columns = surface[0].shape
    ax.plot_wireframe(*surface, color="0.62", linewidth=0.25, rcount=rows, ccount=columns)
    paths = np.dstack([results["trajectories"], results["trajectory_losses"]])
    for k, (path, color) in enumerate(zip(paths, COLORS, strict=False), start=1):
        ax.plot(*path.T, color=color, linewidth=1.2, label=f"Meta-iteration {k}")
    for path, color in zip(paths, COLORS, strict=False):
        ax.plot(*path[-1:].T, "o", color=color)
    ax.plot(*paths[0, :1].T, "o", color="black")
    ax.text(*(paths[0, 0] + (0, 0, 45)), "start", ha="center", fontsize=7)
    ax.view_init(elev=32, azim=-58)
    ax.grid(False)
    labels = ("Weight 1", "Weight 2", "Training loss")
    for axis, label in zip((ax.xaxis, ax.yaxis, ax.zaxis), labels, strict=True):
        axis.set_pane_color((1, 1, 1, 0))
        axis.set_label_text(label)
        axis.labelpad = -8
        axis.set_tick_params(pad=-4, labelsize=6)
    ax.legend(loc="upper left", bbox_to_anchor=(0.06, 0.95))
    return {"figure_1": figure}


if __name__ == "__main__":
    main(Config, run, plot)
