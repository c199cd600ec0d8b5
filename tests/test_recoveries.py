"""Recoveries: those that are exact agree to the last bit; the others are off by what they leave out."""

import autograd.numpy as np
import numpy as onp
import pytest
from autograd import grad, jacobian
from autograd.misc.flatten import flatten
from conftest import Problem, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rules import RULES
from test_rules import make_hypers as make_rule_hypers
from test_rules import trained as train_by_rule
from test_train import T, make_hypers, trained

import hypergrad as hg
from hypergrad.reversible import Run

EXACT = [
    hg.Stored(),
    hg.Stored(pullbacks=True),
    hg.Checkpointed(),
    hg.Checkpointed(every=1),
    hg.Checkpointed(every=7),
    hg.Checkpointed(every=1_000),
    hg.Checkpointed(budget=1),
    hg.Checkpointed(budget=5),
    hg.Checkpointed(budget=1_000),
    hg.Truncated(T),
    hg.Truncated(10 * T),
]


def momentum_gradient(problem, recovery, hypers=None):
    return grad(lambda h: problem.objective(trained(problem, h, recovery)))(hypers or make_hypers(problem))


def quadratic(w, theta, t):
    return np.sum((w - theta) ** 2) * (1 + 0.1 * (t % 3))


def scalar_problem(rule, num_steps, recovery, **options):
    """The hypergradient of training two weights on a quadratic."""

    def objective(start, theta):
        return np.sum(
            np.sin(hg.train(quadratic, start, rule, num_steps, theta, recovery=recovery, **options))
        )

    return grad(objective, (0, 1))(onp.array([0.3, -0.7]), onp.array([1.0, 2.0]))


@pytest.mark.parametrize("recovery", EXACT, ids=repr)
def test_exact_recoveries_agree_to_the_last_bit(problem, recovery):
    expected = flatten(momentum_gradient(problem, hg.Reversible()))[0]
    onp.testing.assert_array_equal(flatten(momentum_gradient(problem, recovery))[0], expected)


@pytest.mark.parametrize(
    "recovery",
    [hg.Stored(), hg.Stored(pullbacks=True), hg.Checkpointed(), hg.Checkpointed(budget=3)],
    ids=repr,
)
@pytest.mark.parametrize("kind", RULES)
def test_exact_recoveries_agree_for_every_rule(problem, kind, recovery):
    hypers = make_rule_hypers(kind, problem)

    def gradient(how):
        return flatten(grad(lambda h: problem.objective(train_by_rule(kind, problem, h, how)))(hypers))[0]

    onp.testing.assert_array_equal(gradient(recovery), gradient(hg.Reversible()))


@settings(max_examples=40, deadline=None)
@given(
    num_steps=st.integers(0, 40),
    every=st.none() | st.integers(1, 50),
    budget=st.none() | st.integers(1, 50),
    decay=st.sampled_from([0.5, 0.9, 1.0, 1.05]),
)
def test_any_spacing_and_budget_agree(num_steps, every, budget, decay):
    """A decay above one takes digits out of the buffer, so that snapshots need all of it."""
    recovery = hg.Checkpointed(budget=budget) if budget else hg.Checkpointed(every)
    rule = hg.Momentum(0.05, decay, onp.array([0.1, 0.2]))
    onp.testing.assert_array_equal(
        scalar_problem(rule, num_steps, recovery), scalar_problem(rule, num_steps, hg.Reversible())
    )


@pytest.mark.parametrize(
    "recovery",
    [hg.Stored(pullbacks=True), hg.Checkpointed(), hg.Checkpointed(budget=4), hg.Truncated(T)],
    ids=repr,
)
def test_second_backward_pass_and_outputs_along_the_way(problem, recovery):
    """A Jacobian runs several backward passes; kept weights have cotangents of their own."""

    def outputs(step_size, how):
        rule = hg.Momentum(step_size, 0.9, problem.velocity)
        result = hg.train(
            problem.loss, problem.weights, rule, T, problem.theta, how, keep=(0, 11, 30), return_state=True
        )
        values = [problem.objective(tree) for tree in (result.weights, *result.kept, result.state["v"])]
        return np.stack(values)

    found, expected = (jacobian(lambda s, h=how: outputs(s, h))(0.1) for how in (recovery, hg.Reversible()))
    assert expected.shape == (5,)
    onp.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("callback", [None, lambda step: None], ids=["silent", "callback"])
