"""Figures 2, 3 and 5: step-size and decay schedules and initial scales learned layer by layer (section 3.1).

A net of four layers has 1,608 hyperparameters: a step size and a decay for each of 100 iterations and each of
the eight blocks of weights and biases, and the scale of each block's initial values. Adam learns them from
the training loss at the end of training, with new initial weights and minibatches at each meta-iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import autograd.numpy as np
from autograd import grad, make_vjp
from autograd.misc import flatten
from matplotlib.figure import Figure

import hypergrad as hg
from experiments.common import Track, main
from hypergrad.mnist import load_data_dicts
from hypergrad.nn_utils import make_nn_funs
from hypergrad.optimizers import adam
from hypergrad.plotting import COLORS, new_figure
from hypergrad.util import RandomState


@dataclass(frozen=True)
class Config:
    """Settings of the paper; tuned_*: the constants that Bayesian optimisation chose there."""

    seed: int = 0
    layer_sizes: tuple[int, ...] = (784, 50, 50, 50, 10)
    batch_size: int = 200
    num_iterations: int = 100
    num_rows: int = 10_000
    log_l2: float = -100.0
    initial_log_step_size: float = -1.0
    initial_logit_decay: float = 0.0
    initial_log_scale: float = -3.0
    num_meta_iterations: int = 50
    meta_step_size: float = 0.04
    tuned_step_size: float = 2.43
    tuned_decay: float = 0.60
    tuned_log_scale: float = -1.63

    @classmethod
    def quick(cls) -> Config:
        """A small net on few rows, for a few steps."""
        return cls(layer_sizes=(784, 8, 10), num_iterations=6, num_rows=300, num_meta_iterations=3)


class Problem:
    """Training a net under one vector of hyperparameters.

    It holds log step sizes (T, K), logit decays (T, K) and log initial scales (K,), for T iterations and K
    blocks in the parser's order: weights 0, biases 0, weights 1, ...
    """

    schedules: ClassVar[tuple[str, ...]] = ("log_step_sizes", "logit_decays")

    def __init__(self, config: Config):
        self.config = config
        self.train, self.valid, self.test = load_data_dicts(*[config.num_rows] * 3)
        self.parser, _, self._loss, self.error = make_nn_funs(config.layer_sizes)
        self.blocks = [block for block, _ in self.parser.idxs_and_shapes.values()]
        _, self.unflatten = flatten(self._constant(*[0.0] * len(self.schedules), 0.0))

    def _constant(self, *values: float) -> dict[str, np.ndarray]:
        *constants, log_scale = values
        ones = np.ones((self.config.num_iterations, len(self.blocks)))
        schedules = {name: value * ones for name, value in zip(self.schedules, constants, strict=True)}
        return {**schedules, "log_scales": np.full(len(self.blocks), log_scale)}

    def hypers(self, *values: float) -> np.ndarray:
        """Return hyperparameters that are the same in every iteration and block, as one vector.

        values: for each of `schedules`, then the log initial scale.
        """
        return flatten(self._constant(*values))[0]

    def rule(self, hypers: dict[str, np.ndarray]) -> hg.Momentum:
        """Return the update rule, with a schedule for each block."""
        return hg.Momentum(
            step_size=self.by_block(np.exp(hypers["log_step_sizes"])),
            decay=self.by_block(hg.logistic(hypers["logit_decays"])),
        )

    def by_block(self, schedule: np.ndarray) -> list[np.ndarray]:
        """Return the columns of an array (T, K)."""
        return [schedule[:, k] for k in range(len(self.blocks))]

    def loss(self, weights: np.ndarray, data: dict[str, np.ndarray]) -> np.ndarray:
        """Return the mean loss over these rows."""
        return self._loss(weights, data["X"], data["T"], np.exp(self.config.log_l2))

    def trained(
        self, vector: np.ndarray, meta_iteration: int, callback: Callable | None = None
    ) -> np.ndarray:
        """Return the weights after training with the random numbers of this meta-iteration."""
        hypers, key = self.unflatten(vector), (self.config.seed, meta_iteration)
        noise = RandomState(key).randn(len(self.parser.vect))
        start = [np.exp(hypers["log_scales"][k]) * noise[block] for k, block in enumerate(self.blocks)]

        def minibatch_loss(weights: list[np.ndarray], theta: None, t: int) -> np.ndarray:
            rows = RandomState((*key, t)).randint(self.config.num_rows, size=self.config.batch_size)
            return self.loss(np.concatenate(weights), {name: x[rows] for name, x in self.train.items()})

        return np.concatenate(
            hg.train(minibatch_loss, start, self.rule(hypers), self.config.num_iterations, callback=callback)
        )

    def hypergradient(self, vector: np.ndarray, meta_iteration: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradient of the final training loss on all rows, and the trained weights."""
        pull_back, weights = make_vjp(lambda v: self.trained(v, meta_iteration))(vector)
        return pull_back(grad(self.loss)(weights, self.train)), weights


def learning_curve(arguments: tuple[Config, np.ndarray, int], problem: Problem | None = None) -> dict:
    """Return the training loss on all rows before each iteration and after the last."""
    config, vector, meta_iteration = arguments
    problem, losses = problem or Problem(config), []
    weights = problem.trained(
        vector,
        meta_iteration,
        lambda step: losses.append(problem.loss(np.concatenate(step.weights), problem.train)),
    )
    return {"losses": np.array([*losses, problem.loss(weights, problem.train)])}


