"""Hypergradients of `train`: against the unrolled float loop, finite differences and the stored trajectory."""

import autograd.numpy as np
import numpy as onp
import pytest
from autograd import grad, jacobian, value_and_grad
from autograd.misc.flatten import flatten
from conftest import Problem, leaves, relative_error, unrolled
from conftest import tree as as_tree
from hypothesis import given, settings
from hypothesis import strategies as st

import hypergrad as hg
from hypergrad.differentiation import value_of
from hypergrad.exact_rep import ExactRep, round_to_lattice

T = 60


def at(c, t):
    return c[t] if np.ndim(c) else c


def float_momentum(problem, hypers, num_steps=T):
    """The reference: momentum SGD as a plain loop that autograd unrolls."""
    steps, decays = hypers["step_size"], hypers["decay"]

    def update(t, j, w, states, g):
        step, decay = at(steps[j], t), at(decays[j], t)
        v = decay * states[0] - (1 - decay) * g
        return w + step * v, [v]

    return unrolled(
        update, problem.loss, hypers["weights"], [leaves(hypers["velocity"])], num_steps, hypers["theta"]
    )


def hyper_tree(j_values, shared):
    """Four values as a tree like the weights, or a prefix of it."""
    a, b, c, d = j_values
    return {"hidden": a if shared else (a, b), "out": [c], "shift": d}


def make_hypers(problem, seed=1):
    rng = onp.random.RandomState(seed)
    return {
        "weights": problem.weights,
        "velocity": problem.velocity,
        "theta": problem.theta,
        "step_size": [0.1 + 0.1 * rng.rand(T), 0.2, 0.1 + 0.1 * rng.rand(T), 0.05],
        "decay": [
            round_to_lattice(0.5 + 0.4 * rng.rand(T)),
            round_to_lattice(0.9),
            round_to_lattice(0.5),
            1.0,
        ],
    }


def trained(problem, hypers, recovery, num_steps=T):
    rule = hg.Momentum(
        hyper_tree(hypers["step_size"], False), hyper_tree(hypers["decay"], False), hypers["velocity"]
    )
    return hg.train(problem.loss, hypers["weights"], rule, num_steps, hypers["theta"], recovery=recovery)


@pytest.mark.parametrize("recovery", [hg.Reversible(), hg.Stored()], ids=lambda r: type(r).__name__)
def test_all_hypergradients_agree_with_the_unrolled_loop(problem, recovery):
    hypers = make_hypers(problem)
    value, found = value_and_grad(lambda h: problem.objective(trained(problem, h, recovery)))(hypers)
    true_value, true = value_and_grad(lambda h: problem.objective(float_momentum(problem, h)))(hypers)
    assert value == pytest.approx(true_value, rel=1e-7)
    for name in hypers:
        assert relative_error(found[name], true[name]) < 1e-7, name


def test_recoveries_agree_to_the_last_bit(problem):
    hypers = make_hypers(problem)
    first, second = (
        flatten(grad(lambda h, r=recovery: problem.objective(trained(problem, h, r)))(hypers))[0]
        for recovery in (hg.Reversible(), hg.Stored())
    )
    onp.testing.assert_array_equal(first, second)


def test_all_hypergradients_agree_with_finite_differences(problem):
    """Differences along random directions.  The step, 2**-12, is a multiple of the decays' lattice of 2**-24,
    large against the noise of 1e-9 in the weights, and its square is small against the tolerance."""
    hypers = make_hypers(problem)
    hypers["decay"][3] = round_to_lattice(0.8)
    flat, unflatten = flatten(hypers)

    def f(x):
        return problem.objective(trained(problem, unflatten(x), hg.Reversible(), T))

    gradient = grad(f)(flat)
    starts = onp.cumsum([0] + [flatten(hypers[name])[0].size for name in sorted(hypers)])
    for name, start, stop in zip(sorted(hypers), starts, starts[1:], strict=False):
        direction = onp.zeros(flat.size)
        direction[start:stop] = onp.random.RandomState(2).choice([-1.0, 1.0], stop - start) * 2.0**-12
        difference = (f(flat + direction) - f(flat - direction)) / 2
        assert difference == pytest.approx(gradient @ direction, rel=3e-4), name