@pytest.mark.parametrize(("recovery", "evaluations"), [(hg.Stored(pullbacks=True), 7), (hg.Stored(), 14)])
def test_kept_pullbacks_spare_a_second_evaluation_of_each_gradient(recovery, evaluations, callback):
    seen = []

    def loss(w, theta, t):
        seen.append(t)
        return quadratic(w, theta, t)

    def objective(w):
        return np.sum(hg.train(loss, w, hg.Momentum(0.05, 0.9, max_velocity=4.0), 7, 1.0, recovery, callback))

    grad(objective)(onp.array([0.3, -0.7]))
    assert len(seen) == evaluations


def most_snapshots(monkeypatch, recovery, num_steps):
    """The most snapshots at any time, and the number of forward steps."""
    counts, steps, forward_step = [], [], Run.forward_step

    def count(run, t, *options, **more):
        counts.append(len(run.memory.snapshots))
        steps.append(t)
        return forward_step(run, t, *options, **more)

    monkeypatch.setattr(Run, "forward_step", count)
    scalar_problem(hg.Momentum(0.05, 0.9), num_steps, recovery)
    return max(counts), len(steps)


@pytest.mark.parametrize("budget", [1, 2, 5, 20])
def test_budget_of_snapshots_holds_and_fewer_cost_more_steps(monkeypatch, budget):
    """Steps: T forward, and T - 1 taken with their pullbacks, besides those to get from snapshot to snapshot."""
    most, steps = most_snapshots(monkeypatch, hg.Checkpointed(budget=budget), 100)
    assert most == budget
    bounds = {1: (4_900, 5_300), 2: (900, 1_500), 5: (400, 550), 20: (250, 350)}
    assert bounds[budget][0] < steps < bounds[budget][1]


def test_default_spacing_takes_snapshots_of_the_order_of_the_root_and_three_steps_a_step(monkeypatch):
    most, steps = most_snapshots(monkeypatch, hg.Checkpointed(), 400)
    assert 20 <= most <= 41
    assert 2 * 400 < steps <= 3 * 400


def test_snapshots_do_not_carry_the_buffer_along(problem, monkeypatch):
    """What a snapshot takes does not grow with its step, where every decay is at most 1."""
    sizes, copy = {}, hg.BitStore.copy

    def note(store):
        sizes.setdefault(len(store), []).append(store.nbytes)
        return copy(store)

    monkeypatch.setattr(hg.BitStore, "copy", note)
    scalar_problem(hg.Momentum(0.01, 0.5), 2_000, hg.Checkpointed(every=100))
    ((length, found),) = sizes.items()
    assert max(found) <= length * (8 + 2 * 6)


def test_truncated_is_the_gradient_of_the_last_steps_from_where_they_start(problem):
    """Training of the last steps alone, from the states before them, has the same hypergradients."""
    last, first = 15, T - 15
    hypers = make_hypers(problem)
    found = momentum_gradient(problem, hg.Truncated(last), hypers)

    def at_later_times(value):
        return value[first:] if onp.ndim(value) else value

    rule = hg.Momentum(
        *[
            {"hidden": (s[0][:first], s[1]), "out": [s[2][:first] if onp.ndim(s[2]) else s[2]], "shift": s[3]}
            for s in (hypers["step_size"], hypers["decay"])
        ],
        hypers["velocity"],
    )
    before = hg.train(problem.loss, hypers["weights"], rule, first, hypers["theta"], return_state=True)

    def last_steps(h):
        step, decay = ([at_later_times(x) for x in h[name]] for name in ("step_size", "decay"))
        later = hg.Momentum(
            *[{"hidden": (s[0], s[1]), "out": [s[2]], "shift": s[3]} for s in (step, decay)],
            before.state["v"],
        )
        w = hg.train(
            lambda w, theta, t: problem.loss(w, theta, t + first), before.weights, later, last, h["theta"]
        )
        return problem.objective(w)

    expected = grad(last_steps)(hypers)
    for name in ("theta", "step_size", "decay"):
        assert relative_error(found[name], expected[name]) < 1e-6, name
    for name in ("weights", "velocity"):
        assert onp.all(flatten(found[name])[0] == 0.0), name
    assert onp.all(found["step_size"][0][:first] == 0.0)
    assert onp.all(found["step_size"][0][first:] != 0.0)


def test_truncated_checks_that_it_reversed(problem):
    calls = []

    def impure(w, theta, t):
        calls.append(t)
        return np.sum((w - 1.0) ** 2) * (1.0 + 1e-6 * len(calls))

    def objective(w):
        return np.sum(hg.train(impure, w, hg.Momentum(0.1, 0.9), 50, recovery=hg.Truncated(5)))

    with pytest.raises(hg.ReversalError, match="weights not restored"):
        grad(objective)(onp.ones(3) * 2)


