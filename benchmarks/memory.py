"""How many bits does the information buffer take, beside the entropy limit?

A multiplication by a decay throws away log2(1 / decay) bits of a velocity, and no fewer can bring it back.  The
buffer is measured as it lies there after the forward pass, every array counted (`BitStore.nbytes`), for a
velocity that is decayed and pushed by noise.  Beside it, what a stored float32 per step would take (the paper
claims factors of 200 at a decay of 0.9 and 1,000 at 0.98).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.common import table, verdict
from hypergrad import ExactRep
from hypergrad.exact_rep import round_to_lattice

GOAL = 0.05  # above the limit, at the last number of steps


@dataclass(frozen=True)
class Config:
    """Which decays and numbers of steps."""

    decays: tuple[float, ...] = (0.5, 0.9, 0.98, 0.99)
    num_steps: tuple[int, ...] = (100, 1_000, 10_000)
    num_weights: int = 1_000
    seed: int = 0

    @classmethod
    def quick(cls) -> Config:
        """Few weights."""
        return cls(decays=(0.9, 0.98), num_weights=50)


def run(config: Config) -> dict[str, Any]:
    """Bits per weight and step for every decay (rows) and number of steps (columns)."""
    bits = [[bits_per_step(decay, T, config) for T in config.num_steps] for decay in config.decays]
    return {
        "decays": list(config.decays),
        "num_steps": list(config.num_steps),
        "bits": bits,
        "limits": [float(-np.log2(round_to_lattice(decay))) for decay in config.decays],
    }


def bits_per_step(decay: float, num_steps: int, config: Config) -> float:
    """What the buffer of a velocity holds after num_steps, in bits per weight and step."""
    rng = np.random.RandomState(config.seed)
    velocity = ExactRep(rng.standard_normal(config.num_weights))
    for _ in range(num_steps):
        velocity.mul(decay).sub((1 - decay) * rng.standard_normal(config.num_weights))
    velocity.aux.pack()
    return 8.0 * velocity.aux.nbytes / config.num_weights / num_steps


def report(results: dict[str, Any]) -> str:
    """The measurements as a table."""
    head = [
        "decay",
        "limit",
        *(f"T = {T:,}" for T in results["num_steps"]),
        "above the limit",
        "goal 5 %",
        "float32 / ours",
    ]
    rows = []
    for decay, limit, bits in zip(results["decays"], results["limits"], results["bits"], strict=True):
        excess = bits[-1] / limit - 1
        goal = verdict(excess, GOAL)
        cells = [f"{b:.4f}" for b in bits]
        rows.append([f"{decay}", f"{limit:.4f}", *cells, f"{excess:.1%}", goal, f"{32 / bits[-1]:,.0f}"])
    return table(head, rows)
