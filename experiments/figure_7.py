"""Figure 7: training data learned from scratch (section 3.3).

Ten images, labelled 0 to 9, start as noise and follow the gradient of the loss on 10,000 real rows, through all of
the training of a logistic regression on these ten images alone; so does its penalty. Then, what 2015 had besides
and the paper has not: 30 images for a 784-20-10 net, at the settings of 2015; and, for what longer training without
a penalty on the images brings, the same at the settings of the ten images, but for 50 steps, 100 meta-iterations,
and initial weights large enough that the hidden units differ.

The losses of 2015 were 2.32189 at first and 0.419342 at the last evaluation, after 39 updates, for the ten images;
its objective was 580.61 at first and 1.00902 after 99 updates for the 30, its test error 88.4 % and 13.25 %, at
least 11.8 % on the way, its last test loss 0.457. Training with the rounding of the 2015 package (`rounding_2015`)
comes to all these numbers; at the decays as they are, ours differ a little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import autograd.numpy as np
from autograd import value_and_grad
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import hypergrad as hg
from experiments import rounding_2015
from experiments.common import Track, main
from hypergrad.mnist import load_data
from hypergrad.nn_utils import BatchList, make_nn_funs, plot_images
from hypergrad.plotting import COLORS, PAGE_WIDTH, new_figure

Rows = dict[str, np.ndarray]  # images "X" and one-hot labels "T"


@dataclass(frozen=True)
class Setting:
    """One problem: how many images, for which net, and how both are trained.

    batch_size: of the images, in order; all of them by default.  image_scale: of the initial images.
    image_prior: weight of the sum of their squares in the objective.
    meta_decay: of the momentum by which images and penalty follow the hypergradient; 0 for plain steps.
    """

    num_images: int
    layer_sizes: tuple[int, ...]
    log_scale: float
    num_iterations: int
    num_meta_iterations: int
    meta_step_size: float = 1.0
    step_size: float = 1.0
    decay: float = 0.9
    batch_size: int | None = None
    initial_l2: float = 0.01
    image_scale: float = 0.01
    image_prior: float = 0.0
    meta_decay: float = 0.0


@dataclass(frozen=True)
class Config:
    """ten: settings of the paper; thirty_2015: of 2015's variant; thirty: of a longer one.

    num_rows: real rows of the training set, to learn from, and of the test set.
    """

    seed: int = 0
    num_rows: int = 10_000
    ten: Setting = Setting(10, (784, 10), -4.0, 20, 40)
    thirty_2015: Setting = Setting(
        30,
        (784, 20, 10),
        -3.0,
        100,
        100,
        decay=0.5,
        batch_size=10,
        image_scale=0.5,
        image_prior=0.1,
        meta_decay=0.9,
    )
    thirty: Setting = Setting(30, (784, 20, 10), -2.0, 50, 100)

    @classmethod
    def quick(cls) -> Config:
        """Few rows, few steps."""
        return cls(
            num_rows=200,
            ten=Setting(10, (784, 10), -4.0, 5, 3),
            thirty_2015=Setting(30, (784, 5, 10), -3.0, 5, 3, batch_size=10, image_prior=0.1, meta_decay=0.9),
            thirty=Setting(30, (784, 5, 10), -2.0, 5, 3),
        )


class Problem:
    """The images to start from, and what training on images leads to.

    valid: the real rows to learn from.  test: others.  train: what trains.
    """

    def __init__(self, setting: Setting, valid: Rows, test: Rows, seed: int, train: Callable = hg.train):
        self.setting, self.valid, self.test, self.train = setting, valid, test, train
        self.labels = np.eye(10)[np.arange(setting.num_images) % 10]
        self.batches = BatchList(setting.num_images, setting.batch_size or setting.num_images)
        self.parser, _, self.loss, self.error = make_nn_funs(setting.layer_sizes)
        images = np.random.RandomState(seed).randn(setting.num_images, 784) * setting.image_scale
        self.initial = {"images": images, "log_l2": np.log(setting.initial_l2)}
        random = np.random.RandomState(seed)
        random.randn(len(self.parser.vect))  # in 2015, an initial velocity, times 0
        self.start = random.randn(len(self.parser.vect)) * np.exp(setting.log_scale)

    def trained(self, hypers: dict[str, np.ndarray]) -> np.ndarray:
        """Return the weights of a net trained on these images alone, with this penalty."""
        images = [hypers["images"][rows] for rows in self.batches]
        labels = [self.labels[rows] for rows in self.batches]

        def training_loss(weights: np.ndarray, theta: dict, t: int) -> np.ndarray:
            batch = t % len(self.batches)
            return self.loss(weights, theta["images"][batch], labels[batch], theta["l2"])

        rule = hg.Momentum(self.setting.step_size, self.setting.decay)
        theta = {"images": images, "l2": np.exp(hypers["log_l2"])}
        return self.train(training_loss, self.start, rule, self.setting.num_iterations, theta)

    def objective(self, hypers: dict[str, np.ndarray]) -> np.ndarray:
        """Return the loss on the rows to learn from, with the penalty on images."""
        prior = self.setting.image_prior * np.sum(hypers["images"] ** 2)
        return self.loss(self.trained(hypers), self.valid["X"], self.valid["T"]) + prior

    def evaluate(self, hypers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the objective, losses and errors, and the hypergradient."""
        objective, gradient = value_and_grad(self.objective)(hypers)
        weights = self.trained(hypers)
        splits = {"train": {"X": hypers["images"], "T": self.labels}, "valid": self.valid, "test": self.test}
        losses = {f"{name}_loss": self.loss(weights, rows["X"], rows["T"]) for name, rows in splits.items()}
        errors = {
            f"{name}_error": self.error(weights, splits[name]["X"], splits[name]["T"])
            for name in ("valid", "test")
        }
        return {"objective": objective, **losses, **errors, **gradient}


