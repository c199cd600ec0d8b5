"""What differs from the numbers of 2015, and that nothing else does: that arithmetic, in Python's integers."""

import autograd.numpy as np
import numpy as onp
from autograd import grad, make_vjp
from conftest import relative_error
from test_optimizers import T, by_index, final, hypers

import hypergrad as hg
from experiments import rounding_2015
from hypergrad.differentiation import value_of

RADIX = 2**52
NAMES = ("x", "v", "alphas", "betas", "meta")


class Integers:
    """Multiples of 2**-52, rounded towards zero, with a buffer for each, all of them Python's integers."""

    def __init__(self, values):
        self.integers = [int(value * RADIX) for value in values]
        self.buffers = [0] * len(values)

    @property
    def values(self):
        return onp.array([integer / RADIX for integer in self.integers])

    def add(self, values):
        self.integers = [a + int(b * RADIX) for a, b in zip(self.integers, values, strict=True)]

    def multiply(self, n, d):
        for i, (x, b) in enumerate(zip(self.integers, self.buffers, strict=True)):
            b = b * d + x % d
            self.integers[i] = x // d * n + b % n
            self.buffers[i] = b // n


def ratio_of_2015(decay):
    """The next multiple of 2**-16 above a decay below 1."""
    return int(decay * 2**16) + 1, 2**16


def trained_as_in_2015(h, d_loss, adjoint_rounded=False):
    """The trained x, and the gradients of a loss of it, by momentum there and back in the arithmetic of 2015.

    d_loss(x): its gradient.  adjoint_rounded: whether the derivative of a decayed velocity is the factor applied;
    in 2015 it was the decay.
    """
    L_grad, meta = grad(by_index), h["meta"]
    x, v = Integers(h["x"]), Integers(h["v"])
    for i in range(T):
        alpha, beta = h["alphas"][i], h["betas"][i]
        g = L_grad(x.values, meta, i)
        v.multiply(*ratio_of_2015(beta))
        v.add(-(1 - beta) * g)
        x.add(alpha * v.values)
    x_final, d_x = x.values, d_loss(x.values)
    d_v, d_alphas, d_betas, d_meta = onp.zeros_like(d_x), onp.zeros(T), onp.zeros(T), onp.zeros_like(meta)
    for i in reversed(range(T)):
        alpha, beta = h["alphas"][i], h["betas"][i]
        n, d = ratio_of_2015(beta)
        d_alphas[i] = onp.dot(d_x, v.values)
        x.add(-alpha * v.values)
        pull_back, g = make_vjp(lambda xm, i=i: L_grad(xm[0], xm[1], i))((x.values, meta))
        v.add((1 - beta) * g)
        v.multiply(d, n)
        d_v = d_v + alpha * d_x
        d_betas[i] = onp.dot(d_v, v.values + g)
        products = pull_back((1 - beta) * d_v)
        d_x, d_meta = d_x - products[0], d_meta - products[1]
        d_v = d_v * (n / d if adjoint_rounded else beta)
    for state, name in ((x, "x"), (v, "v")):
        assert state.integers == Integers(h[name]).integers, f"{name} is not back where it started"
        assert not any(state.buffers)
    return x_final, dict(zip(NAMES, (d_x, d_v, d_alphas, d_betas, d_meta), strict=True))


class RoundedUp(hg.Momentum):
    """Momentum whose decay is applied as in 2015, while 1 - decay keeps its value."""

    def coefficients(self, schedule, num_steps):
        decay = schedule(self.decay, "decay")
        plain = value_of(decay)
        factors = onp.array([[n / d for n, d in map(ratio_of_2015, row)] for row in plain])
        rounded = {"decay": decay + (factors - plain), "decay - 1": decay - 1.0}
        return {**super().coefficients(schedule, num_steps), **rounded}


def ours(h, make_rule):
    """The same by `train`, with less noise of the buffer in the velocity."""

    def trained(h):
        rule = make_rule(h["alphas"], h["betas"], h["v"], max_velocity=32.0)
        return hg.train(by_index, h["x"], rule, T, h["meta"])

    return trained(h), grad(lambda h: loss_of(trained(h)))(h)


def loss_of(x):
    return final(x, 0.3)


def test_with_the_rounding_of_2015_ours_are_its_numbers():
    h = hypers()
    h["betas"] += 1e-8  # off the multiples of 2**-24 as well
    x_2015, gradients_2015 = trained_as_in_2015(h, grad(loss_of), adjoint_rounded=True)
    x, gradients = ours(h, RoundedUp)
    onp.testing.assert_allclose(x, x_2015, rtol=0, atol=1e-9)
    for name in NAMES:
        assert relative_error(gradients[name], gradients_2015[name]) < 1e-9, name


def test_floats_with_the_rounding_of_2015_in_both_directions_are_its_numbers():
    h = hypers()
    h["betas"] += 1e-8
    h["v"] = onp.zeros_like(h["x"])

    def trained(h):
        return rounding_2015.train(by_index, h["x"], hg.Momentum(h["alphas"], h["betas"]), T, h["meta"])

    x_2015, gradients_2015 = trained_as_in_2015(h, grad(loss_of))
    onp.testing.assert_allclose(trained(h), x_2015, rtol=0, atol=1e-9)
    gradients = grad(lambda h: loss_of(trained(h)))(h)
    for name in ("x", "alphas", "betas", "meta"):
        assert relative_error(gradients[name], gradients_2015[name]) < 1e-9, name


def test_decays_as_they_are_differ_by_the_rounding_alone():
    h = hypers()
    x_2015, gradients_2015 = trained_as_in_2015(h, grad(loss_of))
    x, gradients = ours(h, hg.Momentum)
    assert 1e-7 < relative_error(x, x_2015) < T * 2.0**-16
    for name in NAMES:
        assert relative_error(gradients[name], gradients_2015[name]) < 2 * T * 2.0**-16, name


def test_a_decay_of_1_stays_1():
    moved = hg.train(lambda w, theta, t: np.sum(w), onp.zeros(3), hg.Momentum(1.0, 1.0, onp.ones(3)), 4)
    onp.testing.assert_array_equal(moved, 4.0)  # in 2015 the factor was 32769 / 32768
