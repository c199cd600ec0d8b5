"""Named blocks of vectors, networks, and the plotting helpers."""

import operator
import pickle
import re
from itertools import pairwise

import autograd.numpy as np
import numpy.random as npr
import numpy.testing as npt
import pytest
import scipy.special
from autograd import elementwise_grad, grad, make_vjp
from autograd.test_util import check_grads
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from hypergrad import nn_utils
from hypergrad.nn_utils import (
    BatchList,
    VectorParser,
    WeightsParser,
    error_rate,
    fill_parser,
    init_weights,
    logsumexp,
    make_nn_funs,
    net_log_probs,
    nice_layer_name,
    nll,
    plot_images,
)
from hypergrad.util import logistic

shapes_of_blocks = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=6)


def small_parser():
    parser = VectorParser()
    parser.add_shape(("weights", 0), (2, 3))
    parser.add_shape("bias", (1, 3))
    parser.add_shape("scalar", ())
    return parser


# -- VectorParser ---------------------------------------------------------------------------------------------


def test_blocks_lie_in_the_order_they_were_added():
    parser = small_parser().new_vect(np.arange(10.0))
    assert parser.names == [("weights", 0), "bias", "scalar"]
    assert parser.idxs_and_shapes == {
        ("weights", 0): (slice(0, 6), (2, 3)),
        "bias": (slice(6, 9), (1, 3)),
        "scalar": (slice(9, 10), ()),
    }
    npt.assert_array_equal(parser["weights", 0], [[0, 1, 2], [3, 4, 5]])
    npt.assert_array_equal(parser["bias"], [[6, 7, 8]])
    npt.assert_array_equal(parser["scalar"], 9)
    assert parser["scalar"].shape == ()


@given(shapes_of_blocks, st.integers(0, 2**32 - 1))
def test_blocks_set_one_by_one_are_got_back_and_make_up_the_vector(shapes, seed):
    RS = npr.RandomState(seed)
    arrays = {("block", i): RS.randn(*shape) for i, shape in enumerate(shapes)}
    parser = VectorParser()
    for name, array in arrays.items():
        parser[name] = array
    assert list(parser.as_dict()) == list(arrays)
    for name, block in parser.as_dict().items():
        npt.assert_array_equal(block, arrays[name], err_msg=str(name))
    npt.assert_array_equal(parser.vect, np.concatenate([np.ravel(array) for array in arrays.values()]))
    assert parser.empty_copy().idxs_and_shapes == parser.idxs_and_shapes
    npt.assert_array_equal(parser.empty_copy().vect, np.zeros(parser.vect.size))
    doubled = parser.new_vect(2 * parser.vect)
    for name, block in doubled.as_dict().items():
        npt.assert_array_equal(block, 2 * arrays[name], err_msg=str(name))


def test_assigning_changes_neither_arrays_that_came_in_nor_vectors_handed_out():
    vect, block = np.arange(10.0), np.full((2, 3), 7.0)
    parser = small_parser().new_vect(vect)
    before = parser.vect
    parser["weights", 0] = block
    parser["weights", 0] = parser["weights", 0] + 1
    npt.assert_array_equal(parser.vect, [8, 8, 8, 8, 8, 8, 6, 7, 8, 9])
    npt.assert_array_equal(vect, np.arange(10.0), err_msg="the caller's vector")
    npt.assert_array_equal(before, np.arange(10.0), err_msg="the vector from before")
    npt.assert_array_equal(block, np.full((2, 3), 7.0), err_msg="the caller's block")


def test_new_vect_holds_that_very_vector():
    parser, vect = small_parser(), np.arange(10.0)
    made = parser.new_vect(vect)
    assert made.vect is vect
    assert made.idxs_and_shapes == parser.idxs_and_shapes
    vect[9] = 3.0  # still the caller's to write
    assert made["scalar"] == 3.0
    made["scalar"] = 4.0
    assert vect[9] == 3.0, "the caller's vector"
    assert made.vect is not vect


