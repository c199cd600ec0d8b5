"""Powers of what autograd traces are those of plain arrays, to the last bit: NumPy has two ways to take them."""

import autograd.numpy as np
import numpy as onp
import pytest
from autograd import elementwise_grad, grad
from autograd.test_util import check_grads

import hypergrad as hg
from hypergrad.differentiation import LossGradient

X = onp.abs(onp.random.RandomState(0).standard_normal((300, 40))) * 3.0 + 0.1


@pytest.mark.parametrize("exponent", [2, 2.0, 0.5, -1, 3, -0.5, 1.5])
def test_traced_powers_are_those_of_arrays(exponent):
    traced = []

    def keep(x):
        traced.append((x**exponent)._value)
        return np.sum(x)

    grad(keep)(X)
    onp.testing.assert_array_equal(traced[0], X**exponent)
    traced.clear()
    grad(lambda e: keep_exponent(e, traced))(onp.array(float(exponent)))
    onp.testing.assert_array_equal(traced[0], X ** onp.array(float(exponent)))


def keep_exponent(exponent, traced):
    power = X**exponent
    traced.append(power._value)
    return np.sum(power)


def test_powers_keep_their_derivatives():
    check_grads(lambda x: x**2.5 + x**-1 + 2.0**x + x**x, modes=["rev"], order=2)(X[:2, :3])
    onp.testing.assert_allclose(elementwise_grad(lambda x: x**3)(X), 3 * X**2)


def losses():
    """Losses whose gradients have powers in them, by themselves or by way of tanh, sqrt, a norm, a deviation."""
    data, targets = (onp.random.RandomState(i).standard_normal((50, n)) for i, n in ((1, 20), (2, 3)))

    def net(w):
        return np.dot(np.tanh(np.dot(data, w["W1"]) + w["b1"]), w["W2"]) + w["b2"] - targets

    return {
        "two layers of tanh": lambda w: np.mean(net(w) ** 2),
        "reciprocals": lambda w: np.sum(1.0 / (1.0 + net(w) ** 2)) + np.sum((2.0 + w["W1"] ** 2) ** -1),
        "roots": lambda w: np.sum((1.0 + net(w) ** 2) ** 0.5) + np.sqrt(np.sum(w["W1"] ** 2)),
        "deviations": lambda w: np.std(net(w)) + np.var(w["W1"]) + np.linalg.norm(w["W2"]),
    }


def weights(seed):
    rng = onp.random.RandomState(seed)
    shapes = {"W1": (20, 16), "b1": (16,), "W2": (16, 3), "b2": (3,)}
    return {name: 0.3 * rng.standard_normal(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", losses())
def test_gradients_have_the_same_bits_alone_and_with_their_pullbacks(name):
    names, loss = list(weights(0)), losses()[name]
    gradient = LossGradient(lambda leaves, theta, t: loss(dict(zip(names, leaves, strict=True))))
    for seed in range(20):
        leaves = list(weights(seed).values())
        alone = gradient(leaves, [], 0)
        with_pullback, _ = gradient.with_pullback(leaves, [], 0, False)
        onp.testing.assert_array_equal(alone, with_pullback, err_msg=f"seed {seed}")


@pytest.mark.parametrize("name", losses())
def test_such_losses_are_reversed(name):
    loss = losses()[name]

    def objective(w):
        w = hg.train(lambda w, theta, t: loss(w), w, hg.Momentum(0.01, 0.5), 100)
        return np.sum(w["W1"] ** 2)

    assert onp.isfinite(grad(objective)(weights(0))["W1"]).all()
