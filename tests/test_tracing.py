"""The trace of the backward pass, its warning and stop, and the certificate of a reversal."""

import pickle
import warnings

import autograd.numpy as np
import numpy as onp
import pytest
from autograd import grad, make_vjp
from autograd.misc.flatten import flatten
from test_rules import RULES, make_rule
from test_rules import make_hypers as make_rule_hypers
from test_train import T, make_hypers, trained

import hypergrad as hg

CHAOTIC = hg.Momentum(2.0, 0.5)
CENTRE = onp.array([1.0, -2.0, 0.5])


def bowl(w, theta, t):
    return np.sum((w - CENTRE) ** 2)


def bounce(w, theta, t):
    """A loss on which descent is chaotic for large steps."""
    return np.sum(np.cos(3.0 * w)) + 0.05 * np.sum(w**2)


def traced(loss, rule, num_steps, trace, **options):
    def objective(start):
        return np.sum(hg.train(loss, start, rule, num_steps, monitor=trace, **options) ** 2)

    return grad(objective)(onp.array([0.3, -0.7, 1.1]))


def test_norms_are_those_of_the_derivatives_with_respect_to_states(problem):
    """The last norms are those of the derivatives with respect to the initial weights and velocity."""
    hypers, trace = make_hypers(problem), hg.BackwardTrace()
    expected = grad(lambda h: problem.objective(trained(problem, h, hg.Reversible())))(hypers)

    def objective(weights, velocity):
        steps, decays = (
            {"hidden": (s[0], s[1]), "out": [s[2]], "shift": s[3]}
            for s in (hypers["step_size"], hypers["decay"])
        )
        rule = hg.Momentum(steps, decays, velocity)
        return problem.objective(hg.train(problem.loss, weights, rule, T, hypers["theta"], monitor=trace))

    grad(objective, (0, 1))(hypers["weights"], hypers["velocity"])
    onp.testing.assert_array_equal(trace.iterations, onp.arange(T)[::-1])
    for state, name in (("w", "weights"), ("v", "velocity")):
        assert trace.norms[state].shape == (T,)
        assert trace.norms[state][-1] == pytest.approx(onp.linalg.norm(flatten(expected[name])[0]), rel=1e-12)


def test_growth_rate_is_that_of_a_linear_map():
    """Descent at a decay of 2**-20 on a bowl multiplies by 1 - 2 step a step."""
    for step in (0.1, 0.25):
        trace = hg.BackwardTrace()
        traced(bowl, hg.Momentum(step, 2.0**-20), 20, trace)
        assert trace.growth_rate == pytest.approx(onp.log(1 - 2 * step), rel=1e-4)
        assert trace.growth == pytest.approx((1 - 2 * step) ** onp.arange(1, 21), rel=1e-4)


def test_buffers_are_close_to_their_limit_and_empty_at_the_end():
    trace, num_steps = hg.BackwardTrace(), 4_000
    traced(bowl, hg.Momentum(1e-3, 0.5), num_steps, trace)
    assert trace.limit_bytes == pytest.approx(3 * onp.arange(num_steps)[::-1] / 8)
    assert trace.limit_bytes[0] < trace.buffer_bytes[0] < 1.05 * trace.limit_bytes[0]
    assert onp.all(onp.diff(trace.buffer_bytes) <= 3 * 8)
    assert trace.buffer_bytes[-1] <= 3 * 8


def test_limit_counts_the_decays_of_each_leaf(problem):
    hypers, trace = make_hypers(problem), hg.BackwardTrace()
    decays = {"hidden": (0.5, 0.25), "out": [0.9], "shift": 1.0}
    rule = hg.Momentum(0.01, decays)
    grad(lambda w: problem.objective(hg.train(problem.loss, w, rule, 10, hypers["theta"], monitor=trace)))(
        hypers["weights"]
    )
    bits = 9 * (20 * 1.0 + 4 * 2.0 + 12 * onp.log2(1 / 0.9))
    assert trace.limit_bytes[0] == pytest.approx(bits / 8, rel=1e-6)


def test_warns_once_where_training_is_chaotic_and_not_where_it_is_calm():
    trace = hg.BackwardTrace()
    with pytest.warns(hg.AdjointGrowthWarning, match=r"grown [\d.]+-fold by iteration \d+") as caught:
        traced(bounce, CHAOTIC, 40, trace)
    assert len(caught) == 1
    assert trace.growth.max() > 30
    assert trace.growth_rate > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calm = hg.BackwardTrace()
        traced(bounce, hg.Momentum(0.01, 0.9), 40, calm)
    assert calm.growth.max() < 10


