"""The outer loop: descend hypergradients.

    result = hypergrad.minimize(objective, hypers, transforms={"step_size": "log", "decay": "logit"}, num_seeds=4)

Everything that takes long is an evaluation (evaluations.py): of the objective and its gradient at a point, averaged
over seeds, and kept on record.  The methods ask for one after the other.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hypergrad.domains import FreeCoordinates
from hypergrad.evaluations import Evaluations, Limits
from hypergrad.meta_optimizers import METHODS, MetaOptimizer

__all__ = ["History", "MinimizeResult", "minimize"]

Vector = NDArray[np.float64]
LBFGS = "lbfgs"


class History(NamedTuple):
    """One entry for each evaluation, in order; n is their number.

    loss: (n,), the mean over seeds.  loss_sem: its standard error; None for a single seed, where it isn't known.
    gradient_norm: (n,), of the mean gradient in free coordinates.  gradient_sem: (n,), the norm of its standard
        errors; None for a single seed.  Where training failed, and a line search of L-BFGS turned back, loss and
        gradient_norm are infinite.
    growth: (n,), the largest growth of the adjoint (`BackwardTrace`) in any run of any seed; NaN where training
        failed; None without growth_limit.
    seconds: (n,), of each evaluation.
    hypers: the tree with an axis of length n in front of every leaf.
    """

    loss: Vector
    loss_sem: Vector | None
    gradient_norm: Vector
    gradient_sem: Vector | None
    growth: Vector | None
    seconds: Vector
    hypers: Any


class MinimizeResult(NamedTuple):
    """Where `minimize` came to.

    hypers: the last point (not evaluated yet, for methods that step from point to point); where training failed,
        or the adjoint grew too much, the last one before.
    best: the point with the lowest loss on record; over fresh seeds that is partly luck.
    reason: why it ended: "num_iterations", "max_evaluations", "max_seconds", "gradient_tolerance", "interrupted",
        "growing adjoint: ...", "training failed: ..." or, of L-BFGS, "converged: ..." or "line search failed: ...".
    """

    hypers: Any
    best: Any
    reason: str
    history: History


def minimize(
    objective: Callable[[Any, int], Any],
    hypers: Any,
    method: str | MetaOptimizer = "adam",
    num_iterations: int = 100,
    *,
    transforms: Any = None,
    num_seeds: int = 1,
    fresh_seeds: bool = True,
    seed: int = 0,
    jobs: int = 1,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    gradient_tolerance: float = 0.0,
    growth_limit: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    callback: Callable[[int, Any, float, Any], Any] | None = None,
    progress: bool | None = None,
    **options: float,
) -> MinimizeResult:
    """Minimize an objective by its hypergradients, on a tree of hyperparameters.

    objective(hypers, seed): a float, differentiable by autograd: the validation loss after `train`, say.  It gets
        the tree in its own coordinates.  seed is an integer; the same arguments must give the same result.
    hypers: where to start, a tree of float arrays, or one array; not changed.
    method: "gradient", "momentum", "rmsprop", "adam" (with options like learning_rate, see meta_optimizers.py),
        "lbfgs" (SciPy's L-BFGS-B, with seeds fixed), or an object with the methods of a `MetaOptimizer`.
    num_iterations: meta-iterations.  L-BFGS evaluates more often, in line searches.
    transforms: "log", "logit", `Interval(low, high)` or None for each hyperparameter, a tree that matches hypers or
        a prefix.  Steps are taken, and gradients measured, in the transformed coordinates.
    num_seeds: seeds to average over in each evaluation.
    fresh_seeds: whether meta-iteration i takes seeds of its own, seed + i * num_seeds + (0 .. num_seeds - 1), or
        all the same ones.  Always the same ones with L-BFGS, which needs one function.
    seed: the first seed.  For runs that share none, take values num_iterations * num_seeds apart.
    jobs: processes to share the seeds among (`parallel.omap`); the numbers are the same.
    max_evaluations: hypergradients to spend, seeds counted.  max_seconds: time to spend, that before an
        interruption included; both are looked at before each evaluation.
    gradient_tolerance: end where the norm of the gradient is not above it.
    growth_limit: end where the adjoint of any run of any seed grows beyond this (30 is a good choice, see
        `BackwardTrace`).
    checkpoint: a folder that keeps each evaluation as soon as it is done.  Called again with the same arguments,
        minimize goes on where it was, to the same numbers bit for bit; limits may be raised, and callbacks changed.
        The objective, and a method given as an object, are compared with those on record: code, defaults, and all
        values they read (`transport.fingerprint`).
    callback(i, hypers, loss, gradient): called after evaluation i, but not again when resuming; gradient is a tree
        like hypers, with respect to the transformed coordinates.
    progress: show a bar with loss and gradient norm; None shows it on a terminal only.

    Ctrl-C ends it, and returns what was done.  So does training that fails (FixedPointRangeError,
    CoefficientRangeError, NonFiniteGradientError), or an objective or gradient that is not finite, with a warning;
    at the first evaluation, where there is nothing to return, they raise.  A line search of L-BFGS turns back from
    such points.
    Raises ValueError for hyperparameters outside their domains, options that a method does not have, and the
    checkpoint of another problem, or a damaged one, saying what differs, or naming the file; TypeError for
    hyperparameters that are not floats and, with checkpoint, for an objective that can't be compared between calls,
    naming what it holds (a lock, an open file); PermissionError where nothing can be kept.
    """
    coordinates = FreeCoordinates(hypers, transforms)
    rule = _rule(method, options)
    settings = {
        "method": method if isinstance(method, str) else type(method).__name__,
        "options": dataclasses.asdict(rule) if dataclasses.is_dataclass(rule) else options,
        "num_seeds": num_seeds,
        "fresh_seeds": fresh_seeds and rule is not None,
        "seed": operator.index(seed),
        "hypers": dict(zip(coordinates.layout.paths, map(list, coordinates.layout.shapes), strict=True)),
        "transforms": [domain.name for domain in coordinates.domains],
        "traced": growth_limit is not None,
    }
    if rule is None:
        settings["growth_limit"] = growth_limit  # line searches turn back there
    for name, value in (("num_iterations", num_iterations), ("num_seeds", num_seeds), ("jobs", jobs)):
        if value < (name != "num_iterations"):
            raise ValueError(f"{name} must be {int(name != 'num_iterations')} or more, got {value}")
    limits = Limits(
        math.inf if max_evaluations is None else max_evaluations,
        math.inf if max_seconds is None else max_seconds,
        gradient_tolerance,
        growth_limit,
    )
    loop = Evaluations(objective, coordinates, settings, method, checkpoint, jobs, limits, callback)
    with _bar(num_iterations, progress) as loop.bar:
        descend = _lbfgs if rule is None else partial(_descend, rule)
        reason = loop.run(descend, coordinates.to_free(hypers), num_iterations)
    return _result(loop, reason)


def _rule(method: str | MetaOptimizer, options: dict[str, float]) -> MetaOptimizer | None:
    """The update rule; None for L-BFGS."""
    if not isinstance(method, str):
        if options:
            raise ValueError(f"give options {', '.join(options)} to the method itself")
        return method
    if method == LBFGS:
        if options:
            raise ValueError(f"lbfgs has no option {', '.join(options)}")
        return None
    if method not in METHODS:
        raise ValueError(
            f"method must be one of {', '.join([*METHODS, LBFGS])}, or an object, got {method!r}"
        )
    known = [field.name for field in dataclasses.fields(METHODS[method])]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"{method} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return METHODS[method](**options)


def _bar(total: int, progress: bool | None) -> Any:
    from tqdm.auto import tqdm

    hidden = None if progress is None else not progress
    return tqdm(total=total, desc="meta-iterations", disable=hidden, dynamic_ncols=True)


# ---- the methods: each asks for evaluations until it is done, and says why it ended


def _descend(rule: MetaOptimizer, loop: Evaluations, start: Vector, num_iterations: int) -> str:
    loop.last, state = start, rule.init(start)
    for _ in range(num_iterations):
        record = loop.evaluate(loop.last)
        loop.last, state = rule.step(loop.last, record["gradient"], state)
        loop.bar.update()
    return "num_iterations"


def _lbfgs(loop: Evaluations, start: Vector, num_iterations: int) -> str:
    from scipy.optimize import minimize as scipy_minimize

    loop.last = start
    if num_iterations == 0:
        return "num_iterations"

    def evaluate(point: Vector) -> tuple[float, Vector]:
        record = loop.evaluate(point.copy(), failures_turn_back=True)
        return float(record["loss"]), record["gradient"]

    def after_iteration(point: Vector) -> None:
        loop.last = point.copy()
        loop.bar.update()

    found = scipy_minimize(
        evaluate,
        start,
        jac=True,
        method="L-BFGS-B",
        callback=after_iteration,
        options={"maxiter": num_iterations, "maxfun": 10**9, "gtol": 0.0, "ftol": 0.0},
    )
    loop.last = found.x
    if found.nit >= num_iterations:
        return "num_iterations"
    return f"{'converged' if found.success else 'line search failed'}: {found.message}"


def _result(loop: Evaluations, reason: str) -> MinimizeResult:
    """The result so far."""
    records, tree = loop.records, loop.coordinates.from_free
    column = {
        name: np.array([float(record[name]) for record in records])
        for name in ("loss", "loss_sem", "gradient_sem", "growth", "seconds")
    }
    norms = np.array([np.linalg.norm(record["gradient"]) for record in records])
    failed = np.array([bool(record["failed"]) for record in records], bool)
    column["loss"][failed] = norms[failed] = np.inf
    column["growth"][failed] = np.nan
    several = loop.settings["num_seeds"] > 1
    points = [loop.coordinates.layout.flatten(tree(record["point"])) for record in records]
    matrix = np.array(points).reshape(len(records), loop.coordinates.layout.size)
    layout = loop.coordinates.layout
    stacked = [
        matrix[:, part].reshape(len(records), *shape)
        for part, shape in zip(layout.slices, layout.shapes, strict=True)
    ]
    history = History(
        column["loss"],
        column["loss_sem"] if several else None,
        norms,
        column["gradient_sem"] if several else None,
        column["growth"] if loop.limits.growth is not None else None,
        column["seconds"],
        layout.rebuild(stacked),
    )
    best = records[int(np.argmin(column["loss"]))]["point"] if records else loop.last
    return MinimizeResult(tree(loop.last), tree(best), reason, history)
