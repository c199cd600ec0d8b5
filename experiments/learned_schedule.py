"""Research log: one step-size schedule learned by hypergradient, until it meets chaos.

A step size for each iteration, shared by all layers, follows its hypergradient from a constant: on 1,000 rows, on
3,000, and on 3,000 with the objective averaged over several sequences of minibatches. Everything else stays the
same from one meta-iteration to the next, initial weights included. The best schedules are then tried on new
minibatches.
"""

from __future__ import annotations

from dataclasses import dataclass

import autograd.numpy as np
from autograd import value_and_grad
from matplotlib.figure import Figure

import hypergrad as hg
from experiments.common import Record, Track, main
from hypergrad.mnist import load_data_dicts
from hypergrad.nn_utils import init_weights, net_log_probs, nll
from hypergrad.optimizers import adam
from hypergrad.plotting import COLORS, PAGE_WIDTH, new_figure
from hypergrad.util import RandomState

NEW_SEQUENCE = 1_000  # the first sequence of minibatches that no schedule was learned on


@dataclass(frozen=True)
class Config:
    """Settings; cases: (training rows, sequences of minibatches to average over)."""

    seed: int = 0
    layer_sizes: tuple[int, ...] = (784, 50, 50, 50, 10)
    cases: tuple[tuple[int, int], ...] = ((1000, 1), (3000, 1), (3000, 5))
    batch_size: int = 200
    num_iterations: int = 50
    log_step_size: float = -1.0
    decay: float = 0.9
    log_scale: float = -2.0
    num_meta_iterations: int = 50
    meta_step_size: float = 0.1
    num_new_sequences: int = 10

    @classmethod
    def quick(cls) -> Config:
        """A small net on few rows, for a few steps."""
        return cls(
            layer_sizes=(784, 8, 10),
            cases=((100, 1), (200, 2)),
            batch_size=50,
            num_iterations=5,
            num_meta_iterations=2,
            num_new_sequences=2,
        )


class Problem:
    """Training on the first rows, under one schedule of log step sizes."""

    def __init__(self, config: Config, num_rows: int):
        self.config, self.num_rows = config, num_rows
        (self.data,) = load_data_dicts(num_rows)
        self.start = init_weights(
            config.layer_sizes, RandomState((config.seed, "weights")), np.exp(config.log_scale)
        )

    def final_loss(self, log_step_sizes: np.ndarray, sequence: int) -> np.ndarray:
        """Return the loss on all rows after training on this sequence of minibatches."""
        config, X, T = self.config, self.data["X"], self.data["T"]

        def minibatch_loss(weights: list, theta: None, t: int) -> np.ndarray:
            rows = RandomState((config.seed, sequence, t)).randint(self.num_rows, size=config.batch_size)
            return nll(net_log_probs(weights, X[rows]), T[rows])

        rule = hg.Momentum(np.exp(log_step_sizes), config.decay)
        return nll(net_log_probs(hg.train(minibatch_loss, self.start, rule, config.num_iterations), X), T)


def learn(problem: Problem, num_sequences: int, track: Track) -> Record:
    """Learn a schedule; return its objective, gradient and step sizes at every meta-iteration.

    losses, gradient_norms: (meta-iterations + 1,).  log_step_sizes: (meta-iterations + 1, T).
    """
    config = problem.config
    last, records = config.num_meta_iterations, []
    step = track.stage(f"{problem.num_rows} rows, {num_sequences} sequences", last + 1)

    def mean_loss(log_step_sizes: np.ndarray) -> np.ndarray:
        return sum(problem.final_loss(log_step_sizes, k) for k in range(num_sequences)) / num_sequences

    def evaluate(log_step_sizes: np.ndarray) -> dict[str, np.ndarray]:
        loss, gradient = value_and_grad(mean_loss)(log_step_sizes)
        return {"loss": loss, "gradient": gradient, "log_step_sizes": log_step_sizes}

    def hypergradient(log_step_sizes: np.ndarray, i: int) -> np.ndarray:
        records.append(step(evaluate, log_step_sizes))
        return records[-1]["gradient"]

    initial = np.full(config.num_iterations, config.log_step_size)
    learned = adam(hypergradient, initial, num_iters=last, step_size=config.meta_step_size)
    hypergradient(learned, last)
    return {
        "losses": np.array([record["loss"] for record in records]),
        "gradient_norms": np.array([np.linalg.norm(record["gradient"]) for record in records]),
        "log_step_sizes": np.array([record["log_step_sizes"] for record in records]),
    }


def run(config: Config, track: Track | None = None) -> dict[str, np.ndarray]:
    """Learn a schedule in each case; try the initial one and the best on new sequences of minibatches.

    losses, gradient_norms, largest_step_sizes: (cases, meta-iterations + 1).  best: the meta-iteration of the least
    loss, (cases,).  step_sizes: (cases, T), of that one.  new_initial, new_best: (cases, new sequences).
    """
    track = track or Track()
    learned, new = [], []
    for num_rows, num_sequences in config.cases:
        problem = Problem(config, num_rows)
        learned.append(learn(problem, num_sequences, track))
        schedules = learned[-1]["log_step_sizes"]
        step = track.stage(f"{num_rows} rows, {num_sequences} sequences, new", config.num_new_sequences)

        def compare(sequence: int, problem: Problem = problem, schedules: np.ndarray = schedules) -> dict:
            best = schedules[np.argmin(learned[-1]["losses"])]
            pair = {"initial": schedules[0], "best": best}
            return {name: problem.final_loss(schedule, sequence) for name, schedule in pair.items()}

        new.append([step(compare, NEW_SEQUENCE + i) for i in range(config.num_new_sequences)])
    losses = np.array([case["losses"] for case in learned])
    best = np.argmin(losses, axis=1)
    return {
        "losses": losses,
        "gradient_norms": np.array([case["gradient_norms"] for case in learned]),
        "largest_step_sizes": np.exp([case["log_step_sizes"].max(axis=1) for case in learned]),
        "best": best,
        "step_sizes": np.exp([case["log_step_sizes"][i] for case, i in zip(learned, best, strict=True)]),
        "new_initial": np.array([[record["initial"] for record in records] for records in new]),
        "new_best": np.array([[record["best"] for record in records] for records in new]),
        "cases": np.array(config.cases),
    }


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw loss and gradient over meta-iterations, and the best schedules."""
    figure, (loss_ax, norm_ax, schedule_ax) = new_figure(1, 3, width=PAGE_WIDTH, height=2.2)
    for i, (num_rows, num_sequences) in enumerate(results["cases"]):
        label = f"{num_rows:,} rows" + (f", mean of {num_sequences} sequences" if num_sequences > 1 else "")
        loss_ax.plot(results["losses"][i], color=COLORS[i], label=label)
        loss_ax.plot(results["best"][i], results["losses"][i].min(), "o", color=COLORS[i])
        norm_ax.plot(results["gradient_norms"][i], color=COLORS[i])
        schedule_ax.plot(results["step_sizes"][i], color=COLORS[i])
    last = results["losses"].shape[1] - 1
    loss_ax.set(xlabel="Meta-iteration", ylabel="Final training loss", xlim=(0, last), yscale="log")
    norm_ax.set(xlabel="Meta-iteration", ylabel="Norm of the hypergradient", xlim=(0, last), yscale="log")
    schedule_ax.set(xlabel="Iteration", ylabel="Step size of the best schedule", ylim=(0, None))
    schedule_ax.set_xlim(0, results["step_sizes"].shape[1] - 1)
    figure.legend(*loss_ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return {"learned_schedule": figure}


if __name__ == "__main__":
    main(Config, run, plot)
