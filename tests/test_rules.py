"""Rules beyond `Momentum`: their hypergradients, their reversal, and their updates beside those of torch."""

import dataclasses
from itertools import product

import autograd.numpy as np
import numpy as onp
import pytest
from autograd import grad, value_and_grad
from autograd.misc.flatten import flatten
from conftest import leaves, relative_error, unrolled
from conftest import tree as as_tree
from hypothesis import given, settings
from hypothesis import strategies as st

import hypergrad as hg
from hypergrad.adaptive import Adam, AdamW, RMSProp
from hypergrad.kernels import NORMALIZED, SQUARED, Normalized
from hypergrad.operations import Add, Blocks, Decay, Group, grouped, in_reverse
from hypergrad.rules import HeavyBall, Nesterov
from hypergrad.units import mean_units

T = 60
RULES = [HeavyBall, Nesterov, RMSProp, Adam, AdamW]
INITIAL = {"velocity", "first_moment", "second_moment"}  # hyperparameters that are trees like the weights


def at(c, t):
    return c[t] if np.ndim(c) else c


def root(u):
    """sqrt, with the derivative 0 at 0."""
    return np.where(u > 0, np.sqrt(np.where(u > 0, u, 1.0)), 0.0)


# ---- the same rules in floats: (hypers at (t, leaf), w, states, g) -> w, states


def float_heavy_ball(h, w, states, g):
    v = h["momentum"] * states[0] + g
    return w - h["step_size"] * v, [v]


def float_nesterov(h, w, states, g):
    q, v = h["leak"] * states[0] + g, h["momentum"] * states[1] + g
    return w - h["step_size"] * (q + h["momentum"] * v), [q, v]


def float_rms_prop(h, w, states, g):
    u = h["decay"] * states[0] + (1 - h["decay"]) * g**2
    v = h["momentum"] * states[1] + g / (root(u) + h["epsilon"])
    return w - h["step_size"] * v, [u, v]


def float_adam(h, w, states, g):
    m, u, b1, b2 = states
    m = h["beta1"] * m + (1 - h["beta1"]) * g
    u = h["beta2"] * u + (1 - h["beta2"]) * g**2
    b1, b2 = h["beta1"] * b1, h["beta2"] * b2
    w = w * (1 - h["step_size"] * h.get("weight_decay", 0.0))
    return w - h["step_size"] * (m / (1 - b1)) / (root(u / (1 - b2)) + h["epsilon"]), [m, u, b1, b2]


FLOAT = {
    HeavyBall: (float_heavy_ball, ["velocity"]),
    Nesterov: (float_nesterov, [0.0, "velocity"]),
    RMSProp: (float_rms_prop, ["second_moment", "velocity"]),
    Adam: (float_adam, ["first_moment", "second_moment", 1.0, 1.0]),
    AdamW: (float_adam, ["first_moment", "second_moment", 1.0, 1.0]),
}


def float_trained(kind, problem, hypers, num_steps=T, loss=None):
    """The weights after training in floats, as a plain loop that autograd unrolls."""
    step, initial = FLOAT[kind]
    per_step = set(hypers.keys()) - INITIAL - {"weights", "theta"}

    def update(t, j, w, states, g):
        return step({name: at(hypers[name][j], t) for name in per_step}, w, states, g)

    states = [leaves(hypers[name]) if isinstance(name, str) else [name] * 4 for name in initial]
    return unrolled(update, loss or problem.loss, hypers["weights"], states, num_steps, hypers["theta"])


def make_hypers(kind, problem, seed=1):
    """Every hyperparameter: schedules for two leaves, scalars for two.  Steps and momenta on their lattices."""
    rng = onp.random.RandomState(seed)

    def schedule(low, high, lattice=2.0**24):
        between = [low + (high - low) * rng.rand(T), high, low + (high - low) * rng.rand(T), low]
        return [onp.rint(x * lattice) / lattice for x in between]

    hypers = {
        "weights": problem.weights,
        "theta": problem.theta,
        "step_size": schedule(0.01, 0.04, 2.0**16),
        "momentum": schedule(0.5, 0.9),
        "leak": schedule(2.0**-6, 2.0**-3),
        "decay": schedule(0.8, 0.95),
        "beta1": schedule(0.7, 0.95),
        "beta2": schedule(0.9, 0.999),
        "epsilon": [1e-3, 1e-2, 0.01 + 0.01 * rng.rand(T), 1e-2],
        "weight_decay": schedule(0.0625, 0.5, 2.0**8),
        "velocity": problem.velocity,
        "first_moment": problem.velocity,
        "second_moment": as_tree([0.1 + rng.rand(*leaf.shape) for leaf in leaves(problem.weights)]),
    }
    fields = {field.name for field in dataclasses.fields(kind)} - {
        "max_gradient",
        "max_velocity",
        "first_step",
    }
    return {name: hypers[name] for name in sorted(fields | {"weights", "theta"})}