def test_a_wrong_gradient_is_caught(problem, monkeypatch):
    """Both checks above must be able to fail: drop (1 - decay) * g from the derivative of the decay."""
    hypers = make_hypers(problem)
    true = grad(lambda h: problem.objective(float_momentum(problem, h)))(hypers)
    monkeypatch.setattr(
        hg.Momentum,
        "coefficients",
        lambda self, schedule, num_steps: {
            "decay": schedule(self.decay, "decay"),
            "decay - 1": onp.array(hg.differentiation.value_of(schedule(self.decay, "decay"))) - 1.0,
            "step_size": schedule(self.step_size, "step_size"),
        },
    )
    found = grad(lambda h: problem.objective(trained(problem, h, hg.Reversible())))(hypers)
    assert relative_error(found["decay"], true["decay"]) > 1e-3
    assert relative_error(found["step_size"], true["step_size"]) < 1e-7


@pytest.mark.parametrize("wanted", ["weights", "velocity", "theta", "step_size", "decay"])
def test_one_hyperparameter_at_a_time(problem, wanted):
    hypers = make_hypers(problem)
    everything = grad(lambda h: problem.objective(trained(problem, h, hg.Reversible(), T)))(hypers)[wanted]
    alone = grad(lambda x: problem.objective(trained(problem, {**hypers, wanted: x}, hg.Reversible(), T)))(
        hypers[wanted]
    )
    onp.testing.assert_array_equal(flatten(alone)[0], flatten(everything)[0])


# ---- shapes of trees and of hyperparameters


def quadratic(w, theta, t):
    return 0.5 * np.sum((1.0 + 0.1 * np.cos(t)) * w**2)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)])
def test_bare_arrays(shape):
    w = onp.random.RandomState(0).standard_normal(shape)
    result = hg.train(quadratic, w, hg.Momentum(0.1, 0.5), 10)
    assert onp.shape(result) == shape
    gradient = grad(lambda w: np.sum(hg.train(quadratic, w, hg.Momentum(0.1, 0.5), 10) ** 2))(w)
    assert gradient.shape == shape


def test_scalar_schedule_tree_and_prefix_mean_the_same(problem):
    schedule = onp.linspace(0.1, 0.2, T)
    hypers = make_hypers(problem)
    results = [
        leaves(hg.train(problem.loss, hypers["weights"], hg.Momentum(step, decay), T, hypers["theta"]))
        for step, decay in [
            (schedule, 0.75),
            (schedule, onp.full(T, 0.75)),
            (hyper_tree([schedule] * 4, True), hyper_tree([0.75] * 4, False)),
            ({"hidden": schedule, "out": schedule, "shift": schedule}, onp.array(0.75)),
        ]
    ]
    for result in results[1:]:
        for leaf, first in zip(result, results[0], strict=True):
            onp.testing.assert_allclose(leaf, first, rtol=0, atol=1e-7)


def test_boxed_containers_and_boxed_scalars_in_plain_containers(problem):
    hypers = make_hypers(problem)

    def boxed(h):
        rule = hg.Momentum(h["step_size"], h["decay"])
        return problem.objective(hg.train(problem.loss, h["weights"], rule, T, h["theta"]))

    def plain(h):
        rule = hg.Momentum(
            {"hidden": h["step_size"]["hidden"] * 1.0, "out": [h["step_size"]["out"][0]], "shift": 0.05},
            h["decay"],
        )
        weights = {
            "hidden": (h["weights"]["hidden"][0], h["weights"]["hidden"][1]),
            "out": h["weights"]["out"],
        }
        weights["shift"] = h["weights"]["shift"]
        theta = {"log_l2": h["theta"]["log_l2"], "data": [h["theta"]["data"][0]]}
        return problem.objective(hg.train(problem.loss, weights, rule, T, theta))

    h = {
        "weights": hypers["weights"],
        "theta": hypers["theta"],
        "step_size": {"hidden": 0.1, "out": [0.2], "shift": 0.05},
        "decay": 0.75,
    }
    first, second = grad(boxed)(h), grad(plain)(h)
    assert second["step_size"].pop("shift") == 0.0
    first["step_size"].pop("shift")
    assert relative_error(second, first) < 1e-12


def test_named_tuples_and_none():
    from collections import namedtuple

    Net = namedtuple("Net", ["W", "nothing", "b"])
    start = Net(onp.ones((2, 2)), None, onp.zeros(2))
    result = hg.train(
        lambda w, theta, t: np.sum(w.W**2) + np.sum((w.b - 1) ** 2), start, hg.Momentum(0.1, 0.5), 5
    )
    assert isinstance(result, Net)
    assert result.nothing is None
    assert result.W.shape == (2, 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 40), st.integers(1, 6))
