"""The networks' derivatives by hand: against autograd's operations, differences, and themselves, bit for bit."""

import gc
from itertools import pairwise

import autograd.numpy as np
import numpy as onp
import numpy.testing as npt
import pytest
from autograd import elementwise_grad, grad, hessian, make_vjp
from autograd.misc import flatten
from autograd.test_util import check_grads
from hypothesis import given, settings
from hypothesis import strategies as st

import hypergrad as hg
from hypergrad import by_hand, networks, nn_utils
from hypergrad.by_hand import with_derivatives
from hypergrad.differentiation import gradient, gradient_with_pullback
from hypergrad.nn_utils import make_nn_funs, net_log_probs, nll

FORMS = ("vector", "layers")  # of the weights


class Net:
    """A network's loss as a function of its leaves, by hand or by operations, at random weights and rows."""

    def __init__(self, sizes, rows, seed=0, dtype=float, flat_biases=False):
        random = onp.random.RandomState(seed)
        self.X = random.randn(rows, sizes[0]).astype(dtype)
        self.T = onp.eye(sizes[-1])[random.randint(sizes[-1], size=rows)]
        self.shapes = []
        for m, n in pairwise(sizes):
            self.shapes += [(m, n), (n,) if flat_biases else (1, n)]
        self.layers = [random.randn(*shape).astype(dtype) for shape in self.shapes]
        self.vector = onp.concatenate([array.ravel() for array in self.layers])
        self.L2 = onp.exp(random.randn(self.vector.size) - 3)
        self.loss_of_vector = make_nn_funs(sizes)[2]

    def leaves(self, form):
        return [self.vector] if form == "vector" else self.layers

    def by_hand(self, leaves):
        if len(leaves) == 1:
            return self.loss_of_vector(leaves[0], self.X, self.T)
        return nll(net_log_probs([*zip(leaves[::2], leaves[1::2], strict=True)], self.X), self.T)

    def by_operations(self, leaves, X=None):
        arrays = leaves
        if len(leaves) == 1:
            arrays, start = [], 0
            for shape in self.shapes:
                arrays.append(np.reshape(leaves[0][start : start + onp.prod(shape)], shape))
                start += onp.prod(shape)
        return nll(networks._network_by_operations(*arrays, X=self.X if X is None else X), self.T)


def assert_close(found, true, what, tolerance=1e-12):
    """Up to a fraction of the largest entry."""
    found, true = onp.asarray(found), onp.asarray(true)
    npt.assert_allclose(found, true, rtol=0, atol=tolerance * max(1.0, onp.max(abs(true))), err_msg=what)


def twice(loss, leaves, direction):
    """Value, gradient, and product of the Hessian with the direction; of all leaves, end to end."""
    slope, pullback = gradient_with_pullback(lambda boxes: gradient(loss, boxes, "test"), leaves)
    return float(loss(leaves)), slope, pullback(direction)


# -- against operations -----------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=5),
    st.integers(1, 5),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_value_gradient_and_hessian_vector_product_are_those_of_operations(sizes, rows, flat_biases, seed):
    net = Net(sizes, rows, seed, flat_biases=flat_biases)
    direction = onp.random.RandomState(seed).randn(net.vector.size)
    true = twice(net.by_operations, net.leaves("vector"), direction)
    for form in FORMS:
        found = twice(net.by_hand, net.leaves(form), direction)
        for what, x, y in zip(("value", "gradient", "product"), found, true, strict=True):
            assert_close(x, y, f"{what}, {form}")


def test_one_operation_has_the_bits_of_two():
    """net_nll, and nll of net_log_probs."""
    net = Net((4, 5, 3), rows=6)
    direction = onp.random.RandomState(1).randn(net.vector.size)

    def in_one(leaves):
        return nn_utils.net_nll([*zip(leaves[::2], leaves[1::2], strict=True)], net.X, net.T)

    found, true = (twice(loss, net.layers, direction) for loss in (in_one, net.by_hand))
    for x, y in zip(found, true, strict=True):
        npt.assert_array_equal(x, y)
    with pytest.raises(ValueError, match=r"one-hot labels of the predictions' shape \(6, 3\)"):
        nn_utils.net_nll([*zip(net.layers[::2], net.layers[1::2], strict=True)], net.X, net.T[:, :2])
    by_labels = grad(
        lambda T: nn_utils.net_nll([*zip(net.layers[::2], net.layers[1::2], strict=True)], net.X, T)
    )
    npt.assert_allclose(
        by_labels(net.T), grad(lambda T: nll(networks._network_by_operations(*net.layers, X=net.X), T))(net.T)
    )


