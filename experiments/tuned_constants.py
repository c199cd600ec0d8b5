"""What tuned constants reach beside learned schedules: Bayesian optimisation (section 3.1).

On the net and data of figures 2, 3 and 5, one step size, one decay and one log initial scale for all iterations
and blocks are chosen by a Gaussian process with expected improvement. It sees the log of the training loss at
the end of training, averaged over the same few seeds for every point, so that points differ by their constants
alone. Then the constants, those published and the learned schedules train with the same fresh seeds.

The optimiser is the package bayesian-optimization: maintained, it has Gaussian processes from scikit-learn, and
asks for points one by one, so that an interrupted run can resume. Optuna's Gaussian processes need PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from autograd.misc import flatten
from matplotlib.figure import Figure

import hypergrad as hg
from experiments import schedules
from experiments.common import Track, main
from hypergrad.plotting import COLORS, PAGE_WIDTH, new_figure
from hypergrad.util import RandomState

TEST_SEED = 1_000  # meta-iteration of the first fresh seed
NAMES = ("log_step_size", "logit_decay", "log_scale")


@dataclass(frozen=True)
class Config(schedules.Config):
    """Settings. The bounds are those of the search; num_random: points drawn before the Gaussian process starts.

    num_seeds: averaged over at each point; num_test_seeds: fresh ones, for the comparison. worst_loss: what is
    noted where training diverges or ends higher. noise: variance of the log losses, in units of theirs.
    """

    log_step_size: tuple[float, float] = (-3.0, 3.0)
    logit_decay: tuple[float, float] = (-4.0, 4.0)
    log_scale: tuple[float, float] = (-5.0, 0.0)
    num_evaluations: int = 80
    num_random: int = 12
    num_seeds: int = 3
    num_test_seeds: int = 10
    worst_loss: float = 5.0
    noise: float = 1e-3

    @classmethod
    def quick(cls) -> Config:
        """A small net on few rows, for a few steps."""
        return replace(super().quick(), num_evaluations=5, num_random=3, num_seeds=2, num_test_seeds=2)


def make_optimizer(config: Config) -> Any:
    """Return a Bayesian optimiser that maximises. Raises ImportError where its package is missing."""
    try:
        from bayes_opt import BayesianOptimization
        from bayes_opt.acquisition import ExpectedImprovement
    except ImportError as error:
        raise ImportError(
            "tuned_constants needs the package bayesian-optimization: pip install 'reversible-hypergrad[tuning]'"
        ) from error
    optimizer = BayesianOptimization(
        f=None,
        pbounds={name: getattr(config, name) for name in NAMES},
        acquisition_function=ExpectedImprovement(xi=0.0),
        random_state=config.seed,
        verbose=0,
        allow_duplicate_points=True,
    )
    optimizer.set_gp_params(alpha=config.noise)
    return optimizer


def constants(problem: schedules.Problem, point: dict[str, float]) -> np.ndarray:
    """Return a point of the search as a vector of the problem's hyperparameters."""
    return problem.hypers(*[float(point[name]) for name in NAMES])


def final_loss(problem: schedules.Problem, vector: np.ndarray, meta_iteration: int) -> float:
    """Return the training loss on all rows after training; infinity where training diverges."""
    try:
        loss = float(problem.loss(problem.trained(vector, meta_iteration), problem.train))
    except (hg.FixedPointRangeError, hg.NonFiniteGradientError):
        return np.inf
    return loss if np.isfinite(loss) else np.inf


def fresh_losses(arguments: tuple[Config, np.ndarray, int]) -> dict[str, np.ndarray]:
    """Return the training loss, the validation loss and the test error after training with this fresh seed."""
    config, vector, meta_iteration = arguments
    problem = schedules.Problem(config)
    weights = problem.trained(vector, meta_iteration)
    return {
        "train_loss": problem.loss(weights, problem.train),
        "valid_loss": problem.loss(weights, problem.valid),
        "test_error": problem.error(weights, problem.test["X"], problem.test["T"]),
    }


def search(config: Config, problem: schedules.Problem, track: Track) -> dict[str, np.ndarray]:
    """Return every point evaluated, (E, 3) in the order of NAMES, and its losses, (E,), at most worst_loss."""
    optimizer, random = make_optimizer(config), RandomState((config.seed, "tuning"))
    step = track.stage("Bayesian optimisation", config.num_evaluations)
    points, losses = [], []

    def evaluate(point: dict[str, float]) -> dict[str, np.ndarray]:
        each = [final_loss(problem, constants(problem, point), seed) for seed in range(config.num_seeds)]
        loss = np.minimum(np.mean(each), config.worst_loss)
        return {"loss": loss, "best": min([loss, *losses])}

    for i in range(config.num_evaluations):
        if i < config.num_random:
            point = {name: random.uniform(*getattr(config, name)) for name in NAMES}
        else:
            point = optimizer.suggest()
        losses.append(float(step(evaluate, point)["loss"]))
        points.append([float(point[name]) for name in NAMES])
        optimizer.register(params=point, target=-np.log(losses[-1]))
    return {"points": np.array(points), "losses": np.array(losses)}


