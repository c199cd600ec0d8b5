"""Moments of the adaptive rules: what goes out may come in again, and gradients of any size count."""

import autograd.numpy as np
import numpy as onp
import pytest
from autograd import grad
from conftest import leaves, relative_error
from conftest import tree as as_tree

import hypergrad as hg


def float_adam(gradient, w, num_steps, step_size, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """Adam in floats, as torch.optim has it: w, m and u after training, and the moments before each step."""
    m, u = 0.0 * w, 0.0 * w
    before = []
    for t in range(num_steps):
        before.append((m, u))
        g = gradient(w, t)
        m, u = beta1 * m + (1 - beta1) * g, beta2 * u + (1 - beta2) * g**2
        root = np.sqrt(u / (1 - beta2 ** (t + 1)))
        w = w - step_size * (m / (1 - beta1 ** (t + 1))) / (root + epsilon)
    return w, m, u, before


def float_rms_prop(gradient, w, num_steps, step_size, decay=0.9, epsilon=1e-8):
    u = 0.0 * w
    for t in range(num_steps):
        g = gradient(w, t)
        u = decay * u + (1 - decay) * g**2
        w = w - step_size * g / (np.sqrt(u) + epsilon)
    return w, u


def test_moments_are_those_of_the_formula():
    """One step, gradient -2: m = 0.1 * -2, u = 0.001 * 4."""
    trained = hg.train(
        lambda w, theta, t: np.sum((w - 1.0) ** 2), onp.zeros(1), hg.Adam(0.1), 1, return_state=True
    )
    assert trained.state["m"] == pytest.approx(-0.2, rel=1e-15)
    assert trained.state["u"] == pytest.approx(0.004, rel=1e-15)


def loss(w, theta, t):
    return np.sum(np.tanh(w * theta + 0.1 * t)) + 0.5 * np.sum(w**2)


W, THETA = onp.array([0.4, -0.8, 1.3]), onp.array([1.0, 0.6, -1.4])
SCHEDULES = [onp.linspace(0.7, 0.95, 10), onp.linspace(0.999, 0.9, 10)]


@pytest.mark.parametrize("betas", [(0.9, 0.99), SCHEDULES], ids=["constants", "schedules"])
def test_moments_returned_and_their_derivatives_are_those_of_the_unrolled_loop(betas):
    def ours(h):
        rule = hg.Adam(h[2], h[3], h[4], epsilon=1e-3)
        state = hg.train(loss, h[0], rule, 10, h[1], return_state=True).state
        return np.sum(np.sin(state["m"])) + 10.0 * np.sum(state["u"] ** 2)

    def floats(h):
        w, m, u = h[0], 0.0 * h[0], 0.0 * h[0]
        products = [1.0, 1.0]
        for t in range(10):
            b1, b2 = (b[t] if np.ndim(b) else b for b in h[3:])
            g = grad(loss)(w, h[1], t)
            m, u = b1 * m + (1 - b1) * g, b2 * u + (1 - b2) * g**2
            products = [products[0] * b1, products[1] * b2]
            w = w - h[2] * m / (1 - products[0]) / (np.sqrt(u / (1 - products[1])) + 1e-3)
        return np.sum(np.sin(m)) + 10.0 * np.sum(u**2)

    hypers = (W, THETA, 0.05, *betas)
    assert ours(hypers) == pytest.approx(floats(hypers), rel=1e-12)
    for found, true in zip(grad(ours)(hypers), grad(floats)(hypers), strict=True):
        assert relative_error(found, true) < 1e-10


def test_callbacks_and_monitors_see_moments_and_their_cotangents():
    """What a callback gets before step t can start a run of the rest, whose gradient the monitor saw there."""
    steps, cotangents = [], {}

    def keep(step):
        cotangents[step.iteration] = {name: d.copy() for name, d in step.cotangents.items()}

    def f(w, rule, first, **options):
        w = hg.train(lambda w, theta, t: loss(w, theta, t + first), w, rule, 10 - first, THETA, **options)
        return np.sum(w**3)

    grad(f)(W, hg.Adam(0.05, 0.8, 0.97, 1e-3), 0, callback=steps.append, monitor=keep)
    *_, moments = float_adam(lambda w, t: grad(loss)(w, THETA, t), W, 10, 0.05, 0.8, 0.97, 1e-3)
    for step, (m, u) in zip(steps, moments, strict=True):
        onp.testing.assert_allclose(step.state["m"], m, rtol=1e-9, atol=1e-15)
        onp.testing.assert_allclose(step.state["u"], u, rtol=1e-9, atol=1e-15)

    def rest(w, m, u):
        rule = hg.Adam(0.05, 0.8, 0.97, 1e-3, first_moment=m, second_moment=u, first_step=6)
        return f(w, rule, 6)

    true = grad(rest, (0, 1, 2))(steps[6].weights, steps[6].state["m"], steps[6].state["u"])
    for name, d in zip(("w", "m", "u"), true, strict=True):
        onp.testing.assert_allclose(cotangents[6][name], d, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("kind", [hg.Adam, hg.AdamW, hg.RMSProp])
@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("recovery", [hg.Reversible(), hg.Stored()], ids=repr)
def test_two_runs_that_meet_are_one(problem, kind, scheduled, recovery):
    """5 + 5 steps are 10, and so are their derivatives, through the seam."""
    names = ("decay", "momentum") if kind is hg.RMSProp else ("beta1", "beta2")
    hypers = {"w": problem.weights, "theta": problem.theta, "step_size": 0.03, "epsilon": 1e-3}
    hypers |= {name: onp.linspace(0.5, 0.75, 10) if scheduled else 0.75 for name in names}

    def rule(h, first, stop, **state):
        options = {"step_size": h["step_size"], "epsilon": h["epsilon"]}
        for name in names:
            start = 0 if name.startswith("beta") and first else first  # of the whole run, for the corrections
            options[name] = h[name][start:stop] if scheduled else h[name]
        if first and kind is not hg.RMSProp:
            options["first_step"] = first
        return kind(**options, **state)

    def part(h, w, first, stop, **state):
        def later(w, theta, t):
            return problem.loss(w, theta, t + first)

        options = {"recovery": recovery, "return_state": True}
        return hg.train(later, w, rule(h, first, stop, **state), stop - first, h["theta"], **options)

    def one(h):
        return problem.objective(part(h, h["w"], 0, 10).weights)

    def two(h):
        first = part(h, h["w"], 0, 5)
        state = {kind.states[name].replace(" ", "_"): first.state[name] for name in kind.states}
        return problem.objective(part(h, first.weights, 5, 10, **state).weights)

    assert two(hypers) == pytest.approx(one(hypers), rel=1e-12 if kind is hg.Adam else 1e-7)
    found, true = grad(two)(hypers), grad(one)(hypers)
    for name in hypers:
        assert relative_error(found[name], true[name]) < (1e-11 if kind is hg.Adam else 1e-6), name


def test_a_schedule_that_leaves_out_the_steps_before_is_refused():
    moments = {"first_moment": W, "second_moment": W**2}
    for beta1, message in ((SCHEDULES[0][5:], r"the 5 steps before included, got shape \(5,\)"), (0.9, None)):
        rule = hg.Adam(0.05, beta1=beta1, first_step=5, **moments)
        if message is None:
            hg.train(loss, W, rule, 5, THETA)
        else:
            with pytest.raises(ValueError, match=rf"beta1 must be .* of shape \(10,\) .*{message}"):
                hg.train(loss, W, rule, 5, THETA)
    for wrong, error in ((-1, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"first_step must be .*0"):
            hg.Adam(0.05, first_step=wrong)


# ---- gradients of very different sizes


@pytest.mark.parametrize("ratio", [1e4, 1e7, 1e10, 1e13])
@pytest.mark.parametrize("rule", [hg.Adam(0.01), hg.RMSProp(0.01)], ids=["Adam", "RMSProp"])
@pytest.mark.parametrize("apart", [False, True], ids=["entries", "leaves"])
def test_entries_and_leaves_of_different_sizes(rule, ratio, apart):
    """The smaller weight, and its hypergradient, beside those of a float64 loop."""
    scales = onp.array([1e3, 1e3 / ratio])

    def join(w):
        return np.concatenate([w[0], w[1]]) if apart else w

    def loss(w, theta, t):
        return np.sum(scales * (np.exp(join(w)) - 2.0) ** 2)

    def gradient(w, t):
        return 2.0 * scales * (np.exp(w) - 2.0) * np.exp(w)

    def floats(w):
        run = float_adam if isinstance(rule, hg.Adam) else float_rms_prop
        return run(gradient, w, 20, 0.01)[0]

    start = onp.array([0.0, 0.1])
    split = [start[:1], start[1:]] if apart else start
    found = join(hg.train(loss, split, rule, 20)) - start
    onp.testing.assert_allclose(found, floats(start) - start, rtol=1e-6)
    slope = grad(lambda w: join(hg.train(loss, w, rule, 20))[1])(split)
    # the update of RMSProp takes 6e-8 of the one before, see its leak
    onp.testing.assert_allclose(join(slope)[1], grad(lambda w: floats(w)[1])(start)[1], rtol=1e-6)


@pytest.mark.parametrize("beta2", [0.9, 0.5])
@pytest.mark.parametrize("falls", [True, False])
def test_steps_of_different_sizes(beta2, falls):
    """Large gradients for two steps, then ones that are ten orders smaller; and the other way round."""
    sizes = onp.where((onp.arange(120) < 2) == falls, 1e2, 1e-8)

    def gradient(w, t):
        return sizes[t] * np.cos(w + 0.1 * t)

    def floats(w):
        return float_adam(gradient, w, 120, 0.01, 0.5, beta2, 1e-12)[0]

    def ours(w):
        rule = hg.Adam(0.01, 0.5, beta2, 1e-12, max_gradient=1e3)
        return hg.train(lambda w, theta, t: sizes[t] * np.sum(np.sin(w + 0.1 * t)), w, rule, 120)

    start = onp.array([0.3, -0.5])
    onp.testing.assert_allclose(ours(start) - start, floats(start) - start, rtol=1e-6)
    found, true = (grad(lambda w, f=f: np.sum(f(w)))(start) for f in (ours, floats))
    onp.testing.assert_allclose(found, true, rtol=1e-6)


@pytest.mark.parametrize("rule", [hg.Adam, hg.RMSProp])
def test_a_second_moment_that_underflows_is_never_silently_wrong(rule):
    """Beside gradients of 1e6, and 1e-14 for epsilon, one of 1e-8 is lost: named, with what to do, which helps."""
    scales = {"large": onp.array([1e6]), "small": onp.array([1.0, 1e-8])}

    def loss(w, theta, t):
        return sum(np.sum(scales[name] * np.sin(w[name])) for name in ("large", "small"))

    start = {"large": onp.zeros(1), "small": onp.zeros(2)}
    with pytest.raises(
        hg.FixedPointRangeError,
        match=r"second moment\['small'\]\[1\] at iteration 0 is too small .* max_gradient",
    ):
        hg.train(loss, start, rule(0.01, epsilon=1e-14), 3)
    w = hg.train(loss, start, rule(0.01, epsilon=1e-14, max_gradient=2e6), 3)
    onp.testing.assert_allclose(w["small"], w["small"][0], rtol=1e-5)
    w = hg.train(loss, start, rule(0.01, epsilon=1e-3), 3)
    onp.testing.assert_allclose(w["small"][1], 0.0, atol=1e-6)


def test_weights_without_a_gradient_are_not_taken_for_small():
    """An entry whose gradient is exactly 0 has moments of 0, which lose nothing."""
    w = hg.train(lambda w, theta, t: 1e6 * np.sum(w[:1] ** 2), onp.ones(2), hg.Adam(0.01, epsilon=1e-12), 3)
    assert w[1] == 1.0
    assert leaves(as_tree([w] * 4))[0][0] < 1.0
