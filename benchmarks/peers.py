"""What does a hypergradient cost here, and what with the libraries that people would use instead?

One problem, the same numbers from everyone: a network on MNIST is trained by momentum, with a step size and a decay
for each step and each array of weights, and the loss at the end is differentiated with respect to all of those and
the initial weights.

    hypergrad          this library: training is run backwards
    hypergrad stored   the same, with recovery=Stored(pullbacks=True): as the next three, it keeps the trajectory
    autograd           the unrolled loop
    torch              the unrolled loop, with create_graph=True
    jax scan           lax.scan, compiled
    jax checkpointed   the same, each step under jax.checkpoint, which keeps its state and computes the rest again

Each measurement has a process of its own, in double precision, on all cores.  All are measured in turns, and
the medians taken; where all are done within ten seconds, processes stay, and there are more turns.  Time is
that of one hypergradient right after another, as an outer loop takes them; left out are compilation, and the first
of each turn, which comes after a pause, or for which the system has to hand out memory (where one takes more than a
hundred seconds, it is all there is).  Memory is what the resident set has in addition to that before (with
compilation: compiled programs lie there, too).  A process that takes more than the limit is stopped, and the table
says so, as it does where one asks for more than there is.  Only peers that are installed are measured
(benchmarks/requirements.txt).
"""

from __future__ import annotations

import importlib.util
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from benchmarks.common import peak_memory, resident_memory, seconds_of, table, verdict
from hypergrad.mnist import load_data_dicts
from hypergrad.plotting import COLORS, new_figure
from hypergrad.util import RandomState

NETWORKS = {
    "schedules": ((784, 50, 50, 50, 10), 200),
    "large": ((784, 400, 200, 10), 250),
    "first call": ((784, 5, 5, 10), 20),  # too small to leave memory behind that others could use
}
TOLERANCE = 1e-6  # relative, between the hypergradients


@dataclass(frozen=True)
class Config:
    """Which networks and numbers of steps; limit_bytes: of resident memory."""

    seed: int = 0
    networks: tuple[str, ...] = ("schedules", "large")
    num_steps: tuple[int, ...] = (100, 1_000, 10_000)
    num_rows: int = 10_000
    num_eval_rows: int = 1_000
    step_sizes: tuple[float, float] = (0.05, 0.15)
    decays: tuple[float, float] = (0.8, 0.95)
    log_scale: float = -2.0
    limit_bytes: int = 8 * 10**9
    repetitions: int = 3  # of all contenders in turns, a process for each
    short: float = 10.0  # seconds: where all calls take less, processes stay for
    repetitions_if_short: int = 9
    repeat_below: float = 100.0  # seconds: what takes longer is measured once

    @classmethod
    def quick(cls) -> Config:
        """Few steps of the smaller network."""
        return cls(
            networks=("schedules",),
            num_steps=(5,),
            num_rows=500,
            num_eval_rows=100,
            repetitions=2,
            repetitions_if_short=2,
        )


class Problem(NamedTuple):
    """What everyone gets: data, minibatches as rows of (T, batch), initial (W, b) flat, schedules (T, arrays)."""

    X: np.ndarray
    T: np.ndarray
    batches: np.ndarray
    start: list[np.ndarray]
    step_sizes: np.ndarray
    decays: np.ndarray
    num_eval_rows: int


def make_problem(config: Config, network: str, num_steps: int) -> Problem:
    """Draw the problem; decays are multiples of 2**-24, which is what fixed point rounds them to."""
    layer_sizes, batch_size = NETWORKS[network]
    (data,) = load_data_dicts(config.num_rows)
    random = RandomState((config.seed, network))
    shapes = [shape for m, n in pairwise(layer_sizes) for shape in ((m, n), (1, n))]
    return Problem(
        data["X"],
        data["T"],
        random.randint(config.num_rows, size=(num_steps, batch_size)),
        [random.randn(*shape) * np.exp(config.log_scale) for shape in shapes],
        random.uniform(*config.step_sizes, size=(num_steps, len(shapes))),
        np.rint(random.uniform(*config.decays, size=(num_steps, len(shapes))) * 2**24) / 2**24,
        config.num_eval_rows,
    )