def test_blocks_are_read_only_so_that_no_vector_changes_behind_its_owners_back():
    vect = np.arange(10.0)
    parser = small_parser().new_vect(vect)
    with pytest.raises(ValueError, match="read-only"):
        parser["bias"][0, 0] = 5.0
    with pytest.raises(ValueError, match="read-only"):
        parser["weights", 0][0] += 5.0
    with pytest.raises(ValueError, match="read-only"):
        parser["bias"].fill(5.0)
    npt.assert_array_equal(vect, np.arange(10.0))


IN_PLACE = ["iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow"]


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("other", [2.0, np.array([1.0, 2.0, 3.0]), np.array([[3.0], [2.0]])])
def test_in_place_operators_assign_the_block_and_leave_vectors_alone(name, other):
    vect = np.arange(10.0)
    parser = small_parser().new_vect(vect)
    in_place = getattr(operator, name)
    expected = in_place(np.arange(6.0).reshape(2, 3), other)
    parser["weights", 0] = in_place(parser["weights", 0], other)  # what parser["weights", 0] += other does
    npt.assert_array_equal(parser["weights", 0], expected)
    npt.assert_array_equal(parser.vect[6:], vect[6:], err_msg="the other blocks")
    npt.assert_array_equal(vect, np.arange(10.0), err_msg="the caller's vector")


def test_augmented_assignment_of_every_kind_of_block():
    parser = small_parser().new_vect(np.arange(10.0))
    parser["weights", 0] += 1
    parser["bias"] *= parser["bias"]
    parser["scalar"] -= 9
    npt.assert_array_equal(parser.vect, [1, 2, 3, 4, 5, 6, 36, 49, 64, 0])
    parser["square"] = 2 * np.eye(3)
    parser["square"] @= np.ones((3, 3))
    npt.assert_array_equal(parser["square"], np.full((3, 3), 2.0))


def test_a_block_is_an_array_to_all_else():
    parser = small_parser().new_vect(np.arange(10.0))
    block = parser["weights", 0]
    assert isinstance(block, np.ndarray)
    for plain in (block + 1, 1 - block, np.exp(block), np.sum(block, axis=0), block @ np.ones(3), block > 1):
        assert type(plain) is np.ndarray
    copy = block.copy()
    same = copy
    copy += 1  # a copy is written to in place, as any array
    npt.assert_array_equal(same, [[1, 2, 3], [4, 5, 6]])
    np.add(block, 1, out=same)
    npt.assert_array_equal(copy, [[1, 2, 3], [4, 5, 6]])
    npt.assert_array_equal(block, [[0, 1, 2], [3, 4, 5]])
    npt.assert_array_equal(pickle.loads(pickle.dumps(parser))["bias"], parser["bias"])
    npt.assert_array_equal(grad(lambda w: np.sum(w**3))(block), 3 * block**2)
    check_grads(lambda w: np.sum(np.sin(w) ** 2), order=2)(block)


def test_new_parsers_do_not_share_their_blocks():
    parser = small_parser().new_vect(np.arange(10.0))
    for other in (parser.empty_copy(), parser.copy(), parser.new_vect(np.zeros(10))):
        other["more"] = [1.0, 2.0]
        other["bias"] = [[7.0, 7.0, 7.0]]
        assert "more" not in parser.names
        assert other.vect.shape == (12,)
    npt.assert_array_equal(parser.vect, np.arange(10.0))
    npt.assert_array_equal(parser.copy().vect, parser.vect)


def test_a_shape_may_be_one_length():
    parser = VectorParser()
    parser.add_shape("weights", 2)
    assert parser.idxs_and_shapes == {"weights": (slice(0, 2), (2,))}


