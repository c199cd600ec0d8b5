"""What is wrong is said: what was expected, what came, at which step, in which parameter."""

import autograd.numpy as np
import numpy as onp
import pytest
from autograd import grad

import hypergrad as hg

W = {"W1": onp.ones((2, 3)), "b": onp.zeros(3)}
RULE = hg.Momentum(0.1, 0.9)


def loss(w, theta, t):
    return np.sum(w["W1"] ** 2) + np.sum((w["b"] - 1.0) ** 2)


def total(w):
    return np.sum(w["W1"]) + np.sum(w["b"])


def test_random_loss_is_found_on_the_way_back():
    rng = onp.random.RandomState(0)

    def noisy(w, theta, t):
        return loss(w, theta, t) * (1.0 + 0.1 * rng.rand())

    with pytest.raises(hg.ReversalError, match=r"weights not restored.*iteration 20.*random numbers"):
        grad(lambda w: total(hg.train(noisy, w, RULE, 20)))(W)


def test_first_step_that_differs_is_named():
    calls = []

    def forgetful(w, theta, t):
        calls.append(t)
        return loss(w, theta, t) * (2.0 if t == 7 and calls.count(7) > 1 else 1.0)

    with pytest.raises(
        hg.ReversalError, match=r"right down to iteration 8.*not what it was before iteration 7"
    ):
        grad(lambda w: total(hg.train(forgetful, w, RULE, 20)))(W)
    calls.clear()
    with pytest.raises(
        hg.ReversalError, match=r"down to iteration 20.*of 9 initial values differ.*check_every=1"
    ):
        grad(lambda w: total(hg.train(forgetful, w, RULE, 20, recovery=hg.Reversible(check_every=1000))))(W)


def test_a_last_bit_is_enough():
    calls = []

    def almost(w, theta, t):
        calls.append(t)
        scale = 1.0 + 2.0**-40 if calls.count(3) > 1 else 1.0
        return loss(w, theta, t) * scale

    with pytest.raises(hg.ReversalError, match="not restored"):
        grad(lambda w: total(hg.train(almost, w, RULE, 5)))(W)


@pytest.mark.parametrize("recovery", [hg.Reversible(), hg.Stored(), hg.FloatReversal()], ids=repr)
@pytest.mark.parametrize(
    "rule", [RULE, hg.HeavyBall(0.1, 0.9), hg.Nesterov(0.1, 0.9), hg.Adam(0.1), hg.RMSProp(0.1)]
)
@pytest.mark.parametrize("bad", [onp.nan, onp.inf])
def test_non_finite_gradient(bad, rule, recovery):
    """Named, whatever is done with it first; a callback does not get to see it."""
    seen = []

    def broken(w, theta, t):
        return loss(w, theta, t) + (bad if t == 3 else 0.0) * w["W1"][1, 2]

    def trained(callback=None):
        return hg.train(broken, W, rule, 10, recovery=recovery, callback=callback)

    for callback in (None, lambda step: seen.append(step.iteration)):
        with pytest.raises(hg.NonFiniteGradientError, match=r"weights\['W1'\]\[1, 2\].*iteration 3"):
            trained(callback)
    assert seen == [0, 1, 2]


def test_weights_out_of_range():
    with pytest.raises(
        hg.FixedPointRangeError, match=r"(weights|velocity)\['W1'\]\[0, 0\] at iteration \d+.*2048"
    ):
        hg.train(loss, W, hg.Momentum(50.0, 0.5), 100)
    with pytest.raises(hg.FixedPointRangeError, match=r"initial weights\['b'\]\[1\]"):
        hg.train(loss, {**W, "b": onp.array([0.0, 3000.0, 0.0])}, RULE, 1)
    with pytest.raises(hg.FixedPointRangeError, match=r"velocity\['b'\]\[0\] at iteration 0"):
        hg.train(lambda w, theta, t: 1e5 * w["b"][0] + np.sum(w["W1"]), W, RULE, 1)


@pytest.mark.parametrize("decay", [0.0, -0.5, 1e-12, 65537.0])
def test_decay_that_can_not_be_inverted(decay):
    with pytest.raises(ValueError, match=r"decay must be above"):
        hg.train(loss, W, hg.Momentum(0.1, decay), 5)
    with pytest.raises(ValueError, match=r"decay of weights\['b'\] at iteration 2 must be above"):
        hg.train(loss, W, hg.Momentum(0.1, {"W1": 0.9, "b": onp.array([0.9, 0.9, decay, 0.9, 0.9])}), 5)