# ---- the contenders: each makes, of a problem, a function without arguments that returns the hypergradient as one
# vector: of the initial weights, the step sizes and the decays


def by_hypergrad(problem: Problem, recovery: Any = None) -> Callable[[], np.ndarray]:
    """This library, with its own networks; by default training is run backwards."""
    from autograd import grad

    import hypergrad as hg
    from hypergrad.nn_utils import net_nll

    def layers(arrays: Any) -> list:
        return [(arrays[i], arrays[i + 1]) for i in range(0, len(problem.start), 2)]

    def loss(weights: Any, theta: None, t: int) -> Any:
        X, T = (data.take(problem.batches[t], axis=0) for data in (problem.X, problem.T))
        return net_nll(layers(weights), X, T)

    def objective(start: Any, step_sizes: Any, decays: Any) -> Any:
        rule = hg.Momentum(
            [step_sizes[:, j] for j in range(len(problem.start))],
            [decays[:, j] for j in range(len(problem.start))],
            max_velocity=32.0,  # less noise than at the default, for the comparison of the numbers
        )
        weights = hg.train(loss, start, rule, len(problem.batches), recovery=recovery or hg.Reversible())
        rows = slice(problem.num_eval_rows)
        return net_nll(layers(weights), problem.X[rows], problem.T[rows])

    gradient = grad(objective, (0, 1, 2))
    return lambda: _flat(gradient(problem.start, problem.step_sizes, problem.decays))


def by_hypergrad_stored(problem: Problem) -> Callable[[], np.ndarray]:
    """This library, where memory is no matter."""
    import hypergrad as hg

    return by_hypergrad(problem, recovery=hg.Stored(pullbacks=True))


def by_autograd(problem: Problem) -> Callable[[], np.ndarray]:
    """autograd through the unrolled loop."""
    import autograd.numpy as anp
    from autograd import grad

    def nll(w: Any, X: Any, T: Any) -> Any:
        for i in range(0, len(w) - 2, 2):
            X = anp.tanh(anp.dot(X, w[i]) + w[i + 1])
        outputs = anp.dot(X, w[-2]) + w[-1]
        largest = anp.max(outputs, axis=1, keepdims=True)
        normalizer = largest + anp.log(anp.sum(anp.exp(outputs - largest), axis=1, keepdims=True))
        return -anp.sum((outputs - normalizer) * T) / len(T)

    def objective(start: Any, step_sizes: Any, decays: Any) -> Any:
        w, v = list(start), [np.zeros_like(array) for array in problem.start]
        for t, rows in enumerate(problem.batches):
            g = grad(nll)(w, problem.X[rows], problem.T[rows])
            v = [decays[t, j] * v[j] - (1 - decays[t, j]) * g[j] for j in range(len(w))]
            w = [w[j] + step_sizes[t, j] * v[j] for j in range(len(w))]
        rows = slice(problem.num_eval_rows)
        return nll(w, problem.X[rows], problem.T[rows])

    gradient = grad(objective, (0, 1, 2))
    return lambda: _flat(gradient(problem.start, problem.step_sizes, problem.decays))


def by_torch(problem: Problem) -> Callable[[], np.ndarray]:
    """PyTorch through the unrolled loop."""
    import torch

    X, T, batches = (torch.from_numpy(array) for array in (problem.X, problem.T, problem.batches))

    def nll(w: list, X: Any, T: Any) -> Any:
        for i in range(0, len(w) - 2, 2):
            X = torch.tanh(X @ w[i] + w[i + 1])
        return -(torch.log_softmax(X @ w[-2] + w[-1], dim=1) * T).sum() / len(T)

    def hypergradient() -> np.ndarray:
        start = [torch.from_numpy(array).requires_grad_() for array in problem.start]
        step_sizes, decays = (
            torch.from_numpy(array).requires_grad_() for array in (problem.step_sizes, problem.decays)
        )
        w, v = start, [torch.zeros_like(array) for array in start]
        for t, rows in enumerate(batches):
            g = torch.autograd.grad(nll(w, X[rows], T[rows]), w, create_graph=True)
            v = [decays[t, j] * v[j] - (1 - decays[t, j]) * g[j] for j in range(len(w))]
            w = [w[j] + step_sizes[t, j] * v[j] for j in range(len(w))]
        loss = nll(w, X[: problem.num_eval_rows], T[: problem.num_eval_rows])
        *d_start, d_step_sizes, d_decays = torch.autograd.grad(loss, [*start, step_sizes, decays])
        return _flat(([d.numpy() for d in d_start], d_step_sizes.numpy(), d_decays.numpy()))

    return hypergradient


