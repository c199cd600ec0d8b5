"""A training loss must be one function of its arguments: what differs on the way back, or leaves it, is refused."""

import autograd.numpy as np
import numpy as onp
import pytest
from autograd import grad, jacobian
from autograd.misc.flatten import flatten

import hypergrad as hg

RULE = hg.HeavyBall(0.1, 0.5)
COMPARING = [
    hg.Reversible(),
    hg.Reversible(check_every=1),
    hg.Stored(),
    hg.Checkpointed(every=2),
    hg.Checkpointed(budget=2),
]
W = onp.array([0.9, -0.3, 0.2])


def over_a_loop(w, recovery, binds):
    """The sum of three runs, whose losses read a variable of the loop, or bind it."""
    total = 0.0
    for c in (1.0, 2.0, 3.0):
        late = lambda w, theta, t: np.sum((np.tanh(w) - c / 4) ** 2)  # noqa: B023, E731
        bound = lambda w, theta, t, c=c: np.sum((np.tanh(w) - c / 4) ** 2)  # noqa: E731
        w_final = hg.train(bound if binds else late, w, RULE, 5, recovery=recovery)
        total += np.sum(np.sin(w_final))
    return total


@pytest.mark.parametrize("recovery", COMPARING, ids=repr)
def test_a_loop_variable_bound_late_is_found_by_every_recovery(recovery):
    with pytest.raises(hg.ReversalError, match=r"loop variable .*bind it: lambda w, theta, t, c=c") as caught:
        grad(over_a_loop)(W, recovery, False)
    assert caught.value.iteration == 4
    assert caught.value.leaf in ("weights", "velocity")
    unrolled = grad(over_a_loop)(W, hg.Stored(pullbacks=True), True)
    onp.testing.assert_array_equal(grad(over_a_loop)(W, recovery, True), unrolled)


def test_gradients_that_are_kept_are_those_of_training():
    """With its pullbacks, a trajectory asks for no gradient again, so nothing can differ."""
    late, bound = (grad(over_a_loop)(W, hg.Stored(pullbacks=True), binds) for binds in (False, True))
    onp.testing.assert_array_equal(late, bound)


@pytest.mark.parametrize("recovery", COMPARING, ids=repr)
def test_dropout_from_a_generator_with_state_is_found(recovery):
    rng = onp.random.RandomState(0)

    def loss(w, theta, t):
        return np.sum((np.tanh(w) * rng.binomial(1, 0.5, 3) - 0.3) ** 2)

    with pytest.raises(hg.ReversalError, match="random numbers not seeded by t"):
        grad(lambda w: np.sum(hg.train(loss, w, RULE, 8, recovery=recovery)))(W)


@pytest.mark.parametrize("recovery", [hg.Stored(), hg.Checkpointed(every=3)], ids=repr)
def test_the_iteration_at_which_a_gradient_differs_is_named(recovery):
    """Data changed in place after training, for one minibatch alone."""
    data = onp.linspace(0.0, 1.0, 8)

    def objective(w):
        w = hg.train(lambda w, theta, t: np.sum((np.tanh(w) - data[t]) ** 2), w, RULE, 8, recovery=recovery)
        data[3] = 5.0
        return np.sum(w)

    with pytest.raises(hg.ReversalError, match="the gradient at iteration 3, taken again") as caught:
        grad(objective)(W)
    assert caught.value.iteration == 3


@pytest.mark.parametrize("recovery", [hg.Reversible(), hg.Stored(), hg.Stored(pullbacks=True)], ids=repr)
def test_another_loss_at_a_second_backward_pass_is_found(recovery):
    """Each row of a Jacobian but the first trains again."""
    target = [0.3]

    def moves(step):
        if step.iteration == 0:
            target[0] += 0.1

    def weights(w, monitor):
        def loss(w, theta, t):
            return np.sum((np.tanh(w) - target[0]) ** 2)

        return hg.train(loss, w, RULE, 5, recovery=recovery, monitor=monitor)

    with pytest.raises(hg.ReversalError, match="training once more, for another backward pass"):
        jacobian(weights)(W, moves)
    assert onp.isfinite(jacobian(weights)(W, None)).all()


# ---- what the loss computed, used after training


def with_a_log(used):
    def objective(w):
        log = []

        def loss(w, theta, t):
            inner = np.sum((np.tanh(w) - 0.3) ** 2)
            value = inner + 0.1 * np.sum(w**2)
            log.append(value if used != "inside" else inner)
            return value

        w = hg.train(loss, w, RULE, 5)
        return {"summed": lambda: sum(log), "inside": lambda: np.sum(w) + log[0], "itself": lambda: log[-1]}[
            used
        ]()

    return objective


@pytest.mark.parametrize("used", ["summed", "inside", "itself"])
def test_what_the_loss_computed_can_not_be_differentiated_after_training(used):
    with pytest.raises(ValueError, match=r"used outside of that call.*keep=.*callback="):
        grad(with_a_log(used))(W)


def test_a_log_may_be_read_where_nothing_is_differentiated():
    assert float(with_a_log("summed")(W)._value) > 0.0


def test_a_state_that_the_loss_keeps_is_found_at_once():
    """Its own last value, which it adds, is no constant."""
    last = [0.0]

    def loss(w, theta, t):
        last[0] = np.sum(np.tanh(w) ** 2) + 0.1 * last[0]
        return last[0]

    with pytest.raises(ValueError, match="used outside of that call"):
        grad(lambda w: np.sum(hg.train(loss, w, RULE, 5)))(W)


# ---- what is differentiated, used inside the loss


@pytest.mark.parametrize("recovery", [*COMPARING, hg.Stored(pullbacks=True)], ids=repr)
def test_traced_values_from_around_the_loss_are_named(recovery):
    def objective(hypers):
        penalty = hypers["penalty"]
        loss = lambda w, theta, t: np.sum((w - 1.0) ** 2) + penalty * np.sum(w**2)  # noqa: E731
        return np.sum(hg.train(loss, W, hg.HeavyBall(hypers["step"], 0.5), 5, recovery=recovery))

    with pytest.raises(ValueError, match=r"being differentiated, 'penalty', from outside .* theta="):
        grad(objective)({"penalty": 0.1, "step": 0.1})


def test_traced_values_in_a_container_and_a_helper_are_named():
    def objective(hypers):
        def penalised(w):
            return hypers["penalty"] * np.sum(w**2)

        return np.sum(hg.train(lambda w, theta, t: penalised(np.tanh(w)), W, RULE, 5))

    with pytest.raises(ValueError, match=r"being differentiated, 'hypers', from outside"):
        grad(objective)({"penalty": 0.1})
    hypers = {"penalty": 0.1}
    right = grad(
        lambda h: np.sum(
            hg.train(lambda w, h, t: h["penalty"] * np.sum(np.tanh(w) ** 2), W, RULE, 5, theta=h)
        )
    )
    assert onp.isfinite(flatten(right(hypers))[0]).all()
