"""Random streams, containers of arrays, memoize and tictoc; the logistic function and its inverse."""

import hashlib
import os
import re
import subprocess
import sys
from collections import namedtuple

import autograd.numpy as np
import numpy.random as npr
import numpy.testing as npt
import pytest
from autograd import elementwise_grad, grad
from autograd.test_util import check_grads
from hypothesis import given
from hypothesis import strategies as st

from hypergrad.util import RandomState, dictmap, dictslice, listslice, logistic, logit, memoize, tictoc


@pytest.mark.parametrize("obj", [0, "final_training", (0, 3, 17), (1, "top_rs"), None, "ä"])
def test_random_state_is_seeded_by_the_md5_of_what_prints(obj):
    seed = int(hashlib.md5(str(obj).encode()).hexdigest()[:8], 16)
    ours, reference = RandomState(obj), npr.RandomState(seed)
    npt.assert_array_equal(ours.randn(5), reference.randn(5), err_msg="randn")
    npt.assert_array_equal(ours.randint(10_000, size=7), reference.randint(10_000, size=7), "randint")
    npt.assert_array_equal(ours.permutation(9), reference.permutation(9), err_msg="permutation")


def test_random_state_streams_are_those_of_2015():
    # Written down, so that a change of the seeding is caught: md5("(0, 1, 2)") begins with 7ae3e68b.
    assert RandomState((0, 1, 2)).randint(10_000, size=4).tolist() == [6054, 7314, 8034, 2744]
    assert npr.RandomState(0x7AE3E68B).randint(10_000, size=4).tolist() == [6054, 7314, 8034, 2744]


Pair = namedtuple("Pair", "first second")


@pytest.mark.parametrize(
    ("scalar", "plain"),
    [
        (np.int64(3), 3),
        (np.uint8(3), 3),
        (np.float64(0.1), 0.1),
        (np.float64(1e300), 1e300),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
    ],
)
def test_random_state_takes_numpys_scalars_for_plain_ones(scalar, plain):
    containers = [
        lambda x: x,
        lambda x: (0, x),
        lambda x: [0, (1, x)],
        lambda x: {"seed": [x], x: 1},
        lambda x: Pair(0, x),
        lambda x: slice(x),
    ]
    for nested in containers:
        draws = [RandomState(nested(x)).randint(2**31) for x in (scalar, plain)]
        assert draws[0] == draws[1], str(nested(plain))
        assert draws[1] == npr.RandomState(
            int(hashlib.md5(str(nested(plain)).encode()).hexdigest()[:8], 16)
        ).randint(2**31), "not the stream of 2015"


def test_random_state_is_the_same_in_another_process_with_another_hash_seed():
    code = "from hypergrad.util import RandomState; print(RandomState((0, 'top_rs')).randint(2**31))"
    draws = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert draws == {f"{RandomState((0, 'top_rs')).randint(2**31)}\n"}


def test_int32_seeds_further_streams():
    RS = RandomState("int32")
    draws = [RS.int32() for _ in range(200)]
    assert all(isinstance(draw, int) and 0 <= draw < 2**32 for draw in draws)
    assert max(draws) > 2**31, "never in the upper half of 32 bits"
    assert len(set(draws)) == len(draws)


@pytest.mark.parametrize("idxs", [slice(1, 3), [2, 0], np.array([True, False, True, False])])
def test_slices_of_containers_take_rows_of_every_value(idxs):
    X, T = np.arange(12.0).reshape(4, 3), np.arange(4)
    sliced = dictslice({"X": X, "T": T}, idxs)
    assert list(sliced) == ["X", "T"]
    npt.assert_array_equal(sliced["X"], X[idxs])
    npt.assert_array_equal(sliced["T"], T[idxs])
    for got, whole in zip(listslice([X, T], idxs), [X, T], strict=True):
        npt.assert_array_equal(got, whole[idxs])


def test_dictmap_keeps_the_keys():
    assert dictmap(lambda v: v + 1, {"a": 1, ("b", 0): 2}) == {"a": 2, ("b", 0): 3}


def test_containers_pass_gradients():
    def total(x):
        d = dictmap(lambda v: v**2, dictslice({"x": x}, slice(1, None)))
        return np.sum(d["x"]) + np.sum(listslice([x], slice(0, 1))[0])

    npt.assert_allclose(grad(total)(np.array([5.0, 2.0, 3.0])), [1.0, 4.0, 6.0])


