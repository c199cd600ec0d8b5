"""Kernels, the nearest-neighbour loss, and the linear transformations of images."""

import re

import autograd.numpy as np
import numpy.random as npr
import numpy.testing as npt
import pytest
import scipy.linalg
import scipy.special
from autograd import grad, jacobian
from autograd.test_util import check_grads
from hypothesis import given
from hypothesis import strategies as st

from hypergrad.kernel_methods import Kernel, make_exp_kernel, make_sq_exp_kernel, weighted_neighbors_loss
from hypergrad.transforms import matrix_exp, translate

MAKERS = [make_exp_kernel, make_sq_exp_kernel]


def neighbor_problem(seed, rows=(7, 5), features=4, classes=3):
    """(training, validation) data as (X, T): random, every class among the training rows."""
    RS = npr.RandomState(seed)
    labels = [np.concatenate([np.arange(classes), RS.randint(classes, size=n - classes)]) for n in rows]
    return [(RS.randn(n, features), np.eye(classes)[label]) for n, label in zip(rows, labels, strict=True)]


def reference_loss(train, valid, kernel_value):
    """Row by row, straight from the definition."""
    losses = []
    for x, t in zip(*valid, strict=True):
        weights = [kernel_value(x, other) for other in train[0]]
        votes = [weight for weight, label in zip(weights, train[1], strict=True) if (label == t).all()]
        losses.append(-np.log(sum(votes) / sum(weights)))
    return sum(losses) / len(losses)


# -- kernels --------------------------------------------------------------------------------------------------


def test_gram_matrices_are_those_of_2015():
    RS = npr.RandomState(0)
    x1, x2, L0 = RS.randn(3, 4), RS.randn(5, 4), 0.7
    for i in range(3):
        for j in range(5):
            difference = x1[i] - x2[j]
            expected = np.exp(-np.abs(difference).mean() / L0)
            npt.assert_allclose(make_exp_kernel(L0)(x1, x2)[i, j], expected, rtol=1e-13, err_msg="exp")
            expected = np.exp(-(difference**2).sum() / (2 * L0**2))
            npt.assert_allclose(make_sq_exp_kernel(L0)(x1, x2)[i, j], expected, rtol=1e-12, err_msg="sq_exp")


@pytest.mark.parametrize("make_kernel", MAKERS)
def test_gram_matrix_of_a_set_with_itself(make_kernel):
    x = npr.RandomState(1).randn(6, 3)
    gram = make_kernel(1.5)(x, x)
    npt.assert_allclose(np.diag(gram), 1, rtol=1e-13, err_msg="diagonal")
    npt.assert_allclose(gram, gram.T, rtol=1e-13, err_msg="symmetry")
    assert np.linalg.eigvalsh(gram).min() > 0, "positive definite"


@pytest.mark.parametrize("make_kernel", MAKERS)
def test_kernels_are_differentiable_twice_in_features_and_length_scale(make_kernel):
    RS = npr.RandomState(2)
    x1, x2 = RS.randn(3, 4), RS.randn(2, 4)
    check_grads(make_kernel(1.3), argnum=(0, 1), order=2)(x1, x2)
    check_grads(lambda L0: make_kernel(L0)(x1, x2), order=2)(1.3)


@pytest.mark.parametrize("make_kernel", MAKERS)
def test_kernels_refuse_what_has_no_distance(make_kernel):
    for L0 in (0.0, -1.0, np.nan, np.inf, np.ones(2)):
        with pytest.raises(ValueError, match=re.escape(f"L0 must be a positive number, got {L0}")):
            make_kernel(L0)
    with pytest.raises(ValueError, match=r"got shapes \(2, 3\) and \(2, 4\)"):
        make_kernel(1.0)(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"got shapes \(3,\) and \(3,\)"):
        make_kernel(1.0)(np.zeros(3), np.zeros(3))


# -- weighted_neighbors_loss ----------------------------------------------------------------------------------


def test_loss_is_its_definition():
    train, valid = neighbor_problem(0)

    def exp_value(x, y):
        return np.exp(-np.abs(x - y).mean() / 0.6)

    def sq_exp_value(x, y):
        return np.exp(-((x - y) ** 2).sum() / (2 * 0.6**2))

    ours = weighted_neighbors_loss(train, valid, make_exp_kernel(0.6))
    npt.assert_allclose(ours, reference_loss(train, valid, exp_value), rtol=1e-12)
    ours = weighted_neighbors_loss(train, valid, make_sq_exp_kernel(0.6))
    npt.assert_allclose(ours, reference_loss(train, valid, sq_exp_value), rtol=1e-12)


