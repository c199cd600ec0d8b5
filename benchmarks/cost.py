"""What does a hypergradient cost, counted in gradients, and what do its parts?

The problems are that of figures 2, 3 and 5 (a 784-50-50-50-10 network, minibatches of 200), alone and with a
penalty for every weight, that of figure 6 (logistic regression with such penalties), and a larger network; each
has a step size and a decay for every step and every array of weights. The unit is one gradient of the same
loss, choice of the minibatch and all, at weights of the same run, timed between the passes in the same process.
autograd.grad takes longer for it than the library does, as it differentiates with respect to a container; the
unit is the shorter one, and the cost in calls of autograd.grad stands beside it. The gradient of the final
loss, with which the way back starts, is no part of training and is left out.

Plain runs give the cost of the whole.  Runs with a stopwatch, in turns with them, give the parts:

    gradients          of the training loss; on the way back, with their pullback (Hessian-vector products)
    exact arithmetic   operations on fixed point and buffers, conversions between floats and integers included
    bookkeeping        the rest: the rule's float arithmetic and its adjoint, checksums, Python

The stopwatch wraps a handful of calls a step; what it adds is measured, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest import mock

import autograd.numpy as np
from autograd import grad, make_vjp
from autograd.misc import flatten

import hypergrad as hg
from benchmarks.common import (
    Stopwatch,
    load_average,
    seconds_of,
    summary,
    table,
    verdict,
    with_blas_threads,
)
from hypergrad import differentiation, reversible
from hypergrad.differentiation import LossGradient
from hypergrad.exact_rep import BitStore, ExactRep
from hypergrad.mnist import load_data_dicts
from hypergrad.networks import penalty
from hypergrad.nn_utils import init_weights, net_nll
from hypergrad.trees import Layout
from hypergrad.util import RandomState

GOAL_EXACT = 8.0  # exact arithmetic of both passes, in nanoseconds per weight and step

EXACT = [
    ("changes of states", ExactRep, "change"),
    ("changes of states", BitStore, "pack"),
    ("changes of states", reversible, "as_ratios"),
    ("conversion to float", ExactRep, "val"),
]
EXACT_PARTS = tuple(dict.fromkeys(name for name, _, _ in EXACT))
PARTS = ("gradients", *EXACT_PARTS, "bookkeeping")


@dataclass(frozen=True)
class Case:
    """A network; whether it has penalties as theta; the goal for the hypergradient, in gradients a step."""

    name: str
    layer_sizes: tuple[int, ...]
    batch_size: int
    theta: bool
    goal: float


@dataclass(frozen=True)
class Config:
    """Settings of the experiments, and how often to repeat the measurement."""

    cases: tuple[Case, ...] = (
        Case("schedules", (784, 50, 50, 50, 10), 200, False, 4.2),
        Case("with theta", (784, 50, 50, 50, 10), 200, True, 4.6),
        Case("figure 6", (784, 10), 200, True, 4.6),
        Case("large", (784, 400, 200, 10), 250, False, 4.0),
    )
    seed: int = 0
    num_rows: int = 10_000
    num_steps: int = 100
    log_step_size: float = -1.0
    decays: tuple[float, float] = (
        0.5,
        0.98,
    )  # drawn between these; the experiment's 0.5 would be a mere shift
    log_scale: float = -3.0
    log_l2: float = -100.0
    repetitions: int = 7
    blas_threads: tuple[int, ...] = (1,)

    @classmethod
    def quick(cls) -> Config:
        """A few steps of a smaller network, a few times."""
        return cls(
            cases=(
                Case("small", (784, 20, 10), 50, False, 4.2),
                Case("small, theta", (784, 20, 10), 50, True, 4.6),
            ),
            num_rows=500,
            num_steps=5,
            repetitions=3,
            blas_threads=(1,),
        )


class Problem(NamedTuple):
    """Training as a function of its hyperparameters, and the training loss."""

    trained: Callable[..., Any]  # of (hypers, callback=None): all weights, end to end
    hypers: dict[str, Any]
    loss: Callable[[Any, Any, int], Any]
    num_weights: int


def make_problem(config: Config, case: Case) -> Problem:
    """The problem; with theta, the log L2 penalty of each weight is a hyperparameter as well."""
    with_theta = case.theta
    (data,) = load_data_dicts(config.num_rows)
    random = RandomState(config.seed)
    start = init_weights(case.layer_sizes, random, np.exp(config.log_scale))

    def loss(weights: Any, log_l2: Any, t: int) -> Any:
        rows = RandomState((config.seed, t)).randint(config.num_rows, size=case.batch_size)
        penalty_of_all = sum(
            penalty(weights[i][j], np.exp(log_l2[i][j] if with_theta else config.log_l2))
            for i in range(len(start))
            for j in range(2)
        )
        return net_nll(weights, data["X"][rows], data["T"][rows]) + penalty_of_all

    def tree(value: Callable[[Any], Any]) -> list:
        return [(value(W), value(b)) for W, b in start]

    hypers = {
        "weights": start,
        "log_step_sizes": tree(lambda _: np.full(config.num_steps, config.log_step_size)),
        "decays": tree(lambda _: random.uniform(*config.decays, size=config.num_steps)),
    }
    if with_theta:
        hypers["log_l2"] = tree(lambda leaf: np.full(leaf.shape, config.log_l2))

    def trained(hypers: Any, callback: Callable | None = None) -> Any:
        step_sizes = [(np.exp(W), np.exp(b)) for W, b in hypers["log_step_sizes"]]
        rule = hg.Momentum(step_sizes, hypers["decays"])
        theta = hypers["log_l2"] if with_theta else None
        weights = hg.train(loss, hypers["weights"], rule, config.num_steps, theta, callback=callback)
        return np.concatenate([np.ravel(leaf) for layer in weights for leaf in layer])

    return Problem(trained, hypers, loss, sum(leaf.size for layer in start for leaf in layer))


@contextlib.contextmanager
def split(stopwatch: Stopwatch) -> Iterator[None]:
    """Have the stopwatch tell apart gradients and the parts of exact arithmetic."""
    with_pullback = LossGradient.with_pullback

    def evaluated(*args: Any) -> tuple[Any, Callable]:
        value, pullback = with_pullback(*args)
        return value, stopwatch.timed("gradients", pullback)

    with (
        mock.patch.object(LossGradient, "with_pullback", evaluated),
        stopwatch.watching([("gradients", LossGradient, "with_pullback")]),
        stopwatch.watching([("gradients", LossGradient, "__call__"), *EXACT]),
    ):
        yield


def measure(config: Config, case: Case) -> dict[str, Any]:
    """Time passes and gradients in turns; the `summary` over repetitions of each quantity in `_round`."""
    problem, T = make_problem(config, case), config.num_steps
    theta, layout = problem.hypers.get("log_l2"), Layout(problem.hypers["weights"], "weights")
    every, trajectory = max(1, T // 10), []

    def keep(step: hg.Step) -> None:
        if step.iteration % every == 0:
            trajectory.append(step.weights)

    problem.trained(problem.hypers, keep)
    by_autograd = grad(problem.loss)

    def by_library(weights: Any, theta: Any, t: int) -> Any:
        return differentiation.gradient(
            lambda leaves: problem.loss(layout.rebuild(leaves), theta, t),
            [leaf for layer in weights for leaf in layer],
            "benchmark",
        )

    cotangent = by_library(trajectory[-1], theta, T - 1)

    def seconds_each(gradient: Callable, times: range) -> float:
        return seconds_of(lambda: [gradient(trajectory[t // every], theta, t) for t in times])[0] / len(times)

    def gradients() -> dict[str, float]:
        """Seconds of a gradient as the library takes it, at every t, and by autograd.grad, at some."""
        return {
            "gradient": seconds_each(by_library, range(T)),
            "autograd": seconds_each(by_autograd, range(0, T, every)),
        }

    def one_round() -> dict[str, float]:
        return _round(problem, T, gradients, cotangent)

    one_round()  # the first one pays for caches, and the memory that numpy and the system hand out
    load = [load_average()]
    rounds = [one_round() for _ in range(config.repetitions)]
    load.append(load_average())
    return {
        "name": case.name,
        "goal": case.goal,
        "theta": case.theta,
        "num_weights": problem.num_weights,
        "num_hypers": flatten(problem.hypers)[0].size - problem.num_weights,
        "load_average": load,
        **{name: summary([quantities[name] for quantities in rounds]) for name in rounds[0]},
    }


def _round(
    problem: Problem, T: int, gradients: Callable[[], dict[str, float]], cotangent: Any
) -> dict[str, float]:
    """A hypergradient, then one with a stopwatch, between them gradients.  Per step:

    gradient, autograd (seconds); forward, backward, hypergradient and the parts of both passes (gradients);
    hypergradient in calls of autograd.grad; exact nanoseconds of both passes (per weight); exact fraction, of
    the pass; stopwatch, the fraction that it adds to the hypergradient.
    """
    units, seconds = [gradients()], {}
    stopwatches = {"forward": Stopwatch(), "backward": Stopwatch()}

    def timed(way: str, watched: bool, function: Callable[[], Any]) -> Any:
        with split(stopwatches[way]) if watched else contextlib.nullcontext():
            total, result = seconds_of(function)
        seconds[way, watched] = total / T
        units.append(gradients())
        return result

    def hypergradient(watched: bool) -> float:
        pull_back, _ = timed("forward", watched, lambda: make_vjp(problem.trained)(problem.hypers))
        timed("backward", watched, lambda: pull_back(cotangent))
        return seconds["forward", watched] + seconds["backward", watched]

    def mean(name: str, around: list[dict[str, float]]) -> float:
        return sum(unit[name] for unit in around) / len(around)

    whole, whole_watched = hypergradient(watched=False), hypergradient(watched=True)
    unit, unit_watched = mean("gradient", units[:3]), mean("gradient", units[2:])
    quantities = {
        "gradient": mean("gradient", units),
        "autograd": mean("autograd", units),
        "forward": seconds["forward", False] / unit,
        "backward": seconds["backward", False] / unit,
        "hypergradient": whole / unit,
        "hypergradient in autograd.grad": whole / mean("autograd", units[:3]),
        "stopwatch": (whole_watched / unit_watched) / (whole / unit) - 1.0,
    }
    for way, stopwatch in stopwatches.items():
        parts = {name: stopwatch.seconds[name] / T for name in PARTS if name != "bookkeeping"}
        parts["bookkeeping"] = seconds[way, True] - sum(parts.values())
        exact = sum(parts[name] for name in EXACT_PARTS)
        quantities |= {f"{way} {name}": part / unit_watched for name, part in parts.items()}
        quantities[f"{way} exact nanoseconds"] = exact / problem.num_weights * 1e9
        quantities[f"{way} exact fraction"] = exact / seconds[way, True]
    quantities["exact nanoseconds"] = sum(quantities[f"{way} exact nanoseconds"] for way in stopwatches)
    return quantities


def measure_all(config: Config) -> list[dict[str, Any]]:
    """All problems, with the BLAS threads of this process."""
    return [measure(config, case) for case in config.cases]


def run(config: Config) -> dict[str, Any]:
    """Measure with each number of BLAS threads, in a process of its own."""
    cases = [
        {"blas_threads": threads, **case}
        for threads in config.blas_threads
        for case in with_blas_threads(threads, measure_all, config)
    ]
    return {"repetitions": config.repetitions, "cases": cases}


def report(results: dict[str, Any]) -> str:
    """The whole and its parts, beside the goals."""
    cases = results["cases"]

    def row(title: str, name: str, form: str = "{:.2f}", factor: float = 1.0) -> list[str]:
        return [title, *(form.format(case[name]["median"] * factor) for case in cases)]

    def goals(title: str, name: str, limits: list[float], form: str = "{}") -> list[str]:
        return [
            title,
            *(
                f"{form.format(limit)}: {verdict(case[name]['median'], limit)}"
                for case, limit in zip(cases, limits, strict=True)
            ),
        ]

    def quartiles(name: str) -> list[str]:
        pairs = [case[name]["quartiles"] for case in cases]
        return ["    quartiles", *(f"{low:.2f} to {high:.2f}" for low, high in pairs)]

    rows = [
        ["weights", *(f"{case['num_weights']:,}" for case in cases)],
        ["hyperparameters", *(f"{case['num_hypers']:,}" for case in cases)],
        [
            "load average",
            *(" to ".join("?" if x is None else f"{x:.2f}" for x in case["load_average"]) for case in cases),
        ],
        row("a gradient, ms", "gradient", factor=1e3),
        row("    by autograd.grad, ms", "autograd", factor=1e3),
        row("hypergradient, gradients a step", "hypergradient"),
        quartiles("hypergradient"),
        goals("    goal: at most", "hypergradient", [case["goal"] for case in cases]),
        row("    in calls of autograd.grad", "hypergradient in autograd.grad"),
    ]
    for way in ("forward", "backward"):
        rows.append(row(f"{way} step, gradients", way))
        rows += [row(f"    {part}", f"{way} {part}", "{:.3f}") for part in PARTS]
    rows.append(row("exact arithmetic in the forward pass", "forward exact fraction", "{:.1%}"))
    rows.append(row("exact arithmetic, ns a weight and step", "exact nanoseconds"))
    rows.append(goals("    goal: at most", "exact nanoseconds", [GOAL_EXACT] * len(cases), "{:g}"))
    for way in ("forward", "backward"):
        rows.append(row(f"    {way}, ns a weight and step", f"{way} exact nanoseconds"))
    rows.append(row("what the stopwatch adds", "stopwatch", "{:+.1%}"))
    headings = [f"{case['name']}, {case['blas_threads']} thr." for case in cases]
    return table([f"medians of {results['repetitions']} repetitions", *headings], rows)
