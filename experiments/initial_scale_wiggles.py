"""Research log: how wiggly is the loss in the scale of the initial parameters?

The net of figure 10 is trained from the same random weights at many scales. Its training loss after several numbers
of iterations, and the gradient with respect to the log scale, show up to which scale a gradient says something.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import autograd.numpy as np
from matplotlib.figure import Figure

from experiments.common import Track, main
from experiments.small_net import SmallNet, draw_sweep, sweep


@dataclass(frozen=True)
class Config:
    """Settings; long_every: of the points, those at which the longest runs are done."""

    seed: int = 0
    layer_sizes: tuple[int, ...] = (784, 200, 50, 10)
    num_rows: int = 1000
    batch_size: int = 250
    step_size: float = 1.0
    decay: float = 0.9
    counts: tuple[int, ...] = (0, 1, 5, 10, 20, 50)
    long_count: int = 400
    smallest_log_scale: float = -5.0
    largest_log_scale: float = 1.0
    num_scales: int = 101
    long_every: int = 4

    @classmethod
    def quick(cls) -> Config:
        """A small net on few rows, for a few steps."""
        return cls(
            layer_sizes=(784, 8, 10),
            num_rows=100,
            batch_size=25,
            counts=(0, 1, 3),
            long_count=6,
            num_scales=13,
        )


@dataclass(frozen=True)
class Loss:
    """The training loss after some iterations, as a function of the log initial scale."""

    config: Config

    def __call__(self, count: int, log_scale: float) -> np.ndarray:
        """Train, and return the loss on all rows."""
        return net_of(self.config).loss_after(count, np.log(self.config.step_size), log_scale)


@cache
def net_of(config: Config) -> SmallNet:
    """Return the net; its rows are read once."""
    return SmallNet(config)


def run(config: Config, track: Track | None = None) -> dict[str, np.ndarray]:
    """Train at every scale; see `sweep` for what is returned."""
    log_scales = np.linspace(config.smallest_log_scale, config.largest_log_scale, config.num_scales)
    return sweep(
        track or Track(), Loss(config), log_scales, config.counts, config.long_count, config.long_every
    )


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw the loss above its gradient, against the log scale."""
    return {"initial_scale_wiggles": draw_sweep(results, "Log initial scale")}


if __name__ == "__main__":
    main(Config, run, plot)