def by_jax(problem: Problem, checkpointed: bool = False) -> Callable[[], np.ndarray]:
    """JAX, with a scan over the steps; compiled here."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    X, T, batches = (jnp.asarray(array) for array in (problem.X, problem.T, problem.batches))

    def nll(w: list, X: Any, T: Any) -> Any:
        for i in range(0, len(w) - 2, 2):
            X = jnp.tanh(X @ w[i] + w[i + 1])
        return -(jax.nn.log_softmax(X @ w[-2] + w[-1]) * T).sum() / len(T)

    def objective(start: list, step_sizes: Any, decays: Any, X: Any, T: Any, batches: Any) -> Any:
        def step(state: tuple, inputs: tuple) -> tuple:
            (w, v), (rows, step_size, decay) = state, inputs
            g = jax.grad(nll)(w, X[rows], T[rows])
            v = [decay[j] * v[j] - (1 - decay[j]) * g[j] for j in range(len(w))]
            return ([w[j] + step_size[j] * v[j] for j in range(len(w))], v), None

        state = start, [jnp.zeros_like(array) for array in start]
        body = jax.checkpoint(step) if checkpointed else step
        (w, _), _ = jax.lax.scan(body, state, (batches, step_sizes, decays))
        return nll(w, X[: problem.num_eval_rows], T[: problem.num_eval_rows])

    arguments = problem.start, problem.step_sizes, problem.decays, X, T, batches
    compiled = jax.jit(jax.grad(objective, (0, 1, 2))).lower(*arguments).compile()
    return lambda: _flat(jax.tree.map(np.asarray, compiled(*arguments)))


def by_jax_checkpointed(problem: Problem) -> Callable[[], np.ndarray]:
    """JAX, with a scan over checkpointed steps."""
    return by_jax(problem, checkpointed=True)


class Contender(NamedTuple):
    """A way to get the hypergradient, and the package that it needs."""

    make: Callable[[Problem], Callable[[], np.ndarray]]
    package: str


CONTENDERS = {
    "hypergrad": Contender(by_hypergrad, "hypergrad"),
    "hypergrad stored": Contender(by_hypergrad_stored, "hypergrad"),
    "autograd": Contender(by_autograd, "autograd"),
    "torch": Contender(by_torch, "torch"),
    "jax scan": Contender(by_jax, "jax"),
    "jax checkpointed": Contender(by_jax_checkpointed, "jax"),
}
OURS = {"hypergrad": "reversed", "hypergrad stored": "stored"}


def _flat(tree: Any) -> np.ndarray:
    start, *schedules = tree
    return np.concatenate([np.ravel(array) for array in [*start, *schedules]])


# ---- a process for each


def _measure(connection: Connection, config: Config, network: str, num_steps: int, name: str) -> None:
    """Send seconds, bytes and the hypergradient, or that memory was refused; anew for all that is received."""
    make = CONTENDERS[name].make
    make(make_problem(config, "first call", 2))()  # imports, and what else is done once
    problem = make_problem(config, network, num_steps)
    before = resident_memory()
    try:
        hypergradient = make(problem)
        while True:
            seconds, result = seconds_of(hypergradient)
            if seconds < config.repeat_below:
                seconds, result = seconds_of(hypergradient)
            used = max(0, peak_memory() - before)
            connection.send({"seconds": seconds, "bytes": used, "result": result})
            connection.recv()
    except (MemoryError, RuntimeError) as error:
        if not _refused_memory(error):
            raise
        connection.send({"failure": "out of memory"})


def _refused_memory(error: Exception) -> bool:
    """Whether the system gave less than was asked for, in the words of NumPy, JAX or PyTorch."""
    return isinstance(error, MemoryError) or any(
        words in str(error) for words in ("RESOURCE_EXHAUSTED", "can't allocate memory")
    )


class Process:
    """A process in which one contender makes its hypergradient, once for each `measure`."""

    def __init__(self, config: Config, network: str, num_steps: int, name: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._limit = config.limit_bytes
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_measure, args=(theirs, config, network, num_steps, name))
        self._process.start()
        theirs.close()
        self._called = False

    def measure(self) -> dict[str, Any]:
        """What `_measure` sends; without "result" where it was stopped or failed."""
        try:
            if self._called:
                self._connection.send("again")
            self._called = True
            while not self._connection.poll(0.05):
                if resident_memory(self._process.pid) > self._limit:
                    return {"failure": f"over {self._limit / 1e9:.0f} GB"}
            return self._connection.recv()
        except (EOFError, BrokenPipeError):
            return {"failure": "failed"}  # its traceback is on the screen

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.join()


def measure_in_turns(
    config: Config, network: str, num_steps: int, names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Measure contenders again and again; the median of "seconds", and "difference" from the first one's result.

    Where all calls are short, processes stay, to be called in turns: what slows the machine down slows all of them.
    """
    found: dict[str, dict[str, Any]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    processes: dict[str, Process] = {}

    def stop_all() -> None:
        while processes:
            processes.popitem()[1].stop()

    true, turn, short = None, 0, True
    try:
        while turn < (config.repetitions_if_short if short else config.repetitions):
            for name in names:
                if "failure" in found.get(name, {}) or max(seconds[name], default=0.0) > config.repeat_below:
                    continue
                started = time.strftime("%H:%M:%S")
                if name not in processes:
                    processes[name] = Process(config, network, num_steps, name)
                found[name] = processes[name].measure()
                result = found[name].pop("result", None)
                if result is not None:
                    true = result if true is None else true
                    seconds[name].append(found[name]["seconds"])
                    found[name]["seconds"] = float(np.median(seconds[name]))
                    found[name]["difference"] = float(np.linalg.norm(result - true) / np.linalg.norm(true))
                short = short and result is not None and seconds[name][-1] < config.short
                print(f"{started} {network}, {num_steps:,} steps, {name}: {found[name]}", flush=True)
                if not short:
                    stop_all()
            turn += 1
    finally:
        stop_all()
    return found


def run(config: Config) -> dict[str, Any]:
    """Measure all that are installed; lists over networks, of lists over numbers of steps, by contender."""
    installed = [
        name for name, (_, package) in CONTENDERS.items() if importlib.util.find_spec(package) is not None
    ]
    results: dict[str, Any] = {
        "networks": list(config.networks),
        "num_steps": list(config.num_steps),
        "missing": [name for name in CONTENDERS if name not in installed],
        "num_weights": [],
        "measured": {name: [] for name in installed},
    }
    for network in config.networks:
        results["num_weights"].append(sum(a.size for a in make_problem(config, network, 1).start))
        rows: dict[str, list] = {name: [] for name in installed}
        for num_steps in config.num_steps:
            running = [name for name in installed if not any("failure" in row for row in rows[name])]
            found = measure_in_turns(config, network, num_steps, running)
            for name in installed:  # longer runs take no less than one that failed
                rows[name].append(found[name] if name in found else dict(rows[name][-1]))
        for name in installed:
            results["measured"][name].append(rows[name])
    return results


def report(results: dict[str, Any]) -> str:
    """A table for each network: milliseconds per step, megabytes, difference from ours."""
    parts = []
    for i, network in enumerate(results["networks"]):
        layer_sizes, batch_size = NETWORKS[network]
        head = [f"{'-'.join(map(str, layer_sizes))}, batch {batch_size}"]
        head += [
            f"{what}, T = {T:,}" for T in results["num_steps"] for what in ("ms a step", "MB", "difference")
        ]
        rows = []
        for name, measured in results["measured"].items():
            cells = []
            for T, found in zip(results["num_steps"], measured[i], strict=True):
                if "failure" in found:
                    cells += [found["failure"], "", ""]
                else:
                    milliseconds = f"{1e3 * found['seconds'] / T:.2f}"
                    cells += [milliseconds, f"{found['bytes'] / 1e6:,.0f}", f"{found['difference']:.0e}"]
            rows.append([name, *cells])
        parts.append(table(head, rows))
        parts.append(_goals(results, i))
    if results["missing"]:
        parts.append(
            f"not installed: {', '.join(results['missing'])} (pip install -r benchmarks/requirements.txt)"
        )
    return "\n\n".join(parts)


def beside_jax(results: dict[str, Any], i: int) -> Iterator[tuple[int, dict[str, float], float]]:
    """Where JAX with checkpointed steps has finished: T; what ours take of its time; of its memory, reversed."""
    measured = results["measured"]
    for j, T in enumerate(results["num_steps"]):
        theirs = measured["jax checkpointed"][i][j]
        if "failure" not in theirs:
            times = {
                title: measured[name][i][j]["seconds"] / theirs["seconds"]
                for name, title in OURS.items()
                if "failure" not in measured[name][i][j]
            }
            yield T, times, max(measured["hypergrad"][i][j]["bytes"], 1e6) / theirs["bytes"]


def with_verdicts(times: dict[str, float]) -> str:
    """Shares of a time, each beside the goal, which is 1."""
    return ", ".join(f"{share:.2f} {title} ({verdict(share, 1.0)})" for title, share in times.items())


def worst_difference(results: dict[str, Any], i: int) -> float:
    """The largest relative difference from ours, reversed, of all that finished."""
    return max(
        found["difference"]
        for rows in results["measured"].values()
        for found in rows[i]
        if "difference" in found
    )


def _goals(results: dict[str, Any], i: int) -> str:
    """Ours beside JAX with checkpointed steps, and whether all agree."""
    if "jax checkpointed" not in results["measured"]:
        return "goals: not comparable without JAX"
    lines = []
    for T, times, memory in beside_jax(results, i):
        lines.append(
            f"T = {T:,}: ours takes, of the time of jax checkpointed, {with_verdicts(times)}; "
            f"{memory:.3f} of its memory, reversed"
        )
    worst = worst_difference(results, i)
    lines.append(f"all within {worst:.0e} of one another; goal 1e-6: {verdict(worst, TOLERANCE)}")
    return "\n".join(lines)


def plot(results: dict[str, Any]) -> dict[str, Figure]:
    """Draw milliseconds per step (above) and memory (below) against the number of steps, for each network."""
    count = len(results["networks"])
    figure, axes = new_figure(2, count, width=3.25 * min(count, 2), height=3.6, sharex=True, squeeze=False)
    steps = results["num_steps"]
    for i, network in enumerate(results["networks"]):
        time_ax, memory_ax = axes[:, i]
        time_ax.set_title(f"{results['num_weights'][i]:,} weights ({network})")
        for color, (name, measured) in zip(COLORS, results["measured"].items(), strict=False):
            seconds = [
                found.get("seconds", math.nan) / T for found, T in zip(measured[i], steps, strict=True)
            ]
            size = [found.get("bytes", math.nan) / 1e6 for found in measured[i]]
            time_ax.plot(steps, 1e3 * np.array(seconds), "o-", color=color, label=name if i == 0 else None)
            memory_ax.plot(steps, np.maximum(size, 1.0), "o-", color=color)
        time_ax.set(xscale="log", ylim=(0, None))
        memory_ax.set(xscale="log", yscale="log", xlabel="Steps")
    axes[0, 0].set_ylabel("Milliseconds per step")
    axes[1, 0].set_ylabel("Memory, MB")
    figure.legend(loc="outside upper center", ncols=3, columnspacing=1.0)
    return {"peers": figure}