def make_rule(kind, hypers, **options):
    fields = set(hypers.keys()) - {"weights", "theta"}
    return kind(
        **{name: hypers[name] if name in INITIAL else as_tree(hypers[name]) for name in fields}, **options
    )


def trained(kind, problem, hypers, recovery=None, num_steps=T, **options):
    rule, recovery = make_rule(kind, hypers, **options), recovery or hg.Reversible()
    return hg.train(problem.loss, hypers["weights"], rule, num_steps, hypers["theta"], recovery=recovery)


# ---- hypergradients


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("start", ["given", "zero"])
def test_all_hypergradients_agree_with_the_unrolled_loop(problem, kind, start):
    """Where the difference is not rounding error it is the noise of multiplying velocities, 4e-9 per step."""
    hypers, bound = make_hypers(kind, problem), 1e-9 if kind is Adam else 1e-7
    zeros = {name: as_tree([0.0 * leaf for leaf in leaves(hypers[name])]) for name in INITIAL & set(hypers)}
    if start == "zero":
        hypers = {name: value for name, value in hypers.items() if name not in INITIAL}
    else:
        zeros = {}
    value, found = value_and_grad(lambda h: problem.objective(trained(kind, problem, h)))(hypers)
    true_value, true = value_and_grad(
        lambda h: problem.objective(float_trained(kind, problem, {**zeros, **h_items(h)}))
    )(hypers)
    assert value == pytest.approx(true_value, rel=bound)
    for name in hypers:
        assert relative_error(found[name], true[name]) < bound, name


def h_items(h):
    """A plain dict of what may be a box."""
    return {name: h[name] for name in h}


@pytest.mark.parametrize("kind", RULES)
def test_recoveries_agree_to_the_last_bit(problem, kind):
    hypers = make_hypers(kind, problem)
    first, second = (
        flatten(grad(lambda h, r=recovery: problem.objective(trained(kind, problem, h, r)))(hypers))[0]
        for recovery in (hg.Reversible(check_every=1), hg.Stored())
    )
    onp.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("kind", RULES)
def test_all_hypergradients_agree_with_finite_differences(problem, kind):
    """Differences along random directions: steps that are multiples of the lattice of 2**-24 where momenta are
    rounded to it, large against the noise of 1e-9 in the weights, and with squares small against the tolerance.
    The step of a step size is smaller, as the factors of AdamW are products of it and a weight decay."""
    hypers = make_hypers(kind, problem)
    flat, unflatten = flatten(hypers)

    def f(x):
        return problem.objective(trained(kind, problem, unflatten(x)))

    gradient = grad(f)(flat)
    starts = onp.cumsum([0] + [flatten(hypers[name])[0].size for name in sorted(hypers)])
    sizes = {"step_size": 2.0**-16, "epsilon": 2.0**-16, "beta2": 2.0**-15, "leak": 2.0**-9, "theta": 2.0**-9}
    for name, start, stop in zip(sorted(hypers), starts, starts[1:], strict=False):
        direction = onp.zeros(flat.size)
        signs = onp.random.RandomState(2).choice([-1.0, 1.0], stop - start)
        direction[start:stop] = signs * sizes.get(name, 2.0**-12)
        difference = (f(flat + direction) - f(flat - direction)) / 2
        assert difference == pytest.approx(gradient @ direction, rel=1e-3), name


@pytest.mark.parametrize("wrong", ["x", "u"])
def test_a_wrong_kernel_is_caught(problem, monkeypatch, wrong):
    """The checks above must be able to fail: one derivative of x / (sqrt(u) + e) off by a percent."""
    pullback = Normalized.pullback

    def wrong_pullback(self, blocks, inputs, cotangent, d_inputs):
        parts = [onp.zeros_like(x) for x in inputs]
        d_coefficients = pullback(self, blocks, inputs, cotangent, parts)
        for d_x, part, factor in zip(
            d_inputs, parts, (1.01, 1.0) if wrong == "x" else (1.0, 1.01), strict=True
        ):
            d_x += factor * part
        return d_coefficients

    hypers = make_hypers(Adam, problem)
    true = grad(lambda h: problem.objective(float_trained(Adam, problem, h)))(hypers)
    monkeypatch.setattr(Normalized, "pullback", wrong_pullback)
    found = grad(lambda h: problem.objective(trained(Adam, problem, h)))(hypers)
    for name in ("weights", "theta", "second_moment" if wrong == "u" else "first_moment"):
        assert relative_error(found[name], true[name]) > 1e-4, name


