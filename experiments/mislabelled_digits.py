"""The exact influence of every one of 10,000 training examples, used to find those with a wrong label.

A weight on the loss of each training example, all of them 1, is a hyperparameter. One backward pass through all of
training gives the derivative of the validation loss with respect to each: how much worse training as it was would
have done, minibatch by minibatch, with a little more of that example. One label in ten is deliberately wrong; the
validation labels are right. Examples are ranked by how much they harm, from one training run, or on average over
several with other initial weights and minibatches; and, for comparison, by their own loss at the end of training.
The precision is counted among as many examples as there are wrong labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import autograd.numpy as np
from autograd import grad
from matplotlib.figure import Figure

import hypergrad as hg
from experiments.common import Track, main
from hypergrad.mnist import load_data, load_data_dicts
from hypergrad.nn_utils import error_rate, init_weights, net_log_probs, nll, plot_images
from hypergrad.plotting import COLORS, PAGE_WIDTH, new_figure
from hypergrad.util import RandomState

NUM_SHOWN, NUM_COLUMNS, PADDING = 40, 8, 7


@dataclass(frozen=True)
class Config:
    """Settings; wrong: the fraction of labels changed; num_epochs: passes over the rows, shuffled."""

    seed: int = 0
    num_seeds: int = 5
    layer_sizes: tuple[int, ...] = (784, 50, 10)
    num_rows: int = 10_000
    wrong: float = 0.1
    batch_size: int = 200
    num_epochs: int = 20
    step_size: float = 0.1
    decay: float = 0.9
    log_scale: float = -3.0

    @classmethod
    def quick(cls) -> Config:
        """Few rows, three runs."""
        return cls(num_seeds=3, num_rows=300, batch_size=50, num_epochs=3)


def spoil(
    labels: np.ndarray, fraction: float, random: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Return one-hot labels of which this fraction is wrong, each any of the others, and which those are."""
    rows, classes = labels.shape
    wrong = np.zeros(rows, bool)
    wrong[random.permutation(rows)[: round(fraction * rows)]] = True
    shifts = np.where(wrong, random.randint(1, classes, size=rows), 0)
    return np.eye(classes)[(np.argmax(labels, axis=1) + shifts) % classes], wrong


def influences(arguments: tuple[Config, int]) -> dict[str, np.ndarray]:
    """Return, of each example: the derivative of the validation loss with respect to its weight; its own loss."""
    config, seed = arguments
    train, valid, test = load_data_dicts(*[config.num_rows] * 3)
    labels, wrong = spoil(train["T"], config.wrong, RandomState((config.seed, "labels")))
    epochs = [RandomState((seed, i)).permutation(config.num_rows) for i in range(config.num_epochs)]
    batches = np.concatenate(epochs).reshape(-1, config.batch_size)
    start = init_weights(config.layer_sizes, RandomState((seed, "weights")), np.exp(config.log_scale))

    def training_loss(weights: list, example_weights: np.ndarray, t: int) -> np.ndarray:
        rows = batches[t]
        return nll(
            net_log_probs(weights, train["X"][rows]), labels[rows] * example_weights[rows].reshape(-1, 1)
        )

    def trained(example_weights: np.ndarray) -> list:
        rule = hg.Momentum(config.step_size, config.decay)
        return hg.train(training_loss, start, rule, len(batches), example_weights)

    def validation_loss(example_weights: np.ndarray) -> np.ndarray:
        return nll(net_log_probs(trained(example_weights), valid["X"]), valid["T"])

    ones = np.ones(config.num_rows)
    weights = trained(ones)
    return {
        "influence": grad(validation_loss)(ones),
        "own_loss": -np.sum(labels * net_log_probs(weights, train["X"]), axis=1),
        "wrong": wrong,
        "labels": np.argmax(labels, axis=1),
        "test_error": error_rate(net_log_probs(weights, test["X"]), test["T"]),
    }