def test_stop_ends_the_pass_where_the_limit_is_passed():
    trace = hg.BackwardTrace(growth_limit=100.0, stop=True)
    with pytest.raises(hg.AdjointGrowthError, match=r"limit 100"):
        traced(bounce, CHAOTIC, 40, trace)
    assert trace.growth[-1] > 100 > trace.growth[:-1].max()
    assert 0 < trace.iterations[-1] < 39


def test_outputs_along_the_way_are_no_growth():
    """A sum over all kept weights brings cotangents in at every step; relative to them nothing grows."""
    trace, num_steps = hg.BackwardTrace(), 50

    def objective(start):
        rule = hg.Momentum(1e-4, 2.0**-20)
        result = hg.train(bowl, start, rule, num_steps, monitor=trace, keep=range(num_steps))
        return 1e-3 * np.sum(result.weights) + sum(np.sum(w) for w in result.kept)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grad(objective)(onp.array([0.3, -0.7, 1.1]))
    assert trace.growth.max() < 8


def test_a_second_pass_of_a_run_is_a_pass_of_its_own():
    trace = hg.BackwardTrace()
    pull_back, _ = make_vjp(lambda start: hg.train(bowl, start, hg.Momentum(0.1, 0.5), 12, monitor=trace))(
        onp.zeros(3)
    )
    pull_back(onp.ones(3))
    pull_back(2 * onp.ones(3))
    first, second = trace.passes
    onp.testing.assert_array_equal(first.iterations, onp.arange(12)[::-1])
    onp.testing.assert_array_equal(2 * first.norms["w"], second.norms["w"])
    onp.testing.assert_array_equal(first.growth, second.growth)
    trace.clear()
    assert (trace.passes, trace.growth.size, trace.certificate) == ((), 0, None)


def of_two_runs(first_step, last_step, **options):
    """An objective that trains twice; the run that was trained last is pulled back first."""

    def objective(start):
        first = hg.train(bounce, start, hg.Momentum(first_step, 0.5), 40, **options)
        last = hg.train(bounce, start, hg.Momentum(last_step, 0.5), 40, **options)
        return np.sum(first**2) + np.sum(last**2)

    return objective


@pytest.mark.parametrize(
    "steps", [(2.0, 0.01), (0.01, 2.0)], ids=["the wild one first", "the tame one first"]
)
def test_growth_warning_and_summary_cover_all_runs_of_an_objective(steps):
    trace, start = hg.BackwardTrace(), onp.array([0.3, -0.7, 1.1])
    alone = []
    for step in reversed(steps):
        alone.append(hg.BackwardTrace(1e30))
        traced(bounce, hg.Momentum(step, 0.5), 40, alone[-1])
    with pytest.warns(hg.AdjointGrowthWarning) as caught:
        grad(of_two_runs(*steps, monitor=trace))(start)
    assert len(caught) == 1
    for noted, expected in zip(trace.passes, alone, strict=True):
        for name in ("iterations", "growth", "buffer_bytes", "limit_bytes"):
            onp.testing.assert_array_equal(getattr(noted, name), getattr(expected, name))
        assert (noted.certificate, noted.growth_rate) == (expected.certificate, expected.growth_rate)
        onp.testing.assert_array_equal(noted.norms["v"], expected.norms["v"])
    largest = max(one.growth.max() for one in alone)
    assert trace.growth.max() == largest > 30
    assert trace.growth_rate == max(one.growth_rate for one in alone)
    assert len(trace.iterations) == len(trace.norms["w"]) == len(trace.buffer_bytes) == 80
    summary = trace.summary()
    assert summary.startswith(
        "2 backward passes, 1 of them beyond the limit of 30; growth of the adjoint at most"
    )
    assert f"{largest:.4g}, in number {1 if steps[1] == 2.0 else 2}" in summary


def test_every_run_that_passes_the_limit_is_warned_of():
    with pytest.warns(hg.AdjointGrowthWarning) as caught:
        grad(of_two_runs(2.0, 2.5, monitor=hg.BackwardTrace()))(onp.array([0.3, -0.7, 1.1]))
    assert len(caught) == 2


def test_a_shorter_run_is_not_taken_for_the_rest_of_a_truncated_one():
    """Ten steps after the last five of thirty: iterations 9 .. 0 follow 29 .. 25."""
    trace = hg.BackwardTrace()

    def objective(start):
        short = hg.train(bowl, start, hg.Momentum(0.1, 0.5), 10, monitor=trace)
        last_steps = hg.train(bowl, start, hg.Momentum(0.1, 0.5), 30, recovery=hg.Truncated(5), monitor=trace)
        return np.sum(short) + np.sum(last_steps)

    grad(objective)(onp.ones(3))
    assert [list(one.iterations) for one in trace.passes] == [list(range(29, 24, -1)), list(range(9, -1, -1))]
    assert [one.certificate.first for one in trace.passes] == [25, 0]


