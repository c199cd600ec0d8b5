"""How many bits does the information buffer take, beside the entropy limit?

A multiplication by a decay throws away log2(1 / decay) bits of a velocity, and no fewer can bring it back.  The
buffer is measured as it lies there at rest, every array counted (`BitStore.nbytes`), for a velocity that is decayed
and pushed by noise.  A word that is not full counts once, whatever the number of steps, like all that is constant;
so the goal is set to what the buffer grows by per step, from a tenth of the steps to the last.  Beside it, what a
stored float32 per step would take (the paper claims factors of 200 at a decay of 0.9 and 1,000 at 0.98).

That nothing else grows is measured on whole training runs: all memory, Python's and NumPy's (tracemalloc), that is
held after the forward pass for the sake of the backward pass, for runs of two lengths.
"""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import dataclass
from typing import Any

import autograd.numpy as np
from autograd import make_vjp
from matplotlib.figure import Figure

import hypergrad as hg
from benchmarks.common import table, verdict
from hypergrad import ExactRep
from hypergrad.exact_rep import round_to_lattice
from hypergrad.plotting import COLORS, new_figure
from hypergrad.util import RandomState

GOAL = 0.02  # above the limit, in what is added per step


@dataclass(frozen=True)
class Config:
    """Which decays and numbers of steps."""

    decays: tuple[float, ...] = (0.5, 0.9, 0.98, 0.99)
    num_steps: tuple[int, ...] = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
    num_weights: int = 1_000
    run_decays: tuple[float, ...] = (0.9, 0.98)
    run_steps: tuple[int, int] = (1_000, 10_000)
    run_weights: int = 10_000
    seed: int = 0

    @classmethod
    def quick(cls) -> Config:
        """Few weights, shorter runs."""
        return cls(
            decays=(0.9, 0.98),
            num_steps=(100, 1_000),
            num_weights=50,
            run_decays=(0.9,),
            run_steps=(100, 400),
            run_weights=1_000,
        )


def run(config: Config) -> dict[str, Any]:
    """Bits per weight for every decay (rows) and number of steps (columns); bytes of whole runs."""
    bits = [bits_of_buffer(decay, config) for decay in config.decays]
    for decay in config.run_decays[:1]:
        bytes_of_run(decay, min(config.run_steps), config)  # the first run leaves caches behind
    return {
        "decays": list(config.decays),
        "num_steps": list(config.num_steps),
        "num_weights": config.num_weights,
        "bits": bits,
        "limits": [limit(decay) for decay in config.decays],
        "run_decays": list(config.run_decays),
        "run_limits": [limit(decay) for decay in config.run_decays],
        "run_steps": list(config.run_steps),
        "run_weights": config.run_weights,
        "run_bytes": [
            [bytes_of_run(decay, T, config) for T in config.run_steps] for decay in config.run_decays
        ],
    }


def limit(decay: float) -> float:
    """The bits that a multiplication by the decay, as it is applied, throws away."""
    return float(-np.log2(round_to_lattice(decay)))


def bits_of_buffer(decay: float, config: Config) -> list[float]:
    """What the buffer of a velocity holds after each of the numbers of steps, in bits per weight."""
    rng, bits = np.random.RandomState(config.seed), []
    velocity = ExactRep(rng.standard_normal(config.num_weights))
    for t in range(1, max(config.num_steps) + 1):
        velocity.mul(decay).sub((1 - decay) * rng.standard_normal(config.num_weights))
        if t in config.num_steps:
            velocity.aux.pack()
            bits.append(8.0 * velocity.aux.nbytes / config.num_weights)
    return bits


def growth_of_buffer(results: dict[str, Any], index: int) -> float:
    """At decay number `index`: bits per weight and step added from a tenth of the steps to the last."""
    steps, bits = results["num_steps"], results["bits"][index]
    early = steps.index(steps[-1] // 10)
    return (bits[-1] - bits[early]) / (steps[-1] - steps[early])


def bytes_of_run(decay: float, num_steps: int, config: Config) -> int:
    """All memory that a training run holds between its forward and its backward pass."""
    start = RandomState(config.seed).randn(config.run_weights)

    def loss(weights: Any, theta: None, t: int) -> Any:
        return 0.5 * np.sum(np.square(weights - RandomState((config.seed, t)).randn(config.run_weights)))

    def trained(weights: Any) -> Any:
        return hg.train(loss, weights, hg.Momentum(0.1, decay), num_steps)

    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        pull_back, _ = make_vjp(trained)(start)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    if not np.all(np.isfinite(pull_back(np.ones(config.run_weights)))):
        raise ArithmeticError("the backward pass from what was held gave no finite gradient")
    return after - before


def growth(results: dict[str, Any], index: int) -> tuple[float, float]:
    """Of the runs at decay number `index`: bits per weight and step, and bytes per weight besides."""
    (short, long), (few, many) = results["run_bytes"][index], results["run_steps"]
    per_step = (long - short) / (many - few)
    return 8 * per_step / results["run_weights"], (short - per_step * few) / results["run_weights"]


def report(results: dict[str, Any]) -> str:
    """The measurements as two tables."""
    steps = results["num_steps"]
    shown = [T for T in steps if 10 ** round(np.log10(T)) == T]
    head = ["decay", "limit", *(f"T = {T:,}" for T in shown), "growth", "above", "goal 2 %", "float32 / ours"]
    rows = []
    for index, (decay, bound) in enumerate(zip(results["decays"], results["limits"], strict=True)):
        bits, added = results["bits"][index], growth_of_buffer(results, index)
        excess = added / bound - 1
        cells = [f"{bits[steps.index(T)] / T:.4f}" for T in shown]
        times = f"{32 * steps[-1] / bits[-1]:,.0f}"
        rows.append(
            [
                f"{decay}",
                f"{bound:.4f}",
                *cells,
                f"{added:.5f}",
                f"{excess:.1%}",
                verdict(excess, GOAL),
                times,
            ]
        )
    runs = [
        [f"{decay}", f"{bound:.4f}", *map("{:.4g}".format, growth(results, i))]
        for i, (decay, bound) in enumerate(zip(results["run_decays"], results["run_limits"], strict=True))
    ]
    few, many = results["run_steps"]
    return (
        f"Buffers at rest, bits a weight and step ({results['num_weights']:,} weights); growth: from "
        f"{steps[-1] // 10:,} to {steps[-1]:,} steps\n{table(head, rows)}\n\n"
        f"All that a training run holds ({results['run_weights']:,} weights, {few:,} and {many:,} steps)\n"
        + table(["decay", "limit", "bits a weight and step", "bytes a weight besides"], runs)
    )


def plot(results: dict[str, Any]) -> dict[str, Figure]:
    """Draw the bytes per weight against the number of steps, beside the limit and a stored trajectory."""
    figure, ax = new_figure(height=2.4)
    steps = np.array(results["num_steps"])
    ax.plot(steps, 8.0 * steps, color="0.6", linestyle=(0, (4, 3)), label="Stored, float64")
    ax.plot(steps, 4.0 * steps, color="0.6", label="Stored, float32")
    for color, decay, bound, bits in zip(
        COLORS, results["decays"], results["limits"], results["bits"], strict=False
    ):
        ax.plot(steps, bound * steps / 8, color=color)
        ax.plot(steps, np.array(bits) / 8, "o", color=color, markerfacecolor="none", label=f"Decay {decay}")
    ax.set(xlabel="Steps", ylabel="Bytes per weight", xscale="log", yscale="log")
    figure.legend(loc="outside upper center", ncols=3, columnspacing=1.2)
    return {"memory": figure}