def run(config: Config, track: Track | None = None) -> dict[str, np.ndarray]:
    """Learn the schedules; return losses and errors at every meta-iteration, schedules, learning curves.

    Entry i of train_loss and its like belongs to the hyperparameters after i updates. The learning curves, on
    the same random numbers, belong to those before the first update, after the last, and to tuned constants.
    """
    track, problem, last = track or Track(), Problem(config), config.num_meta_iterations

    def evaluate(vector: np.ndarray, i: int) -> dict[str, np.ndarray]:
        gradient, weights = problem.hypergradient(vector, i)
        splits = {"train": problem.train, "valid": problem.valid, "test": problem.test}
        losses = {f"{name}_loss": problem.loss(weights, data) for name, data in splits.items()}
        errors = {
            f"{name}_error": problem.error(weights, data["X"], data["T"]) for name, data in splits.items()
        }
        return {**losses, **errors, **problem.unflatten(vector), "gradient": gradient}

    step = track.stage("meta-iterations", last + 1)
    records = []

    def hypergradient(vector: np.ndarray, i: int) -> np.ndarray:
        records.append(step(evaluate, vector, i))
        return records[-1]["gradient"]

    initial = problem.hypers(
        config.initial_log_step_size, config.initial_logit_decay, config.initial_log_scale
    )
    tuned = problem.hypers(
        np.log(config.tuned_step_size), hg.logit(config.tuned_decay), config.tuned_log_scale
    )
    learned = adam(hypergradient, initial, num_iters=last, step_size=config.meta_step_size)
    hypergradient(learned, last)
    curves = track.map(
        "learning curves", learning_curve, [(config, h, last) for h in (initial, learned, tuned)]
    )
    measures = [name for name in records[0] if name.endswith(("_loss", "_error"))]
    return {
        **{name: np.array([record[name] for record in records]) for name in measures},
        "log_scales": np.array([record["log_scales"] for record in records]),
        "step_sizes": np.exp(records[-1]["log_step_sizes"]),
        "decays": hg.logistic(records[-1]["logit_decays"]),
        "learning_curves": np.array([record["losses"] for record in curves]),
        "inputs": np.array(config.layer_sizes[:-1]),
    }


def plot_step_sizes(results: dict[str, np.ndarray]) -> Figure:
    """Figure 2: the learned step size of each layer's weights."""
    figure, ax = new_figure(height=1.9)
    for layer, step_sizes in enumerate(results["step_sizes"].T[::2], start=1):
        ax.plot(step_sizes, color=COLORS[layer - 1], label=f"Layer {layer}")
    ax.set(
        xlabel="Iteration", ylabel="Learned step size", xlim=(0, len(results["step_sizes"])), ylim=(0, None)
    )
    ax.legend()
    return figure


def plot_learning(results: dict[str, np.ndarray]) -> Figure:
    """Figure 3: training loss over a run, before and after learning, and at its end over meta-iterations."""
    figure, (run_ax, meta_ax) = new_figure(1, 2, height=1.9)
    initial, learned, tuned = results["learning_curves"]
    run_ax.plot(initial, color=COLORS[1], label="Initial schedules")
    run_ax.plot(tuned, color="0.6", label="Tuned constants")
    run_ax.plot(learned, color=COLORS[0], label="Learned schedules")
    run_ax.set(xlabel="Iteration", ylabel="Training loss", xlim=(0, len(learned) - 1), ylim=(0, None))
    meta_ax.axhline(tuned[-1], color="0.6")
    meta_ax.plot(results["train_loss"], color=COLORS[0])
    meta_ax.set(xlabel="Meta-iteration", ylabel="Final training loss", ylim=(0, None))
    meta_ax.set_xlim(0, len(results["train_loss"]) - 1)
    figure.legend(*run_ax.get_legend_handles_labels(), loc="outside upper center", ncols=3, columnspacing=1.2)
    return figure


def plot_scales(results: dict[str, np.ndarray]) -> Figure:
    """Figure 5: the scale of initial biases and weights over meta-iterations."""
    figure, axes = new_figure(1, 2, height=2.1)
    last = len(results["log_scales"]) - 1
    for ax, title, first in zip(axes, ("Biases", "Weights"), (1, 0), strict=True):
        for layer, log_scales in enumerate(results["log_scales"].T[first::2], start=1):
            ax.plot(np.exp(log_scales), color=COLORS[layer - 1], label=f"Layer {layer}")
        ax.set(title=title, xlabel="Meta-iteration", xlim=(0, last), ylim=(0, None))
    for inputs in sorted(set(results["inputs"])):
        axes[1].axhline(inputs**-0.5, color="0.4", linestyle=(0, (4, 3)), linewidth=0.6, zorder=0)
        label = rf"$1/\sqrt{{{inputs}}}$"
        axes[1].annotate(label, (last, inputs**-0.5), xytext=(3, 0), textcoords="offset points", va="center")
    axes[0].set_ylabel("Initial scale")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(handles), columnspacing=1.2)
    return figure


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw the paper's figures 2, 3 and 5."""
    return {
        "figure_2": plot_step_sizes(results),
        "figure_3": plot_learning(results),
        "figure_5": plot_scales(results),
    }


if __name__ == "__main__":
    main(Config, run, plot)
