"""How finely should decays be rounded?  What k trades, where factors are applied as n / 2^k.

Training is a step function of a decay, with steps of 2^-k: too coarse, and differences in a decay, of a user who
checks a hypergradient or of an optimizer that takes small steps, see stairs.  But each multiplication replaces the
k low bits of a velocity by digits from the buffer, noise of up to 2^(k - 52): too fine, and the velocity blurs.

Both sides are measured on momentum descent of a random quadratic.  Stairs: what a central difference in the decay
is off from the same difference in floating point, which has no stairs, as a fraction of the derivative (so the
error that any difference has, by curvature, does not count).  Noise: how far the trained weights are from those in
floating point at the same rounded decay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import autograd.numpy as np
from autograd import grad

from benchmarks.common import table
from hypergrad import ExactRep
from hypergrad.util import RandomState


@dataclass(frozen=True)
class Config:
    """The candidates, and the problem."""

    factor_bits: tuple[int, ...] = (16, 20, 24, 30)
    differences: tuple[float, ...] = (1e-3, 1e-4, 1e-5, 1e-6)
    decay: float = 0.9
    step_size: float = 0.5
    num_weights: int = 2_000
    num_steps: int = 100
    num_repeats: int = 20
    seed: int = 0

    @classmethod
    def quick(cls) -> Config:
        """Few weights, few repeats."""
        return cls(num_weights=100, num_steps=20, num_repeats=5)


class Quadratic:
    """Momentum descent of a quadratic with random curvatures; the objective: mean square of the weights."""

    def __init__(self, config: Config) -> None:
        random = RandomState(config.seed)
        self.config = config
        self.curvature, self.start = random.rand(config.num_weights), random.randn(config.num_weights)
        self.decays = config.decay + 0.01 * random.rand(config.num_repeats)  # on no lattice

    def in_fixed_point(self, decay: float, k: int) -> np.ndarray:
        """The trained weights, decays applied as n / 2^k."""
        n = round(decay * 2**k)
        w, v = ExactRep(self.start), ExactRep(np.zeros_like(self.start))
        for _ in range(self.config.num_steps):
            v.rational_mul(n, 2**k).sub((1 - n / 2**k) * self.curvature * w.val)
            w.add(self.config.step_size * v.val)
        return w.val

    def in_floats(self, decay: float) -> np.ndarray:
        """The same in floating point, at any decay; autograd differentiates it."""
        w, v = self.start, np.zeros_like(self.start)
        for _ in range(self.config.num_steps):
            v = decay * v - (1 - decay) * self.curvature * w
            w = w + self.config.step_size * v
        return w

    def difference_error(self, decay: float, difference: float, k: int) -> float:
        """What rounding the decay adds to the error of a central difference, relative to the derivative."""

        def central(train: Any) -> float:
            above, below = (np.mean(train(decay + sign * difference) ** 2) for sign in (1, -1))
            return (above - below) / (2 * difference)

        true = grad(lambda x: np.mean(self.in_floats(x) ** 2))(decay)
        return float(abs((central(lambda x: self.in_fixed_point(x, k)) - central(self.in_floats)) / true))

    def noise(self, decay: float, k: int) -> np.ndarray:
        """What fixed point adds to each trained weight."""
        return self.in_fixed_point(decay, k) - self.in_floats(round(decay * 2**k) / 2**k)


def run(config: Config) -> dict[str, Any]:
    """For every k: the median error of a difference, for each size of it; the noise in the weights."""
    problem = Quadratic(config)
    noises = [np.array([problem.noise(decay, k) for decay in problem.decays]) for k in config.factor_bits]
    return {
        "factor_bits": list(config.factor_bits),
        "differences": list(config.differences),
        "difference_errors": [
            [
                float(np.median([problem.difference_error(decay, h, k) for decay in problem.decays]))
                for h in config.differences
            ]
            for k in config.factor_bits
        ],
        "noise_rms": [float(np.sqrt(np.mean(noise**2))) for noise in noises],
        "noise_largest": [float(np.max(np.abs(noise))) for noise in noises],
    }


def report(results: dict[str, Any]) -> str:
    """The measurements as a table."""
    names = ("factor_bits", "difference_errors", "noise_rms", "noise_largest")
    rows = [
        [str(k), *(f"{number:.1e}" for number in (*errors, rms, largest))]
        for k, errors, rms, largest in zip(*(results[name] for name in names), strict=True)
    ]
    differences = [f"difference {h:g}" for h in results["differences"]]
    return table(["k", *differences, "noise, rms", "largest"], rows)