def test_lists_and_numbers_are_accepted():
    parser = VectorParser()
    parser["list"] = [[1, 2], [3, 4]]
    parser["number"] = 0.5
    parser["traced"] = [0, 0]
    npt.assert_array_equal(parser["list"], [[1, 2], [3, 4]])
    assert parser["number"] == 0.5
    assert parser.vect.dtype == np.float64
    npt.assert_array_equal(parser.new_vect([1.0] * 7)["traced"], [1, 1])

    def total(x):
        parser["traced"] = [x, x**2]
        return np.sum(parser["traced"])

    assert grad(total)(3.0) == 7.0


@pytest.mark.parametrize(
    "value", [0.0, 5, np.array(2.5), [1.0, 2.0, 3.0], np.ones((2, 1)), np.ones((1, 3)), np.ones((1, 2, 1))]
)
def test_assigning_fills_a_block_with_what_broadcasts_to_it(value):
    parser = small_parser().new_vect(np.arange(10.0))
    expected = np.full((2, 3), np.nan)
    expected[:] = value
    parser["weights", 0] = value
    npt.assert_array_equal(parser["weights", 0], expected)
    npt.assert_array_equal(parser.vect[6:], [6, 7, 8, 9], err_msg="the other blocks")


@pytest.mark.parametrize(
    "value", [0.3, np.array([0.1, 0.2, 0.3]), np.array([[0.1], [0.2]]), np.array([[0.4]])]
)
def test_gradients_flow_through_broadcasting_and_augmented_assignment(value):
    def polynomial(value, vect):
        parser = small_parser().new_vect(vect)
        parser["weights", 0] *= parser["weights", 0]
        parser["bias"] += parser["scalar"]
        total = np.sum(np.sin(parser.vect))
        parser["weights", 0] = value
        return total + np.sum(parser.vect**3)

    check_grads(polynomial, argnum=(0, 1), order=2)(value, npr.RandomState(0).randn(10))


@pytest.mark.parametrize("value", [None, "one", [None, 1.0, 2.0]])
def test_what_is_no_number_is_refused(value):
    parser = small_parser()
    with pytest.raises(TypeError, match="expected numbers, got"):
        parser["bias"] = value
    with pytest.raises(TypeError, match="expected numbers, got"):
        parser["new"] = value
    assert parser.names == small_parser().names


@pytest.mark.parametrize("shape", [(3, 2), (2, 2), (2,), (2, 2, 3), (0,)])
def test_a_value_that_does_not_broadcast_is_refused_and_changes_nothing(shape):
    parser = small_parser().new_vect(np.arange(10.0))
    message = (
        rf"\('weights', 0\) has shape \(2, 3\), got an array of shape {re.escape(str(shape))}, which does not"
    )
    with pytest.raises(ValueError, match=message):
        parser["weights", 0] = np.zeros(shape)
    npt.assert_array_equal(parser.vect, np.arange(10.0))


def test_a_block_fits_up_to_axes_of_length_one():
    parser = small_parser()
    parser["bias"] = np.arange(3.0)
    npt.assert_array_equal(parser["bias"], [[0, 1, 2]])
    with pytest.raises(
        ValueError, match=r"\('weights', 0\) has shape \(2, 3\), got an array of shape \(3, 2\)"
    ):
        parser["weights", 0] = np.zeros((3, 2))
    with pytest.raises(ValueError, match=r"'bias' has shape \(1, 3\), got an array of shape \(4,\)"):
        parser["bias"] = np.zeros(4)


def test_gradients_flow_through_new_vect_indexing_and_assignment():
    RS = npr.RandomState(0)
    start = RS.randn(10)

    def polynomial(vect):
        parser = small_parser().new_vect(vect)
        parser["bias"] = parser["bias"] * np.sum(parser["weights", 0] ** 2)  # traced into traced
        parser["new"] = np.dot(parser["weights", 0], parser["bias"].T) * parser["scalar"]
        return np.sum(parser["new"] ** 2) + np.sum(parser.vect**3)

    def reference(v):
        bias = v[6:9] * np.sum(v[:6] ** 2)
        new = np.dot(np.reshape(v[:6], (2, 3)), bias) * v[9]
        return np.sum(new**2) + np.sum(np.concatenate([v[:6], bias, v[9:], new]) ** 3)

    npt.assert_allclose(polynomial(start), reference(start), rtol=1e-13)
    npt.assert_allclose(grad(polynomial)(start), grad(reference)(start), rtol=1e-11)
    check_grads(polynomial, order=2)(start)


