"""Figure 6: a penalty for every weight of a logistic regression, learned from the validation loss (section 3.2).

All 7,850 L2 penalties follow their hypergradient. Where they become large a digit's template must stay near zero:
pixels that would mislead it; where they become small the validation rows want the weight free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import autograd.numpy as np
from autograd import value_and_grad
from matplotlib.figure import Figure

import hypergrad as hg
from experiments.common import Track, main
from hypergrad.mnist import load_data_dicts
from hypergrad.nn_utils import BatchList, make_nn_funs, plot_images
from hypergrad.plotting import PAGE_WIDTH, new_figure


@dataclass(frozen=True)
class Config:
    """Settings of the paper."""

    seed: int = 0
    layer_sizes: tuple[int, ...] = (784, 10)
    batch_size: int = 200
    num_iterations: int = 50
    num_rows: int = 10_000
    step_size: float = 1.0
    decay: float = 0.9
    log_scale: float = -4.0
    initial_l2: float = math.e / 100
    prior: float = 0.01
    num_meta_iterations: int = 50
    meta_step_size: float = 1000.0
    shown_percentile: float = 98.0

    @classmethod
    def quick(cls) -> Config:
        """Few rows, few steps."""
        return cls(batch_size=50, num_iterations=6, num_rows=300, num_meta_iterations=3)


def run(config: Config, track: Track | None = None) -> dict[str, np.ndarray]:
    """Learn the penalties; return them as images, and losses and errors at every meta-iteration.

    Entry i of objective and its like belongs to the penalties after i updates. l2_images: (10, 28, 28), one image
    per digit; l2_biases: (10,). The validation and test losses leave the penalties out.
    """
    train, valid, test = load_data_dicts(*[config.num_rows] * 3)
    parser, _, loss, error = make_nn_funs(config.layer_sizes)
    batches = BatchList(config.num_rows, config.batch_size)
    random = np.random.RandomState(config.seed)
    random.randn(len(parser.vect))  # in 2015, an initial velocity, times 0
    start = random.randn(len(parser.vect)) * np.exp(config.log_scale)
    rule = hg.Momentum(config.step_size, config.decay)

    def minibatch_loss(weights: np.ndarray, log_l2: np.ndarray, t: int) -> np.ndarray:
        rows = batches[t % len(batches)]
        return loss(weights, train["X"][rows], train["T"][rows], np.exp(log_l2))

    def trained(log_l2: np.ndarray) -> np.ndarray:
        return hg.train(minibatch_loss, start, rule, config.num_iterations, log_l2)

    def objective(log_l2: np.ndarray) -> np.ndarray:
        return loss(trained(log_l2), valid["X"], valid["T"]) + config.prior * np.sum(np.exp(2 * log_l2))

    def evaluate(log_l2: np.ndarray) -> dict[str, np.ndarray]:
        value, gradient = value_and_grad(objective)(log_l2)
        weights = trained(log_l2)
        splits = {"train": train, "valid": valid, "test": test}
        losses = {f"{name}_loss": loss(weights, data["X"], data["T"]) for name, data in splits.items()}
        errors = {f"{name}_error": error(weights, data["X"], data["T"]) for name, data in splits.items()}
        return {"objective": value, **losses, **errors, "gradient": gradient}

    step = (track or Track()).stage("meta-iterations", config.num_meta_iterations + 1)
    log_l2, records = np.full(len(parser.vect), np.log(config.initial_l2)), []
    for _ in range(config.num_meta_iterations):
        records.append(step(evaluate, log_l2))
        log_l2 = log_l2 - config.meta_step_size * records[-1]["gradient"]
    records.append(step(evaluate, log_l2))

    measures = [name for name in records[0] if name != "gradient"]
    learned = parser.new_vect(np.exp(log_l2))
    images = learned["weights", 0].T.reshape(-1, 28, 28)
    return {
        **{name: np.array([record[name] for record in records]) for name in measures},
        "l2_images": images,
        "l2_biases": learned["biases", 0].ravel(),
        "largest_shown": np.percentile(images, config.shown_percentile),
    }


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw each digit's penalties as an image; those above a percentile, 98 in the paper, share its colour."""
    figure, ax = new_figure(width=PAGE_WIDTH, height=2.5)
    largest = results["largest_shown"]
    image = plot_images(results["l2_images"], ax, vmin=0.0)
    image.set_clim(0.0, largest)
    ax.set_frame_on(False)
    bar = figure.colorbar(image, extend="max", ticks=[0, largest / 2, largest], format="%.3f", pad=0.02)
    bar.set_label(r"Learned $L_2$ penalty")
    bar.outline.set_linewidth(0.5)
    return {"figure_6": figure}


if __name__ == "__main__":
    main(Config, run, plot)
