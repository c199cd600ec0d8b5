"""Research log: the distribution of the initial weights, learned as a histogram.

Each block of a net, weights or biases, draws its initial values from a distribution of its own, given by quantiles:
values at evenly spaced ranks, with straight lines between them. A weight is then a linear function of two of them,
and the validation loss has a gradient with respect to every quantile. They are learned by plain steps of several
sizes, and by Adam, with new ranks and minibatches at each meta-iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import autograd.numpy as np
from autograd import value_and_grad
from matplotlib.figure import Figure
from scipy.special import ndtri

import hypergrad as hg
from experiments.common import Record, Track, main
from hypergrad.mnist import load_data_dicts
from hypergrad.nn_utils import make_nn_funs, nice_layer_name
from hypergrad.optimizers import adam, simple_sgd
from hypergrad.plotting import COLORS, PAGE_WIDTH, new_figure
from hypergrad.util import RandomState

NEW_SEED = 1_000  # the first meta-iteration whose random numbers nothing was learned on


@dataclass(frozen=True)
class Config:
    """Settings; plain_meta_step_sizes: those of plain gradient steps, adam_meta_step_size: that of Adam."""

    seed: int = 0
    layer_sizes: tuple[int, ...] = (784, 50, 10)
    num_rows: int = 10_000
    batch_size: int = 200
    num_iterations: int = 50
    step_size: float = 1.0
    decay: float = 0.9
    log_scale: float = -2.0
    num_quantiles: int = 50
    plain_meta_step_sizes: tuple[float, ...] = (0.1, 1.0, 10.0)
    adam_meta_step_size: float = 0.02
    num_meta_iterations: int = 40
    num_new_seeds: int = 10
    num_bins: int = 40

    @classmethod
    def quick(cls) -> Config:
        """Few rows, few steps."""
        return cls(
            layer_sizes=(784, 8, 10),
            num_rows=300,
            batch_size=50,
            num_iterations=5,
            num_quantiles=8,
            plain_meta_step_sizes=(1.0,),
            num_meta_iterations=2,
            num_new_seeds=2,
        )


def draw(quantiles: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return the value at each rank of the distribution with these quantiles; linear in them.

    quantiles: (K,), in any order; the least of them belongs to rank 0, the largest to rank 1.  ranks: in [0, 1].
    """
    positions = ranks * (len(quantiles) - 1)
    lower = np.minimum(positions.astype(int), len(quantiles) - 2)
    share, heights = positions - lower, np.sort(quantiles)
    return (1.0 - share) * heights[lower] + share * heights[lower + 1]


class Problem:
    """Training a net from weights drawn from quantiles, (blocks, K), blocks in the order of the parser."""

    def __init__(self, config: Config):
        self.config = config
        self.train, self.valid = load_data_dicts(config.num_rows, config.num_rows)
        self.parser, _, self.loss, _ = make_nn_funs(config.layer_sizes)
        ranks = (np.arange(config.num_quantiles) + 0.5) / config.num_quantiles
        self.initial = np.tile(np.exp(config.log_scale) * ndtri(ranks), (len(self.parser.names), 1))

    def validation_loss(self, quantiles: np.ndarray, meta_iteration: int) -> np.ndarray:
        """Return the validation loss after training with the random numbers of this meta-iteration."""
        config, key = self.config, (self.config.seed, meta_iteration)
        ranks = RandomState((*key, "ranks")).rand(len(self.parser.vect))
        blocks = [block for block, _ in self.parser.idxs_and_shapes.values()]
        start = np.concatenate([draw(quantiles[k], ranks[block]) for k, block in enumerate(blocks)])

        def minibatch_loss(weights: np.ndarray, theta: None, t: int) -> np.ndarray:
            rows = RandomState((*key, t)).randint(config.num_rows, size=config.batch_size)
            return self.loss(weights, self.train["X"][rows], self.train["T"][rows])

        rule = hg.Momentum(config.step_size, config.decay)
        weights = hg.train(minibatch_loss, start, rule, config.num_iterations)
        return self.loss(weights, self.valid["X"], self.valid["T"])


