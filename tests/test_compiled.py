"""The compiled loops: against Python's integers, at the ends of the range, and without a folder to keep them in."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from hypergrad import compiled, loops

INT64 = st.integers(-(2**63), 2**63 - 1)
MODULUS = st.one_of(
    st.integers(1, 2**40),
    st.integers(0, 40).map(lambda k: 2**k),
    st.integers(2, 100),
    st.integers(2**14 - 2, 2**14 + 2),  # from 2**14 to 2**31 quotients are had in another way
    st.integers(2**14, 2**24),
    st.integers(2**31 - 2, 2**31 + 2),
)


NO_INTEGERS, NO_FLOATS, NO_RATIOS = np.empty(0, np.int64), np.empty(0), np.empty((2, 0), np.int64)
MARKS = np.array([0, 0, 1, 0])


def change(
    x,
    ends,
    head=NO_INTEGERS,
    ratios=NO_RATIOS,
    values=NO_FLOATS,
    factors=NO_FLOATS,
    back=False,
    unit=1.0,
    bound=0.0,
    out=NO_FLOATS,
):
    """`loops.change` with a head that no words leave, and nothing more to add to."""
    nothing_more = NO_INTEGERS, NO_FLOATS, 1.0, 0.0, NO_FLOATS
    state = x, head, NO_INTEGERS, NO_INTEGERS, MARKS, NO_INTEGERS
    return loops.change(
        *state, ratios, values, factors, ends, back, unit, bound, 2.0**63, out, *nothing_more
    )[:2]


@settings(max_examples=300)
@given(st.lists(INT64, min_size=1, max_size=40), MODULUS, st.booleans())
def test_quotients_and_digits_are_those_of_python(numbers, m, multiples):
    """For all 64 bits, and where a float quotient is likeliest to be off by one: beside multiples of m."""
    if multiples:
        numbers = [
            min(max(x // m * m + shift, -(2**63)), 2**63 - 1) for x in numbers for shift in (-1, 0, m - 1)
        ]
    x, head = np.array(numbers), np.zeros(len(numbers), np.int64)
    loops.multiply(x, head, 1, m)
    assert x.tolist() == [number // m for number in numbers]
    assert head.tolist() == [number % m for number in numbers]
    positive = [abs(number) >> 1 for number in numbers]
    x, head = np.zeros(len(numbers), np.int64), np.array(positive)
    loops.multiply(x, head, m, 1)
    assert x.tolist() == [number % m for number in positive]
    assert head.tolist() == [number // m for number in positive]


@settings(max_examples=100)
@given(
    st.lists(st.tuples(INT64, st.integers(0, 2**22)), min_size=1, max_size=40),
    st.lists(st.tuples(MODULUS, MODULUS), min_size=2, max_size=2),
    st.data(),
)
def test_ratios_for_blocks_and_for_each_do_the_same(pairs, ratios, data):
    x, head = np.array(pairs).T.copy()
    twin, twin_head = x.copy(), head.copy()
    end = data.draw(st.integers(0, x.size))
    ratios = np.array(ratios).T.copy()
    change(x, np.array([end, x.size]), head, ratios)
    loops.multiply_each(twin, twin_head, *ratios.repeat([end, x.size - end], axis=1))
    np.testing.assert_array_equal(x, twin)
    np.testing.assert_array_equal(head, twin_head)


@settings(max_examples=200)
@given(st.lists(MODULUS, min_size=1))
def test_logarithms_are_right_and_exact_for_powers_of_two(moduli):
    logs = np.empty(len(moduli), np.int64)
    loops.log2(np.array(moduli), logs)
    errors = logs - np.log2(moduli) * 2.0**32
    assert np.all((errors > -8.0) & (errors < 0.01))
    loops.log2(2 ** np.arange(41), powers := np.empty(41, np.int64))
    assert powers.tolist() == [k << 32 for k in range(41)]


@given(st.lists(st.integers(0, 2**63 - 1), max_size=40))
def test_the_low_bits_leave_a_head(numbers):
    head, word = np.array(numbers, np.int64), np.empty(len(numbers), np.uint16)
    assert loops.spill(head, 16, word) == any(number % 2**16 for number in numbers)
    assert word.tolist() == [number % 2**16 for number in numbers]
    assert head.tolist() == [number >> 16 for number in numbers]


@settings(max_examples=200)
@given(
    st.lists(st.tuples(INT64, st.floats(-3.0, 3.0)), min_size=1, max_size=40),
    st.sampled_from([1.0, 2.0**40, 2.0**50, 2.0**61, 2.0**62]),
    st.booleans(),
    st.data(),
)
def test_sums_are_those_of_python_or_refused(pairs, unit, bounded, data):
    """Rounded to the nearest, to the even one of two, block by block; what is refused leaves no trace."""
    pairs = [(number >> 2, value) for number, value in pairs] if bounded else pairs
    x, values = np.array([number for number, _ in pairs]), np.array([value for _, value in pairs])
    end = data.draw(st.integers(0, x.size))
    factors, ends = np.array([1.0, -0.5]), np.array([end, x.size])
    each = np.repeat(factors, [end, x.size - end])
    before = x.copy()
    changes = [round(factor * unit * value) for factor, value in zip(each, values, strict=True)]
    sums = [number + change for (number, _), change in zip(pairs, changes, strict=True)]
    bound = 2.0**61 if bounded else np.inf
    went, largest = change(x, ends, values=values, factors=factors, unit=unit, bound=bound)
    most = max(map(abs, sums))
    if went == loops.DONE:
        assert max(map(abs, [*sums, *changes])) < 2**63
        assert x.tolist() == sums
        assert largest in (float(most - 1) + 1.0, float(most) + 1.0)
        undone, _ = change(x, ends, values=values, factors=factors, unit=unit, bound=np.inf, back=True)
        if undone == loops.REFUSED:  # as what was there is at the ends of the range itself
            assert max(abs(number) for number, _ in pairs) >= 2**63 - 1
            assert x.tolist() == sums
            return
    else:
        assert max(map(abs, [*sums, *changes])) >= 2**63 - 1
    np.testing.assert_array_equal(x, before)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2999), st.floats(2.0**50, 2.0**52), st.floats(0.1, 1.0))
def test_the_faster_way_of_adding_gives_the_same(place, large, factor):
    """It is taken a part after the other, wherever changes are small enough."""
    random = np.random.default_rng(place)
    x, values = random.integers(-(2**61), 2**61, 3000), random.normal(size=3000) * 2.0**20
    values[place] = large
    ends = np.array([place, 3000])
    ways = []
    for bound in (2.0**61, np.inf):
        sums, floats = x.copy(), np.empty(3000)
        same = {"values": values, "factors": np.full(2, factor), "unit": 3.0}
        ways.append((change(sums, ends, **same, bound=bound, out=floats), sums.tolist(), floats.tolist()))
        np.testing.assert_array_equal(floats, sums * (1 / 3.0))
        change(sums, ends, **same, bound=2.0**61, back=True)
        np.testing.assert_array_equal(sums, x)
    assert ways[0] == ways[1]


@pytest.mark.parametrize("bound", [100.0, np.inf])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_no_number_is_refused_and_leaves_no_trace(bad, bound):
    x = np.arange(100)
    values = np.ones(100)
    values[57] = bad
    one, ends = np.ones(1), np.array([100])
    assert change(x, ends, values=values, factors=one, bound=bound)[0] == loops.REFUSED
    np.testing.assert_array_equal(x, np.arange(100))


@pytest.mark.parametrize("has_conversions", [True, False])
def test_conversions_are_to_the_nearest(has_conversions, monkeypatch):
    """By instructions of the processor, and by the bits of floats, whichever of them this machine uses."""
    monkeypatch.setattr(compiled, "_HAS_CONVERSIONS", has_conversions)
    to_float, to_integer = (njit(f.py_func) for f in (compiled._to_float, compiled._to_integer))
    numbers = [
        *(sign * (1 << k) + shift for k in range(63) for sign in (-1, 1) for shift in (-1, 0, 1)),
        *(-(2**63), 2**63 - 1, 2**53 + 1, 2**53 + 3, 2**62 + 2**9, 2**62 + 2**9 + 1, 2**62 + 3 * 2**9),
        *np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 1000).tolist(),
    ]
    assert [to_float(number) for number in numbers] == [float(number) for number in numbers]
    floats = [number / 2.0**k for number in numbers for k in (1, 2, 30, 62) if abs(number) < 2**62]
    assert [to_integer(number) for number in floats] == [round(number) for number in floats]


def test_tanh_of_any_float():
    ends = [0.0, 1e-300, 18.0, 20.0, 354.0, 355.0, 1e3, 1e308, np.inf]
    s = np.array([*np.linspace(-20.0, 20.0, 3001), *ends, *(-x for x in ends), np.nan])[:, None]
    true, slope = np.tanh(s), np.empty_like(s)
    loops.tanh(s, np.zeros(1), slope)
    np.testing.assert_allclose(s, true, rtol=0.0, atol=5e-16)
    np.testing.assert_allclose(slope, 1.0 - true**2, rtol=0.0, atol=1e-15)


def test_loops_run_where_nothing_can_be_written(tmp_path):
    """Numba refuses to compile for a cache that it has no place for."""
    place = tmp_path / "file"
    place.write_text("not a folder")
    code = (
        "import numpy as np, numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "from hypergrad import loops\n"
        "assert type(loops.change._cache).__name__ == 'NullCache'\n"
        "from hypergrad.exact_rep import ExactRep\n"
        "x = ExactRep(np.ones(3)).mul(0.3).add(1.0)\n"
        "assert x.sub(1.0).div(0.3) == ExactRep(np.ones(3))"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "NUMBA_CACHE_DIR": str(place)}
    )
