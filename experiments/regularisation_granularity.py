"""Research log: how fine should regularisation be?

L2 penalties learned from the validation loss: one for the whole net, one for each layer, one for each unit (on the
weights that come in, or on those that go out), one for each weight. There are few training rows, so that penalties
matter, and few validation rows, so that many penalties can fit them too well: the test loss tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import autograd.numpy as np
from autograd import grad, make_vjp
from autograd.misc import flatten
from matplotlib.figure import Figure

import hypergrad as hg
from experiments.common import Track, main
from hypergrad.mnist import load_data_as_dict, load_data_dicts, random_partition
from hypergrad.nn_utils import make_nn_funs
from hypergrad.optimizers import adam
from hypergrad.plotting import COLORS, PAGE_WIDTH, new_figure
from hypergrad.util import RandomState

LABELS = {
    "net": "Net",
    "layer": "Layer",
    "incoming": "Unit, incoming",
    "outgoing": "Unit, outgoing",
    "weight": "Weight",
}


@dataclass(frozen=True)
class Config:
    """Settings; each seed has training and validation rows and initial weights of its own."""

    seed: int = 0
    num_seeds: int = 5
    layer_sizes: tuple[int, ...] = (784, 30, 10)
    granularities: tuple[str, ...] = tuple(LABELS)
    num_train: int = 200
    num_valid: int = 500
    num_test: int = 10_000
    num_iterations: int = 100
    step_size: float = 1.0
    decay: float = 0.9
    log_scale: float = -2.0
    initial_log_l2: float = -7.0
    num_meta_iterations: int = 30
    meta_step_size: float = 0.1

    @classmethod
    def quick(cls) -> Config:
        """Few rows, few steps."""
        return cls(
            num_seeds=2,
            layer_sizes=(784, 5, 10),
            num_train=50,
            num_valid=50,
            num_test=200,
            num_iterations=5,
            num_meta_iterations=2,
        )


def penalty_shapes(granularity: str, layer_sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return the shapes of the penalties: one for all layers, or one for each, that broadcasts to its weights."""
    shapes = {
        "layer": lambda m, n: (1, 1),
        "incoming": lambda m, n: (1, n),
        "outgoing": lambda m, n: (m, 1),
        "weight": lambda m, n: (m, n),
    }
    if granularity == "net":
        return [(1, 1)]
    return [shapes[granularity](m, n) for m, n in pairwise(layer_sizes)]


def spread_out(log_l2: list[np.ndarray], layer_sizes: tuple[int, ...]) -> np.ndarray:
    """Return the penalty of every weight and bias, as one vector; biases have none.

    log_l2: arrays of the shapes of `penalty_shapes`.
    """
    blocks = []
    for i, (m, n) in enumerate(pairwise(layer_sizes)):
        of_layer = np.exp(log_l2[i if len(log_l2) > 1 else 0])
        blocks += [np.ravel(of_layer * np.ones((m, n))), np.zeros(n)]
    return np.concatenate(blocks)


def learn(arguments: tuple[Config, str, int]) -> dict[str, np.ndarray]:
    """Learn the penalties of one granularity with the rows and initial weights of one seed.

    Returns losses and errors on each split, without penalties, at every meta-iteration, (meta-iterations + 1,).
    """
    config, granularity, seed = arguments
    train, valid = random_partition(
        load_data_as_dict(), RandomState((seed, "rows")), (config.num_train, config.num_valid)
    )
    _, test = load_data_dicts(60_000, config.num_test)
    splits = {"train": train, "valid": valid, "test": test}
    parser, _, loss, error = make_nn_funs(config.layer_sizes)
    start = RandomState((seed, "weights")).randn(len(parser.vect)) * np.exp(config.log_scale)
    rule = hg.Momentum(config.step_size, config.decay)
    shapes = penalty_shapes(granularity, config.layer_sizes)
    initial, unflatten = flatten([np.full(shape, config.initial_log_l2) for shape in shapes])

    def training_loss(weights: np.ndarray, l2: np.ndarray, t: int) -> np.ndarray:
        return loss(weights, train["X"], train["T"], l2)

    def trained(log_l2: np.ndarray) -> np.ndarray:
        l2 = spread_out(unflatten(log_l2), config.layer_sizes)
        return hg.train(training_loss, start, rule, config.num_iterations, l2)

    records: list[dict[str, float]] = []

    def hypergradient(log_l2: np.ndarray, i: int) -> np.ndarray:
        pull_back, weights = make_vjp(trained)(log_l2)
        losses = {f"{name}_loss": loss(weights, data["X"], data["T"]) for name, data in splits.items()}
        errors = {f"{name}_error": error(weights, data["X"], data["T"]) for name, data in splits.items()}
        records.append({**losses, **errors})
        return pull_back(grad(loss)(weights, valid["X"], valid["T"]))

    learned = adam(
        hypergradient, initial, num_iters=config.num_meta_iterations, step_size=config.meta_step_size
    )
    hypergradient(learned, config.num_meta_iterations)
    return {name: np.array([record[name] for record in records]) for name in records[0]}


def run(config: Config, track: Track | None = None) -> dict[str, np.ndarray]:
    """Learn the penalties of every granularity with every seed.

    train_loss and its like: (granularities, seeds, meta-iterations + 1).  counts: numbers of penalties.
    """
    seeds = range(config.seed, config.seed + config.num_seeds)
    items = [(config, granularity, seed) for granularity in config.granularities for seed in seeds]
    records = (track or Track()).map("granularities and seeds", learn, items)
    shape = (len(config.granularities), config.num_seeds, config.num_meta_iterations + 1)
    counts = [
        sum(m * n for m, n in penalty_shapes(granularity, config.layer_sizes))
        for granularity in config.granularities
    ]
    return {
        **{name: np.array([r[name] for r in records]).reshape(shape) for name in records[0]},
        "granularities": np.array(config.granularities),
        "counts": np.array(counts),
    }


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw validation and test loss over meta-iterations, and the test losses at the end, seed by seed."""
    figure, (valid_ax, test_ax, end_ax) = new_figure(1, 3, width=PAGE_WIDTH, height=2.2)
    for i, granularity in enumerate(results["granularities"]):
        label = f"{LABELS[str(granularity)]} ({results['counts'][i]:,})"
        for ax, name in ((valid_ax, "valid_loss"), (test_ax, "test_loss")):
            ax.plot(results[name][i].mean(axis=0), color=COLORS[i], label=label)
        gains = results["test_loss"][i, :, -1] - results["test_loss"][i, :, 0]
        end_ax.plot(np.full(len(gains), i), gains, ".", color=COLORS[i], markersize=4)
        end_ax.plot(i, gains.mean(), "_", color=COLORS[i], markersize=12)
    for ax, name in ((valid_ax, "Validation loss"), (test_ax, "Test loss")):
        ax.set(xlabel="Meta-iteration", ylabel=name, xlim=(0, results["test_loss"].shape[-1] - 1))
    end_ax.axhline(0.0, color="0.4", linestyle=(0, (4, 3)), linewidth=0.6)
    end_ax.set(ylabel="Change of the test loss", xlabel="One penalty for each")
    names = [LABELS[str(name)].replace("Unit, ", "Unit,\n") for name in results["granularities"]]
    end_ax.set_xticks(range(len(names)), names, fontsize=6)
    end_ax.set_xlim(-0.5, len(names) - 0.5)
    figure.legend(*valid_ax.get_legend_handles_labels(), loc="outside upper center", ncols=len(names))
    return {"regularisation_granularity": figure}


if __name__ == "__main__":
    main(Config, run, plot)