def test_reversal_is_exact_for_random_runs(seed, num_steps, size):
    """Weights, velocity and buffer come back: the certificate inside the backward pass raises if not."""
    rng = onp.random.RandomState(seed)
    matrix, w = rng.standard_normal((size, size)), rng.standard_normal(size)
    steps, decays = rng.rand(num_steps, 1), 0.02 + 0.98 * rng.rand(num_steps, 1)

    def loss(w, theta, t):
        return np.sum(np.tanh(np.dot(matrix, w) + 0.1 * t)) + theta * np.sum(w**2)

    def f(w, steps, decays, theta):
        return np.sum(hg.train(loss, w, hg.Momentum(steps, decays), num_steps, theta) ** 3)

    f_stored = lambda *args: np.sum(  # noqa: E731
        hg.train(loss, args[0], hg.Momentum(args[1], args[2]), num_steps, args[3], recovery=hg.Stored()) ** 3
    )
    found = grad(f, (0, 1, 2, 3))(w, steps, decays, 0.1)
    stored = grad(f_stored, (0, 1, 2, 3))(w, steps, decays, 0.1)
    for name, a, b in zip(("w", "steps", "decays", "theta"), found, stored, strict=True):
        onp.testing.assert_array_equal(a, b, err_msg=name)


def test_states_and_buffers_come_back_bit_for_bit(problem):
    """The same from outside: run the engine's steps forward and back by hand."""
    from hypergrad.reversible import Run

    runs = []
    original = Run.forward

    def spy(self, *arguments):
        runs.append(self)
        return original(self, *arguments)

    hypers = make_hypers(problem)
    with pytest.MonkeyPatch.context() as patch:
        from hypergrad import differentiation, reversible

        patch.setattr(reversible, "_run", differentiation.joint_primitive(spy, Run.backward))
        grad(lambda h: problem.objective(trained(problem, h, hg.Reversible())))(hypers)
    (run,) = runs
    velocity = onp.concatenate([onp.ravel(leaf) for leaf in leaves(problem.velocity)])
    weights = onp.concatenate([onp.ravel(leaf) for leaf in leaves(problem.weights)])
    sizes = [leaf.size for leaf in leaves(problem.weights)]
    assert run.states["v"] == ExactRep(velocity, sizes=sizes)
    assert run.states["w"] == ExactRep(weights)


# ---- composition


def test_two_runs_in_one_function_and_two_backward_passes():
    w = onp.array([1.0, -2.0, 0.5])

    def outcomes(alpha):
        first = hg.train(quadratic, w, hg.Momentum(alpha, 0.5), 10)
        second = hg.train(quadratic, first * 2.0, hg.Momentum(alpha**2, 0.8), 7)
        return np.concatenate([first, second])

    def unrolled_outcomes(alpha):
        def run(w, alpha, decay, n):
            v = np.zeros(3)
            for t in range(n):
                v = decay * v - (1 - decay) * (1.0 + 0.1 * np.cos(t)) * w
                w = w + alpha * v
            return w

        first = run(w, alpha, round_to_lattice(0.5), 10)
        return np.concatenate([first, run(first * 2.0, alpha**2, round_to_lattice(0.8), 7)])

    onp.testing.assert_allclose(jacobian(outcomes)(0.3), jacobian(unrolled_outcomes)(0.3), rtol=1e-7)


def test_value_does_not_depend_on_being_differentiated(problem):
    hypers = make_hypers(problem)
    f = lambda h: problem.objective(trained(problem, h, hg.Reversible()))  # noqa: E731
    assert f(hypers) == value_and_grad(f)(hypers)[0]


def test_no_steps_is_the_identity():
    w = onp.array([0.25, -1.5])
    onp.testing.assert_array_equal(hg.train(quadratic, w, hg.Momentum(0.1, 0.5), 0), w)
    onp.testing.assert_array_equal(
        grad(lambda w: np.sum(hg.train(quadratic, w, hg.Momentum(0.1, 0.5), 0) ** 2))(w), 2 * w
    )


def test_no_argument_is_changed(problem):
    hypers = make_hypers(problem)
    before = flatten(hypers)[0].copy()
    cotangents = []

    def objective(h):
        w = trained(problem, h, hg.Reversible(), T)
        return problem.objective(w)

    grad(objective)(hypers)
    onp.testing.assert_array_equal(flatten(hypers)[0], before)
    w = onp.ones(3)
    from autograd import make_vjp

    vjp, _ = make_vjp(lambda w: hg.train(quadratic, w, hg.Momentum(0.1, 0.5), 5))(w)
    cotangents = onp.ones(3)
    first, second = vjp(cotangents), vjp(cotangents)
    onp.testing.assert_array_equal(cotangents, onp.ones(3), err_msg="the incoming cotangent")
    onp.testing.assert_array_equal(first, second, err_msg="the second backward pass")