def test_step_size_that_is_no_number():
    with pytest.raises(ValueError, match=r"step_size at iteration 1 must be finite, got nan"):
        hg.train(loss, W, hg.Momentum(onp.array([0.1, onp.nan]), 0.9), 2)
    with pytest.raises(TypeError, match=r"step_size\['b'\] must be a number"):
        hg.train(loss, W, hg.Momentum({"W1": 0.1, "b": "fast"}, 0.9), 2)


def test_schedule_of_the_wrong_length():
    with pytest.raises(
        ValueError, match=r"step_size must be a scalar, or a schedule of shape \(5,\).*\(7,\)"
    ):
        hg.train(loss, W, hg.Momentum(onp.ones(7), 0.9), 5)
    with pytest.raises(ValueError, match=r"decay\['W1'\] must be a scalar, or a schedule of shape \(5,\)"):
        hg.train(loss, W, hg.Momentum(0.1, {"W1": onp.ones((5, 2)), "b": 0.9}), 5)


def test_trees_that_do_not_match():
    with pytest.raises(
        ValueError, match=r"step_size does not match weights.*\['W1'\] \['b'\].*got.*\['W2'\]"
    ):
        hg.train(loss, W, hg.Momentum({"W1": 0.1, "W2": 0.1}, 0.9), 5)
    with pytest.raises(ValueError, match=r"decay\['b'\] does not match weights\['b'\]: expected one value"):
        hg.train(loss, W, hg.Momentum(0.1, {"W1": 0.9, "b": [0.9, 0.9, 0.9]}), 5)
    with pytest.raises(ValueError, match=r"initial velocity must match weights.*\(2, 3\).*\(3, 2\)"):
        hg.train(loss, W, hg.Momentum(0.1, 0.9, {"W1": onp.ones((3, 2)), "b": onp.ones(3)}), 5)
    with pytest.raises(ValueError, match=r"initial velocity must match weights"):
        hg.train(loss, W, hg.Momentum(0.1, 0.9, [onp.ones((2, 3)), onp.ones(3)]), 5)


@pytest.mark.parametrize("bad", [onp.ones((2, 3), int), 1, True, onp.ones((2, 3), complex), "text"])
def test_weights_and_theta_must_be_floats(bad):
    with pytest.raises(TypeError, match=r"weights\['W1'\] must be an array of floats"):
        hg.train(loss, {**W, "W1": bad}, RULE, 5)
    with pytest.raises(TypeError, match=r"theta\['l2'\]\[0\] must be an array of floats"):
        hg.train(loss, W, RULE, 5, theta={"l2": [bad]})
    with pytest.raises(TypeError, match=r"initial velocity\['W1'\] must be an array of floats"):
        hg.train(loss, W, hg.Momentum(0.1, 0.9, {**W, "W1": bad}), 5)


def test_weights_that_are_not_finite():
    with pytest.raises(ValueError, match=r"weights\['b'\] holds NaN"):
        hg.train(loss, {**W, "b": onp.array([0.0, onp.nan, 0.0])}, RULE, 5)


@pytest.mark.parametrize(
    ("value", "what"),
    [(lambda w: w["W1"], r"shape \(2, 3\)"), (lambda w: None, "NoneType"), (lambda w: (1.0,), "tuple")],
)
def test_loss_that_returns_no_scalar(value, what):
    with pytest.raises(ValueError, match=rf"must return one float, got.*{what}.*iteration 0"):
        hg.train(lambda w, theta, t: value(w), W, RULE, 5)


def test_loss_that_ignores_the_weights_warns():
    with pytest.warns(UserWarning, match="does not depend on the weights"):
        result = hg.train(lambda w, theta, t: 1.0, W, RULE, 1)
    onp.testing.assert_array_equal(result["W1"], W["W1"])


def test_number_of_steps():
    with pytest.raises(ValueError, match="num_steps must be 0 or more"):
        hg.train(loss, W, RULE, -1)
    with pytest.raises(TypeError, match=r"num_steps must be a whole number from 0 on, got 2\.5"):
        hg.train(loss, W, RULE, 2.5)


def test_checks_are_at_least_one_step_apart():
    with pytest.raises(ValueError, match="check_every must be 1 or more"):
        hg.Reversible(check_every=0)


def test_second_derivatives_are_refused():
    def f(alpha):
        return total(hg.train(loss, W, hg.Momentum(alpha, 0.9), 5))

    with pytest.raises(NotImplementedError, match="once, not twice"):
        grad(grad(f))(0.1)