STAGES = {
    "ten": ("ten", hg.train),
    "ten_rounded": ("ten", rounding_2015.train),
    "thirty_2015": ("thirty_2015", hg.train),
    "thirty_2015_rounded": ("thirty_2015", rounding_2015.train),
    "thirty": ("thirty", hg.train),
}


def learn(problem: Problem, track: Track, stage: str) -> dict[str, np.ndarray]:
    """Learn the images and the penalty; return them, and objective, losses and errors at every meta-iteration."""
    setting, hypers, records = problem.setting, problem.initial, []
    velocity = {name: np.zeros_like(value) for name, value in hypers.items()}
    step = track.stage(stage, setting.num_meta_iterations + 1)
    for _ in range(setting.num_meta_iterations):
        records.append(step(problem.evaluate, hypers))
        for name, v in velocity.items():
            velocity[name] = setting.meta_decay * v - (1 - setting.meta_decay) * records[-1][name]
        hypers = {name: hypers[name] + setting.meta_step_size * velocity[name] for name in hypers}
    records.append(step(problem.evaluate, hypers))
    return {
        **{name: np.array([r[name] for r in records]) for name in records[0] if name not in hypers},
        "images": hypers["images"].reshape(-1, 28, 28),
        "l2": np.exp(hypers["log_l2"]),
    }


def load_rows(num_rows: int) -> tuple[Rows, Rows]:
    """Return the first rows of the training set, to learn from, and as many of the test set."""
    train_images, train_labels, test_images, test_labels, _ = load_data(normalize=True)
    splits = (train_images, train_labels), (test_images, test_labels)
    return tuple({"X": X[:num_rows].copy(), "T": T[:num_rows].copy()} for X, T in splits)


def run(config: Config, track: Track | None = None) -> dict[str, np.ndarray]:
    """Learn all sets of images; return for each, under "ten_" and the other names of STAGES, what `learn` returns.

    Entry i of objective, losses and errors belongs to the images after i updates.
    """
    track, rows, found = track or Track(), load_rows(config.num_rows), {}
    for stage, (name, train) in STAGES.items():
        problem = Problem(getattr(config, name), *rows, config.seed, train)
        for key, value in learn(problem, track, stage).items():
            found[f"{stage}_{key}"] = value
    return found


def draw_images(figure: Figure, ax: Axes, images: np.ndarray, ims_per_row: int = 5) -> None:
    """Draw images, with a colour bar from the smallest pixel to the largest."""
    image = plot_images(images, ax, ims_per_row=ims_per_row, vmin=images.min())
    ax.set_frame_on(False)
    bar = figure.colorbar(image, ticks=[images.min(), 0, images.max()], format="%.2f", pad=0.02)
    bar.outline.set_linewidth(0.5)


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw the ten images, as in the paper; both sets of thirty, and the errors of all over meta-iterations."""
    ten, ax = new_figure(width=PAGE_WIDTH, height=2.5)
    draw_images(ten, ax, results["ten_images"])

    thirty, (*images_axes, error_ax) = new_figure(1, 3, width=PAGE_WIDTH, height=2.4)
    for ax, name, title in zip(
        images_axes,
        ("thirty_2015", "thirty"),
        ("30 images, as in 2015", "30 images, as the ten, longer"),
        strict=True,
    ):
        draw_images(thirty, ax, results[f"{name}_images"], ims_per_row=6)
        ax.set_title(title)
    for color, name, label in (
        (COLORS[1], "ten", "10 images"),
        (COLORS[2], "thirty_2015", "30 images, as in 2015"),
        (COLORS[0], "thirty", "30 images, as the ten, longer"),
    ):
        error_ax.plot(100 * results[f"{name}_test_error"], color=color, label=label)
    error_ax.set(xlabel="Meta-iteration", ylabel="Test error, %", ylim=(0, 50), xlim=(1, None), xscale="log")
    thirty.legend(*error_ax.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return {"figure_7": ten, "figure_7_net": thirty}


if __name__ == "__main__":
    main(Config, run, plot)
