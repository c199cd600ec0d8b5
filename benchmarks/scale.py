"""How far does it go?  Many steps, many weights, each hypergradient in a process of its own, under 2 GB resident.

    long    100,000 steps of a net of about 10,000 weights; with the buffers in memory and on disk
    wide    1,000 steps of a net of about 1,000,000 weights; in double and in single precision
    huge    one step of a net of about 10,000,000 weights

Differentiated is the loss after training with respect to the initial weights and a step size and a decay for each
array of weights.  Every run is reversed bit for bit, or it would raise.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import autograd.numpy as np
from autograd import grad

import hypergrad as hg
from benchmarks.common import peak_memory, resident_memory, seconds_of, table, verdict
from hypergrad.mnist import load_data_dicts
from hypergrad.nn_utils import init_weights, net_nll
from hypergrad.util import RandomState

GOAL_BYTES = 2 * 10**9


@dataclass(frozen=True)
class Case:
    """One run."""

    name: str
    layer_sizes: tuple[int, ...]
    batch_size: int
    num_steps: int
    spill: bool = False
    precision: str = "float64"


@dataclass(frozen=True)
class Config:
    """The runs, and what they share."""

    cases: tuple[Case, ...] = (
        Case("long", (784, 12, 12, 10), 50, 100_000),
        Case("long, on disk", (784, 12, 12, 10), 50, 100_000, spill=True),
        Case("wide", (784, 800, 450, 10), 100, 1_000),
        Case("wide, float32", (784, 800, 450, 10), 100, 1_000, precision="float32"),
        Case("huge", (784, 3_600, 2_000, 10), 20, 1),
    )
    seed: int = 0
    num_rows: int = 10_000
    num_eval_rows: int = 1_000
    step_size: float = 0.05
    decay: float = 0.9
    log_scale: float = -3.0

    @classmethod
    def quick(cls) -> Config:
        """A few steps of small nets."""
        return cls(
            cases=(
                Case("long, on disk", (784, 4, 10), 20, 50, spill=True),
                Case("wide, float32", (784, 20, 10), 20, 5, precision="float32"),
            ),
            num_rows=200,
            num_eval_rows=50,
        )


def measure(arguments: tuple[Config, Case]) -> dict[str, Any]:
    """One hypergradient: seconds, peak and initial resident bytes, bytes of buffers, what was learned."""
    config, case = arguments
    (data,) = load_data_dicts(config.num_rows)
    X, T = data["X"].astype(case.precision), data["T"].astype(case.precision)
    random = RandomState((config.seed, case.name))
    start = init_weights(case.layer_sizes, random, np.exp(config.log_scale))
    seeds = random.randint(2**31, size=case.num_steps)
    before, buffers = resident_memory(), []

    def loss(weights: Any, theta: None, t: int) -> Any:
        rows = np.random.RandomState(seeds[t]).randint(config.num_rows, size=case.batch_size)
        return net_nll(weights, X[rows], T[rows])

    def note(step: hg.BackwardStep) -> None:
        if step.iteration == case.num_steps - 1:
            buffers.append(step.buffer_bytes)

    def final_loss(start: Any, step_sizes: Any, decays: Any, recovery: hg.Reversible) -> Any:
        rule = hg.Momentum(step_sizes, decays)
        weights = hg.train(
            loss, start, rule, case.num_steps, recovery=recovery, monitor=note, dtype=case.precision
        )
        rows = slice(config.num_eval_rows)
        return net_nll(weights, data["X"][rows], data["T"][rows])

    def each_array(value: float) -> list:
        return [(value, value) for _ in start]

    schedules = each_array(config.step_size), each_array(config.decay)
    with tempfile.TemporaryDirectory() as folder:
        recovery = hg.Reversible(spill_to=folder if case.spill else None)
        seconds, gradient = seconds_of(lambda: grad(final_loss, (0, 1, 2))(start, *schedules, recovery))
    if not all(np.all(np.isfinite(array)) for layer in gradient[0] for array in layer):
        raise ArithmeticError(f"{case.name}: the hypergradient is not finite")
    return {
        "name": case.name,
        "num_weights": sum(array.size for layer in start for array in layer),
        "num_steps": case.num_steps,
        "seconds": seconds,
        "bytes_before": before,
        "peak_bytes": peak_memory(),
        "buffer_bytes": buffers[0],
        "stored_bytes": 4 * case.num_steps * sum(array.size for layer in start for array in layer),
    }


def run(config: Config) -> dict[str, Any]:
    """Measure every case in a fresh process."""
    cases = []
    for case in config.cases:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            cases.append(pool.submit(measure, (config, case)).result())
        print(f"{case.name}: {cases[-1]['seconds']:.0f} s", flush=True)
    return {"cases": cases}


def report(results: dict[str, Any]) -> str:
    """One line for each run; stored: what float32 copies of the weights at every step would take."""
    head = [
        "run",
        "weights",
        "steps",
        "seconds",
        "ms a step",
        "peak GB",
        "goal 2 GB",
        "buffers MB",
        "stored, float32, GB",
    ]
    rows = [
        [
            case["name"],
            f"{case['num_weights']:,}",
            f"{case['num_steps']:,}",
            f"{case['seconds']:.0f}",
            f"{1e3 * case['seconds'] / case['num_steps']:.2f}",
            f"{case['peak_bytes'] / 1e9:.2f}",
            verdict(case["peak_bytes"], GOAL_BYTES),
            f"{case['buffer_bytes'] / 1e6:.1f}",
            f"{case['stored_bytes'] / 1e9:.2f}",
        ]
        for case in results["cases"]
    ]
    return table(head, rows)