@pytest.mark.parametrize("sizes", [(3, 4), (3, 5, 4), (3, 4, 5, 4), (3, 4, 3, 5, 4)])
@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("form", FORMS)
def test_any_function_of_the_log_probabilities_can_be_differentiated(sizes, rows, form):
    """The cotangent depends on the weights here, so that its own derivative is needed as well."""
    net = Net(sizes, rows)
    direction = onp.random.RandomState(1).randn(net.vector.size)

    def curved(by_hand):
        def loss(leaves):
            if form == "vector":
                arrays = [leaves[0][a:b].reshape(s) for (a, b), s in zip(bounds, net.shapes, strict=True)]
            else:
                arrays = leaves
            function = networks.log_probs if by_hand else networks._network_by_operations
            return np.sum(np.sin(function(*arrays, X=net.X)) ** 2 * (1 + net.T))

        return loss

    ends = onp.cumsum([0, *(onp.prod(shape) for shape in net.shapes)])
    bounds = list(pairwise(ends.tolist()))
    found, true = (twice(curved(by_hand), net.leaves(form), direction) for by_hand in (True, False))
    for what, x, y in zip(("value", "gradient", "product"), found, true, strict=True):
        assert_close(x, y, what)


@pytest.mark.parametrize("form", FORMS)
def test_derivatives_are_those_of_differences(form):
    net = Net((3, 4, 5, 2), rows=4)
    if form == "vector":
        check_grads(lambda w: net.by_hand([w]), modes=["rev"], order=2)(net.vector)
    else:
        for i in range(len(net.layers)):  # one of the arrays is traced, and the others are not
            check_grads(
                lambda array, i=i: net.by_hand([*net.layers[:i], array, *net.layers[i + 1 :]]),
                modes=["rev"],
                order=2,
            )(net.layers[i])


def test_the_hessian_is_symmetric():
    net = Net((2, 3, 2), rows=4)
    H = hessian(lambda w: net.by_hand([w]))(net.vector)
    npt.assert_allclose(H, H.T, rtol=0, atol=1e-15)
    assert onp.linalg.norm(H) > 0.1


# -- the penalty, and mixed products ----------------------------------------------------------------------------


@pytest.mark.parametrize("one", [True, False], ids=["one penalty", "a penalty per weight"])
@pytest.mark.parametrize("traced", [True, False])
def test_penalties_and_their_mixed_products_are_those_of_operations(one, traced):
    net = Net((3, 4, 2), rows=4)
    log_l2 = onp.log(onp.array(0.3) if one else net.L2)
    direction = onp.random.RandomState(1).randn(net.vector.size)

    def products(penalised):
        if traced:  # as the engine asks for them: weights first, then theta
            return gradient_with_pullback(
                lambda boxes: gradient(lambda w: penalised(w, boxes[1]), boxes[:1], "test"),
                [net.vector, log_l2],
            )
        return gradient_with_pullback(
            lambda boxes: gradient(lambda w: penalised(w, log_l2), boxes, "test"), [net.vector]
        )

    found, pull_found = products(lambda w, l2: net.loss_of_vector(w[0], net.X, net.T, np.exp(l2)))
    true, pull_true = products(lambda w, l2: net.by_operations(w) + np.sum(np.exp(l2) * np.square(w[0])))
    assert_close(found, true, "gradient")
    assert_close(pull_found(direction), pull_true(direction), "Hessian-vector and mixed product")
    assert pull_found(direction).size == net.vector.size + (log_l2.size if traced else 0)


