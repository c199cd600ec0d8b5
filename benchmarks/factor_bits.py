"""How finely should decays be rounded?  What k trades, where factors are applied as n / 2^k.

Training is a step function of a decay, with steps of 2^-k: too coarse, and differences in a decay, of a user or of
an optimizer that takes small steps, see stairs.  But each multiplication replaces the k low bits of a velocity by
digits from the buffer, noise of up to 2^(k - 52): too fine, and the velocity blurs.

Both sides are measured on momentum descent of a random quadratic: the error of central differences in the decay
against its exact derivative, and the distance of the trained weights from those in floating point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.common import table
from hypergrad import ExactRep


@dataclass(frozen=True)
class Config:
    """The candidates, and the problem."""

    factor_bits: tuple[int, ...] = (16, 20, 24, 30)
    differences: tuple[float, ...] = (1e-3, 1e-4, 1e-6)
    decay: float = 0.9
    step_size: float = 0.5
    num_weights: int = 2_000
    num_steps: int = 100
    num_repeats: int = 20
    seed: int = 0

    @classmethod
    def quick(cls) -> Config:
        """Few weights, few repeats."""
        return cls(num_weights=100, num_steps=20, num_repeats=3)


def run(config: Config) -> dict[str, Any]:
    """For every k: the median error of a central difference, for each difference; the noise in the weights."""
    rng = np.random.RandomState(config.seed)
    curvature, start = rng.rand(config.num_weights), rng.standard_normal(config.num_weights)
    decays = config.decay + 0.01 * rng.rand(config.num_repeats)
    errors, noises = [], []
    for k in config.factor_bits:
        noise = [
            np.max(
                np.abs(
                    descend(decay, k, curvature, start, config)
                    - in_floats(decay, k, curvature, start, config)
                )
            )
            for decay in decays
        ]
        noises.append(float(np.median(noise)))
        errors.append(
            [
                float(np.median([difference_error(d, eps, k, curvature, start, config) for d in decays]))
                for eps in config.differences
            ]
        )
    return {
        "factor_bits": list(config.factor_bits),
        "differences": list(config.differences),
        "difference_errors": errors,
        "weight_noise": noises,
    }


def descend(decay: float, k: int, curvature: np.ndarray, start: np.ndarray, config: Config) -> np.ndarray:
    """The weights after momentum descent in fixed point, decays applied as n / 2^k."""
    n = round(decay * 2**k)
    kept = n / 2**k
    w, v = ExactRep(start), ExactRep(np.zeros_like(start))
    for _ in range(config.num_steps):
        v.rational_mul(n, 2**k).sub((1 - kept) * curvature * w.val)
        w.add(config.step_size * v.val)
    return w.val


def in_floats(decay: float, k: int, curvature: np.ndarray, start: np.ndarray, config: Config) -> np.ndarray:
    """The same in floating point, at the same rounded decay."""
    kept = round(decay * 2**k) / 2**k
    w, v = start, np.zeros_like(start)
    for _ in range(config.num_steps):
        v = kept * v - (1 - kept) * curvature * w
        w = w + config.step_size * v
    return w


def difference_error(
    decay: float, eps: float, k: int, curvature: np.ndarray, start: np.ndarray, config: Config
) -> float:
    """Relative error of a central difference in the decay of the mean square of the trained weights."""

    def objective(x: float) -> float:
        return float(np.mean(descend(x, k, curvature, start, config) ** 2))

    def exact(x: float) -> float:
        return float(np.mean(in_floats(x, 52, curvature, start, config) ** 2))

    found = (objective(decay + eps) - objective(decay - eps)) / (2 * eps)
    true = (exact(decay + 1e-5) - exact(decay - 1e-5)) / 2e-5
    return abs(found / true - 1)


def report(results: dict[str, Any]) -> str:
    """The measurements as a table."""
    head = ["k", *(f"error at +-{eps:g}" for eps in results["differences"]), "noise in the weights"]
    rows = [
        [str(k), *(f"{error:.1e}" for error in errors), f"{noise:.1e}"]
        for k, errors, noise in zip(
            results["factor_bits"], results["difference_errors"], results["weight_noise"], strict=True
        )
    ]
    return table(head, rows)