def run(config: Config, track: Track | None = None) -> dict[str, np.ndarray]:
    """Search for constants, learn the schedules, and compare both with fresh seeds.

    points, losses: as in `search`. best_*: the best point. For "tuned", "published" and "learned", KIND_train_loss
    and its like are those of every fresh seed, and KIND_last_loss is the training loss with the seed of the learned
    schedules' last meta-iteration.
    """
    track, problem, last = track or Track(), schedules.Problem(config), config.num_meta_iterations
    found = search(config, problem, track)
    best = dict(zip(NAMES, found["points"][np.argmin(found["losses"])], strict=True))
    learning = schedules.run(config, track)
    learned = {
        "log_step_sizes": np.log(learning["step_sizes"]),
        "logit_decays": hg.logit(learning["decays"]),
        "log_scales": learning["log_scales"][-1],
    }
    published = [np.log(config.tuned_step_size), hg.logit(config.tuned_decay), config.tuned_log_scale]
    vectors = {
        "tuned": constants(problem, best),
        "published": problem.hypers(*published),
        "learned": flatten(learned)[0],
    }
    seeds = [last, *range(TEST_SEED, TEST_SEED + config.num_test_seeds)]
    items = [(config, vector, seed) for vector in vectors.values() for seed in seeds]
    records = track.map("comparison", fresh_losses, items)
    results = {**found, **{f"best_{name}": value for name, value in best.items()}}
    for i, kind in enumerate(vectors):
        last_record, *fresh = records[i * len(seeds) : (i + 1) * len(seeds)]
        results[f"{kind}_last_loss"] = last_record["train_loss"]
        results |= {f"{kind}_{name}": np.array([r[name] for r in fresh]) for name in last_record}
    return {**results, "published": np.array(published)}


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw the best loss so far, beside what the published constants and the schedules reach, and the points."""
    figure, (loss_ax, point_ax) = new_figure(1, 2, width=PAGE_WIDTH, height=2.4)
    losses, points = results["losses"], results["points"]
    evaluations = np.arange(1, len(losses) + 1)
    loss_ax.plot(evaluations, losses, "o", color="0.75", markersize=2, label="Evaluated")
    loss_ax.step(
        evaluations, np.minimum.accumulate(losses), where="post", color=COLORS[0], label="Best so far"
    )
    for kind, color, label in (
        ("published", "0.4", "Published constants"),
        ("tuned", COLORS[0], "Our constants, fresh seeds"),
        ("learned", COLORS[1], "Learned schedules"),
    ):
        mean = results[f"{kind}_train_loss"].mean()
        loss_ax.axhline(mean, color=color, linestyle=(0, (4, 2)), linewidth=0.7, label=label)
    loss_ax.set(xlabel="Evaluation", ylabel="Final training loss", xlim=(0, len(losses)), yscale="log")
    step_sizes, decays = np.exp(points[:, 0]), hg.logistic(points[:, 1])
    best_last = np.argsort(-losses)  # so that the best are drawn on top
    shown = point_ax.scatter(
        step_sizes[best_last],
        decays[best_last],
        c=np.log10(losses[best_last]),
        cmap="viridis_r",
        s=10,
        linewidths=0,
    )
    log_step_size, logit_decay, _ = results["published"]
    mark = {"s": 45, "facecolors": "none", "linewidths": 0.9}
    point_ax.scatter(
        np.exp(log_step_size),
        hg.logistic(logit_decay),
        marker="s",
        edgecolors="0.4",
        label="Published",
        **mark,
    )
    point_ax.scatter(
        np.exp(results["best_log_step_size"]),
        hg.logistic(results["best_logit_decay"]),
        edgecolors=COLORS[1],
        label="Ours",
        **mark,
    )
    point_ax.set(xlabel="Step size", ylabel="Decay", xscale="log", ylim=(-0.03, 1.03))
    bar = figure.colorbar(shown, ax=point_ax, pad=0.02)
    bar.set_label(r"$\log_{10}$ final training loss")
    bar.outline.set_linewidth(0.5)
    handles, labels = (
        a + b
        for a, b in zip(
            loss_ax.get_legend_handles_labels(), point_ax.get_legend_handles_labels(), strict=True
        )
    )
    figure.legend(handles, labels, loc="outside upper center", ncols=4, columnspacing=1.2)
    return {"tuned_constants": figure}


if __name__ == "__main__":
    main(Config, run, plot)
