"""What several test files share: a problem with every kind of leaf, and the unrolled float loop."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the tests run on all cores as it is

import autograd.numpy as np
import numpy as onp
import pytest
from autograd import grad
from autograd.misc.flatten import flatten
from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # the first call of a loop compiles it
settings.load_profile("no deadline")


def relative_error(found, true):
    """|found - true| / |true| of two trees."""
    found, true = flatten(found)[0], flatten(true)[0]
    return onp.linalg.norm(found - true) / onp.linalg.norm(true)


class Problem:
    """A small network on a nested tree of weights, with regularisation and data as theta."""

    def __init__(self, seed):
        rng = onp.random.RandomState(seed)
        self.inputs, self.targets = rng.standard_normal((20, 5)), rng.standard_normal((20, 3))
        self.weights = {
            "hidden": (rng.standard_normal((5, 4)) * 0.5, rng.standard_normal(4)),
            "out": [rng.standard_normal((4, 3)) * 0.5],
            "shift": onp.array(0.3),
        }
        self.velocity = {
            "hidden": (rng.standard_normal((5, 4)), rng.standard_normal(4)),
            "out": [rng.standard_normal((4, 3))],
            "shift": onp.array(-0.2),
        }
        self.theta = {"log_l2": rng.standard_normal((4, 3)) - 3, "data": [0.1 * rng.standard_normal((20, 5))]}

    def loss(self, w, theta, t):
        """A different minibatch at every t."""
        rows = [(3 * t + i) % 20 for i in range(12)]
        inputs = self.inputs[rows] + theta["data"][0][rows]
        hidden = np.tanh(np.dot(inputs, w["hidden"][0]) + w["hidden"][1])
        errors = np.dot(hidden, w["out"][0]) + w["shift"] - self.targets[rows]
        return np.mean(errors**2) + np.sum(np.exp(theta["log_l2"]) * w["out"][0] ** 2)

    @staticmethod
    def objective(w):
        """A function of all trained weights."""
        return (
            np.sum(np.sin(w["hidden"][0]))
            + np.sum(w["out"][0] ** 2) * w["shift"]
            + np.sum(w["hidden"][1] ** 3)
        )


@pytest.fixture
def problem():
    return Problem(seed=0)


def leaves(tree):
    """The leaves of a tree with the structure of Problem.weights."""
    return [tree["hidden"][0], tree["hidden"][1], tree["out"][0], tree["shift"]]


def tree(w):
    """The inverse of `leaves`."""
    return {"hidden": (w[0], w[1]), "out": [w[2]], "shift": w[3]}


def unrolled(update, loss, weights, states, num_steps, theta):
    """Train in floats with plain autograd: update(t, j, w, states, g) -> (w, states) of leaf j."""

    def flat_loss(w, t):
        return loss(tree(w), theta, t)

    w = leaves(weights)
    for t in range(num_steps):
        g = grad(flat_loss)(w, t)
        new = [update(t, j, w[j], [s[j] for s in states], g[j]) for j in range(len(w))]
        w = [leaf for leaf, _ in new]
        states = [[s[i] for _, s in new] for i in range(len(states))]
    return tree(w)