def test_the_penalty_is_differentiable_in_both_arguments():
    w, L2 = onp.random.RandomState(0).randn(2, 5)
    for penalties in (L2, L2[0]):
        check_grads(networks.penalty, argnum=(0, 1), order=2)(w, penalties)
        check_grads(networks.penalty, argnum=1, order=2)(w, penalties)
        check_grads(networks.penalty, argnum=0, order=2)(w, penalties)


# -- what the hand-derived form leaves to operations --------------------------------------------------------------


def test_traced_data_are_left_to_operations_and_mixed_products_with_them_are_right():
    net = Net((3, 4, 2), rows=4)
    direction = onp.random.RandomState(1).randn(net.vector.size)

    def products(loss):
        slope, pullback = gradient_with_pullback(
            lambda boxes: gradient(lambda w: loss(w, boxes[1], boxes[2]), boxes[:1], "test"),
            [net.vector, net.X, net.T],
        )
        return slope, pullback(direction)

    found = products(lambda w, X, T: net.loss_of_vector(w[0], X, T))
    arrays = [(slice(0, 12), (3, 4)), (slice(12, 16), (4,)), (slice(16, 24), (4, 2)), (slice(24, 26), (2,))]

    def by_definition(w, X, T):
        W, b, V, a = (np.reshape(w[0][part], shape) for part, shape in arrays)
        s = np.dot(np.tanh(np.dot(X, W) + b), V) + a
        return -np.sum(T * (s - np.log(np.sum(np.exp(s), axis=1, keepdims=True)))) / 4

    true = products(by_definition)
    assert_close(found[0], true[0], "gradient")
    assert_close(found[1], true[1], "products with the weights, the inputs and the labels")


def test_third_derivatives_and_forward_mode_are_left_to_operations():
    net = Net((2, 3, 2), rows=3)
    u, v = onp.random.RandomState(1).randn(2, net.vector.size)

    def third(loss):
        def slope(w):
            return np.sum(grad(loss)(w) * u)

        def curvature(w):
            return np.sum(grad(slope)(w) * v)

        return grad(curvature)(net.vector)

    assert_close(third(lambda w: net.by_hand([w])), third(lambda w: net.by_operations([w])), "third")
    check_grads(lambda w: net.by_hand([w]), order=2)(net.vector)
    check_grads(lambda *layers: net.by_hand(layers), argnum=(0, 1, 2, 3), order=2)(*net.layers)


@pytest.mark.parametrize("form", FORMS)
def test_directions_can_be_traced(form):
    """The Hessian-vector product, as a function of the direction."""
    net = Net((2, 3, 2), rows=3)

    def slope(leaves):
        return gradient(net.by_hand, leaves, "test")

    def product(direction):
        pull_back, _ = make_vjp(lambda w: gradient(net.by_hand, [w], "test"))(net.vector)
        return pull_back(direction)

    pullback = gradient_with_pullback(slope, net.leaves(form))[1]
    back, _ = make_vjp(product)(onp.ones(net.vector.size))
    direction = onp.random.RandomState(1).randn(net.vector.size)
    assert_close(back(direction), pullback(direction), "the Hessian is symmetric")


@pytest.mark.parametrize(
    ("weights_dtype", "X_dtype"),
    [("float32", "float64"), ("float64", "float32"), ("float64", "int64"), ("float16", "float16")],
)
def test_other_types_are_left_to_operations(weights_dtype, X_dtype, monkeypatch):
    net = Net((3, 4, 2), rows=4)
    net.X = (3 * net.X).astype(X_dtype)
    net.vector = net.vector.astype(weights_dtype)
    monkeypatch.setattr(networks, "_network_by_hand", None)
    monkeypatch.setattr(networks, "_nll_by_hand", None)
    true = grad(lambda w: net.by_operations([w]))(net.vector)
    npt.assert_array_equal(grad(lambda w: net.by_hand([w]))(net.vector), true)