def precision(scores: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Return the fraction of wrong labels among the k examples with the largest scores, for k = 1, 2, ..."""
    ranked = wrong[np.argsort(-scores, kind="stable")]
    return np.cumsum(ranked) / np.arange(1, len(ranked) + 1)


def run(config: Config, track: Track | None = None) -> dict[str, np.ndarray]:
    """Rank the examples after every run; return influences, precisions, and the worst examples.

    precision_*: among the k highest ranked, for k = 1 .. rows / 5, of each run, (runs, k), and of the mean
    influence of all runs, (1, k). precision_*_at_count: among as many as there are wrong labels.
    """
    seeds = range(config.seed, config.seed + config.num_seeds)
    records = (track or Track()).map("seeds", influences, [(config, seed) for seed in seeds])
    wrong, count = records[0]["wrong"], round(config.wrong * config.num_rows)
    influence = np.mean([record["influence"] for record in records], axis=0)
    rankings = {name: [record[name] for record in records] for name in ("influence", "own_loss")}
    rankings["mean_influence"] = [influence]
    results = {"test_error": np.array([record["test_error"] for record in records])}
    for name, scores in rankings.items():
        curves = np.array([precision(score, wrong) for score in scores])
        results[f"precision_{name}"] = curves[:, : config.num_rows // 5].astype(np.float32)
        results[f"precision_{name}_at_count"] = curves[:, count - 1]
    worst = np.argsort(-influence, kind="stable")[:NUM_SHOWN]
    return {
        **results,
        "influence": influence.astype(np.float32),
        "wrong": wrong,
        "worst_images": load_data()[0][worst].astype(np.float32),
        "worst_labels": records[0]["labels"][worst],
        "worst_wrong": wrong[worst],
        "num_wrong": count,
    }


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw the influences of right and wrong examples, the precision of both rankings, and the worst examples."""
    figure, (histogram_ax, precision_ax, images_ax) = new_figure(1, 3, width=PAGE_WIDTH, height=2.1)
    influence, wrong = results["influence"].astype(float), results["wrong"]
    reach = np.percentile(np.abs(influence), 99.5)
    bins = np.linspace(-reach, reach, 60)
    for chosen, color, label in ((~wrong, COLORS[0], "Right label"), (wrong, COLORS[1], "Wrong label")):
        histogram_ax.hist(
            np.clip(influence[chosen], -reach, reach), bins, color=color, alpha=0.6, density=True, label=label
        )
    histogram_ax.set(xlabel="Influence on the validation loss", ylabel="Density", yscale="log")
    histogram_ax.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
    histogram_ax.legend(loc="upper left")
    ranks = np.arange(1, results["precision_influence"].shape[1] + 1)
    for name, color, label in (
        ("influence", COLORS[0], "Influence"),
        ("mean_influence", COLORS[2], "Mean influence"),
        ("own_loss", "0.5", "Own loss"),
    ):
        curves = results[f"precision_{name}"]
        precision_ax.plot(ranks, curves.mean(axis=0), color=color, label=label)
        precision_ax.fill_between(
            ranks, curves.min(axis=0), curves.max(axis=0), color=color, alpha=0.25, linewidth=0
        )
    precision_ax.axvline(results["num_wrong"], color="0.4", linestyle=(0, (4, 3)), linewidth=0.6)
    precision_ax.set(xlabel="Examples ranked highest", ylabel="Fraction with a wrong label", ylim=(0, 1.02))
    precision_ax.set_xlim(0, len(ranks))
    precision_ax.legend(loc="lower left")
    plot_images(results["worst_images"], images_ax, ims_per_row=NUM_COLUMNS, padding=PADDING)
    for i, (label, is_wrong) in enumerate(zip(results["worst_labels"], results["worst_wrong"], strict=True)):
        corner = PADDING + np.array(divmod(i, NUM_COLUMNS)[::-1]) * (28 + PADDING)
        color = COLORS[1] if is_wrong else COLORS[0]
        images_ax.text(*corner, label, color=color, fontsize=5, ha="center", va="center")
    images_ax.set_axis_off()
    images_ax.set_title("Those that harm most, and their labels")
    return {"mislabelled_digits": figure}


if __name__ == "__main__":
    main(Config, run, plot)