@pytest.mark.parametrize("make_kernel", MAKERS)
def test_any_positive_function_of_two_sets_is_a_kernel(make_kernel):
    train, valid = neighbor_problem(1)
    kernel = make_kernel(0.6)
    npt.assert_allclose(
        weighted_neighbors_loss(train, valid, lambda x1, x2: kernel(x1, x2)),
        weighted_neighbors_loss(train, valid, kernel),
        rtol=1e-12,
    )
    with pytest.raises(ValueError, match="kernel's values must be positive"):
        weighted_neighbors_loss(train, valid, lambda x1, x2: np.dot(x1, x2.T))


def test_data_may_be_pairs_or_dicts_also_traced_ones():
    train, valid = neighbor_problem(2)
    as_dicts = [dict(zip("XT", data, strict=True)) for data in (train, valid)]
    kernel = make_sq_exp_kernel(1.0)
    assert weighted_neighbors_loss(*as_dicts, kernel) == weighted_neighbors_loss(train, valid, kernel)

    def of_dict(train_data):
        return weighted_neighbors_loss(train_data, as_dicts[1], kernel)

    def of_array(X):
        return weighted_neighbors_loss((X, train[1]), valid, kernel)

    npt.assert_array_equal(grad(of_dict)(as_dicts[0])["X"], grad(of_array)(train[0]))


@pytest.mark.parametrize("make_kernel", MAKERS)
def test_loss_gradients(make_kernel):
    train, valid = neighbor_problem(3)

    def loss(X_train, X_valid, L0, transform):
        transformed = (np.dot(X_train, transform), train[1])
        return weighted_neighbors_loss(transformed, (X_valid, valid[1]), make_kernel(L0))

    transform = npr.RandomState(0).randn(4, 4)
    check_grads(loss, argnum=(0, 1, 2, 3), order=2)(train[0], valid[0], 1.1, transform)


def test_far_neighbors_count_in_proportion():
    train, valid = neighbor_problem(4)
    far = (valid[0] + 40, valid[1])
    same_class = far[1] @ train[1].T == 1
    differences = far[0][:, None] - train[0]
    for kernel, log_weights in (
        (make_exp_kernel(0.05), -np.mean(np.abs(differences), axis=2) / 0.05),
        (make_sq_exp_kernel(1.0), -0.5 * np.sum(differences**2, axis=2)),
    ):
        assert not kernel(far[0], train[0]).any(), "the Gram matrix itself underflows"
        expected = scipy.special.logsumexp(log_weights, axis=1) - scipy.special.logsumexp(
            log_weights, axis=1, b=same_class
        )
        npt.assert_allclose(weighted_neighbors_loss(train, far, kernel), np.mean(expected), rtol=1e-10)
        gradient = grad(lambda X, kernel=kernel: weighted_neighbors_loss((X, train[1]), far, kernel))(
            train[0]
        )
        assert np.all(np.isfinite(gradient))
        assert gradient.any()


@pytest.mark.parametrize("make_kernel", MAKERS)
def test_gradients_are_finite_where_rows_coincide(make_kernel):
    train, _ = neighbor_problem(5)

    def loss(X_train, X_valid):
        return weighted_neighbors_loss((X_train, train[1]), (X_valid, train[1]), make_kernel(0.5))

    for argnum, name in ((0, "training"), (1, "validation")):
        assert np.all(np.isfinite(grad(loss, argnum)(train[0], train[0]))), name
        assert np.all(np.isfinite(grad(loss, argnum)(0 * train[0], 0 * train[0]))), (
            f"{name}, all rows the same"
        )
    shares = np.mean(train[1], axis=0)  # with all rows the same, every class has its share of the rows
    npt.assert_allclose(loss(0 * train[0], 0 * train[0]), -np.sum(shares * np.log(shares)), rtol=1e-13)


def test_loss_leaves_its_data_alone():
    train, valid = neighbor_problem(6)
    before = [array.copy() for data in (train, valid) for array in data]
    grad(lambda X: weighted_neighbors_loss((X, train[1]), valid, make_exp_kernel(1.0)))(train[0])
    for array, copy in zip([*train, *valid], before, strict=True):
        npt.assert_array_equal(array, copy)


def test_loss_errors_say_which_data_and_what_was_expected():
    train, valid = neighbor_problem(7)
    kernel = make_exp_kernel(1.0)
    with pytest.raises(ValueError, match=r"training data: .* got \(6, 4\) and \(7, 3\)"):
        weighted_neighbors_loss((train[0][1:], train[1]), valid, kernel)
    with pytest.raises(ValueError, match=r"validation data: .* got \(5, 4\) and \(5,\)"):
        weighted_neighbors_loss(train, (valid[0], np.argmax(valid[1], 1)), kernel)
    with pytest.raises(ValueError, match=r"validation data: .* got \(0, 4\) and \(0, 3\)"):
        weighted_neighbors_loss(train, (valid[0][:0], valid[1][:0]), kernel)
    with pytest.raises(ValueError, match="training data: expected one-hot labels"):
        weighted_neighbors_loss((train[0], np.ones((7, 3)) / 3), valid, kernel)
    keep = train[1][:, 2] == 0
    with pytest.raises(ValueError, match=r"no training row for classes \[2\]"):
        weighted_neighbors_loss((train[0][keep], train[1][keep]), valid, kernel)