@pytest.mark.parametrize("kernel", [SQUARED, NORMALIZED])
def test_kernels_pull_back_what_autograd_does(kernel):
    """In three blocks, one of them empty; cotangents of inputs are added to what is there."""
    rng = onp.random.RandomState(0)
    formula, coefficients, inputs = {
        SQUARED: (lambda c, x: c[0] * x[0] ** 2, 1, 1),
        NORMALIZED: (normalized, 2, 2),
    }[kernel]
    ends = onp.array([30, 30, 47])
    block = onp.repeat(onp.arange(3), onp.diff(ends, prepend=0))
    coefficients, inputs = rng.rand(coefficients, 3) - [[0.5], [-0.1]][:coefficients], rng.randn(inputs, 47)
    inputs[1:] **= 2
    cotangent, before = rng.randn(47), rng.randn(*inputs.shape)

    def value(coefficients, inputs):
        return formula([c[block] for c in coefficients], inputs)

    found = kernel.forward(Blocks(ends, coefficients[1:]), inputs) * coefficients[0][block]
    onp.testing.assert_allclose(found, value(coefficients, inputs))
    true = grad(lambda args: np.sum(value(*args) * cotangent))((coefficients, inputs))
    d_inputs = before.copy()
    d_coefficients = kernel.pullback(Blocks(ends, coefficients), inputs, cotangent, d_inputs)
    assert relative_error(onp.array(d_coefficients), true[0]) < 1e-13
    assert relative_error(d_inputs - before, true[1]) < 1e-13


@pytest.mark.parametrize("rule", [hg.Momentum, *RULES])
def test_groups_hold_all_operations_in_their_order(rule):
    groups = grouped(rule.program)
    assert tuple(operation for group in groups for operation in group if operation) == rule.program
    undone = tuple(operation for group in in_reverse(groups) for operation in reversed(group) if operation)
    assert undone == rule.program[::-1]
    assert len(groups) < len(rule.program)


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize(("decays", "adds", "goes_on"), list(product([False, True], repeat=3))[2:])
def test_groups_pull_back_what_autograd_does(decays, adds, goes_on, anew):
    """In blocks longer and shorter than the parts in which they are worked through, one of them empty."""
    rng = onp.random.RandomState(0)
    ends = onp.array([1500, 1500, 1517])
    block = onp.repeat(onp.arange(3), onp.diff(ends, prepend=0))
    factors, cs, y_cs = rng.rand(3, 3)
    before, values, y, d_x, d_y, d_values = rng.randn(6, 1517)

    def after(factors, cs, y_cs, before, values, y):
        x = factors[block] * before if decays else before
        x = x + cs[block] * values if adds else x
        return np.sum(x * d_x) + np.sum((y + y_cs[block] * x if goes_on else y) * d_y)

    *true, true_d_before, true_d_values, _ = grad(lambda args: after(*args))(
        (factors, cs, y_cs, before, values, y)
    )
    group = Group(
        Decay("v", "a") if decays else None,
        Add("v", ("b",), ("g",)) if adds else None,
        Add("w", ("c",), ("v",)) if goes_on else None,
    )
    x = factors[block] * before if decays else before
    x = x + cs[block] * values if adds else x
    of_each = [([factors], [before]), ([cs], [values]), ([y_cs], [x])]
    kept = [each if there else ([], []) for each, there in zip(of_each, (decays, adds, goes_on), strict=True)]
    d_target, d_input = d_x.copy(), d_values.copy()
    found = group.adjoint(
        ends, [c for c, _ in kept], [v for _, v in kept], d_target, [d_input] if adds else [], d_y, anew
    )
    expected = [d for d, there in zip(true, (decays, adds, goes_on), strict=True) if there]
    assert len(found) == len(expected) == len(group.coefficients)
    for d, true_d in zip(found, expected, strict=True):
        assert relative_error(d, true_d) < 1e-13
    assert relative_error(d_target, true_d_before) < 1e-13
    if adds:
        assert relative_error(d_input - (0.0 if anew else d_values), true_d_values) < 1e-13


