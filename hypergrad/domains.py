"""Domains of hyperparameters: coordinates without bounds for what must stay positive, or within an interval.

The outer loop (outer_loop.py) moves in free coordinates; the objective sees hyperparameters in their domains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import autograd.numpy as np
import numpy as onp
from numpy.typing import NDArray

from hypergrad.trees import Layout, broadcast_prefix
from hypergrad.util import logistic, logit

__all__ = ["Domain", "FreeCoordinates", "Interval"]

Vector = NDArray[onp.float64]


@dataclass(frozen=True)
class Domain:
    """An open interval low < x < high, and a map of all numbers onto it.

    name: what records call it.
    to_free(x), from_free(y): element by element, inverse to each other; from_free is written with autograd.numpy.
        However far y is, from_free(y) stays inside: where floats would come to an end of the interval, or of
        their own range, it gives the last number before, with a derivative of 0.
    """

    name: str
    low: float
    high: float
    to_free: Callable[[Any], Any]
    from_free: Callable[[Any], Any]


def Interval(low: float, high: float) -> Domain:  # noqa: N802  (it makes a Domain)
    """The numbers between low and high: x = low + (high - low) * logistic(y).

    Raises ValueError where low < high does not hold, or one of them is not finite.
    """
    if not (onp.isfinite(low) and onp.isfinite(high) and low < high):
        raise ValueError(f"an interval needs finite low < high, got {low} and {high}")
    width, first, last = high - low, onp.nextafter(low, high), onp.nextafter(high, low)
    return Domain(
        f"Interval({float(low)}, {float(high)})",
        low,
        high,
        lambda x: logit((x - low) / width),
        lambda y: np.clip(low + width * logistic(y), first, last),
    )


NAMED = {
    None: Domain("None", -onp.inf, onp.inf, lambda x: x, lambda y: y),
    "log": Domain("log", 0.0, onp.inf, onp.log, lambda y: np.exp(np.clip(y, -700.0, 700.0))),
    "logit": Interval(0.0, 1.0),
}


class FreeCoordinates:
    """The map between hyperparameters, a tree of float arrays, and one vector of free coordinates.

    transforms: a tree that matches the hyperparameters or a prefix of them, of "log" (for what must stay positive),
        "logit" (between 0 and 1), an `Interval`, or None (anything).
    Raises ValueError where a hyperparameter is not in its domain, or the trees do not match; TypeError for another
    transform, or hyperparameters that are not floats.
    """

    def __init__(self, hypers: Any, transforms: Any = None) -> None:
        self.layout = Layout(hypers, "hypers")
        if transforms is None:
            self.domains = [NAMED[None]] * len(self.layout.sizes)
        else:
            pairs = broadcast_prefix(transforms, hypers, "transforms", "hypers", none_is_leaf=True)
            self.domains = [_domain(value, path) for path, value in pairs]
        values = self.layout.flatten(hypers)
        for path, part, domain in self._parts():
            outside = ~((values[part] > domain.low) & (values[part] < domain.high))
            if outside.any():
                index = part.start + int(onp.argmax(outside))
                raise ValueError(
                    f"{path} must be between {domain.low:g} and {domain.high:g}, its ends excluded, got "
                    f"{values[index]:g} at {self.layout.locate(index)}"
                )

    def _parts(self) -> list[tuple[str, slice, Domain]]:
        return list(zip(self.layout.paths, self.layout.slices, self.domains, strict=True))

    def to_free(self, hypers: Any) -> Vector:
        """The free coordinates of a tree, (number of hyperparameters,)."""
        values = self.layout.flatten(hypers)
        parts = [domain.to_free(values[part]) for _, part, domain in self._parts()]
        return onp.concatenate([onp.asarray(part, float) for part in parts] or [onp.zeros(0)])

    def from_free(self, free: Any) -> Any:
        """The tree at free coordinates; differentiable."""
        leaves = self.layout.split(free)
        return self.layout.rebuild([d.from_free(x) for d, x in zip(self.domains, leaves, strict=True)])


def _domain(transform: Any, path: str) -> Domain:
    if isinstance(transform, Domain):
        return transform
    if transform is None or transform in ("log", "logit"):
        return NAMED[transform]
    raise TypeError(f"{path} must be 'log', 'logit', an Interval or None, got {transform!r}")
