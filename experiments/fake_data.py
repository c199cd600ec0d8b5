"""Research log: learned fake data: how far can a few images overfit the rows that they are learned from?

As in figure 7, images are learned so that a logistic regression trained on them alone does well on real rows:
here 10, 30 or 100 images, from 100, 1,000 or 10,000 real rows. The loss on these rows and that on 10,000 others
part company when the images know the rows by heart.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from matplotlib.figure import Figure

from experiments.common import Track, main
from experiments.figure_7 import Problem, Setting, learn
from hypergrad.mnist import load_data_dicts
from hypergrad.plotting import COLORS, PAGE_WIDTH, new_figure


@dataclass(frozen=True)
class Config:
    """Settings; those not here are of figure 7."""

    seed: int = 0
    num_images: tuple[int, ...] = (10, 30, 100)
    num_valid: tuple[int, ...] = (100, 1_000, 10_000)
    num_test: int = 10_000
    num_meta_iterations: int = 100

    @classmethod
    def quick(cls) -> Config:
        """Few rows, few steps."""
        return cls(num_images=(10, 20), num_valid=(50,), num_test=50, num_meta_iterations=2)


def run(config: Config, track: Track | None = None) -> dict[str, np.ndarray]:
    """Learn every set of images; return losses and errors, (numbers of images, of rows, meta-iterations + 1)."""
    track, found = track or Track(), []
    for images, rows in product(config.num_images, config.num_valid):
        setting = Setting(images, (784, 10), -4.0, 20, config.num_meta_iterations)
        problem = Problem(setting, *load_data_dicts(rows, config.num_test), config.seed)
        found.append(learn(problem, track, f"{images} images from {rows} rows"))
    shape = len(config.num_images), len(config.num_valid), config.num_meta_iterations + 1
    measures = [name for name in found[0] if name.endswith(("_loss", "_error"))]
    return {
        **{name: np.reshape([results[name] for results in found], shape) for name in measures},
        "num_images": np.array(config.num_images),
        "num_valid": np.array(config.num_valid),
    }


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw both errors over meta-iterations, one panel for each number of rows."""
    figure, axes = new_figure(
        1, len(results["num_valid"]), width=PAGE_WIDTH, height=2.1, sharey=True, squeeze=False
    )
    for j, (ax, rows) in enumerate(zip(axes[0], results["num_valid"], strict=True)):
        for i, (color, images) in enumerate(zip(COLORS, results["num_images"], strict=False)):
            ax.plot(100 * results["test_error"][i, j], color=color, label=f"{images} images")
            ax.plot(100 * results["valid_error"][i, j], color=color, linestyle=(0, (2, 2)))
        ax.plot([], [], color="0.4", label="Test")
        ax.plot([], [], color="0.4", linestyle=(0, (2, 2)), label="Rows learned from")
        ax.set(title=f"{rows:,} rows", xlabel="Meta-iteration", xlim=(0, results["test_error"].shape[2] - 1))
    axes[0, 0].set(ylabel="Error, %", ylim=(0, 50))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return {"fake_data": figure}


if __name__ == "__main__":
    main(Config, run, plot)
