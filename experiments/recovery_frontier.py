"""What each recovery of the trajectory costs, and how far off it is, over 10 to 10,000 steps.

A 196-20-10 net on digits of 14 x 14 pixels is trained for longer and longer. The gradient of the validation
loss with respect to all step sizes and decays, one a step, and the initial weights is taken by way of every
recovery: from stored states, with what the gradients' pullbacks use or without, from snapshots, by running
backwards exactly; and approximately, from the last steps alone, from a straight line, by running backwards in
floats. Of each: the error against the stored trajectory, the peak of the memory that NumPy and Python allocate,
and the time beside that of training.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import autograd.numpy as np
from autograd import grad
from autograd.misc import flatten
from matplotlib.figure import Figure

import hypergrad as hg
from experiments.common import Track, main
from hypergrad.mnist import load_data_dicts
from hypergrad.nn_utils import init_weights, net_log_probs, nll
from hypergrad.plotting import COLORS, PAGE_WIDTH, new_figure
from hypergrad.util import RandomState

RECOVERIES: dict[str, Callable[[int], Any]] = {  # by name in the results, for a number of steps
    "stored": lambda num_steps: hg.Stored(),
    "stored_pullbacks": lambda num_steps: hg.Stored(pullbacks=True),
    "checkpointed": lambda num_steps: hg.Checkpointed(),
    "checkpointed_10": lambda num_steps: hg.Checkpointed(budget=10),
    "reversible": lambda num_steps: hg.Reversible(),
    "truncated": lambda num_steps: hg.Truncated(max(num_steps // 5, 1)),
    "interpolated": lambda num_steps: hg.Interpolated(),
    "float64": lambda num_steps: hg.FloatReversal(),
    "float32": lambda num_steps: hg.FloatReversal(np.float32),
}
LABELS = (
    "Stored",
    "With pullbacks",
    "Checkpointed",
    "Budget of 10",
    "Reversible",
    "Last fifth",
    "Interpolated",
    "float64",
    "float32",
)
EXACT = ("stored", "stored_pullbacks", "checkpointed", "checkpointed_10", "reversible")
HYPERS = ("start", "log_step_sizes", "logit_decays")


@dataclass(frozen=True)
class Config:
    """Settings; step size and decay are such that training stays clear of chaos."""

    seed: int = 0
    layer_sizes: tuple[int, ...] = (196, 20, 10)
    num_rows: int = 2_000
    batch_size: int = 100
    num_steps: tuple[int, ...] = (10, 30, 100, 300, 1_000, 3_000, 10_000)
    step_size: float = 0.3
    decay: float = 0.9
    log_scale: float = -2.0

    @classmethod
    def quick(cls) -> Config:
        """Few rows, few steps."""
        return cls(num_rows=200, num_steps=(10, 30))


def halved(images: np.ndarray) -> np.ndarray:
    """Return images of 28 x 28, (n, 784), as means of 2 x 2 pixels, (n, 196)."""
    return images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196)


def make_problem(config: Config, num_steps: int, name: str) -> tuple[Callable[[], Any], Callable[[], dict]]:
    """Return training without derivatives, and the hypergradient by way of one recovery, both ready to be called.

    The hypergradient has an entry for each of HYPERS. One that can't be had is infinite.
    """
    train, valid, _ = load_data_dicts(config.num_rows, config.num_rows, 1)
    images, valid_images = halved(train["X"]), halved(valid["X"])
    start = init_weights(config.layer_sizes, RandomState((config.seed, "weights")), np.exp(config.log_scale))
    ones = np.ones(num_steps)
    hypers = {
        "start": start,
        "log_step_sizes": np.log(config.step_size) * ones,
        "logit_decays": hg.logit(config.decay) * ones,
    }
    recovery = RECOVERIES[name](num_steps)

    def training_loss(weights: list, _: None, t: int) -> np.ndarray:
        rows = RandomState((config.seed, t)).randint(config.num_rows, size=config.batch_size)
        return nll(net_log_probs(weights, images[rows]), train["T"][rows])

    def validation_loss(hypers: dict) -> np.ndarray:
        rule = hg.Momentum(np.exp(hypers["log_step_sizes"]), hg.logistic(hypers["logit_decays"]))
        weights = hg.train(training_loss, hypers["start"], rule, num_steps, recovery=recovery)
        return nll(net_log_probs(weights, valid_images), valid["T"])

    def hypergradient() -> dict:
        try:
            with np.errstate(all="ignore"):  # what comes back in floats may be anything
                return grad(validation_loss)(hypers)
        except hg.ReversalError:  # in floats
            return {key: flatten(value)[0] * np.inf for key, value in hypers.items()}

    return lambda: validation_loss(hypers), hypergradient


def measure(arguments: tuple[Config, int, str]) -> dict[str, np.ndarray]:
    """Return the hypergradient of one recovery, as one vector for each of HYPERS, its peak memory and its time.

    time: that of value and gradient over that of training alone, without what is compiled at the first call.
    """
    config, num_steps, name = arguments
    for call_once in make_problem(config, min(config.num_steps), name):
        call_once()
    training, hypergradient = make_problem(config, num_steps, name)
    started = time.perf_counter()
    training()
    trained = time.perf_counter()
    found = hypergradient()
    seconds = time.perf_counter() - trained
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    hypergradient()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    vectors = {key: flatten(found[key])[0] for key in HYPERS}
    return {**vectors, "peak_bytes": peak - before, "time": seconds / (trained - started)}


def relative_error(found: np.ndarray, true: np.ndarray) -> float:
    """Return |found - true| / |true|, at most 1e30, which stands for what is not finite."""
    if not np.all(np.isfinite(found)):
        return 1e30
    return min(float(np.max(np.abs(found - true)) / np.max(np.abs(true))), 1e30)


def run(config: Config, track: Track | None = None) -> dict[str, np.ndarray]:
    """Measure every recovery over every number of steps.

    NAME_error_HYPER, NAME_peak_bytes, NAME_time: (numbers of steps,). time: in trainings without derivatives.
    """
    track, results = track or Track(), {"num_steps": np.array(config.num_steps)}
    for num_steps in config.num_steps:
        items = [(config, num_steps, name) for name in RECOVERIES]
        records = dict(zip(RECOVERIES, track.map(f"{num_steps} steps", measure, items), strict=True))
        for name, record in records.items():
            measured = {f"error_{key}": relative_error(record[key], records["stored"][key]) for key in HYPERS}
            measured |= {key: record[key] for key in ("peak_bytes", "time")}
            for key, value in measured.items():
                results.setdefault(f"{name}_{key}", []).append(value)
    return {name: np.array(values) for name, values in results.items()}


def plot(results: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Draw error, peak memory and time over the number of steps, and time against memory at the last."""
    figure, axes = new_figure(1, 3, width=PAGE_WIDTH, height=2.4)
    steps, handles = results["num_steps"], []
    for ax, key, label in (
        (axes[0], "error_log_step_sizes", "Error of the step sizes' hypergradient"),
        (axes[1], "peak_bytes", "Peak memory (MB)"),
    ):
        for i, name in enumerate(RECOVERIES):
            values = results[f"{name}_{key}"] / (1e6 if key == "peak_bytes" else 1.0)
            style = {"color": COLORS[i % len(COLORS)], "linestyle": "-" if name in EXACT else "--"}
            line = ax.plot(steps, values, marker=".", markersize=3, **style)[0]
            handles += [line] if key == "peak_bytes" else []
        ax.set(xscale="log", xlabel="Training iterations", ylabel=label, xlim=(steps[0], steps[-1]))
    axes[0].set_yscale("symlog", linthresh=1e-16)
    axes[0].set(ylim=(0, 1e6))
    axes[0].set_yticks([0, 1e-12, 1e-8, 1e-4, 1, 1e4])
    axes[0].minorticks_off()
    axes[1].set_yscale("log")
    for i, name in enumerate(RECOVERIES):
        axes[2].plot(
            results[f"{name}_peak_bytes"][-1] / 1e6,
            results[f"{name}_time"][-1],
            "o" if name in EXACT else "x",
            color=COLORS[i % len(COLORS)],
        )
    axes[2].set(xscale="log", xlabel="Peak memory (MB)", ylabel=f"Time at {steps[-1]:,} (in trainings)")
    axes[2].set_ylim(0, None)
    figure.legend(handles, LABELS, loc="outside upper center", ncols=5)
    return {"recovery_frontier": figure}


if __name__ == "__main__":
    main(Config, run, plot)