def test_gradients_flow_into_a_block_of_a_plain_vector():
    parser = small_parser().new_vect(np.arange(10.0))

    def square(block):
        parser["bias"] = block
        return np.sum(parser.vect**2)

    npt.assert_array_equal(grad(square)(np.array([1.0, 2.0, 3.0])), [2, 4, 6])


def test_the_gradient_of_a_scalar_block_takes_a_plain_number():
    vjp, value = make_vjp(lambda v: small_parser().new_vect(v)["scalar"])(np.arange(10.0))
    assert value == 9
    npt.assert_array_equal(vjp(1.0), np.eye(10)[9])


def test_the_gradient_of_a_block_twice_used_is_the_sum():
    def twice(v):
        parser = small_parser().new_vect(v)
        return np.sum(parser["bias"] ** 2) + np.sum(3 * parser["bias"]) + np.sum(parser.vect)

    npt.assert_array_equal(grad(twice)(np.arange(10.0)), [1, 1, 1, 1, 1, 1, 16, 18, 20, 1])


def test_parser_errors_say_what_was_expected():
    parser = small_parser()
    with pytest.raises(KeyError, match="no block named 'biases'; there are"):
        parser["biases"]
    with pytest.raises(ValueError, match=r"expected a vector of shape \(10,\), got shape \(9,\)"):
        parser.new_vect(np.zeros(9))
    with pytest.raises(ValueError, match=r"expected a vector of shape \(10,\), got shape \(10, 1\)"):
        parser.new_vect(np.zeros((10, 1)))
    with pytest.raises(ValueError, match="there is a block named 'bias' already"):
        parser.add_shape("bias", (2,))
    with pytest.raises(ValueError, match="lengths must not be negative"):
        parser.add_shape("negative", (2, -1))
    parser.vect = np.zeros(3)
    with pytest.raises(ValueError, match=r"expected a vector of shape \(10,\), got shape \(3,\)"):
        parser["bias"]


# -- WeightsParser, fill_parser, BatchList ----------------------------------------------------------------------


def test_weights_parser_gets_and_sets_blocks_of_a_vector_held_elsewhere():
    parser = WeightsParser()
    parser.add_weights("W", (2, 3))
    parser.add_weights("b", (3,))
    assert parser.N == 9
    assert parser.idxs_and_shapes == {"W": (slice(0, 6), (2, 3)), "b": (slice(6, 9), (3,))}
    vect = np.arange(9.0)
    npt.assert_array_equal(parser.get(vect, "W"), [[0, 1, 2], [3, 4, 5]])
    parser.set(vect, "b", np.array([-1.0, -2.0, -3.0]))
    npt.assert_array_equal(vect, [0, 1, 2, 3, 4, 5, -1, -2, -3])
    parser.set(vect, "W", 0.5)
    npt.assert_array_equal(vect, [0.5] * 6 + [-1, -2, -3])
    parser.set(vect, "W", np.array([[1.0], [2.0]]))
    npt.assert_array_equal(vect, [1, 1, 1, 2, 2, 2, -1, -2, -3])
    npt.assert_array_equal(grad(lambda v: np.sum(parser.get(v, "b") ** 2))(vect), [0] * 6 + [-2, -4, -6])


def test_weights_parser_refuses_what_it_cannot_write():
    parser = WeightsParser()
    parser.add_weights("W", (2,))
    with pytest.raises(TypeError, match="plain float array"):
        parser.set(np.zeros(2, int), "W", np.array([0.5, 0.5]))
    with pytest.raises(TypeError, match="plain float array"):
        grad(lambda v: parser.set(v, "W", v))(np.zeros(2))
    with pytest.raises(ValueError, match=r"expected a vector of shape \(2,\), got shape \(3,\)"):
        parser.set(np.zeros(3), "W", np.zeros(2))
    with pytest.raises(ValueError, match=r"'W' has shape \(2,\), got an array of shape \(3,\)"):
        parser.set(np.zeros(2), "W", np.zeros(3))


