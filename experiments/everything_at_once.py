"""Research log: everything at once, on minibatches of five examples.

A 784-20-10 net takes 100 steps on five rows each. Learned together, from the validation loss: a step size and a
decay for each step and block, the scales of the initial weights, and a penalty for every weight, 16,714
hyperparameters; and, to compare, all but the penalties. Each meta-iteration has new initial weights and rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import autograd.numpy as np
from autograd import value_and_grad
from autograd.misc import flatten
from matplotlib.figure import Figure

import hypergrad as hg
from experiments.common import Track, main
from hypergrad.mnist import load_data_dicts
from hypergrad.nn_utils import make_nn_funs
from hypergrad.optimizers import adam
from hypergrad.plotting import COLORS, PAGE_WIDTH, new_figure
from hypergrad.util import RandomState

FIRST_TEST_SEED = 1_000
MODELS = ("all but penalties", "everything")


@dataclass(frozen=True)
class Config:
    """Settings; num_test_seeds: fresh ones, for the comparison.

    meta_epsilon: Adam's; at the 1e-4 of 2015 the penalties, whose derivatives are below 1e-6, would not move.
    """

    seed: int = 0
    layer_sizes: tuple[int, ...] = (784, 20, 10)
    batch_size: int = 5
    num_iterations: int = 100
    num_rows: int = 10_000
    num_valid: int = 2_000
    log_step_size: float = -2.0
    decay: float = 0.9
    log_scale: float = -2.0
    log_l2: float = -8.0
    num_meta_iterations: int = 100
    meta_step_size: float = 0.04
    meta_epsilon: float = 1e-9
    num_test_seeds: int = 10

    @classmethod
    def quick(cls) -> Config:
        """A small net, few steps."""
        return cls(
            layer_sizes=(784, 5, 10),
            num_iterations=6,
            num_rows=300,
            num_valid=100,
            num_meta_iterations=2,
            num_test_seeds=2,
        )


class Problem:
    """Training under one vector of all hyperparameters."""

    def __init__(self, config: Config):
        self.config = config
        self.train, self.valid, self.test = load_data_dicts(
            config.num_rows, config.num_valid, config.num_rows
        )
        self.parser, _, self.loss, self.error = make_nn_funs(config.layer_sizes)
        self.blocks = [block for block, _ in self.parser.idxs_and_shapes.values()]
        ones = np.ones((config.num_iterations, len(self.blocks)))
        self.initial, self.unflatten = flatten(
            {
                "log_step_sizes": config.log_step_size * ones,
                "logit_decays": hg.logit(config.decay) * ones,
                "log_scales": np.full(len(self.blocks), config.log_scale),
                "log_l2": np.full(len(self.parser.vect), config.log_l2),
            }
        )

    def learned_part(self, model: str) -> np.ndarray:
        """Return 1 for hyperparameters that a model learns, 0 for others."""
        learned = {name: np.ones_like(value) for name, value in self.unflatten(self.initial).items()}
        learned["log_l2"] *= model == "everything"
        return flatten(learned)[0]

    def trained(self, vector: np.ndarray, meta_iteration: int) -> np.ndarray:
        """Return the weights after training with the random numbers of this meta-iteration."""
        config, hypers, key = self.config, self.unflatten(vector), (self.config.seed, meta_iteration)
        noise = RandomState(key).randn(len(self.parser.vect))
        start = [np.exp(hypers["log_scales"][k]) * noise[block] for k, block in enumerate(self.blocks)]
        columns = range(len(self.blocks))
        rule = hg.Momentum(
            step_size=[np.exp(hypers["log_step_sizes"][:, k]) for k in columns],
            decay=[hg.logistic(hypers["logit_decays"][:, k]) for k in columns],
        )

        def minibatch_loss(weights: list, log_l2: np.ndarray, t: int) -> np.ndarray:
            rows = RandomState((*key, t)).randint(config.num_rows, size=config.batch_size)
            return self.loss(
                np.concatenate(weights), self.train["X"][rows], self.train["T"][rows], np.exp(log_l2)
            )

        theta = hypers["log_l2"]
        return np.concatenate(hg.train(minibatch_loss, start, rule, config.num_iterations, theta))

    def value_and_gradient(self, vector: np.ndarray, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the validation loss and its gradient, NaN and zero where training leaves its range."""
        try:
            return value_and_grad(lambda v: self.loss(self.trained(v, i), self.valid["X"], self.valid["T"]))(
                vector
            )
        except (hg.FixedPointRangeError, hg.NonFiniteGradientError):
            return np.array(np.nan), np.zeros_like(vector)


