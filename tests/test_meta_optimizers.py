"""The optimizers of the outer loop: their updates, number for number, and what they do with bad gradients."""

import re

import autograd.numpy as np
import numpy.random as npr
import numpy.testing as npt
import pytest
from autograd import value_and_grad
from scipy.optimize import minimize

from hypergrad.optimizers import adam, bfgs, rms_prop, simple_sgd

FIRST_ORDER = [simple_sgd, rms_prop, adam]


def noisy_gradients(num_iters, shape=(3,)):
    """A gradient that depends on x and on the iteration, and is repeatable."""
    noise = npr.RandomState(0).randn(num_iters, *shape)
    return lambda x, i: 2 * x + noise[i]


def run_by_hand(update, x, gradient, num_iters):
    """Entry by entry in Python floats, so that nothing is shared with the vectorised loops."""
    x = [float(value) for value in x]
    states = [{} for _ in x]
    for i in range(num_iters):
        g = gradient(np.array(x), i)
        x = [update(x_j, float(g_j), i, state) for x_j, g_j, state in zip(x, g, states, strict=True)]
    return x


def test_simple_sgd_update():
    def update(x, g, i, state):
        state["v"] = 0.7 * state.get("v", 0.0) - 0.3 * g
        return x + 0.2 * state["v"]

    x, gradient = [1.0, -2.0, 0.5], noisy_gradients(20)
    ours = simple_sgd(gradient, x, num_iters=20, step_size=0.2, mass=0.7)
    npt.assert_allclose(ours, run_by_hand(update, x, gradient, 20), rtol=1e-13)


def test_rms_prop_update():
    def update(x, g, i, state):
        state["u"] = 0.8 * state.get("u", 1.0) + 0.2 * g * g
        return x - 0.05 * g / (state["u"] ** 0.5 + 1e-3)

    x, gradient = [1.0, -2.0, 0.5], noisy_gradients(20)
    ours = rms_prop(gradient, x, num_iters=20, step_size=0.05, gamma=0.8, eps=1e-3)
    npt.assert_allclose(ours, run_by_hand(update, x, gradient, 20), rtol=1e-13)


@pytest.mark.parametrize(("b1", "b2"), [(0.1, 0.01), (0.4, 0.2)])
def test_adam_without_its_schedule_is_todays_adam_with_betas_one_minus_ours(b1, b2):
    def update(x, g, i, state):  # Kingma and Ba, Algorithm 1, with beta1 = 1 - b1, beta2 = 1 - b2
        state["m"] = (1 - b1) * state.get("m", 0.0) + b1 * g
        state["u"] = (1 - b2) * state.get("u", 0.0) + b2 * g * g
        m_hat, u_hat = state["m"] / (1 - (1 - b1) ** (i + 1)), state["u"] / (1 - (1 - b2) ** (i + 1))
        return x - 0.03 * m_hat / (u_hat**0.5 + 1e-4)

    x, gradient = [1.0, -2.0, 0.5], noisy_gradients(20)
    ours = adam(gradient, x, num_iters=20, step_size=0.03, b1=b1, b2=b2, lam=1.0)
    npt.assert_allclose(ours, run_by_hand(update, x, gradient, 20), rtol=1e-12)


@pytest.mark.parametrize("lam", [1e-4, 0.5])
def test_adam_with_its_schedule_has_a_closed_form_for_a_constant_gradient(lam):
    # m after iteration i is g (1 - prod_{j <= i} (1 - b1) lam^j); the mean of squares is g^2 throughout.
    g, b1, x = np.array([3.0, -0.2]), 0.1, np.array([1.0, 1.0])
    for i in range(30):
        m = g * (1 - (1 - b1) ** (i + 1) * lam ** (i * (i + 1) / 2))
        x = x - 0.1 * m / (1 - (1 - b1) ** (i + 1)) / (np.abs(g) + 1e-4)
    npt.assert_allclose(adam(lambda x, i: g, np.ones(2), num_iters=30, lam=lam), x, rtol=1e-12)


def test_defaults_are_those_of_2015():
    g = np.array([3.0, -0.2])
    final = {optimizer.__name__: optimizer(lambda x, i: g, np.zeros(2)) for optimizer in FIRST_ORDER}
    # Closed forms of a constant gradient: v = -(1 - 0.9^k) g after k updates; u = g^2 + 0.9^k (1 - g^2).
    k = np.arange(1, 201)[:, None]
    npt.assert_allclose(final["simple_sgd"], np.sum(-0.1 * (1 - 0.9**k) * g, 0), rtol=1e-12)
    u = g**2 + 0.9 ** k[:100] * (1 - g**2)
    npt.assert_allclose(final["rms_prop"], np.sum(-0.1 * g / (np.sqrt(u) + 1e-8), 0), rtol=1e-12)
    i = np.arange(100)[:, None]
    m = 1 - 0.9 ** (i + 1) * 1e-4 ** (i * (i + 1) / 2)
    npt.assert_allclose(
        final["adam"], np.sum(-0.1 * g * m / (1 - 0.9 ** (i + 1)) / (np.abs(g) + 1e-4), 0), rtol=1e-12
    )