def test_fill_parser_repeats_a_number_over_each_block():
    parser = small_parser()
    npt.assert_array_equal(fill_parser(parser, [1.5, 2, 3]), [1.5] * 6 + [2] * 3 + [3])
    check_grads(lambda items: np.sin(fill_parser(parser, items)), order=2)(np.array([0.3, 0.2, -1.0]))
    slope = grad(lambda x: np.sum(fill_parser(parser, [x, 2.0, x**2])))(3.0)  # traced numbers in a plain list
    assert slope == 6 + 6
    with pytest.raises(ValueError, match=r"a number for each of 3 blocks, got shape \(2,\)"):
        fill_parser(parser, [1.0, 2.0])
    with pytest.raises(ValueError, match=r"a number for each of 3 blocks, got shape \(\)"):
        fill_parser(parser, 1.0)


@given(st.integers(1, 50), st.integers(1, 60))
def test_batches_cover_every_row_once(N_total, N_batch):
    batches = BatchList(N_total, N_batch)
    rows = np.arange(N_total)
    assert np.concatenate([rows[batch] for batch in batches]).tolist() == rows.tolist()
    assert all(len(rows[batch]) == N_batch for batch in batches[:-1])
    assert all(batch.stop <= N_total for batch in batches)
    assert batches.all_idxs == slice(0, N_total)


@pytest.mark.parametrize(("N_total", "N_batch"), [(10, 0), (0, 10), (-1, 2)])
def test_batches_need_rows(N_total, N_batch):
    with pytest.raises(ValueError, match=f"got {N_total} and {N_batch}"):
        BatchList(N_total, N_batch)


# -- logsumexp, the logistic function under its 2015 names ------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4, 1e300])
def test_logsumexp_agrees_with_scipy_however_large(axis, offset):
    X = npr.RandomState(0).randn(4, 3) * 5 + offset
    npt.assert_allclose(logsumexp(X, axis), scipy.special.logsumexp(X, axis=axis, keepdims=True), rtol=1e-15)


def test_logsumexp_of_infinities():
    X = np.array([[-np.inf, 0.0], [np.inf, 0.0]])
    npt.assert_array_equal(logsumexp(X, 1), [[0], [np.inf]])
    with np.errstate(divide="ignore"):  # log 0 is what was asked for
        npt.assert_array_equal(logsumexp(np.full((1, 2), -np.inf), 1), [[-np.inf]])


def test_logsumexp_is_differentiable_twice_also_at_ties_and_far_out():
    X = npr.RandomState(0).randn(3, 4)
    check_grads(logsumexp, order=2)(X, 1)
    check_grads(logsumexp, order=2)(np.zeros((3, 4)), 0)
    npt.assert_allclose(
        grad(lambda X: np.sum(logsumexp(X, 1)))(np.array([[1e4, 1e4, -1e4]])), [[0.5, 0.5, 0]], rtol=1e-15
    )


def test_logit_is_the_logistic_function_in_this_module():
    x = np.linspace(-30, 30, 21)
    npt.assert_array_equal(nn_utils.logit(x), logistic(x))
    npt.assert_allclose(nn_utils.inv_logit(nn_utils.logit(x)), x, rtol=1e-2)
    check_grads(nn_utils.inv_logit, order=2)(np.array([0.1, 0.5, 0.8]))
    npt.assert_allclose(nn_utils.d_logit(x), elementwise_grad(nn_utils.logit)(x), rtol=1e-12)
    npt.assert_allclose(nn_utils.d_logit(np.array([-700.0, 700.0])), np.exp([-700.0, -700.0]), rtol=1e-12)