# -- precision and range ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_single_precision_is_computed_and_returned_in_single_precision(form, monkeypatch):
    net = Net((6, 5, 4, 3), rows=7, dtype=onp.float32)
    types = []
    result_of = networks._network

    def watched(*arrays, **data):
        log_p, backpropagate = result_of(*arrays, **data)

        def pullback(c):
            slopes, differentiate = backpropagate(c)

            def second(directions):
                d_c, products = differentiate(directions)
                types.extend(x.dtype for x in (log_p, *slopes, d_c, *products))
                return d_c, products

            return slopes, second

        return log_p, pullback

    monkeypatch.setattr(networks, "_network", watched)
    monkeypatch.setattr(networks, "_network_by_hand", with_derivatives(watched))
    direction = onp.random.RandomState(1).randn(net.vector.size)
    found = twice(net.by_hand, net.leaves(form), direction)
    assert set(types) == {onp.dtype("float32")}
    double = [leaf.astype(float) for leaf in net.leaves("vector")]
    net.X = net.X.astype(float)
    true = twice(net.by_operations, double, direction)
    for what, x, y in zip(("value", "gradient", "product"), found, true, strict=True):
        assert_close(x, y, what, tolerance=1e-5)


@pytest.mark.parametrize("dtype", [onp.float32, onp.float64])
def test_extreme_weights_give_finite_derivatives(dtype):
    net = Net((4, 5, 3), rows=6, dtype=dtype)
    with onp.errstate(under="ignore"):
        leaves = [1000 * leaf for leaf in net.layers]
        found = twice(net.by_hand, leaves, onp.ones(net.vector.size))
    assert all(onp.all(onp.isfinite(part)) for part in found)
    s = onp.array([[1e4, -1e4, 1e4]], dtype)
    log_p = networks.log_probs(onp.zeros((1, 3), dtype), s, X=onp.ones((1, 1), dtype))
    npt.assert_allclose(log_p, [[-onp.log(2), -2e4 - onp.log(2), -onp.log(2)]], rtol=1e-6)


# -- one forward pass, the same bits, nothing kept ----------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [onp.float32, onp.float64])
@pytest.mark.parametrize("sizes", [(17, 3), (17, 50, 30, 10)])
def test_the_gradient_alone_is_that_with_pullback_to_the_last_bit(form, dtype, sizes):
    net = Net(sizes, rows=23, dtype=dtype)
    slope, pullback = gradient_with_pullback(
        lambda boxes: gradient(net.by_hand, boxes, "test"), net.leaves(form)
    )
    direction = onp.random.RandomState(1).randn(net.vector.size)
    product = pullback(direction)
    npt.assert_array_equal(gradient(net.by_hand, net.leaves(form), "test"), slope)
    npt.assert_array_equal(pullback(direction), product, err_msg="the pullback, called again")


@pytest.mark.parametrize("form", FORMS)
def test_gradient_and_product_share_one_forward_pass(form, monkeypatch):
    net, passes = Net((3, 4, 2), rows=4), []
    result_of = networks._network

    def counted(*arrays, **data):
        passes.append(arrays)
        return result_of(*arrays, **data)

    monkeypatch.setattr(networks, "_network", counted)
    monkeypatch.setattr(networks, "_network_by_hand", with_derivatives(counted))
    twice_net = gradient_with_pullback(lambda boxes: gradient(net.by_hand, boxes, "test"), net.leaves(form))
    twice_net[1](onp.ones(net.vector.size))
    assert len(passes) == 1


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_kept_alive_by_cycles(form):
    net = Net((3, 4, 2), rows=4)
    gc.collect()
    gc.disable()
    try:
        twice(net.by_hand, net.leaves(form), onp.ones(net.vector.size))
        alive = map(type, gc.get_objects())  # isinstance would look through dead proxies, and raise
        assert not {by_hand._Call, by_hand._Gradient}.intersection(alive)
    finally:
        gc.enable()


def test_arguments_are_left_alone():
    net = Net((3, 4, 2), rows=4)
    direction = onp.ones(net.vector.size)
    arrays = {"weights": net.vector, "X": net.X, "labels": net.T, "direction": direction, "b": net.layers[1]}
    copies = {name: array.copy() for name, array in arrays.items()}
    for form in FORMS:
        twice(net.by_hand, net.leaves(form), direction)
    for name, array in arrays.items():
        npt.assert_array_equal(array, copies[name], err_msg=name)


# -- training ---------------------------------------------------------------------------------------------------