def learn(problem: Problem, optimize: Callable, meta_step_size: float, step: Callable[..., Record]) -> Record:
    """Learn the quantiles; return the loss and the gradient at every meta-iteration, and the quantiles."""
    records, last = [], problem.config.num_meta_iterations

    def evaluate(quantiles: np.ndarray, i: int) -> dict[str, np.ndarray]:
        loss, gradient = value_and_grad(problem.validation_loss)(quantiles, i)
        return {"loss": loss, "gradient": gradient}

    def hypergradient(quantiles: np.ndarray, i: int) -> np.ndarray:
        records.append(step(evaluate, quantiles, i))
        return records[-1]["gradient"]

    learned = optimize(hypergradient, problem.initial, num_iters=last, step_size=meta_step_size)
    hypergradient(learned, last)
    return {
        "losses": np.array([record["loss"] for record in records]),
        "gradients": np.array([record["gradient"] for record in records]),
        "quantiles": np.sort(learned),
    }


def plain_steps(gradient: Callable, x: np.ndarray, num_iters: int, step_size: float) -> np.ndarray:
    """Descend by steps of step_size times the gradient."""
    return simple_sgd(gradient, x, num_iters=num_iters, step_size=step_size, mass=0.0)


def run(config: Config, track: Track | None = None) -> dict[str, np.ndarray]:
    """Learn the distributions with each optimizer; Adam is the last.

    losses: (optimizers, meta-iterations + 1).  gradient_sizes: mean |gradient| of a block's quantiles at the
    start, (blocks,).  new_initial: losses on new random numbers, (new seeds,); new_learned: (optimizers, new
    seeds).  quantiles, spreads (standard deviations): before, then for each optimizer.  edges, initial_density,
    learned_density: histograms before and after Adam, (blocks, bins + 1) and (blocks, bins).
    """
    track, problem = track or Track(), Problem(config)
    trials = [(plain_steps, size) for size in config.plain_meta_step_sizes]
    trials.append((adam, config.adam_meta_step_size))
    learned = []
    for optimize, size in trials:
        stage = track.stage(f"{optimize.__name__} {size}".replace("_", " "), config.num_meta_iterations + 1)
        learned.append(learn(problem, optimize, size, stage))
    quantiles = np.array([problem.initial, *(trial["quantiles"] for trial in learned)])
    test = track.stage("new seeds", len(quantiles) * config.num_new_seeds)

    def new_loss(q: np.ndarray, i: int) -> dict[str, np.ndarray]:
        return {"loss": problem.validation_loss(q, NEW_SEED + i)}

    new = np.array([[test(new_loss, q, i)["loss"] for i in range(config.num_new_seeds)] for q in quantiles])
    values = np.array([[draw(block, np.linspace(0, 1, 20_001)) for block in q] for q in quantiles])
    shown = values[[0, -1]]
    edges = np.linspace(shown.min(axis=(0, 2)), shown.max(axis=(0, 2)), config.num_bins + 1).T
    densities = np.array(
        [[np.histogram(v, e, density=True)[0] for v, e in zip(q, edges, strict=True)] for q in shown]
    )
    return {
        "losses": np.array([trial["losses"] for trial in learned]),
        "gradient_sizes": np.abs(learned[0]["gradients"][0]).mean(axis=1),
        "new_initial": new[0],
        "new_learned": new[1:],
        "quantiles": quantiles,
        "spreads": values.std(axis=2),
        "edges": edges,
        "initial_density": densities[0],
        "learned_density": densities[1],
        "meta_step_sizes": np.array([size for _, size in trials]),
        "block_names": np.array([nice_layer_name(name) for name in problem.parser.names]),
    }


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw each block's histogram before and after Adam, and the loss over meta-iterations of every optimizer."""
    figure, axes = new_figure(1, 5, width=PAGE_WIDTH, height=2.0, width_ratios=(1, 1, 1, 1, 1.8))
    for k, (ax, name) in enumerate(zip(axes, results["block_names"], strict=False)):
        for when, color in (("initial", "0.6"), ("learned", COLORS[0])):
            ax.stairs(
                results[f"{when}_density"][k], results["edges"][k], color=color, label=when.capitalize()
            )
        ax.set(title=name, ylim=(0, None), yticks=[])
    axes[0].set_ylabel("Density")
    axes[0].legend(loc="upper right")
    loss_ax = axes[-1]
    for i, (losses, size) in enumerate(zip(results["losses"], results["meta_step_sizes"], strict=True)):
        is_adam = i == len(results["losses"]) - 1
        color = COLORS[0] if is_adam else COLORS[i + 1]
        loss_ax.plot(losses, color=color, label=f"Adam, {size:g}" if is_adam else f"Plain, {size:g}")
    loss_ax.set(xlabel="Meta-iteration", ylabel="Validation loss", yscale="log")
    loss_ax.set_xlim(0, results["losses"].shape[1] - 1)
    loss_ax.legend()
    return {"initial_distributions": figure}


if __name__ == "__main__":
    main(Config, run, plot)
