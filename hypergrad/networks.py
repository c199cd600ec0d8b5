"""The loss of tanh networks with its derivatives by hand: a handful of matrix products, one forward pass for all.

A network has weights W_i and biases b_i, i = 0 .. L-1, and at inputs a_0 = X, a row each,

    s_i = a_i W_i + b_i,    a_{i+1} = tanh(s_i),    p = exp(s_{L-1}) / rowsum(exp(s_{L-1})),    output: log p

Backpropagation, where c is the cotangent of log p, d_i that of s_i, and dW_i, db_i the gradient:

    d_{L-1} = c - p * rowsum(c),    d_{i-1} = (d_i W_i^T) * (1 - a_i^2)
    dW_i = a_i^T d_i,               db_i = colsum(d_i)

The pullback of that map takes cotangents V_i of dW_i and u_i of db_i to those of c, W_i and b_i.  As the gradient
is that of <c, log p>, whose Hessian is symmetric, these are the derivatives of log p, dW_i and db_i as the weights
move along V_i, u_i.  Pearlmutter's operator R takes that derivative of each line above, at a constant c:

    R a_0 = 0,    R s_i = (R a_i) W_i + a_i V_i + u_i,    R a_{i+1} = (1 - a_{i+1}^2) * R s_i
    R log p = R s_{L-1} - rowsum(p * R s_{L-1})
    R d_{L-1} = -p * R log p * rowsum(c)
    R d_{i-1} = (R d_i W_i^T + d_i V_i^T) * (1 - a_i^2) - 2 a_i * R s_{i-1} * d_{i-1}
    R dW_i = (R a_i)^T d_i + a_i^T R d_i,    R db_i = colsum(R d_i)

Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import autograd.numpy as np
import numpy as onp
from autograd.extend import defjvp, defvjp, notrace_primitive, primitive
from numpy.typing import NDArray

from hypergrad import loops
from hypergrad.by_hand import OneVector, with_derivatives
from hypergrad.differentiation import is_traced, value_of
from hypergrad.parsers import WeightsParser

__all__ = ["log_probs", "logsumexp", "mean_nll", "penalty"]

Array = Any  # a float array, or what autograd puts in its place while it traces


def log_probs(*arrays: Array, X: Array, layout: WeightsParser | None = None) -> Array:
    """Log-probabilities of the classes, (rows, classes).

    arrays: W_1, (m, n), b_1, (n,) or (1, n), W_2, ..., or one vector of all of them in this layout.  X: (rows, m).
    By hand where weights and X are all float32 or all float64; else in autograd's operations.
    """
    network = _network_by_hand if _have_one_precision(*arrays, X) else _network_by_operations
    return network(*arrays, X=X, layout=layout)


def mean_nll(*arrays: Array, X: Array, T: Array, layout: WeightsParser | None = None) -> Array:
    """Mean negative log-likelihood of the labels T, (rows, classes), one-hot; all else as for `log_probs`."""
    loss = _nll_by_hand if _have_one_precision(*arrays, X) else _nll_by_operations
    return loss(*arrays, X=X, T=T, layout=layout)


def _have_one_precision(*arrays: Array) -> bool:
    types = {getattr(value_of(array), "dtype", None) for array in arrays}
    return len(types) == 1 and types.pop() in (onp.float32, onp.float64)


def penalty(w: Array, L2: Array) -> Array:
    """sum(L2 * w**2).  L2: of shape () or that of w, traced or not."""
    return _squares_by_hand(w, L2) if is_traced(L2) else _squares_by_hand(w, L2=L2)


def _network(*arrays: NDArray, X: NDArray, layout: WeightsParser | None = None) -> tuple[NDArray, Callable]:
    """`log_probs`, with its pullback, and the pullback of that: see `with_derivatives`."""
    W, b = _weights_and_biases(arrays, layout)
    layers = range(len(W))
    a, slope = [X], [None]
    for i in layers[:-1]:
        a.append(a[i].dot(W[i]))
        slope.append(onp.empty_like(a[-1]))
        loops.tanh(a[-1], b[i].reshape(-1), slope[-1])
    log_p = a[-1].dot(W[-1])
    p = onp.empty_like(log_p)
    loops.log_softmax(log_p, b[-1].reshape(-1), p)

    def backpropagate(c: NDArray) -> tuple[list[NDArray], Callable]:
        c = onp.ascontiguousarray(c, p.dtype)
        gradient = OneVector(arrays)
        dW, db = _weights_and_biases(gradient, layout)
        d = [onp.empty_like(p)]
        loops.log_softmax_pullback(c, p, d[0], db[-1].reshape(-1))
        W_T = [None, *map(_transposed, W[1:])]
        for i in reversed(layers[1:]):
            d.insert(0, d[0].dot(W_T[i]))
            loops.tanh_pullback(d[0], slope[i], db[i - 1].reshape(-1))
        for i in layers:
            onp.matmul(a[i].T, d[i], out=dW[i])

        def differentiate(directions: Sequence[NDArray]) -> tuple[NDArray, list[NDArray]]:
            V, u = _weights_and_biases([onp.asarray(v, p.dtype) for v in directions], layout)
            product = OneVector(arrays)
            RdW, Rdb = _weights_and_biases(product, layout)
            Ra, Rs = [None], []
            for i in layers:
                Rs.append(a[i].dot(V[i]))
                more = Ra[i].dot(W[i]) if i > 0 else None
                if i < layers[-1]:
                    Ra.append(onp.empty_like(Rs[i]))
                    loops.tanh_derivative(Rs[i], more, u[i].reshape(-1), slope[i + 1], Ra[i + 1])
            R_log_p, Rd, sums = Rs[-1], onp.empty_like(p), Rdb[-1].reshape(-1)  # R log p in place of R s
            loops.log_softmax_second_derivative(R_log_p, more, u[-1].reshape(-1), p, c, Rd, sums)
            for i in reversed(layers):
                onp.matmul(a[i].T, Rd, out=RdW[i])
                if i > 0:
                    RdW[i] += Ra[i].T.dot(d[i])
                    Rd, more = Rd.dot(W_T[i]), d[i].dot(_transposed(V[i]))
                    sums = Rdb[i - 1].reshape(-1)
                    loops.tanh_second_derivative(Rd, more, slope[i], a[i], Rs[i - 1], d[i - 1], sums)
            return R_log_p, product

        return gradient, differentiate

    return log_p, backpropagate


def _nll(
    *arrays: NDArray, X: NDArray, T: NDArray, layout: WeightsParser | None = None
) -> tuple[float, Callable]:
    """`mean_nll`, likewise."""
    log_p, backpropagate = _network(*arrays, X=X, layout=layout)
    weighted_labels = T / -len(T)

    def pullback(c: float) -> tuple[list[NDArray], Callable]:
        gradient, differentiate = backpropagate(c * weighted_labels)

        def second(directions: Sequence[NDArray]) -> tuple[float, list[NDArray]]:
            R_log_p, product = differentiate(directions)
            return onp.vdot(R_log_p, weighted_labels), product

        return gradient, second

    return (log_p * weighted_labels).sum(), pullback


def _transposed(W: NDArray) -> NDArray:
    """W^T; small ones as a copy, as BLAS takes them half as fast again then."""
    return onp.ascontiguousarray(W.T) if W.size <= 10_000 else W.T


def _weights_and_biases(
    arrays: Sequence[NDArray], layout: WeightsParser | None
) -> tuple[Sequence[NDArray], Sequence[NDArray]]:
    """By layer, counted from 0; where there is a layout, views of the one vector."""
    if layout is not None:
        arrays = [arrays[0][part].reshape(shape) for part, shape in layout.idxs_and_shapes.values()]
    return arrays[::2], arrays[1::2]


# autograd differentiates tanh to a cosh, and the maximum in logsumexp although the result does not depend on it.
# Without that the operations below take a tenth less time for a gradient, a fifth for a Hessian-vector product.


@primitive
def _tanh(x: Array) -> Array:
    return np.tanh(x)


defvjp(_tanh, lambda ans, x: lambda g: g * (1.0 - np.square(ans)))
defjvp(_tanh, lambda g, ans, x: g * (1.0 - np.square(ans)))

_untraced_max = notrace_primitive(np.max)


def logsumexp(X: Array, axis: int) -> Array:
    """log(sum(exp(X))) along an axis, which stays, with length 1.  No overflow, whatever the entries."""
    largest = _untraced_max(X, axis=axis, keepdims=True)
    shift = np.where(np.isfinite(largest), largest, 0.0)  # inf - inf would be NaN
    return shift + np.log(np.sum(np.exp(X - shift), axis=axis, keepdims=True))


def _network_by_operations(*arrays: Array, X: Array, layout: WeightsParser | None = None) -> Array:
    if layout is not None:
        arrays = [layout.get(arrays[0], name) for name in layout.idxs_and_shapes]
    s = np.dot(X, arrays[0]) + arrays[1]
    for W, b in zip(arrays[2::2], arrays[3::2], strict=True):
        s = np.dot(_tanh(s), W) + b
    return s - logsumexp(s, axis=1)


def _nll_by_operations(*arrays: Array, X: Array, T: Array, layout: WeightsParser | None = None) -> Array:
    return np.sum(_network_by_operations(*arrays, X=X, layout=layout) * (T / -len(T)))


_network_by_hand = with_derivatives(_network, otherwise=_network_by_operations)
_nll_by_hand = with_derivatives(_nll, otherwise=_nll_by_operations)


def _squares(*arrays: NDArray, L2: Any = None) -> tuple[float, Callable]:
    """sum(L2 * w**2), of the arrays w and L2, or of w alone at a constant L2."""
    w, L2 = arrays if len(arrays) == 2 else (*arrays, L2)

    def like_L2(x: NDArray, y: NDArray) -> Any:  # noqa: N802
        """x * y; its sum where all weights have the same L2."""
        return x * y if onp.ndim(L2) else onp.vdot(x, y)

    def total(x: NDArray, y: NDArray) -> float:
        """sum(L2 * x * y)."""
        return onp.vdot(x, L2 * y) if onp.ndim(L2) else L2 * onp.vdot(x, y)

    def pullback(c: float) -> tuple[list, Callable]:
        def second(directions: Sequence[Any]) -> tuple[float, list]:
            v, m = directions if len(arrays) == 2 else (*directions, 0.0)
            d_c, dw = 2.0 * total(v, w), (2.0 * c * L2) * v
            if len(arrays) == 1:
                return d_c, [dw]
            return d_c + onp.sum(m * like_L2(w, w)), [dw + (2.0 * c * m) * w, 2.0 * c * like_L2(v, w)]

        return [(2.0 * c * L2) * w, *([c * like_L2(w, w)] if len(arrays) == 2 else [])], second

    return total(w, w), pullback


def _squares_by_operations(w: Array, *traced: Array, L2: Any = None) -> Array:
    return np.sum((traced[0] if traced else L2) * np.square(w))


_squares_by_hand = with_derivatives(_squares, otherwise=_squares_by_operations)
