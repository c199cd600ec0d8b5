"""Numbers of two words: against Python's integers, retraced, and where something is refused."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypergrad.exact_rep import Change, ExactRep, FixedPointRangeError, Then
from hypergrad.wide_rep import WideRep

RADIX = 90
SCALE = Fraction(2) ** RADIX


def integers(x):
    return [int(high) * 2**62 + int(low) for high, low in zip(*x.integers, strict=True)]


def contents(x):
    """Everything that must come back."""
    return integers(x), [store.copy() for store in x.stores]


VALUES = st.one_of(
    st.floats(-(2.0**30), 2.0**30),
    st.floats(-1.0, 1.0).map(lambda x: x * 2.0**-60),
    st.integers(-(2**60), 2**60).map(lambda n: float(n) * 2.0**-88),
)
SHIFTS = st.sampled_from([0, 0, 1, 2, 3, 17, 40])


def operations(size, ends):
    """Changes of two blocks: halvings, additions, both in one."""
    halving = st.tuples(*[SHIFTS] * 2).map(lambda ks: np.array([[1, 1], [1 << k for k in ks]]))
    values = st.lists(VALUES, min_size=size, max_size=size).map(np.array)
    factors = st.tuples(*[st.floats(-4.0, 4.0)] * 2).map(np.array)
    return st.builds(
        lambda ratios, addend: Change(ratios, addend, ends),
        st.one_of(st.none(), halving),
        st.one_of(st.none(), st.tuples(values, factors)),
    )


@settings(max_examples=150)
@given(st.integers(0, 5), st.integers(1, 5), st.booleans(), st.data())
def test_changes_are_those_of_pythons_integers_and_can_be_retraced(first, second, joint, data):
    """Halving rounds down, adding to the nearest, the even one of two; undone, words and buffers are as before."""
    size, ends = first + second, np.array([first, first + second])
    start = np.array(data.draw(st.lists(VALUES, min_size=size, max_size=size)))
    x = WideRep(start, RADIX, [size] if joint else [first, second])
    expected = [round(Fraction(value) * SCALE) for value in start]
    assert integers(x) == expected
    before, done = contents(x), []
    for change in data.draw(st.lists(operations(size, ends), max_size=8)):
        if joint and change.ratios is not None:  # one buffer, one factor
            change.ratios[1, 1] = change.ratios[1, 0]
        shifts = [0, 0] if change.ratios is None else [int(d).bit_length() - 1 for d in change.ratios[1]]
        values, factors = change.addend or (np.zeros(size), np.zeros(2))
        for i in range(size):
            block = int(i >= first)
            product = float(factors[block] * 2.0**RADIX * values[i])
            expected[i] = (expected[i] >> shifts[block]) + round(Fraction(product))
        x.change(change)
        assert integers(x) == expected
        np.testing.assert_allclose(x.val, [float(Fraction(n) / SCALE) for n in expected], rtol=2.0**-51)
        done.append(change)
    for change in reversed(done):
        out = np.empty(size)
        x.change(change._replace(back=True, out=out))
        np.testing.assert_array_equal(out, x.val)
    assert contents(x) == before


def test_squares_twenty_orders_apart_keep_their_digits():
    squares = np.array([1e20, 1.0, 1.23456789012345e-7])
    x = WideRep(np.zeros(3), 122 - 68)
    x.change(Change(addend=(squares, np.ones(1)), ends=np.array([3])))
    np.testing.assert_allclose(x.val, squares, rtol=1e-9)
    assert ExactRep(squares, radix_bits=62 - 68).val[2] == 0.0, "one word does not"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**33, 1.5 * 2.0**32])
def test_what_is_out_of_range_is_refused_without_a_trace(value):
    """The range is +-2**33; the halving before, and what would have been added to, are taken back."""
    x, y = WideRep(np.array([0.5, 2.0**32, -1.0]), RADIX), ExactRep(np.zeros(3))
    x.change(Change(np.array([[1], [8]]), ends=np.array([3])))
    before, y_before = contents(x), y.copy()
    change = Change(
        np.array([[1], [2]]),
        (np.array([1.0, value, 1.0]), np.ones(1)),
        np.array([3]),
        then=Then(y, np.ones(1), None),
    )
    if value == 1.5 * 2.0**32:  # x goes through, but y has no room for it
        change = change._replace(then=Then(y, np.array([1e-6]), None))
    with pytest.raises(FixedPointRangeError, match="at position 1") as caught:
        x.change(change)
    assert caught.value.index == 1
    assert caught.value.numbers is (y if value == 1.5 * 2.0**32 else x)
    assert contents(x) == before
    assert y == y_before


def test_doubling_out_of_range_is_refused():
    """What no training makes: more is doubled than was halved."""
    x = WideRep(np.array([1.0, 2.0**32]), RADIX)
    before = contents(x)
    with pytest.raises(FixedPointRangeError, match=r"doubling 4.29\d+e\+09 at position 1"):
        x.change(Change(np.array([[1], [4]]), ends=np.array([2]), back=True))
    assert contents(x) == before
    with pytest.raises(ValueError, match="powers of two up to 1"):
        x.change(Change(np.array([[3], [4]]), ends=np.array([2])))
    assert contents(x) == before


def test_copies_are_independent():
    x = WideRep(np.array([1.0, 2.0]), RADIX)
    y = x.copy()
    x.change(Change(np.array([[1], [2]]), (np.ones(2), np.ones(1)), np.array([2])))
    assert y.val.tolist() == [1.0, 2.0]
    assert contents(y) == contents(WideRep(np.array([1.0, 2.0]), RADIX))