def test_inv_logit_has_its_limits_at_0_and_1_as_in_2015():
    assert nn_utils.inv_logit(1.0) == np.inf
    assert nn_utils.inv_logit(0.0) == -np.inf
    ends = np.array([0.0, 0.5, 1.0])
    npt.assert_array_equal(nn_utils.inv_logit(ends), [-np.inf, 0, np.inf])
    npt.assert_array_equal(nn_utils.logit(nn_utils.inv_logit(ends)), ends)
    npt.assert_array_equal(elementwise_grad(nn_utils.logit)(nn_utils.inv_logit(ends)), [0, 0.25, 0])
    for outside in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"expected values from 0 to 1, got {outside}"):
            nn_utils.inv_logit(outside)


# -- networks -------------------------------------------------------------------------------------------------


def net_problem(seed, layer_sizes, rows):
    """(weights as a vector, X, one-hot T, L2 penalties): random."""
    RS = npr.RandomState(seed)
    N = sum((m + 1) * n for m, n in pairwise(layer_sizes))
    T = np.eye(layer_sizes[-1])[RS.randint(layer_sizes[-1], size=rows)]
    return RS.randn(N), RS.randn(rows, layer_sizes[0]), T, np.exp(RS.randn(N) - 3)


def reference_log_probs(W_vect, X, layer_sizes):
    """Unit by unit: nothing but the definition, in long double."""
    rows = []
    for x in X:
        z, at = [np.longdouble(value) for value in x], 0
        for m, n in pairwise(layer_sizes):
            W, b = W_vect[at : at + m * n], W_vect[at + m * n : at + (m + 1) * n]
            a = [sum(z[i] * W[i * n + j] for i in range(m)) + b[j] for j in range(n)]
            z, at = [np.tanh(value) for value in a], at + (m + 1) * n
        rows.append([float(value - np.log(sum(np.exp(other) for other in a))) for value in a])
    return np.array(rows)


LAYERS = [(4, 3), (4, 5, 3), (3, 4, 5, 2)]


@pytest.mark.parametrize("layer_sizes", LAYERS)
def test_network_is_its_definition(layer_sizes):
    W_vect, X, T, L2 = net_problem(0, layer_sizes, rows=6)
    parser, predictions, loss, frac_err = make_nn_funs(layer_sizes)
    assert parser.vect.shape == W_vect.shape
    expected = reference_log_probs(W_vect, X, layer_sizes)
    npt.assert_allclose(predictions(W_vect, X), expected, rtol=1e-12)
    data_loss = -np.mean([row[label] for row, label in zip(expected, np.argmax(T, 1), strict=True)])
    npt.assert_allclose(loss(W_vect, X, T), data_loss, rtol=1e-12, err_msg="no penalty")
    penalised = data_loss + sum(l2 * w * w for l2, w in zip(L2, W_vect, strict=True))
    npt.assert_allclose(loss(W_vect, X, T, L2), penalised, rtol=1e-12, err_msg="a penalty per weight")
    npt.assert_allclose(
        loss(W_vect, X, T, 0.3), data_loss + 0.3 * np.sum(W_vect**2), rtol=1e-12, err_msg="one penalty"
    )
    wrong = [np.argmax(row) != np.argmax(t) for row, t in zip(expected, T, strict=True)]
    assert frac_err(W_vect, X, T) == sum(wrong) / 6
    npt.assert_allclose(np.sum(np.exp(predictions(W_vect, X)), axis=1), 1, rtol=1e-14)


@pytest.mark.parametrize("layer_sizes", LAYERS)
def test_network_gradients(layer_sizes):
    W_vect, X, T, L2 = net_problem(1, layer_sizes, rows=5)
    _, predictions, loss, _ = make_nn_funs(layer_sizes)
    check_grads(loss, argnum=(0, 1, 3), order=2)(W_vect, X, T, L2)
    check_grads(loss, argnum=(0, 3), order=2)(W_vect, X, T, 0.1)
    check_grads(loss, order=2)(W_vect, X, T)
    check_grads(predictions, argnum=(0, 1), order=2)(W_vect, X)


