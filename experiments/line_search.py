"""Research log: line searches along a hypergradient: how far does it point the right way?

The problem of figures 2, 3 and 5, at its initial hyperparameters and again after some meta-iterations of Adam.
At both points each of several seeds gives a hypergradient, along which we walk from there and train at every
distance: with the seed that gave the direction, and with another one. The first-order prediction is a straight
line downwards.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from matplotlib.figure import Figure

import hypergrad as hg
from experiments import schedules
from experiments.common import Track, main
from hypergrad.optimizers import adam
from hypergrad.plotting import COLORS, PAGE_WIDTH, new_figure

FIRST_SEED = 1_000  # meta-iteration of the first seed of the searches; those before are Adam's
NAMES = ("start", "learned")


@dataclass(frozen=True)
class Config:
    """Settings; num_meta_iterations: of Adam, to the second point. Distances are in geometric progression."""

    seed: int = 0
    layer_sizes: tuple[int, ...] = (784, 50, 50, 50, 10)
    batch_size: int = 200
    num_iterations: int = 100
    num_rows: int = 10_000
    num_meta_iterations: int = 20
    meta_step_size: float = 0.04
    num_seeds: int = 3
    num_distances: int = 20
    shortest: float = 0.1
    longest: float = 30.0

    @classmethod
    def quick(cls) -> Config:
        """A small net on few rows, two seeds, few distances."""
        return cls(
            layer_sizes=(784, 8, 10),
            num_iterations=6,
            num_rows=300,
            num_meta_iterations=2,
            num_seeds=2,
            num_distances=4,
            longest=3.0,
        )


def make_problem(config: Config) -> schedules.Problem:
    """Return the problem of figures 2, 3 and 5 with the settings that it shares with these."""
    shared = {field.name for field in fields(schedules.Config)} & {field.name for field in fields(Config)}
    return schedules.Problem(schedules.Config(**{name: getattr(config, name) for name in shared}))


def search(arguments: tuple[Config, np.ndarray, int]) -> dict[str, np.ndarray]:
    """Return the hypergradient of one seed, and the losses along it, with that seed and with another.

    A loss is infinite where a weight leaves the range of the exact arithmetic.
    """
    config, vector, seed = arguments
    problem = make_problem(config)
    gradient, weights = problem.hypergradient(vector, seed)
    direction = -gradient / np.linalg.norm(gradient)

    def loss(point: np.ndarray, which: int) -> float:
        try:
            return float(problem.loss(problem.trained(point, which), problem.train))
        except (hg.FixedPointRangeError, hg.NonFiniteGradientError):
            return np.inf

    def losses(which: int) -> list[float]:
        return [loss(vector + distance * direction, which) for distance in distances(config)]

    return {"first_loss": problem.loss(weights, problem.train), "gradient": gradient} | {
        "own": losses(seed),
        "other": losses(seed + config.num_seeds),
    }


def distances(config: Config) -> np.ndarray:
    """Return 0 and the distances to walk, in units of a log step size, logit decay or log scale."""
    return np.append(0.0, np.geomspace(config.shortest, config.longest, config.num_distances))


def trusted(distance: np.ndarray, loss: np.ndarray, slope: float) -> float:
    """Return the last distance before the descent falls below half of slope times distance."""
    too_little = loss[0] - loss < 0.5 * slope * distance
    return distance[np.argmax(too_little) - 1] if too_little.any() else distance[-1]


def run(config: Config, track: Track | None = None) -> dict[str, np.ndarray]:
    """Search along the hypergradients of all seeds at both points; return losses, lengths and angles.

    *_own, *_other: (seeds, distances), training losses with the direction's own seed and another. *_slope: length
    of each hypergradient. *_cosine: between those of each pair of seeds. *_best: the distance of the lowest loss.
    """
    track, problem = track or Track(), make_problem(config)
    step = track.stage("meta-iterations", config.num_meta_iterations)
    settings = problem.config

    def gradient(vector: np.ndarray, i: int) -> np.ndarray:
        return step(lambda: {"gradient": problem.hypergradient(vector, i)[0]})["gradient"]

    start = problem.hypers(
        settings.initial_log_step_size, settings.initial_logit_decay, settings.initial_log_scale
    )
    learned = adam(gradient, start, num_iters=config.num_meta_iterations, step_size=config.meta_step_size)
    walked = distances(config)
    results = {"distances": walked}
    seeds = range(FIRST_SEED, FIRST_SEED + config.num_seeds)
    for name, point in zip(NAMES, (start, learned), strict=True):
        records = track.map(f"searches, {name}", search, [(config, point, seed) for seed in seeds])
        own, other = (np.array([record[key] for record in records]) for key in ("own", "other"))
        slopes = np.array([np.linalg.norm(record["gradient"]) for record in records])
        units = [record["gradient"] / slope for record, slope in zip(records, slopes, strict=True)]
        results |= {
            f"{name}_own": own,
            f"{name}_other": other,
            f"{name}_slope": slopes,
            f"{name}_cosine": (np.array(units) @ np.transpose(units))[np.triu_indices(len(units), 1)],
            f"{name}_best": walked[np.argmin(own, axis=1)],
            f"{name}_best_other": walked[np.argmin(other, axis=1)],
            f"{name}_trusted": np.array([trusted(walked, *pair) for pair in zip(own, slopes, strict=True)]),
        }
    return results


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw the losses along the hypergradients of all seeds at both points, beside the prediction."""
    figure, axes = new_figure(1, 2, width=PAGE_WIDTH, height=2.2)
    walked = results["distances"]
    titles = ("At the initial hyperparameters", "After meta-iterations of Adam")
    for ax, name, title in zip(axes, NAMES, titles, strict=True):
        for i, color in zip(range(len(results[f"{name}_own"])), COLORS, strict=False):
            own, other = results[f"{name}_own"][i], results[f"{name}_other"][i]
            ax.plot(walked, own, color=color, label="Direction's own seed" if i == 0 else None)
            ax.plot(walked, other, "--", color=color, label="Another seed" if i == 0 else None)
            predicted = own[0] - results[f"{name}_slope"][i] * walked
            ax.plot(walked, predicted, ":", color="0.6", label="Prediction" if i == 0 else None, zorder=0)
        ax.set_xscale("symlog", linthresh=walked[1])
        ax.set(title=title, xlabel="Distance along the hypergradient", xlim=(0, walked[-1]), yscale="log")
    axes[0].set_ylabel("Final training loss")
    axes[0].legend()
    return {"line_search": figure}


if __name__ == "__main__":
    main(Config, run, plot)