def normalized(coefficients, inputs):
    return coefficients[0] * inputs[0] / (root(inputs[1]) + coefficients[1])


def test_a_decay_that_falls_steeply_halves_by_many_bits_at_once():
    """From 0.95 at the start to 4e-7, by 2**-26 in the units of `RMSProp`; by 2**-47 at worst, which is refused."""

    def f(w, decays, recovery):
        rule = RMSProp(0.01, onp.array(decays)[:, None], epsilon=0.02, momentum=0.5)
        return np.sum(
            hg.train(lambda w, theta, t: np.sum(np.tanh(w + 0.1 * t)), w, rule, 2, None, recovery) ** 3
        )

    w, steep = onp.array([0.3, -0.7]), [0.946370706, 3.84339006e-07]
    assert mean_units(onp.array(steep)[:, None], 2, True).halving.min() == 2.0**-26
    found, true = (grad(f)(w, steep, recovery) for recovery in (hg.Reversible(check_every=1), hg.Stored()))
    onp.testing.assert_array_equal(found, true)
    with pytest.raises(ValueError, match="falls too far at iteration 1, to 1e-07"):
        f(w, [1 - 1e-7, 1e-7], hg.Reversible())


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(RULES), st.integers(0, 10_000), st.integers(0, 30), st.integers(1, 6))
def test_reversal_is_exact_for_random_runs(kind, seed, num_steps, size):
    """Weights, moments and buffers come back: the certificate inside the backward pass raises if not."""
    rng = onp.random.RandomState(seed)
    matrix, w = rng.standard_normal((size, size)), rng.standard_normal(size)
    options = {"epsilon": 10.0 ** rng.uniform(-9, 0)} if issubclass(kind, (Adam, RMSProp)) else {}
    means = {Adam: ("beta1", "beta2"), AdamW: ("beta1", "beta2"), RMSProp: ("decay",)}.get(kind, ())
    options |= {name: onp.maximum(rng.rand(num_steps, 1) ** 2, 1e-7) for name in means}
    if kind not in (Adam, AdamW):
        options["momentum"] = 0.02 + 0.98 * rng.rand(num_steps, 1)

    def loss(w, theta, t):
        return np.sum(np.tanh(np.dot(matrix, w) + 0.1 * t)) + theta * np.sum(w**2)

    def f(w, theta, recovery):
        rule = kind(0.01 * rng.rand(), **options)
        return np.sum(hg.train(loss, w, rule, num_steps, theta, recovery) ** 3)

    state = rng.get_state()
    found = grad(f, (0, 1))(w, 0.1, hg.Reversible(check_every=1))
    rng.set_state(state)
    stored = grad(f, (0, 1))(w, 0.1, hg.Stored())
    for name, a, b in zip(("w", "theta"), found, stored, strict=True):
        onp.testing.assert_array_equal(a, b, err_msg=name)


# ---- the updates of other libraries


def torch_heavy_ball(w, g, s, t, lr=0.05, momentum=0.875, nesterov=False):
    s["buffer"] = momentum * s["buffer"] + g if t else g
    return w - lr * (g + momentum * s["buffer"] if nesterov else s["buffer"])


def torch_nesterov(w, g, s, t):
    return torch_heavy_ball(w, g, s, t, nesterov=True)


def torch_rms_prop(w, g, s, t, lr=0.01, alpha=0.9, eps=1e-8, momentum=0.0):
    s["square"] = alpha * s.get("square", 0.0) + (1 - alpha) * g * g
    normalized = g / (onp.sqrt(s["square"]) + eps)
    s["buffer"] = momentum * s.get("buffer", 0.0) + normalized
    return w - lr * s["buffer"]


def torch_rms_prop_with_momentum(w, g, s, t):
    return torch_rms_prop(w, g, s, t, momentum=0.5)


