"""Research log: can a nearest-neighbour classifier learn how to augment its data?

Training rows are doubled: each is there as it is, and multiplied by one 784 x 784 matrix. A validation row
takes the class of its neighbours, weighted by a squared-exponential kernel, so the loss is a smooth function of
the matrix, which follows its gradient by Adam from the identity. Every step draws other rows to classify.
"""

from __future__ import annotations

from dataclasses import dataclass

import autograd.numpy as np
from autograd import value_and_grad
from matplotlib.figure import Figure
from tqdm import tqdm

from experiments.common import main
from hypergrad.kernel_methods import make_sq_exp_kernel, weighted_neighbors_loss
from hypergrad.mnist import load_data_dicts
from hypergrad.nn_utils import plot_images
from hypergrad.optimizers import adam
from hypergrad.plotting import COLORS, PAGE_WIDTH, new_figure
from hypergrad.util import RandomState

NUM_SHOWN = 5


@dataclass(frozen=True)
class Config:
    """Settings; length_scales: of the kernel, to choose from by the loss without a transform."""

    seed: int = 0
    num_train: int = 500
    num_valid: int = 10_000
    batch_size: int = 500
    num_test: int = 2_000
    length_scales: tuple[float, ...] = (0.7, 1.0, 1.4, 2.0, 2.8)
    num_steps: int = 150
    step_size: float = 0.002

    @classmethod
    def quick(cls) -> Config:
        """Few rows, few steps."""
        return cls(num_train=60, num_valid=80, batch_size=40, num_test=40, num_steps=3)


def run(config: Config) -> dict[str, np.ndarray]:
    """Learn the matrix; return the loss at every step, test losses, some rows before and after, the matrix.

    losses: on the rows of the step, before it. test_losses: with the rows as they are, and with those transformed
    by the learned matrix as well, at the best length scale of each.
    """
    train, valid, test = load_data_dicts(config.num_train, config.num_valid, config.num_test)

    def loss(matrix: np.ndarray | None, data: dict[str, np.ndarray], scale: float) -> np.ndarray:
        X, T = train["X"], train["T"]
        if matrix is not None:
            X, T = np.concatenate([X, np.dot(X, matrix)]), np.concatenate([T, T])
        return weighted_neighbors_loss((X, T), data, make_sq_exp_kernel(scale))

    def rows(i: int) -> dict[str, np.ndarray]:
        chosen = RandomState((config.seed, i)).randint(config.num_valid, size=config.batch_size)
        return {name: array[chosen] for name, array in valid.items()}

    plain = [float(loss(None, rows(-1), scale)) for scale in config.length_scales]
    scale = config.length_scales[int(np.argmin(plain))]
    losses = []

    def gradient(matrix: np.ndarray, i: int) -> np.ndarray:
        value, slope = value_and_grad(lambda m: loss(m, rows(i), scale))(matrix)
        losses.append(float(value))
        bar.set_postfix(loss=f"{value:.4f}", refresh=False)
        bar.update()
        return slope

    with tqdm(total=config.num_steps, desc="steps", disable=None) as bar:  # None: only on a terminal
        matrix = adam(gradient, np.eye(784), num_iters=config.num_steps, step_size=config.step_size)
    test_losses = [min(float(loss(m, test, scale)) for scale in config.length_scales) for m in (None, matrix)]
    shown = train["X"][:NUM_SHOWN]
    change = matrix - np.eye(784)
    pixels = np.array([28 * 14 + 14, 28 * 10 + 10])
    return {
        "plain_losses": np.array(plain),
        "length_scale": scale,
        "losses": np.array(losses),
        "test_losses": np.array(test_losses),
        "shown": shown.astype(np.float32),
        "transformed": np.dot(shown, matrix).astype(np.float32),
        "pixel_changes": change[pixels].astype(np.float32),
        "change_norm": np.linalg.norm(change),
    }


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw the loss over steps; digits, the same transformed; and what the matrix adds for two pixels."""
    figure, (loss_ax, images_ax, matrix_ax) = new_figure(1, 3, width=PAGE_WIDTH, height=2.0)
    loss_ax.plot(results["losses"], color=COLORS[0])
    loss_ax.axhline(results["losses"][0], color="0.6", linewidth=0.6)
    loss_ax.set(xlabel="Step", ylabel="Loss of the validation rows", xlim=(0, len(results["losses"])))
    plot_images(np.concatenate([results["shown"], results["transformed"]]), images_ax, ims_per_row=NUM_SHOWN)
    images_ax.set_title("Digits, and transformed")
    plot_images(results["pixel_changes"], matrix_ax, ims_per_row=2)
    matrix_ax.set_title("What two pixels add")
    for ax in (images_ax, matrix_ax):
        ax.set_axis_off()
    return {"learned_augmentation": figure}


if __name__ == "__main__":
    main(Config, run, plot)
