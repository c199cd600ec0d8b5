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


# ---- arguments of the wrong kind


VECTOR = onp.array([0.1, 0.2, 0.3, 0.4])


def vector_loss(w, theta, t):
    return np.sum((w - 1.0) ** 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rule": hg.Adam}, TypeError, r"rule must be an object .* got the class Adam: call it, Adam\("),
        ({"rule": None}, TypeError, "rule must be an object like .*Momentum.* got None"),
        ({"rule": "adam"}, TypeError, "rule must be an object .* got 'adam'"),
        ({"recovery": hg.Stored}, TypeError, "recovery must be an object .* got the class Stored"),
        ({"recovery": None}, TypeError, "recovery must be an object .* got None"),
        ({"loss": None}, TypeError, r"loss must be a function, loss\(weights, theta, t\), got None"),
        ({"loss": lambda w, t: 0.0}, TypeError, r"loss\(weights, theta, t\), but takes \(w, t\)"),
        ({"callback": 3}, TypeError, r"callback must be a function, callback\(step\), got 3"),
        ({"callback": lambda: None}, TypeError, r"callback\(step\), but takes \(\)"),
        ({"monitor": lambda a, b: None}, TypeError, r"monitor\(step\), but takes \(a, b\)"),
        ({"keep": 3}, TypeError, r"keep must be a sequence of whole numbers, like keep=\(4,\), got 3"),
        ({"keep": "12"}, TypeError, "keep must be a sequence"),
        ({"keep": (1, 5)}, ValueError, r"keep must list numbers of updates in 0..4, got \[1, 5\]"),
        ({"num_steps": 4.0}, TypeError, r"num_steps must be a whole number from 0 on, got 4\.0"),
        ({"num_steps": True}, TypeError, "num_steps must be a whole number"),
        ({"weights": VECTOR + 0j}, TypeError, "give real and imaginary parts as two arrays"),
        ({"weights": VECTOR.view(onp.recarray)}, TypeError, "plain numpy.ndarray, got a recarray"),
        ({"weights": onp.ma.masked_equal(VECTOR, 0.2)}, TypeError, "weights is a masked array"),
        ({"theta": onp.ma.masked_equal(VECTOR, 0.2)}, TypeError, "theta is a masked array"),
        ({"rule": hg.HeavyBall(onp.ma.masked_equal(VECTOR, 0.2)[:, None], 0.5)}, TypeError, "masked array"),
        (
            {"rule": hg.HeavyBall(VECTOR.tolist(), 0.5)},
            TypeError,
            r"step_size is a list.*numpy.array\(step_size\)",
        ),
    ],
)
def test_what_was_expected_and_what_came_is_said(arguments, error, message):
    arguments = {"loss": vector_loss, "weights": VECTOR, "rule": RULE, "num_steps": 4, **arguments}
    with pytest.raises(error, match=message):
        hg.train(**arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: hg.Reversible(check_every=1.5),
            "check_every must be a whole number from 1 on, or None, got 1.5",
        ),
        (lambda: hg.Checkpointed(every=1.5), "every must be a whole number from 1 on, or None, got 1.5"),
        (lambda: hg.Checkpointed(budget="3"), "budget must be a whole number from 1 on, or None, got '3'"),
        (lambda: hg.Truncated(1.5), "last must be a whole number from 1 on, got 1.5"),
        (lambda: hg.Momentum(0.1, 0.9, max_velocity="8"), "max_velocity must be a number, got '8'"),
        (lambda: hg.Adam(0.1, max_gradient="8"), "max_gradient must be a number, got '8'"),
    ],
)
def test_numbers_of_recoveries_and_rules_are_numbers(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hg.Adam(lr=0.1), "Adam has no argument lr: here it is step_size; it takes step_size, beta1"),
        (lambda: hg.Adam(0.1, betas=(0.9, 0.999)), "no argument betas: here it is beta1 and beta2"),
        (lambda: hg.Adam(0.1, eps=1e-8), "no argument eps: here it is epsilon"),
        (lambda: hg.Momentum(0.1, momentum=0.9), "no argument momentum: here it is decay"),
        (lambda: hg.HeavyBall(0.1, 0.9, nesterov=True), r"no argument nesterov: that is hypergrad\.Nesterov"),
        (lambda: hg.HeavyBall(0.1, 0.9, colour="red"), "no argument colour; it takes step_size, momentum"),
    ],
)
def test_names_of_other_libraries_lead_to_ours(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_tensors_of_other_libraries_say_how_to_convert_them():
    tensor = type("Tensor", (), {"__module__": "torch", "dtype": "torch.float32", "shape": (2,)})()
    with pytest.raises(TypeError, match=r"got a torch.Tensor; convert it with weights.detach\(\).numpy\(\)"):
        hg.train(vector_loss, tensor, RULE, 4)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_step_sizes_that_might_be_one_per_weight_are_refused(shape):
    """Four weights, four steps: only the other of the two shapes of a schedule says what is meant."""
    other = (4, 1) if shape == (4,) else (4,)
    weights = onp.zeros(shape)
    with pytest.raises(ValueError, match=r"might mean one value for each of them, or for each of 4 steps"):
        hg.train(vector_loss, weights, hg.HeavyBall(VECTOR.reshape(shape), 0.5), 4)
    found = hg.train(vector_loss, weights, hg.HeavyBall(VECTOR.reshape(other), 0.5), 4)
    in_a_list = hg.train(
        lambda w, theta, t: vector_loss(w[0], theta, t),
        [weights],
        hg.HeavyBall(VECTOR.reshape(shape), 0.5),
        4,
    )
    onp.testing.assert_array_equal(found, in_a_list[0], "in a list, one array stands for the whole")
    rule = hg.HeavyBall({"a": 0.1, "b": VECTOR}, 0.5)
    with pytest.raises(ValueError, match=r"step_size\['b'\] has the shape \(4,\)"):
        hg.train(lambda w, theta, t: np.sum(w["b"] ** 2), {"a": onp.zeros(2), "b": VECTOR}, rule, 4)


def test_initial_states_may_have_their_keys_in_any_order():
    w, v = {"b": onp.zeros(3), "W1": onp.ones((2, 3))}, {"W1": onp.full((2, 3), 2.0), "b": onp.ones(3)}
    found, true = (
        hg.train(loss, w, hg.HeavyBall(0.1, 0.5, velocity=velocity), 3)
        for velocity in (v, {name: v[name] for name in w})
    )
    for name in w:
        onp.testing.assert_array_equal(found[name], true[name])


def test_a_loss_that_is_nan_is_named_though_its_gradient_is_finite():
    with pytest.raises(hg.NonFiniteGradientError, match=r"the training loss is nan \(iteration 2\)"):
        hg.train(lambda w, theta, t: np.sum(w**2) + (onp.nan if t == 2 else 0.0), VECTOR, RULE, 4)


@pytest.mark.parametrize("change", ["pop", "assign", "add"])
def test_a_loss_that_changes_its_weights_is_refused(change):
    def loss(w, theta, t):
        value = np.sum(w["a"] ** 2) + np.sum(w["b"] ** 2)
        if change == "pop":
            w.pop("a")
        else:
            w["a" if change == "assign" else "c"] = 2.0 * w["a"]
        return value

    where = "c" if change == "add" else "a"
    with pytest.raises(ValueError, match=rf"the training loss changed its weights, at weights\['{where}'\]"):
        hg.train(loss, {"a": onp.ones(2), "b": onp.ones(2)}, RULE, 3)


@pytest.mark.parametrize("kind", [onp.float16, onp.longdouble])
def test_half_and_extended_precision_are_taken_as_double(kind):
    step = kind(0.125)
    found = hg.train(vector_loss, onp.full(2, 0.5, kind), hg.HeavyBall(step, kind(0.5)), 3, kind(1.0))
    true = hg.train(vector_loss, onp.full(2, 0.5), hg.HeavyBall(0.125, 0.5), 3)
    assert found.dtype == onp.float64
    onp.testing.assert_array_equal(found, true)