def torch_adam(w, g, s, t, lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    w = w * (1 - lr * weight_decay)
    s["mean"] = betas[0] * s.get("mean", 0.0) + (1 - betas[0]) * g
    s["square"] = betas[1] * s.get("square", 0.0) + (1 - betas[1]) * g * g
    corrections = [1 - beta ** (t + 1) for beta in betas]
    return w - lr / corrections[0] * s["mean"] / (onp.sqrt(s["square"]) / onp.sqrt(corrections[1]) + eps)


def torch_adamw(w, g, s, t):
    return torch_adam(w, g, s, t, weight_decay=0.01)


@pytest.mark.parametrize(
    ("rule", "theirs", "tolerance"),
    [
        (HeavyBall(0.05, 0.875), torch_heavy_ball, 1e-7),
        (Nesterov(0.05, 0.875), torch_nesterov, 1e-6),
        (RMSProp(0.01), torch_rms_prop, 1e-6),
        (RMSProp(0.01, momentum=0.5), torch_rms_prop_with_momentum, 1e-7),
        (Adam(0.01), torch_adam, 1e-9),
        (AdamW(0.01), torch_adamw, 1e-7),
    ],
    ids=["HeavyBall", "Nesterov", "RMSProp", "RMSProp with momentum", "Adam", "AdamW"],
)
def test_trajectories_are_those_of_torch(problem, rule, theirs, tolerance):
    """The formulas of torch.optim, in plain NumPy.  Nesterov and RMSProp differ by their leaks, of 6e-8."""
    gradient, steps = grad(lambda w, t: problem.loss(as_tree(w), problem.theta, t)), []
    final = hg.train(problem.loss, problem.weights, rule, 200, problem.theta, callback=steps.append)
    w, states = leaves(problem.weights), [{} for _ in range(4)]
    for t, following in enumerate([*[step.weights for step in steps[1:]], final]):
        g = gradient(w, t)
        w = [theirs(w[j], g[j], states[j], t) for j in range(4)]
        for ours, leaf in zip(leaves(following), w, strict=True):
            onp.testing.assert_allclose(ours, leaf, rtol=0, atol=tolerance, err_msg=f"iteration {t}")


def test_nesterov_is_off_by_its_leak(problem):
    """A larger leak takes fewer bits, and departs further from the standard update, in proportion."""
    errors, buffers = [], []
    for leak in (2.0**-20, 2.0**-10):
        monitored = []

        def f(w, leak=leak, monitored=monitored):
            rule = Nesterov(0.05, 0.5, leak=leak)
            return problem.objective(
                hg.train(problem.loss, w, rule, T, problem.theta, monitor=lambda s: monitored.append(s))
            )

        value, _ = value_and_grad(f)(problem.weights)
        hypers = {"step_size": [0.05] * 4, "momentum": [0.5] * 4, "leak": [0.0] * 4}
        start = {"weights": problem.weights, "theta": problem.theta}
        start["velocity"] = as_tree([0.0 * leaf for leaf in leaves(problem.weights)])
        errors.append(abs(value - problem.objective(float_trained(Nesterov, problem, {**hypers, **start}))))
        buffers.append(monitored[0].buffer_bytes)
    assert errors[0] < 1e-6
    assert 2.0**-12 < errors[0] / errors[1] < 2.0**-8
    elements = sum(leaf.size for leaf in leaves(problem.weights))
    assert (buffers[0] - buffers[1]) * 8 / elements / T == pytest.approx(10, rel=0.1), (
        "bits per weight and step"
    )


# ---- second moments


def test_zero_second_moments_have_derivatives(problem):
    """A weight whose gradient is exactly 0 at first, and one whose gradient always is: sqrt(u) has no derivative
    at u = 0, and autograd through the formula as written gives NaN."""

    def loss(w, theta, t):
        return np.sum((w[:2] - 1.0) ** 2) + (t >= 5) * np.sum(np.sin(w[2:3]))

    def ours(w, kind, rule):
        return np.sum(hg.train(loss, w, rule, 20) ** 3)

    def floats(w, kind, rule, root=root):
        states = {RMSProp: [0.0, 0.0], Adam: [0.0, 0.0, 1.0, 1.0]}[kind]
        hypers = {name: getattr(rule, name) for name in ("step_size", "epsilon")}
        names = ("decay", "momentum") if kind is RMSProp else ("beta1", "beta2")
        hypers |= {name: getattr(rule, name) for name in names}
        for t in range(20):
            w, states = FLOAT[kind][0](hypers, w, states, grad(loss)(w, None, t))
        return np.sum(w**3)

    w = onp.array([0.3, 1.7, 0.4, 0.6])
    for kind in (Adam, RMSProp):
        rule = kind(0.02, epsilon=1e-3)
        found, true = grad(ours)(w, kind, rule), grad(floats)(w, kind, rule)
        onp.testing.assert_allclose(found, true, rtol=1e-6, err_msg=kind.__name__)
        assert found[3] == pytest.approx(3 * w[3] ** 2, abs=1e-12), "its gradient is always 0"
    with onp.errstate(divide="ignore", invalid="ignore"):
        as_written = grad(lambda g: np.sum(0.1 * g / (np.sqrt(0.01 * g**2) + 1e-8)))(onp.array([1.0, 0.0]))
    assert onp.isnan(as_written).tolist() == [False, True], "what the derivative at zero is defined for"


@pytest.mark.parametrize("kind", [Adam, AdamW, RMSProp])
@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1e-4, 1e-2, 100.0])
def test_gradients_of_any_size(problem, kind, scale):
    """Hypergradients of a loss times `scale`, beside those in floats: second moments of 1e-12 and less count."""
    hypers = make_hypers(kind, problem)
    hypers = {name: value for name, value in hypers.items() if name not in INITIAL}
    hypers["epsilon"] = [1e-8] * 4
    zeros = as_tree([0.0 * leaf for leaf in leaves(problem.weights)])

    def loss(w, theta, t):
        return scale * problem.loss(w, theta, t)

    def ours(h):
        return problem.objective(hg.train(loss, h["weights"], make_rule(kind, h), T, h["theta"]))

    def floats(h):
        start = dict.fromkeys(INITIAL, zeros)
        return problem.objective(float_trained(kind, problem, {**start, **h_items(h)}, loss=loss))

    found, true = grad(ours)(hypers), grad(floats)(hypers)
    for name in ("weights", "theta", "step_size"):
        assert relative_error(found[name], true[name]) < 1e-6, name


