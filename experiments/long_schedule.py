"""A step-size schedule over 10,000 steps, learned from the validation loss at their end.

A 784-50-10 net goes 20 times through 50,000 rows. Its step size and decay, piecewise linear in time between knots
(in log and logit), follow the gradient of the validation loss after the last step, by Adam, from constants. To go
back through such a run the weights and velocities of 10,000 steps would have to be stored; here the buffer of the
reversal is all, and what it held is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import autograd.numpy as np
from autograd import value_and_grad
from autograd.misc import flatten
from matplotlib.figure import Figure

import hypergrad as hg
from experiments.common import Track, main
from hypergrad.mnist import load_data_dicts
from hypergrad.nn_utils import error_rate, init_weights, net_log_probs, nll
from hypergrad.optimizers import adam
from hypergrad.plotting import COLORS, PAGE_WIDTH, new_figure
from hypergrad.util import RandomState

TEST_SEED = 1_000  # meta-iteration of the first fresh seed


@dataclass(frozen=True)
class Config:
    """Settings. num_test_seeds: fresh ones, to compare the learned schedule with the constants before."""

    seed: int = 0
    layer_sizes: tuple[int, ...] = (784, 50, 10)
    num_rows: int = 50_000
    num_valid: int = 10_000
    batch_size: int = 100
    num_iterations: int = 10_000
    num_knots: int = 21
    step_size: float = 0.1
    decay: float = 0.9
    log_scale: float = -3.0
    num_meta_iterations: int = 20
    meta_step_size: float = 0.2
    num_test_seeds: int = 5

    @classmethod
    def quick(cls) -> Config:
        """Few rows, few steps."""
        return cls(
            layer_sizes=(784, 8, 10),
            num_rows=300,
            num_valid=100,
            batch_size=30,
            num_iterations=40,
            num_knots=4,
            num_meta_iterations=2,
            num_test_seeds=2,
        )


def interpolation(num_steps: int, num_knots: int) -> np.ndarray:
    """Return the matrix, (steps, knots), that draws straight lines between values at evenly spaced knots."""
    positions = np.linspace(0.0, num_knots - 1.0, num_steps)
    return np.maximum(0.0, 1.0 - np.abs(positions[:, None] - np.arange(num_knots)))


class Problem:
    """Training under hyperparameters "log_step_size" and "logit_decay", each the values at the knots."""

    def __init__(self, config: Config):
        self.config = config
        self.train, self.valid, self.test = load_data_dicts(
            config.num_rows, config.num_valid, config.num_valid
        )
        self.lines = interpolation(config.num_iterations, config.num_knots)
        self.initial, self.unflatten = flatten(
            {
                "log_step_size": np.full(config.num_knots, np.log(config.step_size)),
                "logit_decay": np.full(config.num_knots, hg.logit(config.decay)),
            }
        )
        self.buffer_bytes = 0

    def schedules(self, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the step size and the decay of every step."""
        hypers = self.unflatten(vector)
        log_step_size, logit_decay = (
            np.dot(self.lines, hypers[name]) for name in ("log_step_size", "logit_decay")
        )
        return np.exp(log_step_size), hg.logistic(logit_decay)

    def trained(self, vector: np.ndarray, meta_iteration: int) -> list:
        """Return the weights after training with the random numbers of this meta-iteration."""
        config, key = self.config, (self.config.seed, meta_iteration)
        start = init_weights(config.layer_sizes, RandomState((*key, "weights")), np.exp(config.log_scale))
        rows = RandomState((*key, "rows")).randint(
            config.num_rows, size=(config.num_iterations, config.batch_size)
        )

        def minibatch_loss(weights: list, theta: None, t: int) -> np.ndarray:
            return nll(net_log_probs(weights, self.train["X"][rows[t]]), self.train["T"][rows[t]])

        def note(step: hg.BackwardStep) -> None:
            self.buffer_bytes = max(self.buffer_bytes, step.buffer_bytes)

        rule = hg.Momentum(*self.schedules(vector))
        return hg.train(minibatch_loss, start, rule, config.num_iterations, monitor=note)

    def loss(self, weights: list, data: dict[str, np.ndarray]) -> np.ndarray:
        """Return the mean loss over these rows."""
        return nll(net_log_probs(weights, data["X"]), data["T"])