def training(form):
    """(loss at the end as a function of hyperparameters, hyperparameters): minibatches, schedules, penalties."""
    sizes, T = (6, 5, 4, 3), 12
    net = Net(sizes, rows=20)

    def loss(w, log_l2, t):
        rows = [(7 * t + i) % 20 for i in range(8)]
        if form == "vector":
            return net.loss_of_vector(w, net.X[rows], net.T[rows], np.exp(log_l2))
        penalties = sum(np.exp(log_l2) * np.sum(W**2) for W, _ in (w[i] for i in range(len(w))))
        return nll(net_log_probs(w, net.X[rows]), net.T[rows]) + penalties

    if form == "vector":
        weights, log_l2 = net.vector, onp.log(net.L2)
    else:
        weights, log_l2 = list(zip(net.layers[::2], net.layers[1::2], strict=True)), onp.array(-3.0)
    hypers = {
        "weights": weights,
        "step_size": onp.linspace(0.3, 0.1, T),
        "decay": onp.linspace(0.6, 0.9, T),
        "log_l2": log_l2,
    }

    def final(hypers):
        rule = hg.Momentum(hypers["step_size"], hypers["decay"])
        recovery = hg.Reversible(check_every=1)
        w = hg.train(loss, hypers["weights"], rule, T, hypers["log_l2"], recovery)
        if form == "vector":
            return net.loss_of_vector(w, net.X, net.T)
        return nll(net_log_probs(w, net.X), net.T)

    return final, hypers


@pytest.mark.parametrize("form", FORMS)
def test_hypergradients_are_those_of_operations(form, monkeypatch):
    final, hypers = training(form)
    found = grad(final)(hypers)
    monkeypatch.setattr(nn_utils, "log_probs", networks._network_by_operations)
    monkeypatch.setattr(nn_utils, "mean_nll", networks._nll_by_operations)
    monkeypatch.setattr(nn_utils, "penalty", lambda w, L2: np.sum(L2 * np.square(w)))
    true = grad(final)(hypers)
    for name in ("step_size", "decay", "log_l2"):
        assert onp.linalg.norm(true[name]) > 1e-4, name
        assert_close(found[name], true[name], name, tolerance=1e-9)
    assert_close(flatten(found["weights"])[0], flatten(true["weights"])[0], "weights", tolerance=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_training_never_goes_through_operations(form, monkeypatch):
    final, hypers = training(form)

    def fail(*args):
        raise AssertionError("operations were used")

    monkeypatch.setattr(networks, "_tanh", fail)
    monkeypatch.setattr(networks, "logsumexp", fail)
    monkeypatch.setattr(networks, "_squares_by_operations", fail)
    grad(final)(hypers)


def test_training_in_single_precision_is_reversed_exactly():
    net = Net((6, 5, 4, 3), rows=20)

    def hypergradient(dtype):
        X = net.X.astype(dtype)

        def loss(w, log_l2, t):
            rows = [(7 * t + i) % 20 for i in range(8)]
            return net.loss_of_vector(w, X[rows], net.T[rows], np.exp(log_l2))

        def final(log_l2):
            rule, recovery = hg.Momentum(0.1, 0.8), hg.Reversible(check_every=1)
            w = hg.train(loss, net.vector, rule, 12, log_l2, recovery, dtype=dtype)
            return net.loss_of_vector(w, net.X, net.T)

        return grad(final)(onp.log(net.L2))

    found, true = hypergradient(onp.float32), hypergradient(onp.float64)
    assert 1e-9 < onp.linalg.norm(found - true) / onp.linalg.norm(true) < 1e-5


def test_learning_the_data_of_training_goes_through_operations():
    """As in figure 7: the inputs themselves are theta."""
    net = Net((4, 3, 2), rows=5)

    def final(X):
        w = hg.train(lambda w, X, t: net.loss_of_vector(w, X, net.T), net.vector, hg.Momentum(0.1, 0.5), 5, X)
        return net.loss_of_vector(w, net.X, net.T)

    start = 0.5 * net.X
    found = elementwise_grad(final)(start)
    step = 1e-5 * onp.random.RandomState(1).randn(*start.shape)
    difference = (final(start + step) - final(start - step)) / 2
    npt.assert_allclose(np.sum(found * step), difference, rtol=1e-5)
