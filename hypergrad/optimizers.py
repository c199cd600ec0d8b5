"""The optimizers of the 2015 package: those of the outer loop, which descends hypergradients, are here.

The training functions `sgd` .. `sgd_parsed`, which compute hypergradients, come from `hypergrad.sgd_2015`.

`simple_sgd`, `rms_prop` and `adam` take a gradient, `bfgs` an objective with its gradient.  Signatures and
updates are those of the 2015 package, so that its results can be compared number for number.  That package had
its training functions here as well, so `sgd` .. `sgd_parsed` (sgd_2015.py) can be imported from here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypergrad.sgd_2015 import sgd, sgd2, sgd3, sgd4, sgd_meta_only, sgd_meta_only_sub, sgd_parsed

__all__ = [
    "adam",
    "bfgs",
    "rms_prop",
    "sgd",
    "sgd2",
    "sgd3",
    "sgd4",
    "sgd_meta_only",
    "sgd_meta_only_sub",
    "sgd_parsed",
    "simple_sgd",
]

Vector = NDArray[np.float64]
Gradient = Callable[[Vector, int], ArrayLike]
Callback = Callable[[Vector, int, Vector], Any]


def simple_sgd(
    grad: Gradient,
    x: ArrayLike,
    callback: Callback | None = None,
    num_iters: int = 200,
    step_size: float = 0.1,
    mass: float = 0.9,
) -> Vector:
    """Gradient descent with momentum: v <- mass v - (1 - mass) g, then x <- x + step_size v.

    Invariant: the x passed in is not changed; in 2015 it was updated in place.
    grad(x, i): the gradient in iteration i, of the shape of x, which is any.  callback(x, i, g): called before
    each update.
    Returns the final x.  Raises FloatingPointError, naming the iteration, where a gradient is not finite, and
    ValueError where its shape is not that of x.
    """
    x = np.array(x, np.float64)
    v = np.zeros_like(x)
    for i in range(num_iters):
        g = _evaluate(grad, x, i, callback)
        v = mass * v - (1.0 - mass) * g
        x = x + step_size * v
    return x


def rms_prop(
    grad: Gradient,
    x: ArrayLike,
    callback: Callback | None = None,
    num_iters: int = 100,
    step_size: float = 0.1,
    gamma: float = 0.9,
    eps: float = 1e-8,
) -> Vector:
    """Steps scaled by a running mean u of squared gradients: u <- gamma u + (1 - gamma) g^2, from u = 1.

    Then x <- x - step_size g / (sqrt(u) + eps).  The rest is as in `simple_sgd`.
    """
    x = np.array(x, np.float64)
    u = np.ones_like(x)
    for i in range(num_iters):
        g = _evaluate(grad, x, i, callback)
        u = gamma * u + (1.0 - gamma) * g**2
        x = x - step_size * g / (np.sqrt(u) + eps)
    return x


def adam(
    grad: Gradient,
    x: ArrayLike,
    callback: Callback | None = None,
    num_iters: int = 100,
    step_size: float = 0.1,
    b1: float = 0.1,
    b2: float = 0.01,
    eps: float = 1e-4,
    lam: float = 1e-4,
) -> Vector:
    """Adam as in the first version of its preprint: b1 and b2 are one minus what they are today.

    With b1_i = 1 - (1 - b1) lam^i: m <- b1_i g + (1 - b1_i) m, u <- b2 g^2 + (1 - b2) u, and
    x <- x - step_size m' / (sqrt(u') + eps), where m' = m / (1 - (1 - b1)^(i+1)), u' = u / (1 - (1 - b2)^(i+1)).
    So at lam = 1 it is today's Adam with beta = 1 - b; at the default, m is the latest gradient from i = 1 on,
    and the correction m' makes early steps larger, up to five times.  The rest is as in `simple_sgd`.
    """
    x = np.array(x, np.float64)
    m = np.zeros_like(x)
    u = np.zeros_like(x)
    for i in range(num_iters):
        g = _evaluate(grad, x, i, callback)
        b1_i = 1.0 - (1.0 - b1) * lam**i
        m = b1_i * g + (1.0 - b1_i) * m
        u = b2 * g**2 + (1.0 - b2) * u
        m_unbiased = m / (1.0 - (1.0 - b1) ** (i + 1))
        u_unbiased = u / (1.0 - (1.0 - b2) ** (i + 1))
        x = x - step_size * m_unbiased / (np.sqrt(u_unbiased) + eps)
    return x


def bfgs(
    obj_and_grad: Callable[[Vector], tuple[float, ArrayLike]],
    x: ArrayLike,
    callback: Callable[[Vector, int], Any] | None = None,
    num_iters: int = 100,
) -> Vector:
    """Minimize by SciPy's BFGS, for at most num_iters iterations, each a line search of several evaluations.

    Invariant: the x passed in is not changed.
    obj_and_grad(x): the objective and its gradient, of the shape of x, which is any.  callback(x, i): called
    after iteration i.
    Returns the best x found; BFGS ends early where the gradient vanishes or a line search gets no further.
    Raises as `simple_sgd` does, and FloatingPointError where the objective is not finite.
    """
    from scipy.optimize import minimize

    start = np.array(x, np.float64)
    iteration = 0

    def evaluate(flat: Vector) -> tuple[float, Vector]:
        point = flat.reshape(start.shape).copy()
        value, g = obj_and_grad(point)
        if not np.isfinite(value):
            raise FloatingPointError(f"iteration {iteration}: the objective is {value}")
        return float(value), _checked(g, point, iteration).reshape(-1)

    def after_iteration(flat: Vector) -> None:
        nonlocal iteration
        if callback is not None:
            callback(flat.reshape(start.shape).copy(), iteration)
        iteration += 1

    options = {"maxiter": num_iters}
    result = minimize(
        evaluate, start.reshape(-1), jac=True, method="BFGS", callback=after_iteration, options=options
    )
    return result.x.reshape(start.shape)


def _evaluate(grad: Gradient, x: Vector, i: int, callback: Callback | None) -> Vector:
    g = _checked(grad(x, i), x, i)
    if callback is not None:
        callback(x, i, g)
    return g


def _checked(g: ArrayLike, x: Vector, i: int) -> Vector:
    """The gradient as an array of our own, if it is finite and of the shape of x."""
    g = np.array(g, np.float64)
    if g.shape != x.shape:
        raise ValueError(f"iteration {i}: expected a gradient of shape {x.shape}, got shape {g.shape}")
    bad = ~np.isfinite(g)
    if bad.any():
        first = tuple(int(index) for index in np.argwhere(bad)[0])
        raise FloatingPointError(
            f"iteration {i}: {bad.sum()} of {g.size} entries of the gradient are not finite, "
            f"the first, {g[first]}, at index {first}; try a smaller step size"
        )
    return g
