"""Figure 4: the hypergradient of both schedules at their start, averaged over 100 seeds (section 3.1).

The problem of figures 2, 3 and 5. At the initial schedules, log step sizes of -1 and decays of 1/2, the gradient of
the final training loss is averaged over initial weights and minibatches: 100 draws, as the paper says, and the
first 50, as its published results had. The bands, which the paper lacked, are the standard error of the mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from matplotlib.figure import Figure

from experiments import schedules
from experiments.common import Track, main
from hypergrad.plotting import COLORS, new_figure

SEEDS_PER_CALL = 5  # between two checkpoints


@dataclass(frozen=True)
class Config:
    """Settings of the paper; num_seeds_2015: of its published results."""

    seed: int = 0
    layer_sizes: tuple[int, ...] = (784, 50, 50, 50, 10)
    batch_size: int = 200
    num_iterations: int = 100
    num_rows: int = 10_000
    log_l2: float = -100.0
    initial_log_step_size: float = -1.0
    initial_logit_decay: float = 0.0
    initial_log_scale: float = -3.0
    num_seeds: int = 100
    num_seeds_2015: int = 50

    @classmethod
    def quick(cls) -> Config:
        """A small net on few rows, for a few steps and seeds."""
        return cls(layer_sizes=(784, 8, 10), num_iterations=6, num_rows=300, num_seeds=12, num_seeds_2015=6)


def hypergradients(arguments: tuple[Config, list[int]]) -> dict[str, np.ndarray]:
    """Return, for each of these seeds, the gradients with respect to both schedules, (seeds, T, blocks)."""
    config, seeds = arguments
    shared = {name: getattr(config, name) for name in vars(config) if not name.startswith("num_seeds")}
    problem = schedules.Problem(replace(schedules.Config(), **shared))
    hypers = problem.hypers(
        config.initial_log_step_size, config.initial_logit_decay, config.initial_log_scale
    )
    gradients = [problem.unflatten(problem.hypergradient(hypers, seed)[0]) for seed in seeds]
    return {name: np.array([gradient[name] for gradient in gradients]) for name in problem.schedules}


def run(config: Config, track: Track | None = None) -> dict[str, np.ndarray]:
    """Average over the seeds; return means and their standard errors for both numbers of seeds, (T, blocks).

    error_ratio_*: the root mean square of the standard errors of all iterations of the weight matrices, divided by
    that of the means; how far a curve is from being noise.
    """
    seeds = np.arange(config.num_seeds)
    parts = [part.tolist() for part in np.array_split(seeds, -(-config.num_seeds // SEEDS_PER_CALL))]
    records = (track or Track()).map("seeds", hypergradients, [(config, part) for part in parts])
    results = {}
    for name in schedules.Problem.schedules:
        gradients = np.concatenate([record[name] for record in records])
        for label, count in (("", config.num_seeds), ("_2015", config.num_seeds_2015)):
            mean = gradients[:count].mean(axis=0)
            error = gradients[:count].std(axis=0, ddof=1) / np.sqrt(count)
            results[f"mean_{name}{label}"], results[f"error_{name}{label}"] = mean, error
            results[f"error_ratio_{name}{label}"] = np.linalg.norm(error[:, ::2]) / np.linalg.norm(
                mean[:, ::2]
            )
        spread = gradients[:, :, ::2].std(axis=0, ddof=1)
        results[f"spread_{name}"] = np.linalg.norm(spread) / np.linalg.norm(gradients.mean(axis=0)[:, ::2])
    return results


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw the mean gradients of the weight matrices' schedules, each with its standard error as a band."""
    figure, axes = new_figure(2, 1, height=3.2, sharex=True)
    for ax, name, title in zip(
        axes, schedules.Problem.schedules, ("log step size", "logit decay"), strict=True
    ):
        mean, error = results[f"mean_{name}"], results[f"error_{name}"]
        iterations = np.arange(len(mean))
        for layer, k in enumerate(range(0, mean.shape[1], 2), start=1):
            ax.plot(iterations, mean[:, k], color=COLORS[layer - 1], label=f"Layer {layer}")
            ax.fill_between(
                iterations,
                mean[:, k] - error[:, k],
                mean[:, k] + error[:, k],
                color=COLORS[layer - 1],
                alpha=0.25,
                linewidth=0,
            )
        ax.axhline(0.0, color="0.6", linewidth=0.4, zorder=0)
        ax.set(ylabel=f"Gradient, {title}", xlim=(0, len(mean)))
    axes[1].set_xlabel("Iteration")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(handles), columnspacing=1.2)
    return {"figure_4": figure}


if __name__ == "__main__":
    main(Config, run, plot)