def test_interpolated_is_exact_on_a_straight_line_and_near_it_elsewhere(problem):
    """Under a constant gradient and no momentum to speak of, training is a straight line."""

    def slope(w, theta, t):
        return np.sum(w * theta)

    def objective(step_size, recovery):
        rule = hg.Momentum(step_size, 2.0**-20)
        w = hg.train(slope, onp.array([1.0, 2.0]), rule, 30, onp.array([0.5, -0.25]), recovery=recovery)
        return np.sum(np.sin(w))

    exact, found = (grad(objective)(0.01, how) for how in (hg.Stored(), hg.Interpolated()))
    assert found == pytest.approx(exact, rel=1e-5)
    true = momentum_gradient(problem, hg.Stored())
    near = momentum_gradient(problem, hg.Interpolated())
    for name in (
        "weights",
        "theta",
        "step_size",
    ):  # the way is far from straight: the right half-space, no more
        cosine = flatten(near[name])[0] @ flatten(true[name])[0]
        cosine /= onp.linalg.norm(flatten(near[name])[0]) * onp.linalg.norm(flatten(true[name])[0])
        assert 0.2 < cosine < 1 - 1e-6, name


def test_interpolated_keeps_two_states(monkeypatch):
    """Nothing that it holds depends on the number of steps; of the buffer, a head and a few words are left."""
    held, rest = [], hg.approximate._Line.rest

    def note(line, run):
        rest(line, run)
        held.append(sum(v.nbytes for part in (line.first, line.last) for v in part.values()))
        held.append(sum(store.nbytes for state in run.states.values() for store in state.stores) <= 40)

    monkeypatch.setattr(hg.approximate._Line, "rest", note)
    for num_steps in (10, 1_000):
        scalar_problem(hg.Momentum(0.05, 0.9), num_steps, hg.Interpolated())
    assert held == [4 * 16, True] * 2


def test_float_reversal_is_right_over_few_steps_and_wrong_over_many(problem):
    """Errors of 1e-16 grow by 1 / 0.5 a step: after 45 steps by 4e13."""
    hypers = make_hypers(problem)

    def error(num_steps, recovery):
        def objective(weights, how):
            rule = hg.Momentum(0.1, 0.5, problem.velocity)
            w = hg.train(problem.loss, weights, rule, num_steps, problem.theta, recovery=how)
            return problem.objective(w)

        return relative_error(
            grad(objective)(hypers["weights"], recovery), grad(objective)(hypers["weights"], hg.Stored())
        )

    assert error(5, hg.FloatReversal()) < 1e-6
    assert 10 * error(5, hg.FloatReversal()) < error(5, hg.FloatReversal(onp.float32)) < 1e-2
    assert error(45, hg.FloatReversal()) > 1e6 * error(5, hg.FloatReversal())


def test_float_reversal_names_the_iteration_where_it_leaves_the_range():
    with pytest.raises(hg.ReversalError, match=r"iteration \d+: rounding errors"):
        scalar_problem(hg.Momentum(0.9, 0.01), 300, hg.FloatReversal(onp.float32))


def test_float_reversal_takes_factors_of_each_leaf(problem):
    """Without the noise of fixed point it is the plain float loop, going forward."""
    hypers = make_hypers(problem)
    near, exact = (trained(problem, hypers, how, T) for how in (hg.FloatReversal(), hg.Stored()))
    assert relative_error(near, exact) < 1e-7


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: hg.Checkpointed(every=0), "every must be 1 or more"),
        (lambda: hg.Checkpointed(budget=0), "budget must be 1 or more"),
        (lambda: hg.Checkpointed(2, 2), "not both"),
        (lambda: hg.Truncated(0), "last must be 1 or more, got 0"),
    ],
)
def test_bad_arguments_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_float_reversal_takes_floats_only():
    with pytest.raises(TypeError, match="floating-point type"):
        hg.FloatReversal(int)


def test_arguments_stay_as_they_are():
    problem = Problem(seed=3)
    hypers = make_hypers(problem)
    before = flatten(hypers)[0].copy()
    for recovery in (hg.Checkpointed(), hg.Truncated(7), hg.Interpolated(), hg.FloatReversal()):
        momentum_gradient(problem, recovery, hypers)
    onp.testing.assert_array_equal(flatten(hypers)[0], before)
