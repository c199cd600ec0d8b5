"""Adam's step sizes and decays, learned for every layer and step by hypergradients through all of training.

The net and data of figures 2, 3 and 5. Before: the constant step size that trains best among several, with decays
of 0.9 and 0.999. Then the step size, beta1 and beta2 of each of 100 steps and eight blocks of weights and
biases, and the scales of the initial weights, 2,408 numbers, follow the gradient of the training loss at the end,
with new initial weights and minibatches at each meta-iteration. Training is reversed bit for bit, moments included.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import autograd.numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import hypergrad as hg
from experiments import schedules
from experiments.common import Track, main
from hypergrad.optimizers import adam
from hypergrad.plotting import COLORS, PAGE_WIDTH, new_figure

TEST_SEED = 1_000  # meta-iteration of the first fresh seed


@dataclass(frozen=True)
class Config:
    """Settings; candidates: constant step sizes to choose from. num_test_seeds: fresh ones, for the comparison."""

    seed: int = 0
    layer_sizes: tuple[int, ...] = (784, 50, 50, 50, 10)
    batch_size: int = 200
    num_iterations: int = 100
    num_rows: int = 10_000
    log_l2: float = -100.0
    candidates: tuple[float, ...] = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
    beta1: float = 0.9
    beta2: float = 0.999
    log_scale: float = -2.0
    num_meta_iterations: int = 50
    meta_step_size: float = 0.04
    num_test_seeds: int = 10

    @classmethod
    def quick(cls) -> Config:
        """A small net on few rows, for a few steps."""
        return cls(
            layer_sizes=(784, 8, 10),
            num_iterations=6,
            num_rows=300,
            candidates=(0.01, 0.03),
            num_meta_iterations=3,
            num_test_seeds=2,
        )


class AdamProblem(schedules.Problem):
    """Training a net by Adam: log step sizes, logits of beta1 and beta2, and log initial scales in one vector."""

    schedules: ClassVar[tuple[str, ...]] = ("log_step_sizes", "logit_beta1", "logit_beta2")

    def rule(self, hypers: dict[str, np.ndarray]) -> hg.Adam:
        """Return Adam with a schedule for each block."""
        return hg.Adam(
            step_size=self.by_block(np.exp(hypers["log_step_sizes"])),
            beta1=self.by_block(hg.logistic(hypers["logit_beta1"])),
            beta2=self.by_block(hg.logistic(hypers["logit_beta2"])),
        )


def make_problem(config: Config) -> AdamProblem:
    """Return the problem with the settings that it shares with figures 2, 3 and 5."""
    shared = {field.name for field in fields(schedules.Config)} & {field.name for field in fields(Config)}
    return AdamProblem(schedules.Config(**{name: getattr(config, name) for name in shared}))


def final_losses(arguments: tuple[Config, np.ndarray, int]) -> dict[str, np.ndarray]:
    """Return the losses and the test error after training with these hyperparameters and random numbers."""
    config, vector, meta_iteration = arguments
    problem = make_problem(config)
    weights = problem.trained(vector, meta_iteration)
    return {
        "train_loss": problem.loss(weights, problem.train),
        "valid_loss": problem.loss(weights, problem.valid),
        "test_error": problem.error(weights, problem.test["X"], problem.test["T"]),
    }


def learning_curve(arguments: tuple[Config, np.ndarray, int]) -> dict[str, np.ndarray]:
    """Return the training loss on all rows before each iteration and after the last."""
    config, vector, meta_iteration = arguments
    return schedules.learning_curve((config, vector, meta_iteration), make_problem(config))


def run(config: Config, track: Track | None = None) -> dict[str, np.ndarray]:
    """Learn the schedules; return them, the loss at every meta-iteration, and a comparison with tuned constants.

    train_loss[i]: after i updates. tuned_*, learned_*: after training with each of the fresh seeds.
    """
    track, problem, last = track or Track(), make_problem(config), config.num_meta_iterations
    betas = hg.logit(config.beta1), hg.logit(config.beta2)
    constants = [problem.hypers(np.log(a), *betas, config.log_scale) for a in config.candidates]
    tried = track.map("constants", final_losses, [(config, constant, 0) for constant in constants])
    candidate_losses = np.array([record["train_loss"] for record in tried])
    tuned = constants[int(np.argmin(candidate_losses))]

    step, losses = track.stage("meta-iterations", last + 1), []

    def evaluate(vector: np.ndarray, i: int) -> dict[str, np.ndarray]:
        gradient, weights = problem.hypergradient(vector, i)
        return {"train_loss": problem.loss(weights, problem.train), "gradient": gradient}

    def hypergradient(vector: np.ndarray, i: int) -> np.ndarray:
        record = step(evaluate, vector, i)
        losses.append(record["train_loss"])
        return record["gradient"]

    learned = adam(hypergradient, tuned, num_iters=last, step_size=config.meta_step_size)
    hypergradient(learned, last)

    seeds = range(TEST_SEED, TEST_SEED + config.num_test_seeds)
    items = [(config, vector, i) for vector in (tuned, learned) for i in seeds]
    compared = track.map("comparison", final_losses, items)
    curves = track.map("curves", learning_curve, [(config, v, TEST_SEED) for v in (tuned, learned)])
    half = len(seeds)
    found = problem.unflatten(learned)
    return {
        "candidate_losses": candidate_losses,
        "train_loss": np.array(losses),
        "step_sizes": np.exp(found["log_step_sizes"]),
        "beta1": hg.logistic(found["logit_beta1"]),
        "beta2": hg.logistic(found["logit_beta2"]),
        "log_scales": found["log_scales"],
        **{f"tuned_{name}": np.array([r[name] for r in compared[:half]]) for name in compared[0]},
        **{f"learned_{name}": np.array([r[name] for r in compared[half:]]) for name in compared[0]},
        "learning_curves": np.array([record["losses"] for record in curves]),
    }


def _log_scale(ax: Axes, ticks: tuple[float, ...]) -> None:
    ax.set_yscale("log")
    ax.minorticks_off()
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw the learned schedules of the weight matrices, and training with tuned constants and with them."""
    figure, axes = new_figure(1, 4, width=PAGE_WIDTH, height=1.9)
    schedules_of = ("step_sizes", "beta1", "beta2")
    titles = (r"Step size", r"$\beta_1$", r"$1 - \beta_2$")
    for ax, name, title in zip(axes, schedules_of, titles, strict=False):
        values = results[name] if name != "beta2" else 1.0 - results[name]
        for layer, schedule in enumerate(values.T[::2], start=1):
            ax.plot(schedule, color=COLORS[layer - 1], label=f"Layer {layer}")
        ax.set(title=title, xlabel="Iteration", xlim=(0, len(values)))
    axes[0].set_ylim(0, None)
    _log_scale(axes[2], (0.0005, 0.001, 0.002))
    tuned, learned = results["learning_curves"]
    axes[3].plot(tuned, color="0.6", label="Tuned constants")
    axes[3].plot(learned, color=COLORS[0], label="Learned schedules")
    axes[3].set(title="Training loss", xlabel="Iteration", xlim=(0, len(tuned) - 1))
    _log_scale(axes[3], (0.1, 0.2, 0.5, 1, 2))
    axes[3].legend(loc="upper right")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(handles))
    return {"adam_schedules": figure}


if __name__ == "__main__":
    main(Config, run, plot)
