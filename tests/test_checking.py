"""`check_hypergradient`: right hypergradients pass, wrong ones are named, and what can't be told is said."""

import autograd.numpy as np
import numpy as onp
import pytest
from autograd import grad
from autograd.extend import defvjp, primitive
from conftest import leaves, tree
from test_rules import RULES, make_rule
from test_rules import make_hypers as make_rule_hypers
from test_train import T, make_hypers

import hypergrad as hg
from hypergrad.checking import _extrapolations


@primitive
def doubtful(x, factor):
    """The identity, with a derivative that is off by a factor."""
    return x


defvjp(doubtful, lambda _, x, factor: lambda g: factor * g, None)


def momentum_objective(problem):
    def objective(h):
        rule = hg.Momentum(np.exp(h["log_step"]), hg.logistic(h["logit_decay"]), h["velocity"])
        return problem.objective(hg.train(problem.loss, h["weights"], rule, 20, h["theta"]))

    hypers = {
        "weights": problem.weights,
        "velocity": problem.velocity,
        "theta": problem.theta,
        "log_step": onp.full(20, -2.0),
        "logit_decay": onp.linspace(0.0, 2.0, 20),
    }
    return objective, hypers


def verdicts(check):
    return {leaf.name: leaf.verdict for leaf in check.leaves}


def test_right_hypergradients_of_a_nested_tree_pass(problem):
    objective, hypers = momentum_objective(problem)
    check = hg.check_hypergradient(objective, hypers)
    assert check.passed
    assert set(verdicts(check).values()) == {"right"}
    assert [leaf.name for leaf in check.leaves][:2] == [
        "hypers['weights']['hidden'][0]",
        "hypers['weights']['hidden'][1]",
    ]
    assert len(check.leaves) == 4 + 4 + 2 + 2
    on_lattice = {leaf.name for leaf in check.leaves if leaf.on_lattice}
    assert on_lattice == {"hypers['logit_decay']"}
    for leaf in check.leaves:
        assert leaf.numeric == pytest.approx(leaf.analytic, rel=1e-3, abs=1e-4), leaf


@pytest.mark.parametrize("factor", [1.02, -1.0, 0.0])
@pytest.mark.parametrize("name", ["log_step", "logit_decay", "velocity"])
def test_a_wrong_leaf_is_named_and_no_other(problem, name, factor):
    objective, hypers = momentum_objective(problem)

    def wrong(h):
        value = h[name]
        if name == "velocity":
            value = tree([doubtful(leaf, factor) if i == 2 else leaf for i, leaf in enumerate(leaves(value))])
        else:
            value = doubtful(value, factor)
        return objective({key: value if key == name else h[key] for key in hypers})

    with pytest.raises(hg.HypergradientError, match="the hypergradient is wrong for") as caught:
        hg.check_hypergradient(wrong, hypers, steps=(2.0**-8, 2.0**-10, 2.0**-12), directions=1)
    expected = "hypers['velocity']['out'][0]" if name == "velocity" else f"hypers['{name}']"
    assert [n for n, verdict in verdicts(caught.value.check).items() if verdict == "wrong"] == [expected]
    assert expected in str(caught.value)
    assert "analytic" in str(caught.value)
    assert isinstance(caught.value, AssertionError)


@pytest.mark.parametrize("kind", [hg.Momentum, *RULES])
def test_hypergradients_of_every_rule_pass(problem, kind):
    """Of the rule's own hyperparameters, with schedules for some layers and constants for others."""
    hypers = make_hypers(problem) if kind is hg.Momentum else make_rule_hypers(kind, problem)

    def objective(h):
        if kind is hg.Momentum:
            rule = hg.Momentum(tree(h["step_size"]), tree(h["decay"]), h["velocity"])
        else:
            rule = make_rule(kind, h)
        return problem.objective(hg.train(problem.loss, problem.weights, rule, T, problem.theta))

    hypers = {name: value for name, value in hypers.items() if name not in ("weights", "theta")}
    if kind is hg.Momentum:
        hypers["decay"][3] = 0.8
    check = hg.check_hypergradient(objective, hypers, directions=1, steps=(2.0**-11, 2.0**-12))
    assert check.passed, str(check)


def test_plain_decays_are_on_the_lattice_and_steps_are_its_multiples(problem):
    """Constant decays that are no multiples themselves: the differences still see them move by whole steps."""

    def objective(decay):
        rule = hg.Momentum(0.1, decay)
        return problem.objective(hg.train(problem.loss, problem.weights, rule, 20, problem.theta))

    check = hg.check_hypergradient(objective, 0.837)
    (leaf,) = check.leaves
    assert (leaf.on_lattice, leaf.verdict) == (True, "right")
    assert leaf.error < 1e-4
    assert "multiples of 2**-24" in str(check)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("logit", [4.6, 6.9])