def test_one_gradient_evaluation_per_step_each_way(problem):
    hypers = make_hypers(problem)
    calls = []

    def loss(w, theta, t):
        calls.append(t)
        return problem.loss(w, theta, t)

    def f(h):
        rule = hg.Momentum(hyper_tree(h["step_size"], False), hyper_tree(h["decay"], False))
        return problem.objective(hg.train(loss, h["weights"], rule, T, h["theta"]))

    f(hypers)
    assert calls == list(range(T))
    calls.clear()
    grad(f)(hypers)
    assert calls == [*range(T), *reversed(range(T))]


def test_work_nobody_asked_for_is_skipped(problem, monkeypatch):
    """Without theta the pullback is of the weights alone; without decays no derivative of them is formed."""
    from hypergrad import differentiation

    sizes, pullback = [], differentiation.gradient_with_pullback
    monkeypatch.setattr(
        differentiation,
        "gradient_with_pullback",
        lambda gradient, leaves: (sizes.append(len(leaves)), pullback(gradient, leaves))[1],
    )
    hypers = make_hypers(problem)
    grad(lambda w: problem.objective(trained(problem, {**hypers, "weights": w}, hg.Reversible())))(
        hypers["weights"]
    )
    assert set(sizes) == {4}
    sizes.clear()
    grad(lambda x: problem.objective(trained(problem, {**hypers, "theta": x}, hg.Reversible())))(
        hypers["theta"]
    )
    assert set(sizes) == {4 + 2}


def test_callback_sees_every_step_before_the_update():
    steps, w = [], onp.array([1.0, -2.0])
    rule = hg.Momentum(onp.full(6, 0.1), 0.5, velocity=onp.array([0.5, 0.0]))
    final = hg.train(quadratic, w, rule, 6, callback=steps.append)
    assert [step.iteration for step in steps] == list(range(6))
    onp.testing.assert_array_equal(steps[0].weights, w)
    onp.testing.assert_array_equal(steps[0].state["v"], [0.5, 0.0])
    for step, following in zip(steps, [*[s.weights for s in steps[1:]], final], strict=True):
        v = 0.5 * step.state["v"] - 0.5 * step.gradient
        onp.testing.assert_allclose(following, step.weights + 0.1 * v, atol=1e-8)
    steps.clear()
    jacobian(lambda w: hg.train(quadratic, w, rule, 6, callback=steps.append))(w)
    assert len(steps) == 6, "a second backward pass trains again, silently"


def test_float_loop_does_not_reverse():
    """What the buffer is for: the same updates in floats, undone, do not come back."""
    problem = Problem(0)
    w, v = leaves(problem.weights)[2].copy(), onp.zeros((4, 3))
    curvature = onp.random.RandomState(0).rand(4, 3) * 2
    start = w.copy()
    for _ in range(1000):
        v = 0.9 * v - 0.1 * curvature * (w - 1.0)
        w = w + 0.5 * v
    for _ in range(1000):
        w = w - 0.5 * v
        v = (v + 0.1 * curvature * (w - 1.0)) / 0.9
    assert onp.max(onp.abs(w - start)) > 1e-3

    def loss(w, theta, t):
        return 0.5 * np.sum(curvature * (w - 1.0) ** 2)

    grad(lambda w: np.sum(hg.train(loss, w, hg.Momentum(0.5, 0.9), 1000)))(
        start
    )  # checked bit for bit inside


# ---- more than the last weights


