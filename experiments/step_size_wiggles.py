"""Research log: how wiggly is the loss in the step size?

The net of figure 10 is trained from the same weights with many step sizes. Its training loss after several numbers
of iterations, and the gradient with respect to the log step size, show how the edge of chaos moves as training
goes on.
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
    decay: float = 0.9
    log_scale: float = -2.0
    counts: tuple[int, ...] = (1, 5, 10, 20, 50)
    long_count: int = 400
    smallest_log_step_size: float = -2.0
    largest_log_step_size: float = 2.5
    num_step_sizes: int = 101
    long_every: int = 4

    @classmethod
    def quick(cls) -> Config:
        """A small net on few rows, for a few steps."""
        return cls(
            layer_sizes=(784, 8, 10),
            num_rows=100,
            batch_size=25,
            counts=(1, 3),
            long_count=6,
            num_step_sizes=13,
        )


@dataclass(frozen=True)
class Loss:
    """The training loss after some iterations, as a function of the log step size."""

    config: Config

    def __call__(self, count: int, log_step_size: float) -> np.ndarray:
        """Train, and return the loss on all rows."""
        return net_of(self.config).loss_after(count, log_step_size, self.config.log_scale)


@cache
def net_of(config: Config) -> SmallNet:
    """Return the net; its rows are read once."""
    return SmallNet(config)


def run(config: Config, track: Track | None = None) -> dict[str, np.ndarray]:
    """Train at every step size; see `sweep` for what is returned."""
    log_step_sizes = np.linspace(
        config.smallest_log_step_size, config.largest_log_step_size, config.num_step_sizes
    )
    return sweep(
        track or Track(), Loss(config), log_step_sizes, config.counts, config.long_count, config.long_every
    )


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw the loss above its gradient, against the log step size."""
    return {"step_size_wiggles": draw_sweep(results, "Log step size")}


if __name__ == "__main__":
    main(Config, run, plot)
