"""Companion of figure 1: why the reversal has to be exact (from a talk of 2015, not in the paper).

Going back divides the velocity by the decay at every step, so that rounding errors grow by 1 / 0.8 each time.
Without a buffer for the bits that the decay threw away, descent in float16 does not lead back to where it
began. In 2015 it came out near (5, 23); where exactly is an accident of the order of rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from autograd import grad
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments.common import main
from experiments.figure_1 import training_loss
from hypergrad.exact_rep import ExactRep
from hypergrad.plotting import COLORS, PAGE_WIDTH, new_figure

FLOATS = ("float16", "float32", "float64")

gradient = grad(training_loss)


@dataclass(frozen=True)
class Config:
    """Settings of the talk; nothing is random."""

    initial_weights: tuple[float, float] = (1.4, 3.9)
    num_iterations: int = 46
    log_step_size: float = -5.5
    decay: float = 0.8

    @classmethod
    def quick(cls) -> Config:
        """Few steps."""
        return cls(num_iterations=12)


def there_and_back(config: Config, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights at iterations 0..T on the way there, and on the way back, both (T + 1, 2).

    Weights, velocity and coefficients are kept in dtype; the gradient is evaluated in float64, then rounded.
    """
    w, v = np.array(config.initial_weights, dtype), np.zeros(2, dtype)
    step, decay, one = np.array([np.exp(config.log_step_size), config.decay, 1], dtype)

    def push(w: np.ndarray) -> np.ndarray:
        return (one - decay) * gradient(w.astype(np.float64)).astype(dtype)

    there = [w]
    for _ in range(config.num_iterations):
        v = decay * v - push(w)
        w = w + step * v
        there.append(w)
    back = [w]
    for _ in range(config.num_iterations):
        w = w - step * v
        v = (v + push(w)) / decay
        back.append(w)
    return np.array(there, np.float64), np.array(back[::-1], np.float64)


def there_and_back_exactly(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Do the same in fixed point, where the bits that the decay drops are kept."""
    step, decay = np.exp(config.log_step_size), config.decay
    w, v = ExactRep(np.array(config.initial_weights)), ExactRep(np.zeros(2))
    there = [w.val]
    for _ in range(config.num_iterations):
        v.mul(decay).sub((1 - decay) * gradient(w.val))
        w.add(step * v.val)
        there.append(w.val)
    back = [w.val]
    for _ in range(config.num_iterations):
        w.sub(step * v.val)
        v.add((1 - decay) * gradient(w.val)).div(decay)
        back.append(w.val)
    return np.array(there), np.array(back[::-1])


def run(config: Config) -> dict[str, np.ndarray]:
    """Go there and back in each arithmetic; return both ways, and how far they are apart."""
    ways = {dtype: there_and_back(config, dtype) for dtype in FLOATS}
    ways["exact"] = there_and_back_exactly(config)
    results = {"steps_back": np.arange(config.num_iterations, -1, -1)}
    for name, (there, back) in ways.items():
        distance = np.linalg.norm(there - back, axis=1)
        results |= {f"{name}_there": there, f"{name}_back": back, f"{name}_distance": distance}
    return results


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw both ways in float16 and in exact arithmetic, and for each arithmetic how far they are apart."""
    figure, (float_ax, exact_ax, distance_ax) = new_figure(1, 3, width=PAGE_WIDTH, height=2.1)
    for ax, name, title in (
        (float_ax, "float16", "Reversed in float16"),
        (exact_ax, "exact", "Reversed exactly"),
    ):
        there, back = results[f"{name}_there"], results[f"{name}_back"]
        ax.plot(*there.T, color=COLORS[0], linewidth=3, alpha=0.4, label="There", solid_capstyle="round")
        ax.plot(*back.T, ".-", color=COLORS[1], linewidth=0.7, label="Back")
        ax.plot(*there[0], "o", color="black", markersize=4, label="Start")
        ax.plot(*back[0], "x", color=COLORS[1], markersize=7, label="Came back to")
        ax.set(title=title, xlabel="Weight 1", ylabel="Weight 2")
    float_ax.legend()
    for name, color in zip((*FLOATS, "exact"), (*COLORS[: len(FLOATS)], "black"), strict=True):
        distance, steps = results[f"{name}_distance"], results["steps_back"]
        distance_ax.plot(steps, distance, color=color)
        end = (steps[0], distance[0])
        distance_ax.annotate(name, end, xytext=(3, 0), textcoords="offset points", va="center")
    distance_ax.set_yscale("symlog", linthresh=1e-18)  # so that zero has a place
    distance_ax.set_yticks([0, 1e-16, 1e-12, 1e-8, 1e-4, 1])
    distance_ax.yaxis.set_minor_locator(NullLocator())
    distance_ax.set(title="Between the two ways", xlabel="Steps back", ylabel="Distance")
    return {"figure_1_float16": figure}


if __name__ == "__main__":
    main(Config, run, plot)