@pytest.mark.parametrize("recovery", [hg.Reversible(), hg.Stored()], ids=lambda r: type(r).__name__)
def test_kept_weights_and_final_state_are_differentiable(problem, recovery):
    """An area under a curve of weights, plus the final velocity, against the unrolled loop."""
    hypers, kept = make_hypers(problem), (0, 7, 30, T)

    def ours(h):
        rule = hg.Momentum(hyper_tree(h["step_size"], False), hyper_tree(h["decay"], False), h["velocity"])
        result = hg.train(
            problem.loss, h["weights"], rule, T, h["theta"], recovery=recovery, keep=kept, return_state=True
        )
        return sum(problem.objective(w) for w in result.kept) + problem.objective(result.state["v"])

    def unrolled_loop(h):
        velocities = [leaves(h["velocity"])]

        def update(t, j, w, states, g):
            step, decay = at(h["step_size"][j], t), at(h["decay"][j], t)
            v = decay * states[0] - (1 - decay) * g
            if j == 0:
                velocities.append([])
            velocities[-1].append(v)
            return w + step * v, [v]

        total = 0.0
        for t in kept:
            del velocities[1:]
            start = [leaves(h["velocity"])]
            total = total + problem.objective(
                unrolled(update, problem.loss, h["weights"], start, t, h["theta"])
            )
        return total + problem.objective(as_tree(velocities[-1]))

    value, found = value_and_grad(ours)(hypers)
    true_value, true = value_and_grad(unrolled_loop)(hypers)
    assert value == pytest.approx(true_value, rel=1e-7)
    for name in hypers:
        assert relative_error(found[name], true[name]) < 1e-7, name


def test_kept_weights_are_those_a_shorter_run_ends_with():
    w = onp.array([1.0, -2.0])
    result = hg.train(quadratic, w, hg.Momentum(0.1, 0.5), 10, keep=[3, 3, 10])
    for t, kept in zip((3, 3, 10), result.kept, strict=True):
        onp.testing.assert_array_equal(kept, hg.train(quadratic, w, hg.Momentum(0.1, 0.5), t))
    assert result.state == {}
    with pytest.raises(ValueError, match=r"keep must list numbers of updates in 0\.\.10, got \[11\]"):
        hg.train(quadratic, w, hg.Momentum(0.1, 0.5), 10, keep=[11])


def test_two_phases_make_one_run():
    """Hand weights and velocity over: two runs are, to the last bit of the values, as one."""
    w = onp.array([1.0, -2.0, 0.5])

    def one(alpha):
        return hg.train(quadratic, w, hg.Momentum(alpha, 0.75), 20)

    def two(alpha):
        first = hg.train(quadratic, w, hg.Momentum(alpha, 0.75), 8, return_state=True)
        rule = hg.Momentum(alpha, 0.75, velocity=first.state["v"])
        return hg.train(lambda w, theta, t: quadratic(w, theta, t + 8), first.weights, rule, 12)

    onp.testing.assert_allclose(two(0.3), one(0.3), rtol=1e-8)
    onp.testing.assert_allclose(jacobian(two)(0.3), jacobian(one)(0.3), rtol=1e-7)


def test_monitor_sees_the_cotangents_of_every_step(problem):
    hypers, seen = make_hypers(problem), []

    def f(w):
        rule = hg.Momentum(0.1, 0.25)
        return problem.objective(hg.train(problem.loss, w, rule, T, hypers["theta"], monitor=watch))

    def watch(step):
        seen.append((step.iteration, step.cotangents["w"].copy(), step.buffer_bytes))

    gradient = grad(f)(hypers["weights"])
    assert [t for t, _, _ in seen] == list(reversed(range(T)))
    onp.testing.assert_array_equal(seen[-1][1], onp.concatenate([onp.ravel(x) for x in leaves(gradient)]))
    assert seen[0][2] > seen[-1][2] > 0, "the buffer empties on the way back"


# ---- single precision


@pytest.mark.parametrize("recovery", [hg.Reversible(check_every=1), hg.Stored()])
def test_loss_in_single_precision_is_reversed_exactly_and_near_to_double(problem, recovery):
    seen = set()

    def loss(w, theta, t):
        seen.update(value_of(leaf).dtype for leaf in (*leaves(w), theta["log_l2"], theta["data"][0]))
        return problem.loss(w, theta, t)

    def final(hypers, dtype):
        rule = hg.Momentum(0.1, hypers["decay"])
        weights, theta = hypers["weights"], hypers["theta"]
        return problem.objective(hg.train(loss, weights, rule, 40, theta, recovery=recovery, dtype=dtype))

    hypers = {"decay": 0.9, "weights": problem.weights, "theta": problem.theta}
    single = flatten(grad(final)(hypers, onp.float32))[0]
    assert seen == {onp.dtype(onp.float32)}
    double = flatten(grad(final)(hypers, onp.float64))[0]
    assert single.dtype == onp.float64
    assert 1e-9 < onp.linalg.norm(single - double) / onp.linalg.norm(double) < 1e-5


def test_dtype_must_be_of_floats(problem):
    with pytest.raises(ValueError, match=r"dtype must be a floating-point type, .* got int32"):
        hg.train(problem.loss, problem.weights, hg.Momentum(0.1, 0.9), 1, problem.theta, dtype="int32")