def test_right_decays_near_1_pass_and_wrong_ones_do_not(logit, seed):
    """Decays of 0.99 and 0.999: a step of the logit moves them by a few multiples of 2**-24 only."""

    def objective(x, factor=1.0):
        rule = hg.Momentum(0.05, hg.logistic(doubtful(x, factor)))
        w = hg.train(lambda w, _, t: np.sum(w**2) + np.sum(np.sin(3 * w)), onp.ones(3), rule, 30)
        return np.sum((w - 1.0) ** 2) + np.sum(w)

    x = logit + 0.01 * onp.random.default_rng(seed).standard_normal()
    assert hg.check_hypergradient(objective, x).passed
    with pytest.raises(hg.HypergradientError):
        hg.check_hypergradient(lambda x: objective(x, 0.9), x)
    small = hg.check_hypergradient(objective, x, steps=(1e-6, 1e-7))
    assert verdicts(small) == {"hypers": "unclear"}, str(small)


def test_steps_below_the_lattice_alone_would_condemn_a_right_decay(problem):
    """What the lattice is about: with tiny steps the difference of a decay is anything."""

    def objective(decay):
        rule = hg.Momentum(0.1, decay)
        return problem.objective(hg.train(problem.loss, problem.weights, rule, 20, problem.theta))

    x, h = 0.837, 3e-8
    difference = (objective(x + h) - objective(x - h)) / (2 * h)
    assert abs(difference - grad(objective)(x)) > 0.1 * abs(grad(objective)(x))


def test_a_given_gradient_is_checked_instead():
    def f(x):
        return np.sum(x["a"] ** 2) + np.sin(x["b"])

    point = {"a": onp.array([1.0, -2.0]), "b": 0.5}
    right = {"a": onp.array([2.0, -4.0]), "b": onp.cos(0.5)}
    assert hg.check_hypergradient(f, point, gradient=right).passed
    with pytest.raises(hg.HypergradientError, match=r"wrong for hypers\['b'\]"):
        hg.check_hypergradient(f, point, gradient={**right, "b": 1.0})
    with pytest.raises(ValueError, match="gradient must match hypers"):
        hg.check_hypergradient(f, point, gradient={"a": right["a"]})


def test_a_leaf_without_influence_is_right():
    check = hg.check_hypergradient(lambda x: x["a"] ** 2 + 0.0 * x["b"], {"a": 1.0, "b": 2.0})
    assert check.passed
    with pytest.raises(hg.HypergradientError, match=r"wrong for hypers\['b'\]"):
        hg.check_hypergradient(lambda x: x["a"] ** 2, {"a": 1.0, "b": 2.0}, gradient={"a": 2.0, "b": 0.1})


def test_what_does_not_settle_is_unclear():
    """A function that is rough at every step, like the loss on the chaotic side of figure 10."""

    def rough(x):
        return np.sin(1e9 * x)

    check = hg.check_hypergradient(rough, 0.3)
    assert verdicts(check) == {"hypers": "unclear"}
    assert not check.passed


def test_steps_where_training_fails_are_left_out():
    def fails_far_off(x):
        if abs(float(getattr(x, "_value", x)) - 1.0) > 0.003:
            raise hg.NonFiniteGradientError("out of range")
        return np.exp(x)

    check = hg.check_hypergradient(fails_far_off, 1.0)
    assert check.passed
    assert check.leaves[0].step < 0.003


def test_extrapolation_is_exact_for_a_cubic():
    differences = [(h, 3.0 + 5.0 * h**2) for h in (0.5, 0.25, 0.1)]
    found = [
        value for value, uncertainty, _ in _extrapolations(differences, 0.0) if onp.isfinite(uncertainty)
    ]
    assert found == pytest.approx([3.0])


def test_bad_input_is_refused():
    calls = []

    def impure(x):
        calls.append(x)
        return x * (1.0 + len(calls))

    with pytest.raises(ValueError, match="must be the same for the same hyperparameters"):
        hg.check_hypergradient(impure, 1.0)
    with pytest.raises(ValueError, match="f is nan"):
        hg.check_hypergradient(lambda x: x * onp.nan, 1.0)
    with pytest.raises(ValueError, match="two or more"):
        hg.check_hypergradient(lambda x: x, 1.0, steps=[1e-3])
    with pytest.raises(ValueError, match="directions must be 1 or more"):
        hg.check_hypergradient(lambda x: x, 1.0, directions=0)
    with pytest.raises(TypeError, match="hypers must be an array of floats"):
        hg.check_hypergradient(lambda x: x, 1)


def test_hypers_stay_as_they_are(problem):
    objective, hypers = momentum_objective(problem)
    before = [leaf.copy() for leaf in leaves(hypers["weights"])]
    hg.check_hypergradient(objective, hypers, directions=1)
    for leaf, copy in zip(leaves(hypers["weights"]), before, strict=True):
        onp.testing.assert_array_equal(leaf, copy)