def test_runs_of_other_rules_have_no_norms_of_states_they_lack():
    trace = hg.BackwardTrace(1e30)

    def objective(start):
        with_moments = hg.train(bowl, start, hg.Adam(0.01), 4)
        return np.sum(with_moments) + np.sum(hg.train(bowl, start, hg.Momentum(0.1, 0.5), 3))

    with trace:
        grad(objective)(onp.ones(3))
    assert {name: onp.isnan(norms).sum() for name, norms in trace.norms.items()} == {
        "w": 0,
        "v": 4,
        "m": 3,
        "u": 3,
    }


def test_many_passes_are_summed_up_by_those_that_grew_most():
    trace = hg.BackwardTrace()
    with trace:
        for step in onp.linspace(0.01, 0.1, 10):
            traced(bounce, hg.Momentum(step, 0.5), 3, None)
    summary = trace.summary()
    assert summary.startswith("10 backward passes, 0 of them beyond")
    assert summary.count("backward pass from") == 6
    largest = onp.argsort([-one.growth.max() for one in trace.passes])[:6]
    assert all(f"\n{i + 1}: backward pass" in summary for i in largest)


def test_a_block_traces_runs_with_monitors_of_their_own_and_blocks_within_it():
    outer, inner, own = hg.BackwardTrace(), hg.BackwardTrace(), []
    with outer, inner, outer:
        traced(bowl, hg.Momentum(0.1, 0.5), 6, own.append)
        traced(bowl, hg.Momentum(0.1, 0.5), 6, inner)
    traced(bowl, hg.Momentum(0.1, 0.5), 6, None)
    assert len(own) == 6
    assert len(outer.iterations) == len(inner.iterations) == 12


@pytest.mark.parametrize("kind", RULES)
def test_every_rule_is_traced_and_certified(problem, kind):
    hypers, trace = make_rule_hypers(kind, problem), hg.BackwardTrace(1e9)
    rule = make_rule(kind, hypers)
    grad(lambda w: problem.objective(hg.train(problem.loss, w, rule, T, hypers["theta"], monitor=trace)))(
        hypers["weights"]
    )
    assert set(trace.norms) == {"w", *rule.states}
    assert trace.certificate.num_values == 37 * (1 + len(rule.states))
    assert trace.certificate.checked == tuple(reversed(range(T)))


def test_certificate_says_what_was_compared():
    trace = hg.BackwardTrace()
    traced(bowl, hg.Momentum(0.1, 0.9), 20, trace, recovery=hg.Reversible(check_every=8))
    assert trace.certificate == hg.Certificate(0, 20, (16, 8, 0), 6)
    assert "20 steps reversed bit for bit" in trace.summary()
    assert "all 6 initial values came back" in trace.summary()
    traced(bowl, hg.Momentum(0.1, 0.9), 20, trace, recovery=hg.Truncated(5))
    assert trace.certificate == hg.Certificate(15, 20, (19, 18, 17, 16, 15), 0)
    traced(bowl, hg.Momentum(0.1, 0.9), 20, trace, recovery=hg.Stored())
    assert trace.certificate is None
    assert "no certificate" in trace.summary()


def test_no_certificate_where_the_reversal_went_wrong_and_the_error_says_where():
    trace, calls = hg.BackwardTrace(), []

    def impure(w, theta, t):
        calls.append(t)
        extra = 1e-6 if t == 6 and len(calls) > 21 else 0.0  # another function when asked again
        return np.sum((w["a"] - CENTRE) ** 2) + np.sum(w["b"] ** 2) * (1 + extra)

    def objective(start):
        w = hg.train(
            impure, start, hg.Momentum(0.1, 0.9), 20, recovery=hg.Reversible(check_every=1), monitor=trace
        )
        return np.sum(w["a"]) + np.sum(w["b"])

    with pytest.raises(hg.ReversalError) as caught:
        grad(objective)({"a": onp.ones(3), "b": onp.ones(2)})
    error = caught.value
    assert (error.iteration, error.right_until, error.leaf) == (6, 7, "velocity['b']")
    assert trace.certificate is None
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.iteration, again.leaf) == (str(error), 6, "velocity['b']")


def test_bad_limits_are_refused():
    with pytest.raises(ValueError, match="growth_limit must be above 0, got nan"):
        hg.BackwardTrace(float("nan"))
    assert hg.BackwardTrace().summary() == "no backward pass yet"