@pytest.mark.parametrize("layer_sizes", LAYERS)
def test_both_forms_of_the_weights_give_the_same_numbers(layer_sizes):
    _, X, T, _ = net_problem(2, layer_sizes, rows=5)
    parser, predictions, loss, frac_err = make_nn_funs(layer_sizes)
    weights = init_weights(layer_sizes, npr.RandomState(7), scale=0.3)
    W_vect = npr.RandomState(7).randn(parser.vect.size) * 0.3  # as the 2015 scripts draw them
    for i, (W, b) in enumerate(weights):
        npt.assert_array_equal(W, parser.new_vect(W_vect)["weights", i], err_msg=f"weights {i}")
        npt.assert_array_equal(b, parser.new_vect(W_vect)["biases", i], err_msg=f"biases {i}")
    log_probs = net_log_probs(weights, X)
    npt.assert_array_equal(log_probs, predictions(W_vect, X))
    assert nll(log_probs, T) == loss(W_vect, X, T)
    assert error_rate(log_probs, T) == frac_err(W_vect, X, T)
    gradient = grad(lambda weights: nll(net_log_probs(weights, X), T))(weights)  # a traced list of tuples
    flat = np.concatenate([np.ravel(array) for layer in gradient for array in layer])
    npt.assert_array_equal(flat, grad(loss)(W_vect, X, T), err_msg="gradient")


def test_initial_weights_are_repeatable_scaled_by_block_and_differentiable_in_the_scale():
    sizes = (3, 4, 2)
    scales = np.array([[0.1, 0.2], [0.3, 0.4]])
    plain, scaled = (init_weights(sizes, npr.RandomState(3), scale) for scale in (1.0, scales))
    for i in range(2):
        for j, kind in enumerate(("weights", "biases")):
            npt.assert_array_equal(scaled[i][j], scales[i, j] * plain[i][j], err_msg=f"{kind} {i}")
    assert [(W.shape, b.shape) for W, b in plain] == [((3, 4), (1, 4)), ((4, 2), (1, 2))]

    def total(scale):
        return sum(np.sum(W**3) + np.sum(b**2) for W, b in init_weights(sizes, npr.RandomState(3), scale))

    check_grads(total, order=2)(scales)
    check_grads(total, order=2)(0.5)
    check_grads(lambda x: total([[x, 0.2], [x**2, 1.0]]), order=2)(0.5)


def test_extreme_inputs_give_finite_losses_and_gradients():
    W_vect, X, T, _ = net_problem(4, (4, 5, 3), rows=5)
    _, _, loss, _ = make_nn_funs((4, 5, 3))
    with np.errstate(under="ignore"):
        value, gradient = loss(1e4 * W_vect, 1e4 * X, T), grad(loss)(1e4 * W_vect, 1e4 * X, T)
        curvature = grad(lambda w: np.sum(grad(loss)(w, 1e4 * X, T)))(1e4 * W_vect)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    assert np.all(np.isfinite(curvature))


def test_network_functions_leave_their_arguments_alone():
    arguments = net_problem(5, (4, 5, 3), rows=5)
    copies = [array.copy() for array in arguments]
    _, predictions, loss, frac_err = make_nn_funs((4, 5, 3))
    grad(loss, (0, 1, 3))(*arguments)
    predictions(*arguments[:2])
    frac_err(*arguments[:3])
    for name, array, original in zip(("weights", "X", "T", "L2"), arguments, copies, strict=True):
        npt.assert_array_equal(array, original, err_msg=name)