def compare(arguments: tuple[Config, np.ndarray, int]) -> dict[str, np.ndarray]:
    """Return validation and test loss, and test error, with these hyperparameters and this seed."""
    config, vector, seed = arguments
    problem = Problem(config)
    weights = problem.trained(vector, seed)
    return {
        "valid_loss": problem.loss(weights, problem.valid["X"], problem.valid["T"]),
        "test_loss": problem.loss(weights, problem.test["X"], problem.test["T"]),
        "test_error": problem.error(weights, problem.test["X"], problem.test["T"]),
    }


def run(config: Config, track: Track | None = None) -> dict[str, np.ndarray]:
    """Learn both models; return their validation losses and gradient norms, and a comparison on fresh seeds.

    valid_loss: of the meta-iteration's own seed, (models, meta-iterations). final_*: (initial and models, seeds).
    """
    track, problem, last = track or Track(), Problem(config), config.num_meta_iterations
    losses, norms, learned = [], [], [problem.initial]
    for model in MODELS:
        step, part, records = track.stage(model, last), problem.learned_part(model), []

        def evaluate(vector: np.ndarray, i: int) -> dict[str, np.ndarray]:
            value, gradient = problem.value_and_gradient(vector, i)
            return {"valid_loss": value, "gradient": gradient}

        def gradient(
            vector: np.ndarray, i: int, step=step, part=part, records=records, evaluate=evaluate
        ) -> np.ndarray:
            records.append(step(evaluate, vector, i))
            return records[-1]["gradient"] * part

        steps = {"step_size": config.meta_step_size, "eps": config.meta_epsilon}
        found = adam(gradient, problem.initial, num_iters=last, **steps)
        learned.append(np.where(part, found, problem.initial))
        losses.append([record["valid_loss"] for record in records])
        norms.append([np.linalg.norm(record["gradient"]) for record in records])
    seeds = range(FIRST_TEST_SEED, FIRST_TEST_SEED + config.num_test_seeds)
    records = track.map("comparison", compare, [(config, v, seed) for v in learned for seed in seeds])
    shape = len(learned), len(seeds)
    hypers = problem.unflatten(learned[-1])
    return {
        "valid_loss": np.array(losses),
        "gradient_norms": np.array(norms),
        **{f"final_{name}": np.reshape([r[name] for r in records], shape) for name in records[0]},
        "step_sizes": np.exp(hypers["log_step_sizes"]),
        "decays": hg.logistic(hypers["logit_decays"]),
        "log_l2_percentiles": np.percentile(hypers["log_l2"], [1, 25, 50, 75, 99]),
    }


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw the validation loss over meta-iterations, the losses on fresh seeds, and the learned step sizes."""
    figure, (meta_ax, seeds_ax, step_ax) = new_figure(1, 3, width=PAGE_WIDTH, height=2.1)
    for color, model, losses in zip(COLORS, MODELS, results["valid_loss"], strict=False):
        meta_ax.plot(losses, color=color, label=model.capitalize())
    meta_ax.set(xlabel="Meta-iteration", ylabel="Validation loss", ylim=(0, None))
    for position, (color, losses) in enumerate(
        zip(("0.5", *COLORS), results["final_test_loss"], strict=False)
    ):
        seeds_ax.plot(np.full(len(losses), position), losses, "o", color=color, markerfacecolor="none")
    seeds_ax.set_xticks(range(3), ["Initial", "All but\npenalties", "Everything"])
    seeds_ax.set(ylabel="Test loss, fresh seeds", ylim=(0, None), xlim=(-0.5, 2.5))
    for layer, schedule in enumerate(results["step_sizes"].T[::2], start=1):
        step_ax.plot(schedule, color=COLORS[layer + 1], label=f"Layer {layer}")
    step_ax.set(xlabel="Iteration", ylabel="Learned step size", ylim=(0, None))
    step_ax.legend()
    figure.legend(*meta_ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return {"everything_at_once": figure}


if __name__ == "__main__":
    main(Config, run, plot)
