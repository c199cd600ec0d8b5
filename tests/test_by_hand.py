"""Functions that bring their own derivatives, among them the example of the documentation."""

import re
from pathlib import Path

import autograd.numpy as np
import numpy as onp
import numpy.testing as npt
import pytest
from autograd import grad, make_vjp
from autograd.test_util import check_grads

import hypergrad as hg
from hypergrad import differentiation
from hypergrad.by_hand import OneVector, with_derivatives
from hypergrad.differentiation import LossGradient, gradient, gradient_with_pullback, value_of
from hypergrad.parsers import join

GUIDE = Path(__file__).parent.parent / "docs" / "fast-losses.md"


def documented():
    """What the example in the documentation defines."""
    (example,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    names = {}
    exec(example, names)
    return names


def logistic_by_operations(w, X, y):
    return np.mean(np.log(1 + np.exp(-y * np.dot(X, w))))


def logistic_problem():
    random = onp.random.RandomState(0)
    return random.randn(4), random.randn(9, 4), onp.sign(random.randn(9))


def test_the_documented_loss_has_the_derivatives_of_the_same_loss_in_operations():
    loss, (w, X, y) = documented()["loss"], logistic_problem()
    v = onp.random.RandomState(1).randn(4)
    npt.assert_allclose(loss(w, X=X, y=y), logistic_by_operations(w, X, y), rtol=1e-14)

    def twice(f):
        slope = grad(f)
        return slope(w), grad(lambda w: np.dot(slope(w) ** 2, v))(w)

    found = twice(lambda w: np.sin(loss(w, X=X, y=y)))
    true = twice(lambda w: np.sin(logistic_by_operations(w, X, y)))
    npt.assert_allclose(found[0], true[0], rtol=1e-13, err_msg="gradient")
    npt.assert_allclose(found[1], true[1], rtol=1e-12, err_msg="product with the Hessian")
    check_grads(lambda w: loss(w, X=X, y=y), modes=["rev"], order=2)(w)  # as the documentation says


def test_the_documented_loss_can_be_trained_on():
    loss, (w, X, y) = documented()["loss"], logistic_problem()

    def hypergradient(loss):
        def final(hypers):
            def training_loss(w, log_l2, t):
                rows = [(2 * t + i) % 9 for i in range(5)]
                return loss(w, X[rows], y[rows]) + np.sum(np.exp(log_l2) * w**2)

            rule = hg.Momentum(hypers["step_size"], 0.8)
            return loss(hg.train(training_loss, w, rule, 10, hypers["log_l2"]), X, y)

        return grad(final)({"step_size": onp.full(10, 0.3), "log_l2": onp.full(4, -2.0)})

    found = hypergradient(lambda w, X, y: loss(w, X=X, y=y))
    true = hypergradient(logistic_by_operations)
    for name in true:
        npt.assert_allclose(found[name], true[name], rtol=1e-9, err_msg=name)


def bilinear(x, y, A):
    """sin(x) A y, and what its derivatives are."""
    Ay, xA = A @ y, onp.sin(x) @ A

    def pullback(c):
        def second(directions):
            u, v = directions
            d_c = u @ (onp.cos(x) * Ay) + v @ xA
            d_x = c * (onp.cos(x) * (A @ v) - onp.sin(x) * u * Ay)
            return d_c, [d_x, c * (u * onp.cos(x)) @ A]

        return [c * onp.cos(x) * Ay, c * xA], second

    return xA @ y, pullback


def bilinear_by_operations(x, y, A):
    return np.dot(np.dot(np.sin(x), A), y)


def bilinear_problem():
    random = onp.random.RandomState(0)
    return random.randn(3), random.randn(2), random.randn(3, 2)


def test_functions_of_several_arrays_used_whole_or_in_part():
    f, (x, y, A) = with_derivatives(bilinear), bilinear_problem()
    for argnum in (0, 1, (0, 1)):
        check_grads(lambda x, y: f(x, y, A=A), argnum=argnum, modes=["rev"], order=2)(x, y)
    check_grads(lambda x: np.sum(f(x, x[:2], A=A)), modes=["rev"], order=2)(x)  # twice the same array

    def of_one_gradient_only(f):
        return grad(lambda x, y: np.sum(grad(f, 1)(x, y) ** 3), (0, 1))(x, y)

    found = of_one_gradient_only(lambda x, y: f(x, y, A=A))
    true = of_one_gradient_only(lambda x, y: bilinear_by_operations(x, y, A))
    for which, a, b in zip("xy", found, true, strict=True):
        npt.assert_allclose(a, b, rtol=1e-12, atol=1e-14, err_msg=which)


@pytest.mark.parametrize("views", [True, False])
def test_cotangents_come_whole_or_in_parts(views):
    """Of exactly the leaves, of some, of others, of one twice, with other terms; in one vector, and not."""
    random = onp.random.RandomState(0)
    leaves = [random.randn(3), random.randn(2, 2), random.randn(2)]

    def product(*arrays):
        joined = onp.concatenate([onp.ravel(array) for array in arrays])
        powers = onp.arange(1, joined.size + 1)

        def like(vector):
            parts = OneVector(arrays)
            parts.whole[:] = vector
            return parts if views else [part.copy() for part in parts]

        def pullback(c):
            def second(directions):
                direction = onp.concatenate([onp.ravel(v) for v in directions])
                return onp.sum(direction * powers * onp.cos(joined)), like(
                    -c * direction * powers * onp.sin(joined)
                )

            return like(c * powers * onp.cos(joined)), second

        return onp.sum(powers * onp.sin(joined)), pullback

    def by_operations(*arrays):
        joined = join(*arrays)
        return np.sum(np.arange(1, len(joined) + 1) * np.sin(joined))

    losses = {
        "exactly the leaves": lambda f, x: f(*x),
        "a function of it": lambda f, x: np.exp(0.1 * f(*x)),
        "twice": lambda f, x: f(*x) * f(*x),
        "two of three": lambda f, x: f(x[0], x[1]),
        "in another order": lambda f, x: f(x[2], x[1], x[0]),
        "one of them twice": lambda f, x: f(x[0], x[1], x[0]),
        "with other terms": lambda f, x: f(*x) + np.sum(x[1] ** 3),
        "of what is made of them": lambda f, x: f(*[a * 2 for a in x]) + f(x[0]),
    }
    direction = random.randn(9)
    for name, loss in losses.items():
        (slope, pullback), (true_slope, true_pullback) = (
            gradient_with_pullback(
                lambda boxes, f=f, loss=loss: gradient(lambda x: loss(f, x), boxes, "test"), leaves
            )
            for f in (with_derivatives(product, by_operations), by_operations)
        )
        npt.assert_allclose(slope, true_slope, rtol=1e-12, atol=1e-12, err_msg=name)
        found, true = pullback(direction), true_pullback(direction)
        npt.assert_allclose(found, true, rtol=1e-12, atol=1e-12, err_msg=name)
        by_autograd = grad(lambda x, loss=loss: loss(with_derivatives(product, by_operations), x))(leaves)
        npt.assert_allclose(join(*by_autograd), true_slope, rtol=1e-12, atol=1e-12, err_msg=name)


def test_scalars_are_arrays_too():
    def power(x, n):
        def pullback(c):
            def second(directions):
                (v,) = directions
                return v * n * x ** (n - 1), [c * v * n * (n - 1) * x ** (n - 2)]

            return [c * n * x ** (n - 1)], second

        return x**n, pullback

    f = with_derivatives(power)
    assert f(2.0, n=3) == 8.0
    assert grad(lambda x: f(x, n=3))(2.0) == 12.0
    assert grad(grad(lambda x: f(x, n=3)))(2.0) == 12.0


def test_operations_serve_where_the_closures_do_not():
    f, (x, y, A) = with_derivatives(bilinear, bilinear_by_operations), bilinear_problem()
    check_grads(lambda x, y, A: f(x, y, A=A), argnum=(0, 1, 2), order=2)(x, y, A)
    check_grads(lambda x, y: f(x, y, A=A), argnum=(0, 1), modes=["fwd", "rev"], order=3)(x, y)


def test_values_are_by_hand_also_where_derivatives_are_by_operations():
    """As training must see the same bits in both directions, and the data may be traced on the way back only."""

    def other(x, y, A):
        return bilinear_by_operations(x, y, A) + 1e-3 * np.sum(x * y[0])

    f, (x, y, A) = with_derivatives(bilinear, other), bilinear_problem()
    slopes = []

    def of_data(A):
        slopes.append(grad(lambda x: f(x, y, A=A))(x))
        return np.sum(slopes[-1])

    by_operations, value = make_vjp(of_data)(A)
    npt.assert_array_equal(slopes[0]._value, grad(lambda x: f(x, y, A=A))(x))
    npt.assert_allclose(value, np.sum(np.cos(x) * (A @ y)), rtol=1e-14)
    npt.assert_allclose(by_operations(1.0), np.outer(np.cos(x), y), rtol=1e-12)


def test_without_operations_an_error_says_what_is_missing():
    f, (x, y, A) = with_derivatives(bilinear), bilinear_problem()
    with pytest.raises(NotImplementedError, match="bilinear brings no derivatives for data passed by name"):
        grad(lambda A: f(x, y, A=A))(A)
    slope = grad(lambda x: f(x, y, A=A))
    curvature = grad(lambda x: np.sum(slope(x) ** 2))
    with pytest.raises(NotImplementedError, match="no derivatives for third derivatives"):
        grad(lambda x: np.sum(curvature(x)))(x)
    with pytest.raises(NotImplementedError, match="no derivatives for forward mode"):
        check_grads(lambda x: f(x, y, A=A), modes=["fwd"], order=1)(x)


def test_cotangents_of_other_shapes_are_refused():
    w, X, y = logistic_problem()

    def transposed(w, X, y):
        def pullback(c):
            return [onp.zeros((4, 1))], lambda directions: (0.0, [onp.zeros(3)])

        return 0.0, pullback

    with pytest.raises(ValueError, match=r"cotangents of shapes \[\(4,\)\].*got \[\(4, 1\)\]"):
        grad(lambda w: with_derivatives(transposed)(w, X=X, y=y))(w)

    def wrong_product(w, X, y):
        return 0.0, lambda c: ([onp.zeros(4)], lambda directions: (0.0, [onp.zeros(3)]))

    slope = grad(lambda w: with_derivatives(wrong_product)(w, X=X, y=y))
    with pytest.raises(ValueError, match=r"pullback of the pullback .*\[\(4,\)\].*got \[\(3,\)\]"):
        grad(lambda w: np.sum(slope(w)))(w)


# -- join -------------------------------------------------------------------------------------------------------


def test_join_concatenates_with_derivatives():
    random = onp.random.RandomState(0)
    arrays = [random.randn(2, 3), random.randn(4), random.randn(1)]
    npt.assert_array_equal(join(*arrays), onp.concatenate([array.ravel() for array in arrays]))
    check_grads(lambda *arrays: np.sin(join(*arrays)), argnum=(0, 1, 2), order=2)(*arrays)
    check_grads(lambda x: np.sin(join(x, arrays[1], x)), order=2)(arrays[0])
    pull_back, _ = make_vjp(lambda x: join(arrays[1], x))(arrays[0])
    npt.assert_array_equal(pull_back(onp.arange(10.0)), [[4, 5, 6], [7, 8, 9]])


FORMS = {
    "one operation": lambda f, x, y, z, A: f(x, y, A=A),
    "in another order": lambda f, x, y, z, A: f(y, x, A=A.T),
    "of one array alone": lambda f, x, y, z, A: f(x, np.ones(2), A=A),
    "with more": lambda f, x, y, z, A: f(x, y, A=A) + np.sum(x**3),
    "with theta inside": lambda f, x, y, z, A: f(x, y * z, A=A),
    "with theta as data": lambda f, x, y, z, A: f(x, y, A=A * z),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_loss_that_is_one_operation_has_the_derivatives_of_two_traces(form):
    """Where it was one when last seen, and where it was not, or is not any more."""
    x, y, A = bilinear_problem()
    z, by_hand = onp.array(0.7), with_derivatives(bilinear, otherwise=bilinear_by_operations)

    def loss(f, leaves, theta, t):
        return FORMS["one operation" if t % 2 else form](f, *leaves, *theta, A)

    found, true = (
        LossGradient(lambda leaves, theta, t, f=f: loss(f, leaves, theta, t))
        for f in (by_hand, bilinear_by_operations)
    )
    for t in (0, 0, 1, 1, 0, 1, 0):
        for wants_theta in (False, True, False):
            slope, pullback = found.with_pullback([x, y], [z], t, wants_theta)
            true_slope, true_pullback = true.with_pullback([x, y], [z], t, wants_theta)
            npt.assert_allclose(slope, true_slope, rtol=1e-13)
            npt.assert_array_equal(found([x, y], [z], t), slope)  # the same bits on the way there and back
            v = onp.random.RandomState(2).randn(slope.size)
            npt.assert_allclose(pullback(v), true_pullback(v), rtol=1e-12)


@pytest.mark.parametrize("dtype", [onp.float32, onp.float64])
def test_a_loss_that_is_one_operation_is_traced_once(dtype, monkeypatch):
    """In single precision as well: what is cast is cast before the trace."""
    x, y, A = bilinear_problem()
    f = with_derivatives(bilinear)

    def loss(leaves, theta, t):
        assert {value_of(leaf).dtype for leaf in leaves} == {onp.dtype(dtype)}
        return f(*leaves, A=A.astype(dtype))

    slope = LossGradient(loss, dtype)
    true, true_pullback = slope.with_pullback([x, y], [], 0, False)  # twice, as nothing was seen yet
    slope([x, y], [], 0)
    monkeypatch.delattr(differentiation, "gradient_with_pullback")
    found, pullback = slope.with_pullback([x, y], [], 0, False)
    npt.assert_array_equal(found, true)
    assert found.dtype == onp.float64
    npt.assert_array_equal(pullback(found), true_pullback(found))
