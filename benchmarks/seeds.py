"""Hypergradients over several seeds: what do two processes gain over one?

`hypergrad.parallel.omap` gives each of n processes max(1, cores // n) threads for linear algebra, so that together
they use no more threads than there are cores; the threads that each process has are counted (threadpoolctl).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from autograd import grad

from benchmarks.common import seconds_of, summary, table
from benchmarks.peers import NETWORKS
from hypergrad.parallel import omap


@dataclass(frozen=True)
class Config:
    """Which network, how many seeds at a time, how often."""

    network: str = "schedules"
    num_steps: int = 100
    num_rows: int = 10_000
    num_seeds: int = 8
    jobs: tuple[int, ...] = (1, 2)
    repetitions: int = 5

    @classmethod
    def quick(cls) -> Config:
        """Few steps, once."""
        return cls(num_steps=3, num_rows=500, num_seeds=2, repetitions=1)


def hypergradient(arguments: tuple[Config, int]) -> dict[str, Any]:
    """The hypergradient of one seed, and the threads of each library for linear algebra in its process."""
    import hypergrad as hg
    from hypergrad.mnist import load_data_dicts
    from hypergrad.nn_utils import init_weights, net_nll
    from hypergrad.util import RandomState

    config, seed = arguments
    layer_sizes, batch_size = NETWORKS[config.network]
    (data,) = load_data_dicts(config.num_rows)
    start = init_weights(layer_sizes, RandomState(seed), np.exp(-2.0))

    def loss(weights: Any, theta: None, t: int) -> Any:
        rows = RandomState((seed, t)).randint(config.num_rows, size=batch_size)
        return net_nll(weights, data["X"][rows], data["T"][rows])

    def final_loss(step_sizes: Any) -> Any:
        weights = hg.train(loss, start, hg.Momentum(step_sizes, 0.9), config.num_steps)
        return net_nll(weights, data["X"][:1000], data["T"][:1000])

    gradient = grad(final_loss)(np.full(config.num_steps, 0.1))
    return {"gradient": gradient, "threads": _threads()}


def _threads() -> list[int]:
    from threadpoolctl import threadpool_info

    return [pool["num_threads"] for pool in threadpool_info()]


def run(config: Config) -> dict[str, Any]:
    """Seconds for all seeds by number of processes, in turns; the most threads that one process had."""
    items = [(config, seed) for seed in range(config.num_seeds)]
    seconds: dict[int, list[float]] = {jobs: [] for jobs in config.jobs}
    threads, gradients = {}, {}
    for repetition in range(config.repetitions + 1):
        for jobs in config.jobs:
            elapsed, results = seconds_of(
                lambda jobs=jobs: omap(hypergradient, items, jobs=jobs, progress=False)
            )
            if repetition or not config.repetitions:  # the first round starts processes and loads data
                seconds[jobs].append(elapsed)
            threads[jobs] = max(max(result["threads"], default=1) for result in results)
            gradients[jobs] = np.array([result["gradient"] for result in results])
    reference = gradients[config.jobs[0]]
    return {
        "jobs": list(config.jobs),
        "num_seeds": config.num_seeds,
        "seconds": [summary(seconds[jobs]) for jobs in config.jobs],
        "threads_per_process": [threads[jobs] for jobs in config.jobs],
        "difference": [float(np.max(np.abs(gradients[jobs] - reference))) for jobs in config.jobs],
    }


def report(results: dict[str, Any]) -> str:
    """One line for each number of processes."""
    slowest = results["seconds"][0]["median"]
    head = ["processes", "seconds", "quartiles", "speed-up", "BLAS threads each", "largest difference"]
    rows = [
        [
            str(jobs),
            f"{seconds['median']:.2f}",
            "{:.2f} to {:.2f}".format(*seconds["quartiles"]),
            f"{slowest / seconds['median']:.2f}",
            str(threads),
            f"{difference:.0e}",
        ]
        for jobs, seconds, threads, difference in zip(
            results["jobs"],
            results["seconds"],
            results["threads_per_process"],
            results["difference"],
            strict=True,
        )
    ]
    return f"{results['num_seeds']} seeds\n{table(head, rows)}"