def test_a_gradient_beyond_the_range_of_the_moments_says_what_to_set():
    def loss(w, theta, t):
        return (1e-4 if t == 0 else 1e4) * np.sum(w)

    def final(max_gradient):
        return np.sum(hg.train(loss, onp.zeros(2), Adam(0.01, max_gradient=max_gradient), 3))

    with pytest.raises(hg.FixedPointRangeError, match=r"moment.* at iteration 1.*max_gradient"):
        final(None)
    assert final(16e3) < 0


def test_max_gradient_must_be_positive():
    with pytest.raises(ValueError, match="max_gradient must be a number above 0, or None, got -1"):
        Adam(0.01, max_gradient=-1.0)


@pytest.mark.parametrize("kind", [hg.Momentum, HeavyBall, Nesterov])
def test_a_smaller_range_of_the_velocity_leaves_less_noise(problem, kind):
    """With room for 8 instead of 2048, the difference to the float loop is at least 20 times smaller."""

    def final(max_velocity):
        rule = kind(0.01, 0.9, max_velocity=max_velocity)
        return flatten(hg.train(problem.loss, problem.weights, rule, T, problem.theta))[0]

    finest, coarse, fine = (final(room) for room in (4.0, None, 8.0))
    assert onp.max(onp.abs(fine - finest)) < onp.max(onp.abs(coarse - finest)) / 20
    assert onp.max(onp.abs(coarse - finest)) < 1e-6


def test_velocity_out_of_its_range_is_named(problem):
    rule = hg.Momentum(0.1, 0.9, max_velocity=0.25)
    with pytest.raises(
        hg.FixedPointRangeError, match=r"velocity.* at iteration \d+.*max_velocity, here 0.25"
    ):
        hg.train(lambda w, theta, t: 5.0 * np.sum(w**2), onp.full(3, 2.0), rule, 5)
    with pytest.raises(ValueError, match=r"max_velocity must be above .* and below 2048, or None, got 4096"):
        hg.Momentum(0.1, 0.9, max_velocity=4096)


@pytest.mark.parametrize("recovery", [hg.Reversible(), hg.Checkpointed(), hg.FloatReversal()], ids=repr)
def test_hypergradients_agree_at_another_radix(problem, recovery):
    def objective(h, how, room):
        rule = hg.Momentum(h["step"], h["decay"], max_velocity=room)
        return problem.objective(
            hg.train(problem.loss, problem.weights, rule, 20, problem.theta, recovery=how)
        )

    hypers = {"step": 0.1, "decay": 0.5}
    found = grad(lambda h: objective(h, recovery, 16.0))(hypers)
    expected = grad(lambda h: objective(h, hg.Stored(), None))(hypers)
    assert relative_error(found, expected) < 1e-6