@pytest.mark.parametrize("optimizer", FIRST_ORDER)
def test_any_shape_works_and_equals_the_flat_run(optimizer):
    start = npr.RandomState(1).randn(2, 3)
    gradient = noisy_gradients(10, (6,))
    flat = optimizer(gradient, start.ravel(), num_iters=10)
    shaped = optimizer(lambda x, i: gradient(x.ravel(), i).reshape(2, 3), start, num_iters=10)
    npt.assert_array_equal(shaped, flat.reshape(2, 3))
    scalar = optimizer(lambda x, i: 2 * x, 1, num_iters=3)
    assert scalar.shape == ()
    assert 0 < scalar < 1


@pytest.mark.parametrize("optimizer", FIRST_ORDER)
def test_callback_sees_x_before_each_update_and_the_gradient_there(optimizer):
    gradient, seen = noisy_gradients(6), []
    start = np.array([1.0, 2.0, 3.0])
    final = optimizer(gradient, start, lambda x, i, g: seen.append((x, i, g)), num_iters=6)
    assert [i for _, i, _ in seen] == list(range(6))
    for x, i, g in seen:
        npt.assert_array_equal(g, gradient(x, i), err_msg=f"gradient of iteration {i}")
        npt.assert_array_equal(x, optimizer(gradient, start, num_iters=i), err_msg=f"x before update {i}")
    npt.assert_array_equal(optimizer(gradient, start, num_iters=6), final, err_msg="without a callback")
    npt.assert_array_equal(start, [1, 2, 3], err_msg="the caller's x")


@pytest.mark.parametrize("optimizer", FIRST_ORDER)
def test_a_gradient_array_used_again_and_again_is_not_held_on_to(optimizer):
    buffer = np.zeros(2)

    def gradient(x, i):
        buffer[:] = 2 * x
        return buffer

    start, seen = np.array([1.0, -1.0]), []
    expected = optimizer(lambda x, i: 2 * x, start, num_iters=5)
    final = optimizer(gradient, start, lambda x, i, g: seen.append((x, g)), num_iters=5)
    npt.assert_array_equal(final, expected)
    for i, (x, g) in enumerate(seen):
        npt.assert_array_equal(g, 2 * x, err_msg=f"gradient handed to the callback in iteration {i}")


@pytest.mark.parametrize("optimizer", FIRST_ORDER)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_is_reported_with_its_iteration(optimizer, bad):
    def gradient(x, i):
        return np.array([[1.0, 1.0], [bad if i == 7 else 1.0, 1.0]])

    seen = []
    got = re.escape(
        f"iteration 7: 1 of 4 entries of the gradient are not finite, the first, {bad}, at index (1, 0)"
    )
    with pytest.raises(FloatingPointError, match=got):
        optimizer(gradient, np.zeros((2, 2)), lambda x, i, g: seen.append(i))
    assert seen == list(range(7))


@pytest.mark.parametrize("optimizer", FIRST_ORDER)
def test_a_gradient_of_another_shape_is_reported(optimizer):
    with pytest.raises(ValueError, match=r"iteration 0: expected a gradient of shape \(2,\), got shape \(\)"):
        optimizer(lambda x, i: 1.0, np.zeros(2))


# -- BFGS -----------------------------------------------------------------------------------------------------


@value_and_grad
def rosenbrock(x):
    return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def test_bfgs_finds_a_minimum_and_leaves_x_alone():
    start = np.array([-1.2, 1.0, 0.7])
    npt.assert_allclose(bfgs(rosenbrock, start), [1, 1, 1], rtol=1e-5)
    npt.assert_array_equal(start, [-1.2, 1.0, 0.7])


def test_bfgs_takes_scipys_path_and_reports_every_iteration():
    start, seen, path = np.array([-1.2, 1.0]), [], []
    final = bfgs(rosenbrock, start, lambda x, i: seen.append((x, i)), num_iters=8)
    options = {"maxiter": 8}
    reference = minimize(rosenbrock, start, jac=True, method="BFGS", callback=path.append, options=options)
    assert [i for _, i in seen] == list(range(8))
    for (x, i), expected in zip(seen, path, strict=True):
        npt.assert_array_equal(x, expected, err_msg=f"x after iteration {i}")
    npt.assert_array_equal(final, reference.x)
    npt.assert_array_equal(bfgs(rosenbrock, start, num_iters=0), start)


def test_bfgs_works_on_any_shape():
    target = np.arange(6.0).reshape(2, 3)
    start = np.zeros((2, 3))
    seen = []

    def objective(x):
        assert x.shape == (2, 3)
        return np.sum((x - target) ** 2), 2 * (x - target)

    found = bfgs(objective, start, lambda x, i: seen.append(x.shape))
    npt.assert_allclose(found, target, atol=1e-6)
    assert set(seen) == {(2, 3)}
    npt.assert_allclose(bfgs(lambda x: ((x - 2) ** 2, 2 * (x - 2)), 0.0), 2.0)


def test_bfgs_reports_what_is_not_finite_with_its_iteration():
    calls = []

    def objective(x):
        value, g = rosenbrock(x)
        return value, np.array([np.nan, g[1]]) if len(calls) >= 3 else g

    with pytest.raises(
        FloatingPointError, match=r"iteration 3: 1 of 2 entries of the gradient are not finite"
    ):
        bfgs(objective, np.array([-1.2, 1.0]), lambda x, i: calls.append(i))
    with pytest.raises(FloatingPointError, match="iteration 0: the objective is inf"):
        bfgs(lambda x: (np.inf, x), np.ones(2))
    with pytest.raises(
        ValueError, match=r"iteration 0: expected a gradient of shape \(2,\), got shape \(3,\)"
    ):
        bfgs(lambda x: (1.0, np.ones(3)), np.ones(2))