def test_a_kernel_can_be_made_of_any_logarithm():
    kernel = Kernel(lambda x1, x2: -np.abs(x1 - x2.T))
    npt.assert_allclose(kernel(np.array([[1.0]]), np.array([[3.0], [1.0]])), [[np.exp(-2), 1.0]])


# -- transforms -----------------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(1, 4), st.integers(-5, 5), st.integers(-5, 5))
def test_translate_moves_every_pixel_and_fills_with_zeros(Lx, Ly, nx, ny):
    image = 1.0 + np.arange(Lx * Ly).reshape(Ly, Lx)
    shifted = (translate(Lx, Ly, nx, ny) @ image.ravel()).reshape(Ly, Lx)
    for y in range(Ly):
        for x in range(Lx):
            inside = 0 <= x - nx < Lx and 0 <= y - ny < Ly
            assert shifted[y, x] == (image[y - ny, x - nx] if inside else 0), f"pixel x = {x}, y = {y}"


def test_translate_refuses_fractions_and_images_without_pixels():
    with pytest.raises(TypeError, match="integer"):
        translate(4, 4, 0.5, 0)
    with pytest.raises(ValueError, match="at least one pixel, got 0 x 4"):
        translate(0, 4, 1, 1)


@pytest.mark.parametrize("t", [0.0, 1.0, -0.3, 3.0])
def test_matrix_exp_is_its_power_series(t):
    A = npr.RandomState(0).randn(4, 4)
    term, total = np.eye(4), np.eye(4)
    for k in range(1, 80):
        term = term @ (A * t) / k
        total = total + term
    npt.assert_allclose(matrix_exp(A, t), total, rtol=1e-9, atol=1e-11)


def test_matrix_exp_of_a_generator_of_rotations():
    npt.assert_allclose(
        matrix_exp([[0.0, -1.0], [1.0, 0.0]], np.pi / 3), [[0.5, -(0.75**0.5)], [0.75**0.5, 0.5]], rtol=1e-14
    )


def test_matrix_exp_gradients_in_the_matrix_and_in_time():
    RS = npr.RandomState(1)
    for A in (
        RS.randn(3, 3),
        np.zeros((3, 3)),
        np.array([[1.0, 1.0], [0.0, 1.0]]),
    ):  # the last: no eigenbasis
        check_grads(matrix_exp, argnum=(0, 1), modes=["rev"], order=3)(A, 0.7)
    A = RS.randn(4, 4)
    npt.assert_allclose(jacobian(lambda t: matrix_exp(A, t))(0.4), A @ matrix_exp(A, 0.4), rtol=1e-11)
    E, g = RS.randn(4, 4), RS.randn(4, 4)
    forward = np.sum(g * scipy.linalg.expm_frechet(A, E, compute_expm=False))
    backward = np.sum(E * grad(lambda A: np.sum(g * matrix_exp(A, 1.0)))(A))
    npt.assert_allclose(backward, forward, rtol=1e-12)


def test_matrix_exp_learns_a_shift():
    # A generator fitted by gradient descent: three pixels, rotated by one place.
    permutation = np.roll(np.eye(3), 1, axis=0)
    distance = grad(lambda A: np.sum((matrix_exp(A, 1.0) - permutation) ** 2))
    A = 0.1 * npr.RandomState(3).randn(3, 3)
    for _ in range(300):
        A = A - 0.2 * distance(A)
    npt.assert_allclose(matrix_exp(A, 1.0), permutation, atol=1e-6)
    npt.assert_allclose(matrix_exp(A, 3.0), np.eye(3), atol=1e-5)


def test_matrix_exp_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"a square matrix and a number, got shapes \(2, 3\) and \(\)"):
        matrix_exp(np.zeros((2, 3)), 1.0)
    with pytest.raises(ValueError, match=r"a square matrix and a number, got shapes \(2, 2\) and \(2,\)"):
        matrix_exp(np.zeros((2, 2)), np.ones(2))
    with pytest.raises(ValueError, match="not finite"):
        matrix_exp(np.array([[np.nan]]), 1.0)
    with pytest.raises(ValueError, match=r"overflows; the largest entry .* is 1000"):
        matrix_exp(np.eye(2), 1000.0)
