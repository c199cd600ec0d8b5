"""Evaluations of the outer loop: objective and gradient at a point, averaged over seeds, and kept on record.

To resume is to start again from the top and take the evaluations on record from there, so that whatever the method,
it comes to the same numbers as without the interruption.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from autograd import value_and_grad
from numpy.typing import NDArray

from hypergrad.domains import FreeCoordinates
from hypergrad.exact_rep import FixedPointRangeError
from hypergrad.kept_results import difference, identity, make_folder, naming, read_manifest, write_whole
from hypergrad.recoveries import CoefficientRangeError, NonFiniteGradientError
from hypergrad.tracing import AdjointGrowthError, BackwardTrace

__all__ = ["Evaluations", "Limits", "Stop"]

Vector = NDArray[np.float64]


class Limits(NamedTuple):
    """Where to end: evaluations (each seed counts), seconds, gradient norm, growth of the adjoint (or None)."""

    evaluations: float
    seconds: float
    gradient_tolerance: float
    growth: float | None


class Stop(Exception):  # noqa: N818  (no error)
    """Ends the loop; its argument is the reason."""


class _NotFiniteError(ArithmeticError):
    """The objective, or its gradient, is not finite."""


FAILURES = (  # what hyperparameters that are in their domains may still lead to
    FixedPointRangeError,
    CoefficientRangeError,
    NonFiniteGradientError,
    AdjointGrowthError,
    _NotFiniteError,
)


class Evaluations:
    """The evaluations of one run of `minimize`, in order, and the rules that end it.

    last: the point that the method has come to.  records: what was found, of each.
    """

    bar: Any

    def __init__(
        self,
        objective: Callable[[Any, int], Any],
        coordinates: FreeCoordinates,
        settings: dict[str, Any],
        method: Any,
        checkpoint: str | os.PathLike[str] | None,
        jobs: int,
        limits: Limits,
        callback: Callable[[int, Any, float, Any], Any] | None,
    ) -> None:
        self.objective, self.coordinates, self.settings = objective, coordinates, settings
        self.jobs, self.limits, self.callback = jobs, limits, callback
        self.last: Vector = np.zeros(0)
        self.records: list[dict[str, NDArray]] = []
        self.checkpoint, self.recorded = None, {}
        if checkpoint is not None:
            functions = {"objective": objective} | (
                {} if isinstance(method, str) else {"method's code": method}
            )
            self.checkpoint = _Checkpoint(Path(checkpoint), settings, functions)
            self.recorded = self.checkpoint.load(coordinates.layout.size)

    def run(
        self, descend: Callable[[Evaluations, Vector, int], str], start: Vector, num_iterations: int
    ) -> str:
        """Descend until a rule ends it; returns the reason."""
        try:
            return descend(self, start, num_iterations)
        except Stop as stop:
            reason = str(stop)
        except KeyboardInterrupt:
            return "interrupted"
        if ":" in reason:
            warnings.warn(f"minimize ended after {len(self.records)} evaluations, {reason}", stacklevel=3)
        return reason

    def evaluate(self, point: Vector, failures_turn_back: bool = False) -> dict[str, NDArray]:
        """The record of the objective at a point, averaged over seeds; from an earlier call if that made it."""
        i = len(self.records)
        if i in self.recorded:
            record = self.recorded[i]
            self._check_record(record["point"], point, i)
        else:
            self._check_limits()
            if self.checkpoint is not None:
                self.checkpoint.check_writable()
            started = time.perf_counter()
            try:
                record = self._measure(point, i)
            except FAILURES as error:
                if i == 0:
                    raise
                if not failures_turn_back:
                    self.last = self.records[-1]["point"]  # where training worked
                    growing = isinstance(error, AdjointGrowthError)
                    raise Stop(f"{'growing adjoint' if growing else 'training failed'}: {error}") from error
                record = self._failure(point)
            record["seconds"] = np.array(time.perf_counter() - started)
            if self.checkpoint is not None:
                self.checkpoint.keep(i, record)
        self.records.append(record)
        norm = float(np.linalg.norm(record["gradient"]))
        self.bar.set_postfix(loss=f"{float(record['loss']):.4g}", gradient=f"{norm:.3g}", refresh=False)
        if self.callback is not None and i not in self.recorded:
            tree = self.coordinates.from_free(point)
            self.callback(
                i, tree, float(record["loss"]), self.coordinates.layout.unflatten(record["gradient"])
            )
        if norm <= self.limits.gradient_tolerance and not record["failed"]:
            raise Stop("gradient_tolerance")
        return record

    def _check_record(self, recorded: Vector, point: Vector, i: int) -> None:
        if np.array_equal(recorded, point):
            return
        where = self.coordinates.layout.locate(int(np.argmax(recorded != point)))
        why = "it started elsewhere" if i == 0 else "its library versions were others"
        raise ValueError(
            f"{self.checkpoint.folder} belongs to another problem: evaluation {i} was at another value of {where} "
            f"({why}); use another folder, or delete it"
        )

    def _check_limits(self) -> None:
        spent = sum(float(record["seconds"]) for record in self.records)
        if (len(self.records) + 1) * self.settings["num_seeds"] > self.limits.evaluations:
            raise Stop("max_evaluations")
        if self.records and spent >= self.limits.seconds:
            raise Stop("max_seconds")

    def _measure(self, point: Vector, i: int) -> dict[str, NDArray]:
        num_seeds = self.settings["num_seeds"]
        first = self.settings["seed"] + (i * num_seeds if self.settings["fresh_seeds"] else 0)
        work = partial(_evaluate_seed, self.objective, self.coordinates, self.limits.growth)
        results = _over_seeds(work, [(point, i, seed) for seed in range(first, first + num_seeds)], self.jobs)
        losses, gradients, growth = (np.array(column) for column in zip(*results, strict=True))
        sem = (lambda x: np.std(x, axis=0, ddof=1) / math.sqrt(num_seeds)) if num_seeds > 1 else np.zeros_like
        return {
            "point": point,
            "loss": np.mean(losses),
            "loss_sem": np.max(sem(losses)),
            "gradient": np.mean(gradients, axis=0),
            "gradient_sem": np.linalg.norm(sem(gradients)),
            "growth": np.max(growth),
            "failed": np.array(False),
        }

    def _failure(self, point: Vector) -> dict[str, NDArray]:
        """What tells a line search to turn back: a loss above all others, and no slope."""
        losses = [float(record["loss"]) for record in self.records if not record["failed"]]
        worst = np.array(max(losses) + 10.0 * (1.0 + abs(max(losses))))
        zero = np.array(0.0)
        return {
            "point": point,
            "loss": worst,
            "gradient": np.zeros_like(point),
            "failed": np.array(True),
            **dict.fromkeys(("loss_sem", "gradient_sem", "growth"), zero),
        }


def _over_seeds(work: Callable[[tuple], tuple], items: list[tuple], jobs: int) -> list[tuple]:
    if jobs == 1 or len(items) == 1:
        return [work(item) for item in items]
    from hypergrad.parallel import ItemFailedError, omap

    try:
        return omap(work, items, jobs=jobs, progress=False)
    except ItemFailedError as error:
        raise (error.__cause__ or error) from error


def _evaluate_seed(
    objective: Callable[[Any, int], Any],
    coordinates: FreeCoordinates,
    growth_limit: float | None,
    item: tuple[Vector, int, int],
) -> tuple[float, Vector, float]:
    """Loss, gradient in free coordinates, and largest growth of the adjoint of any run (0 where it is not traced).

    item: point, meta-iteration, seed.  What stays the same comes before, so that other processes keep it.
    """
    point, i, seed = item
    evaluate = value_and_grad(lambda free: objective(coordinates.from_free(free), seed))
    trace = None if growth_limit is None else BackwardTrace(growth_limit, stop=True)
    try:
        with trace or contextlib.nullcontext():
            loss, gradient = evaluate(point)
        if not np.isfinite(loss):
            raise _NotFiniteError(f"the loss is {float(loss)}")
        bad = np.flatnonzero(~np.isfinite(gradient))
        if bad.size:
            where = coordinates.layout.locate(int(bad[0]))
            raise _NotFiniteError(f"the gradient with respect to {where} is {gradient[bad[0]]}")
    except FAILURES as error:
        error.args = (f"{error} (meta-iteration {i}, seed {seed})",)
        raise
    return float(loss), gradient, float(np.max(trace.growth, initial=0.0)) if trace else 0.0


SHAPELESS = (
    "loss",
    "loss_sem",
    "gradient_sem",
    "growth",
    "failed",
    "seconds",
)  # in a record, beside two vectors


class _Checkpoint:
    """A folder with the settings, what tells the functions from others, and one npz file for each evaluation."""

    def __init__(self, folder: Path, settings: dict[str, Any], functions: dict[str, Any]) -> None:
        self.folder = folder
        identities = {name: identity(function) for name, function in functions.items()}
        make_folder(folder, "checkpoint")
        wanted, path = json.dumps(settings | identities, indent=1, default=_plain), folder / "minimize.json"
        advice = "use another folder, or delete it"
        if path.exists():
            settings = json.loads(json.dumps(settings, default=_plain))
            found = read_manifest(path, settings)
            differing = [name for name in settings if found[name] != settings[name]]
            if differing:
                name = differing[0]
                raise ValueError(
                    f"{folder} belongs to another problem: its {name} was {found[name]}, now it is "
                    f"{settings[name]}; {advice}"
                )
            for name, now in identities.items():
                if name not in found:
                    raise ValueError(
                        f"{folder} does not say what its {name} was (earlier versions did not keep that), so that "
                        f"it may belong to another problem; {advice}"
                    )
                with naming(path, "is damaged", advice):
                    what_differs = difference(found[name], now)
                if what_differs:
                    raise ValueError(
                        f"{folder} belongs to another problem, its {name}: {what_differs}; {advice}"
                    )
        elif any(folder.glob("evaluation-*.npz")):
            raise ValueError(
                f"{folder} holds evaluations but no minimize.json, so that they may belong to another problem; "
                f"{advice}"
            )
        else:
            self.check_writable()
            write_whole(path, wanted.encode())

    def check_writable(self) -> None:
        """Raise PermissionError if nothing can be kept, before it is computed."""
        if not os.access(self.folder, os.W_OK):
            raise PermissionError(f"checkpoint {self.folder} is read-only: nothing can be kept in it")

    def load(self, size: int) -> dict[int, dict[str, NDArray]]:
        """The evaluations on record, by number.  Raises ValueError, naming it, for a damaged file.

        size: of a point.
        """
        shapes = dict.fromkeys(SHAPELESS, ()) | dict.fromkeys(("point", "gradient"), (size,))
        records = {}
        for path in sorted(self.folder.glob("evaluation-*.npz")):
            with naming(path, "is damaged", "delete it, and that evaluation runs again"):
                with np.load(path, allow_pickle=False) as file:
                    record = {name: file[name] for name in file.files}
                found = {name: value.shape for name, value in record.items()}
                if found != shapes:
                    raise ValueError(f"it must hold arrays of shapes {shapes}, not {found}")
                records[int(path.stem.removeprefix("evaluation-"))] = record
        return records

    def keep(self, i: int, record: dict[str, NDArray]) -> None:
        """Keep evaluation i; whole or not at all."""
        content, path = io.BytesIO(), self.folder / f"evaluation-{i:06}.npz"
        np.savez(content, **record)
        try:
            write_whole(path, content.getvalue())
        except OSError as error:
            raise OSError(
                error.errno, f"evaluation {i} can't be kept: {error.strerror}", str(path)
            ) from error


def _plain(value: Any) -> Any:
    """What JSON can't hold among a method's options: arrays and their scalars as lists, the rest as a digest."""
    if hasattr(value, "tolist"):
        return value.tolist()
    from hypergrad.transport import digest

    return digest(value)
