"""Research log: BFGS as the meta-optimizer of training schedules, beside Adam and plain gradient steps.

The problem of figures 2, 3 and 5, with one seed throughout: BFGS needs the same function at every call. Each
method may ask for the same number of hypergradients. Shown is the best training loss so far; and, for the best
hyperparameters of each, training with that seed and with fresh ones. A run whose weights leave the range of the
exact arithmetic counts as a failure, with a loss beyond every other and no slope, from which a line search
turns back.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from matplotlib.figure import Figure

import hypergrad as hg
from experiments import schedules
from experiments.common import Track, main
from hypergrad.optimizers import adam, bfgs, simple_sgd
from hypergrad.plotting import COLORS, PAGE_WIDTH, new_figure

METHODS = ("Gradient", "Adam", "BFGS")
FIRST_TEST_SEED = 1_000
FAILED = 100.0
LARGEST = 20.0  # logarithm of a step size or a scale, or logit of a decay, that is worth trying


@dataclass(frozen=True)
class Config:
    """Settings; gradient_step_size, meta_step_size: of plain steps and of Adam."""

    seed: int = 0
    layer_sizes: tuple[int, ...] = (784, 50, 50, 50, 10)
    batch_size: int = 200
    num_iterations: int = 100
    num_rows: int = 10_000
    initial_log_step_size: float = -1.0
    initial_logit_decay: float = 0.0
    initial_log_scale: float = -3.0
    num_evaluations: int = 50
    gradient_step_size: float = 1.0
    meta_step_size: float = 0.04
    num_test_seeds: int = 5

    @classmethod
    def quick(cls) -> Config:
        """A small net on few rows, few calls."""
        return cls(
            layer_sizes=(784, 8, 10), num_iterations=6, num_rows=300, num_evaluations=4, num_test_seeds=2
        )


def make_problem(config: Config) -> schedules.Problem:
    """Return the problem of figures 2, 3 and 5 with the settings that it shares with these."""
    shared = {field.name for field in fields(schedules.Config)} & {field.name for field in fields(Config)}
    return schedules.Problem(schedules.Config(**{name: getattr(config, name) for name in shared}))


class SpentError(Exception):
    """A method has had its number of hypergradients."""


def test_loss(arguments: tuple[Config, np.ndarray, int]) -> dict[str, float]:
    """Return the final training loss with these hyperparameters and this seed; NaN where training fails."""
    config, vector, seed = arguments
    problem = make_problem(config)
    try:
        return {"train_loss": float(problem.loss(problem.trained(vector, seed), problem.train))}
    except (hg.FixedPointRangeError, hg.NonFiniteGradientError):
        return {"train_loss": np.nan}


def run(config: Config, track: Track | None = None) -> dict[str, np.ndarray]:
    """Minimize with each method; return all losses, in order of the calls, (methods, calls), and a comparison.

    losses: 100 where training failed. test_losses: of the best hyperparameters of each method, with the seed that
    they were found with, then with fresh ones, (methods, 1 + seeds).
    """
    track, problem = track or Track(), make_problem(config)
    initial = problem.hypers(
        config.initial_log_step_size, config.initial_logit_decay, config.initial_log_scale
    )

    def evaluate(vector: np.ndarray) -> dict[str, np.ndarray]:
        failed = {"loss": FAILED, "gradient": np.zeros_like(vector), "vector": vector}
        if np.max(np.abs(vector)) > LARGEST:
            return failed
        try:
            gradient, weights = problem.hypergradient(vector, 0)
        except (hg.FixedPointRangeError, hg.NonFiniteGradientError):
            return failed
        return {"loss": problem.loss(weights, problem.train), "gradient": gradient, "vector": vector}

    def minimize(method: str) -> list[dict[str, np.ndarray]]:
        step, records = track.stage(method, config.num_evaluations), []

        def value_and_gradient(vector: np.ndarray) -> tuple[float, np.ndarray]:
            if len(records) == config.num_evaluations:
                raise SpentError
            records.append(step(evaluate, vector))
            return float(records[-1]["loss"]), records[-1]["gradient"]

        def gradient(vector: np.ndarray, i: int) -> np.ndarray:
            return value_and_gradient(vector)[1]

        calls = config.num_evaluations
        try:
            if method == "BFGS":
                bfgs(value_and_gradient, initial, num_iters=calls)
            elif method == "Adam":
                adam(gradient, initial, num_iters=calls, step_size=config.meta_step_size)
            else:
                simple_sgd(gradient, initial, num_iters=calls, step_size=config.gradient_step_size, mass=0.0)
        except SpentError:
            pass
        return records

    found = [minimize(method) for method in METHODS]
    losses = np.full((len(METHODS), config.num_evaluations), np.nan)
    for row, records in zip(losses, found, strict=True):
        row[: len(records)] = [record["loss"] for record in records]
        row[len(records) :] = np.min(row[: len(records)])  # it has stopped by itself
    best = [min(records, key=lambda record: record["loss"])["vector"] for records in found]
    seeds = [0, *range(FIRST_TEST_SEED, FIRST_TEST_SEED + config.num_test_seeds)]
    compared = track.map(
        "comparison", test_loss, [(config, v, seed) for v in (initial, *best) for seed in seeds]
    )
    test_losses = np.reshape([record["train_loss"] for record in compared], (1 + len(METHODS), len(seeds)))
    return {
        "losses": losses,
        "num_calls": np.array([len(records) for records in found]),
        "num_failed": np.array([sum(r["loss"] == FAILED for r in records) for records in found]),
        "initial_losses": test_losses[0],
        "test_losses": test_losses[1:],
    }


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw the best loss so far against the number of hypergradients; and the losses with other seeds."""
    figure, (calls_ax, seeds_ax) = new_figure(1, 2, width=PAGE_WIDTH, height=2.2)
    calls = np.arange(1, results["losses"].shape[1] + 1)
    for color, name, losses in zip(COLORS, METHODS, results["losses"], strict=False):
        calls_ax.plot(calls, np.minimum.accumulate(losses), color=color, label=name)
    calls_ax.set(
        xlabel="Hypergradients", ylabel="Best training loss so far", yscale="log", xlim=(1, calls[-1])
    )
    ticks = [tick for tick in (0.05, 0.1, 0.2, 0.5, 1.0, 2.0) if tick >= 0.7 * np.min(results["losses"])]
    for ax in (calls_ax, seeds_ax):
        ax.set_yscale("log")
        ax.minorticks_off()
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    calls_ax.legend()
    rows = [results["initial_losses"], *results["test_losses"]]
    for position, (color, losses) in enumerate(zip(("0.5", *COLORS), rows, strict=False)):
        seeds_ax.plot(
            np.full(len(losses) - 1, position), losses[1:], "o", color=color, markerfacecolor="none"
        )
        seeds_ax.plot(position, losses[0], "_", color="black", markersize=12)
    seeds_ax.set_xticks(range(len(rows)), ["Initial", *METHODS])
    seeds_ax.set(ylabel="Training loss", xlim=(-0.5, len(rows) - 0.5))
    return {"bfgs_meta": figure}


if __name__ == "__main__":
    main(Config, run, plot)
