"""Research log: do 7,850 penalties beat one?

A logistic regression is trained on few rows, so that it needs regularisation: without a penalty, with one for
all weights, and with one for each, which is what led to figure 6. The penalties follow the gradient of the
validation loss by Adam. Rows and initial weights differ from seed to seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import autograd.numpy as np
from autograd import value_and_grad
from matplotlib.figure import Figure

import hypergrad as hg
from experiments.common import Track, main
from hypergrad.mnist import load_data_dicts
from hypergrad.nn_utils import make_nn_funs
from hypergrad.optimizers import adam
from hypergrad.plotting import COLORS, PAGE_WIDTH, new_figure
from hypergrad.util import RandomState

MODELS = ("No penalty", "One penalty", "One per weight")


@dataclass(frozen=True)
class Config:
    """Settings; the training rows of each seed are drawn from the first num_rows, before those to validate on."""

    seed: int = 0
    num_seeds: int = 3
    num_train: int = 300
    num_rows: int = 10_000
    num_iterations: int = 100
    step_size: float = 1.0
    decay: float = 0.9
    log_scale: float = -4.0
    initial_log_l2: float = -6.0
    num_meta_iterations: int = 60
    meta_step_size: float = 0.1

    @classmethod
    def quick(cls) -> Config:
        """Few rows, few steps."""
        return cls(num_seeds=1, num_train=50, num_rows=200, num_iterations=6, num_meta_iterations=2)


def learn(arguments: tuple[Config, int, str]) -> dict[str, np.ndarray]:
    """Learn the penalties of one model; return losses and errors over meta-iterations, and the penalties."""
    config, seed, model = arguments
    data, valid, test = load_data_dicts(*[config.num_rows] * 3)
    rows = RandomState((seed, "rows")).permutation(config.num_rows)[: config.num_train]
    train = {name: array[rows] for name, array in data.items()}
    parser, _, loss, error = make_nn_funs((784, 10))
    start = RandomState((seed, "weights")).randn(len(parser.vect)) * np.exp(config.log_scale)
    rule = hg.Momentum(config.step_size, config.decay)
    size = len(parser.vect) if model == MODELS[2] else 1

    def training_loss(weights: np.ndarray, log_l2: np.ndarray, t: int) -> np.ndarray:
        penalties = 0.0 if model == MODELS[0] else np.exp(log_l2) * np.ones(len(parser.vect))
        return loss(weights, train["X"], train["T"], penalties)

    def trained(log_l2: np.ndarray) -> np.ndarray:
        return hg.train(training_loss, start, rule, config.num_iterations, log_l2)

    records = []

    def gradient(log_l2: np.ndarray, i: int) -> np.ndarray:
        _, slope = value_and_grad(lambda x: loss(trained(x), valid["X"], valid["T"]))(log_l2)
        note(log_l2)
        return slope

    def note(log_l2: np.ndarray) -> None:
        weights = trained(log_l2)
        splits = {"train": train, "valid": valid, "test": test}
        records.append(
            {f"{name}_loss": loss(weights, split["X"], split["T"]) for name, split in splits.items()}
            | {f"{name}_error": error(weights, split["X"], split["T"]) for name, split in splits.items()}
        )

    log_l2 = np.full(size, config.initial_log_l2)
    meta_iterations = 0 if model == MODELS[0] else config.num_meta_iterations
    log_l2 = adam(gradient, log_l2, num_iters=meta_iterations, step_size=config.meta_step_size)
    note(log_l2)
    records += [records[-1]] * (config.num_meta_iterations + 1 - len(records))
    return {name: np.array([record[name] for record in records]) for name in records[0]} | {"log_l2": log_l2}


def run(config: Config, track: Track | None = None) -> dict[str, np.ndarray]:
    """Learn all models for all seeds; return losses and errors, (seeds, models, meta-iterations + 1)."""
    items = [
        (config, seed, model)
        for seed in range(config.seed, config.seed + config.num_seeds)
        for model in MODELS
    ]
    records = (track or Track()).map("models", learn, items)
    shape = config.num_seeds, len(MODELS), config.num_meta_iterations + 1
    measures = [name for name in records[0] if name != "log_l2"]
    return {
        **{name: np.reshape([record[name] for record in records], shape) for name in measures},
        "one_log_l2": np.array([record["log_l2"][0] for record in records[1::3]]),
        "log_l2_quartiles": np.array(
            [np.percentile(r["log_l2"], [5, 25, 50, 75, 95]) for r in records[2::3]]
        ),
    }


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw validation and test loss of each model over meta-iterations, one line for each seed."""
    figure, axes = new_figure(1, 2, width=PAGE_WIDTH, height=2.1, sharey=True)
    for ax, name, title in zip(axes, ("valid", "test"), ("Validation loss", "Test loss"), strict=True):
        for j, (color, model) in enumerate(zip(("0.5", *COLORS), MODELS, strict=False)):
            for i, losses in enumerate(results[f"{name}_loss"][:, j]):
                ax.plot(losses, color=color, label=model if i == 0 else None)
        ax.set(title=title, xlabel="Meta-iteration", xlim=(0, results["valid_loss"].shape[2] - 1))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return {"per_weight_penalties": figure}


if __name__ == "__main__":
    main(Config, run, plot)
