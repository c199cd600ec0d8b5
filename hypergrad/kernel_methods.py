"""Kernels between rows of features, and a differentiable nearest-neighbour classifier.

`weighted_neighbors_loss` measures how well training rows, each voting for its own class with the weight that
`make_exp_kernel` or `make_sq_exp_kernel` gives it, predict the classes of validation rows.  It can be
differentiated with respect to everything the features were made from, such as a transformation of images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import autograd.numpy as np

from hypergrad.nn_utils import logsumexp

__all__ = ["Kernel", "make_exp_kernel", "make_sq_exp_kernel", "weighted_neighbors_loss"]

Array = Any  # a float array, or what autograd puts in its place while it traces


@dataclass(frozen=True)
class Kernel:
    """A positive kernel, kept as its logarithm, which is there when the kernel itself is too small for a float.

    log_gram(x1, x2): the logarithms, (rows of x1, rows of x2), for x1, x2 of shape (rows, features).
    Calling the kernel with the same arguments gives the Gram matrix itself.
    """

    log_gram: Callable[[Array, Array], Array]

    def __call__(self, x1: Array, x2: Array) -> Array:
        """The Gram matrix, (rows of x1, rows of x2)."""
        return np.exp(self.log_gram(x1, x2))


def make_exp_kernel(L0: Array) -> Kernel:
    """The kernel exp(-mean(|x1 - x2|) / L0), the mean being over the features, as in the 2015 package.

    L0: length scale, > 0, in units of a feature.  Needs memory for rows x rows x features.
    """
    _check_length_scale(L0)

    def log_gram(x1: Array, x2: Array) -> Array:
        _check_features(x1, x2)
        differences = np.expand_dims(x1, 1) - np.expand_dims(x2, 0)
        return -np.mean(np.abs(differences), axis=2) / L0

    return Kernel(log_gram)


def make_sq_exp_kernel(L0: Array) -> Kernel:
    """The kernel exp(-sum((x1 - x2)^2) / (2 L0^2)), the sum being over the features, as in the 2015 package.

    L0: length scale, > 0, in units of a feature.
    """
    _check_length_scale(L0)

    def log_gram(x1: Array, x2: Array) -> Array:
        _check_features(x1, x2)
        # By products, in memory for rows x rows.  What cancels is rounding of 1e-16 of the squared lengths.
        lengths = np.sum(np.square(x1), axis=1, keepdims=True) + np.sum(np.square(x2), axis=1)
        return (np.dot(x1, np.transpose(x2)) - 0.5 * lengths) / L0**2

    return Kernel(log_gram)


def weighted_neighbors_loss(
    train_data: Any, valid_data: Any, kernel: Callable[[Array, Array], Array]
) -> Array:
    """Mean negative log-probability of the classes of validation rows, nats a row.

    The probability of a class is the share that training rows of that class have in the sum of
    kernel(validation row, training row) over all training rows.
    train_data, valid_data: (X, T) or {"X": X, "T": T} with X (rows, features) and T (rows, classes), one-hot.
    kernel: a `Kernel`, which is not evaluated but by its logarithm, so that far neighbours count in the right
        proportion; or any function of (x1, x2) that gives a positive Gram matrix.
    Differentiable in the features, with finite gradients also where rows coincide.
    Raises ValueError where shapes do not fit, labels are not one-hot, a class has no training row (the loss
    would be infinite), or the kernel is not positive.
    """
    X_train, train_classes = _features_and_classes(train_data, "training")
    X_valid, valid_classes = _features_and_classes(valid_data, "validation")
    without = np.setdiff1d(valid_classes, train_classes)
    if without.size:
        raise ValueError(f"no training row for classes {without.tolist()} of the validation data")
    if isinstance(kernel, Kernel):
        log_weights = kernel.log_gram(X_valid, X_train)
    else:
        weights = kernel(X_valid, X_train)
        if not np.all(weights > 0):
            raise ValueError(
                "the kernel's values must be positive; a Kernel made of its logarithm can be tiny"
            )
        log_weights = np.log(weights)
    same_class = np.where(valid_classes[:, None] == train_classes, 0.0, -np.inf)
    return np.mean(logsumexp(log_weights, axis=1) - logsumexp(log_weights + same_class, axis=1))


def _features_and_classes(data: Any, name: str) -> tuple[Array, Array]:
    # By what it can do: a traced dict is no instance of dict.
    X, T = (data["X"], data["T"]) if hasattr(data, "keys") else data
    if np.ndim(X) != 2 or np.ndim(T) != 2 or np.shape(X)[0] != np.shape(T)[0] or np.shape(T)[0] == 0:
        raise ValueError(
            f"{name} data: expected X (rows, features) and T (rows, classes), got {np.shape(X)} and {np.shape(T)}"
        )
    if not (np.all((T == 0) | (T == 1)) and np.all(np.sum(T, axis=1) == 1)):
        raise ValueError(f"{name} data: expected one-hot labels T, a single 1 in each row of zeros")
    return X, np.argmax(T, axis=1)


def _check_length_scale(L0: Array) -> None:
    if np.ndim(L0) != 0 or not 0 < L0 < np.inf:
        raise ValueError(f"the length scale L0 must be a positive number, got {L0}")


def _check_features(x1: Array, x2: Array) -> None:
    if np.ndim(x1) != 2 or np.ndim(x2) != 2 or np.shape(x1)[1] != np.shape(x2)[1]:
        raise ValueError(f"expected rows of the same features, got shapes {np.shape(x1)} and {np.shape(x2)}")