def final_losses(arguments: tuple[Config, np.ndarray, int]) -> dict[str, np.ndarray]:
    """Return the losses and the test error after training with this schedule and these random numbers."""
    config, vector, meta_iteration = arguments
    problem = Problem(config)
    weights = problem.trained(vector, meta_iteration)
    return {
        "train_loss": problem.loss(weights, problem.train),
        "valid_loss": problem.loss(weights, problem.valid),
        "test_loss": problem.loss(weights, problem.test),
        "test_error": error_rate(net_log_probs(weights, problem.test["X"]), problem.test["T"]),
    }


def run(config: Config, track: Track | None = None) -> dict[str, np.ndarray]:
    """Learn the schedule; return it, the loss at every meta-iteration, the memory taken, and a comparison.

    valid_loss[i]: after i updates. constant_*, learned_*: after training with each of the fresh seeds.
    """
    track, problem, last = track or Track(), Problem(config), config.num_meta_iterations
    step, records = track.stage("meta-iterations", last + 1), []

    def evaluate(vector: np.ndarray, i: int) -> dict[str, np.ndarray]:
        value, gradient = value_and_grad(lambda v: problem.loss(problem.trained(v, i), problem.valid))(vector)
        return {"valid_loss": value, "gradient": gradient, "buffer_bytes": problem.buffer_bytes}

    def hypergradient(vector: np.ndarray, i: int) -> np.ndarray:
        records.append(step(evaluate, vector, i))
        return records[-1]["gradient"]

    learned = adam(hypergradient, problem.initial, num_iters=last, step_size=config.meta_step_size)
    hypergradient(learned, last)
    seeds = range(TEST_SEED, TEST_SEED + config.num_test_seeds)
    items = [(config, vector, i) for vector in (problem.initial, learned) for i in seeds]
    compared = track.map("comparison", final_losses, items)
    half, (step_sizes, decays) = len(seeds), problem.schedules(learned)
    num_weights = sum((m + 1) * n for m, n in pairwise(config.layer_sizes))
    return {
        "valid_loss": np.array([record["valid_loss"] for record in records]),
        "gradient_norms": np.array([np.linalg.norm(record["gradient"]) for record in records]),
        "step_sizes": step_sizes,
        "decays": decays,
        **{f"constant_{name}": np.array([r[name] for r in compared[:half]]) for name in compared[0]},
        **{f"learned_{name}": np.array([r[name] for r in compared[half:]]) for name in compared[0]},
        "num_weights": num_weights,
        "buffer_bytes": np.array([record["buffer_bytes"] for record in records]),
        "stored_bytes": 2 * 8 * num_weights * config.num_iterations,
    }


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw the schedule before and after, the validation loss over meta-iterations, and the memory."""
    figure, (step_ax, decay_ax, loss_ax, memory_ax) = new_figure(
        1, 4, width=PAGE_WIDTH, height=1.9, gridspec_kw={"width_ratios": (1, 1, 1, 0.6)}
    )
    steps = np.arange(len(results["step_sizes"]))
    for ax, name, title in ((step_ax, "step_sizes", "Step size"), (decay_ax, "decays", "Decay")):
        ax.plot(steps, results[name], color=COLORS[0])
        ax.set(title=title, xlabel="Iteration", xlim=(0, len(steps)))
        ax.set_xticks([0, len(steps) // 2, len(steps)])
    step_ax.set_ylim(0, None)
    loss_ax.plot(results["valid_loss"], color=COLORS[0])
    loss_ax.set(title="Validation loss", xlabel="Meta-iteration", xlim=(0, len(results["valid_loss"]) - 1))
    sizes = np.array([results["stored_bytes"], results["buffer_bytes"].max()]) / 1e6
    bars = memory_ax.bar([0, 1], sizes, color=["0.6", COLORS[0]])
    memory_ax.bar_label(bars, [f"{size:,.0f}" if size >= 10 else f"{size:.2g}" for size in sizes])
    memory_ax.set(title="Memory, MB", yscale="log", ylim=(None, 4 * sizes.max()))
    memory_ax.set_xticks([0, 1], ["stored", "buffer"])
    memory_ax.minorticks_off()
    return {"long_schedule": figure}


if __name__ == "__main__":
    main(Config, run, plot)