class Counted:
    """A function that counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return (args, kwargs, self.calls)


@pytest.mark.parametrize(
    ("first", "equal", "other"),
    [
        (1, 1, 2),
        (1, 1, 1.0),
        (1, 1, True),
        ("a", "a", "b"),
        (np.arange(3.0), np.arange(3.0), np.arange(3)),
        (np.zeros(5000), np.zeros(5000), np.eye(1, 5000, 2500)[0]),  # what prints is the same for both
        (np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((3, 2))),
        ([1, [2]], [1, [2]], [1, (2,)]),
        ({"a": np.ones(2)}, {"a": np.ones(2)}, {"a": np.zeros(2)}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2, "b": 1}),
        (slice(0, 5), slice(0, 5), slice(0, 6)),
        (None, None, 0),
    ],
)
def test_memoize_runs_once_per_set_of_arguments(first, equal, other):
    counted = Counted()
    remembered = memoize(counted.__call__)
    result = remembered(first, key=first)
    assert remembered(equal, key=equal) is result
    assert remembered(other, key=first) is not result
    assert remembered(first, key=other) is not result
    assert remembered(first) is not result
    assert counted.calls == 4
    assert remembered(first, key=first) is result


def test_memoize_does_not_remember_a_failure_and_keeps_the_name():
    attempts = []

    @memoize
    def sometimes(x):
        """Fails the first time."""
        attempts.append(x)
        if len(attempts) == 1:
            raise OSError("not yet")
        return x

    assert sometimes.__name__ == "sometimes"
    assert sometimes.__doc__ == "Fails the first time."
    with pytest.raises(OSError, match="not yet"):
        sometimes(3)
    assert sometimes(3) == 3
    assert sometimes(3) == 3
    assert attempts == [3, 3]


def test_memoize_sees_an_argument_changed_in_place():
    total = memoize(np.sum)
    x = np.ones(3)
    assert total(x) == 3
    x[0] = 5
    assert total(x) == 7


@pytest.mark.parametrize("argument", [{1, 2}, np.array([object()], dtype=object), bytearray(b"x")])
def test_memoize_refuses_what_it_cannot_compare(argument):
    with pytest.raises(TypeError, match=f"type {type(argument).__name__}"):
        memoize(len)(argument)


def test_tictoc_prints_the_seconds_also_when_the_block_raises(capsys):
    with tictoc("a sum"):
        sum(range(10))
    assert re.search(r"Stop clock a sum: \d+\.\d+ seconds elapsed", capsys.readouterr().out)

    def fails():
        with tictoc("a failure"):
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fails()
    assert "Stop clock a failure" in capsys.readouterr().out


@given(st.floats(-36, 36))
def test_logit_undoes_logistic(x):
    p = logistic(x)
    # What rounding p by one unit in the last place does to x: eps / (1 - p), and eps |x| for the logarithm.
    eps = np.finfo(float).eps
    assert abs(logit(p) - x) <= 4 * eps * (1 / (1 - p) + abs(x) + 1), f"x = {x}, logistic(x) = {p}"


@given(st.floats(1e-300, 1, exclude_max=True))
def test_logistic_undoes_logit(p):
    assert abs(logistic(logit(p)) - p) <= 1e-12 * p


@given(st.floats(-700, 30))
def test_logistic_keeps_its_digits_where_tiny(x):
    expected = float(np.longdouble(1) / (1 + np.exp(-np.longdouble(x))))
    assert abs(logistic(x) - expected) <= 1e-12 * expected


def test_logistic_saturates_without_overflow():
    x = np.array([-1e308, -1000.0, -40.0, 0.0, 40.0, 1000.0, 1e308])
    npt.assert_array_equal(logistic(x)[[0, 1, 3, 4, 5, 6]], [0, 0, 0.5, 1, 1, 1])
    infinite = np.array([-np.inf, np.inf])
    npt.assert_array_equal(logistic(infinite), [0, 1])
    slope = elementwise_grad(logistic)
    npt.assert_array_equal(slope(infinite), 0)
    npt.assert_array_equal(elementwise_grad(slope)(infinite), 0)
    npt.assert_allclose(slope(x), [0, 0, np.exp(-40), 0.25, np.exp(-40), 0, 0], rtol=1e-12)
    npt.assert_array_equal(elementwise_grad(slope)(x)[[0, 1, 3, 5, 6]], 0)


def test_logistic_and_logit_are_differentiable_twice():
    RS = npr.RandomState(0)
    check_grads(logistic, order=2)(RS.randn(3, 4) * 3)
    check_grads(logit, order=2)(RS.uniform(0.05, 0.95, size=(3, 4)))
    check_grads(logistic, order=2)(0.3)
    check_grads(logit, order=2)(0.3)


def test_logistic_and_logit_accept_scalars_lists_and_integers():
    assert logistic(0) == 0.5
    assert logit(0.5) == 0
    npt.assert_allclose(logistic([0, 1000]), [0.5, 1])
    npt.assert_allclose(logit([0.5, 0.75]), [0, np.log(3)])


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")])
def test_logit_refuses_values_outside_the_open_interval(bad):
    with pytest.raises(ValueError, match=rf"strictly between 0 and 1, got {re.escape(str(bad))}"):
        logit(bad)
    with pytest.raises(ValueError, match=r"got .*at index \(1, 0\), one of 2 such entries of 4"):
        logit(np.array([[0.5, 0.5], [bad, bad]]))
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        grad(logit)(bad)


def test_logit_closed_takes_0_and_1_to_infinity():
    ends = np.array([0.0, 0.5, 1.0])
    npt.assert_array_equal(logit(ends, closed=True), [-np.inf, 0, np.inf])
    npt.assert_array_equal(logistic(logit(ends, closed=True)), ends)