def test_network_errors_say_what_does_not_fit():
    W_vect, X, T, L2 = net_problem(6, (4, 5, 3), rows=5)
    _, predictions, loss, frac_err = make_nn_funs((4, 5, 3))
    with pytest.raises(ValueError, match=r"expected a vector of shape \(43,\), got shape \(42,\)"):
        predictions(W_vect[1:], X)
    with pytest.raises(ValueError, match=r"layer 0: 3 inputs do not fit weights \(4, 5\)"):
        predictions(W_vect, X[:, 1:])
    with pytest.raises(ValueError, match=r"X of shape \(rows, m\)"):
        predictions(W_vect, X[0])
    for labels in (T[:, 1:], T[1:], np.argmax(T, 1)):
        with pytest.raises(
            ValueError, match=r"one-hot labels .*\(5, 3\).*got shape " + re.escape(str(labels.shape))
        ):
            loss(W_vect, X, labels)
        with pytest.raises(ValueError, match="one-hot labels"):
            frac_err(W_vect, X, labels)
    with pytest.raises(ValueError, match="at least one row"):
        loss(W_vect, X[:0], T[:0])
    with pytest.raises(ValueError, match=r"L2_reg must be of shape \(\) or \(43,\), got \(42,\)"):
        loss(W_vect, X, T, L2[1:])
    with pytest.raises(ValueError, match=r"a layer or more"):
        net_log_probs([], X)
    with pytest.raises(ValueError, match=r"layer 1: 5 inputs do not fit weights \(6, 3\)"):
        net_log_probs([(np.zeros((4, 5)), np.zeros(5)), (np.zeros((6, 3)), np.zeros(3))], X)
    with pytest.raises(ValueError, match=r"weights \(4, 5\) and biases \(5, 1\)"):
        net_log_probs([(np.zeros((4, 5)), np.zeros((5, 1)))], X)
    with pytest.raises(ValueError, match=r"at least an input and an output layer, got \(4,\)"):
        make_nn_funs((4,))
    with pytest.raises(ValueError, match=r"broadcast to shape \(2, 2\), got shape \(3, 2, 2\)"):
        init_weights((4, 5, 3), npr.RandomState(0), np.ones((3, 2, 2)))


# -- plotting helpers -----------------------------------------------------------------------------------------


def test_layer_names_count_from_one():
    assert nice_layer_name(("weights", 0)) == "Layer 1 weights"
    assert nice_layer_name(("biases", 3)) == "Layer 4 biases"


@pytest.mark.parametrize("plot", [nn_utils.plot_images, nn_utils.plot_mnist_images])
def test_images_are_laid_out_row_by_row(plot):
    images = npr.RandomState(0).uniform(0.5, 1.0, size=(7, 2 * 3))
    originals = images.copy()
    ax = Figure().subplots()
    drawn = plot(images, ax, ims_per_row=3, padding=1, digit_dimensions=(2, 3), vmin=0.25)
    canvas = drawn.get_array()
    assert canvas.shape == (3 * 3 + 1, 3 * 4 + 1)
    for i, image in enumerate(images):
        top, left = 1 + 3 * (i // 3), 1 + 4 * (i % 3)
        npt.assert_array_equal(
            canvas[top : top + 2, left : left + 3], image.reshape(2, 3), err_msg=f"image {i}"
        )
    assert np.sum(canvas == 0.25) == canvas.size - images.size, "the rest is padding"
    assert drawn.get_clim() == (0.25, images.max())
    assert drawn.axes is ax
    assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0
    npt.assert_array_equal(images, originals)


def test_few_images_make_a_narrow_figure_padded_with_the_smallest_pixel():
    images = np.arange(2 * 4.0).reshape(2, 2, 2) - 3
    canvas = plot_images(images, Figure().subplots(), padding=1, digit_dimensions=(2, 2)).get_array()
    npt.assert_array_equal(
        canvas, [[-3] * 7, [-3, -3, -2, -3, 1, 2, -3], [-3, -1, 0, -3, 3, 4, -3], [-3] * 7]
    )


def test_images_of_another_size_are_refused():
    for images in (np.zeros((2, 783)), np.zeros((0, 784)), np.zeros(784)):
        with pytest.raises(
            ValueError, match=r"expected images of 28 x 28 pixels, got shape " + re.escape(str(images.shape))
        ):
            plot_images(images, Figure().subplots())
