"""Exact reversal of the arithmetic alone: numbers and buffer come back bit for bit."""

import copy
import pickle
import re
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypergrad.exact_rep import (
    FACTOR_BITS,
    BitStore,
    Change,
    ExactRep,
    FixedPointRangeError,
    Then,
    as_ratio,
    as_ratios,
    round_to_lattice,
)

UNDO = {"add": "sub", "sub": "add", "mul": "div", "div": "mul"}


@st.composite
def operations(draw, length):
    """A sequence of (name, operand): vectors and scalars, factors below, at and above one."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.RandomState(seed)
    names = draw(st.lists(st.sampled_from(sorted(UNDO)), max_size=80))
    sequence = []
    for name in names:
        size = length if draw(st.booleans()) else None
        if name in ("add", "sub"):
            operand = rng.standard_normal(size)
        else:
            scale = draw(st.sampled_from([1e-6, 0.05, 0.5, 0.9, 0.999999, 1.0, 1.01, 3.0, 1000.0]))
            operand = scale if size is None else scale * (0.9 + 0.2 * rng.rand(size))
        sequence.append((name, operand))
    return sequence


def apply_all(x, sequence):
    """Apply what stays in range; what was applied."""
    done = []
    for name, operand in sequence:
        before = x.intrep.copy()
        try:
            getattr(x, name)(operand)
        except FixedPointRangeError:
            np.testing.assert_array_equal(x.intrep, before, err_msg="a refused operation changed the value")
        else:
            done.append((name, operand))
    return done


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 6))
def test_any_sequence_undone_in_reverse_restores_value_and_buffer(data, length):
    start = np.random.RandomState(length).standard_normal(length)
    x = ExactRep(start)
    done = apply_all(x, data.draw(operations(length)))
    for name, operand in reversed(done):
        getattr(x, UNDO[name])(operand)
    assert x == ExactRep(start)
    assert np.array_equal(x.val, ExactRep(start).val)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 4))
def test_a_buffer_with_digits_in_it_is_restored_too(data, length):
    x, twin = ExactRep(np.ones(length)), ExactRep(np.ones(length))
    before = data.draw(operations(length))
    apply_all(x, before)
    apply_all(twin, before)
    for name, operand in reversed(apply_all(x, data.draw(operations(length)))):
        getattr(x, UNDO[name])(operand)
    assert x == twin


@settings(max_examples=60, deadline=None)
@given(st.data(), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_blocks_with_factors_of_their_own(data, sizes):
    rng = np.random.RandomState(data.draw(st.integers(0, 1000)))
    start = rng.standard_normal(sum(sizes))
    x, done = ExactRep(start, sizes=sizes), []
    for _ in range(data.draw(st.integers(0, 40))):
        change = rng.standard_normal(len(start))
        ratios = as_ratios(0.3 + 0.7 * rng.rand(len(sizes)))
        x.add(change).change(Change(ratios))
        done.append((change, ratios))
    for change, ratios in reversed(done):
        x.change(Change(ratios, back=True)).sub(change)
    assert x == ExactRep(start, sizes=sizes)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(0, 5), min_size=1, max_size=4), st.data())
def test_blocks_and_their_buffers_are_undone_in_any_mixture(seed, sizes, data):
    """Factors of blocks and of elements, digits pushed onto one buffer; packed and copied on the way."""
    rng, size = np.random.RandomState(seed), sum(sizes)
    start = rng.standard_normal(size)
    x, done = ExactRep(start, sizes=sizes), []

    def go(kind, j, operand, back):
        if kind == "blocks":
            x.change(Change(operand, back=back))
        elif kind == "digits":
            x.stores[j].pop(7) if back else x.stores[j].push(operand, 7)
        else:
            (x.div if back else x.mul)(operand)

    for _ in range(data.draw(st.integers(0, 40))):
        kind, j = (
            data.draw(st.sampled_from(["blocks", "blocks", "digits", "one", "each"])),
            rng.randint(len(sizes)),
        )
        operand = {
            "blocks": as_ratios(0.3 + 0.9 * rng.rand(len(sizes))),
            "digits": rng.randint(7, size=sizes[j]),
            "one": 0.3 + 0.9 * rng.rand(),
            "each": 0.3 + 0.9 * rng.rand(size),
        }[kind]
        go(kind, j, operand, back=False)
        done.append((kind, j, operand))
        if rng.rand() < 0.2:
            x.stores[j].pack()
        if rng.rand() < 0.2:
            twin, x = x, x.copy()
            assert twin == x
            twin.mul(0.3)  # which is nothing to the copy
    for step in reversed(done):
        go(*step, back=True)
    assert x == ExactRep(start, sizes=sizes)


def pair_and_change(seed):
    """Two numbers with full buffers, and a change of one that moves the other; some of it out of range."""
    rng = np.random.default_rng(seed)
    sizes = [1500, 1, 10, 600]
    size, ends, scale = sum(sizes), np.cumsum(sizes), rng.choice([1.0, 1000.0, 2047.0])
    x = ExactRep(rng.uniform(-scale, scale, size), sizes=sizes)
    y = ExactRep(rng.uniform(-2047.0, 2047.0, size))
    for _ in range(3):
        x.change(Change(as_ratios(rng.uniform(0.3, 0.9, len(sizes)))))
    values = rng.normal(size=size)
    if rng.random() < 0.2:
        values[rng.integers(size)] = rng.choice([np.nan, np.inf, 1e4, -1e4, 1e300])
    then = Then(y, np.full(len(sizes), rng.choice([1e-3, 1.0])), np.empty(size))
    ratios = as_ratios(rng.uniform(0.3, rng.choice([0.9, 3.0]), len(sizes)))
    change = Change(ratios, (values, rng.normal(size=len(sizes))), ends, bool(rng.integers(2)))
    return x, y, change._replace(out=np.empty(size) if rng.random() < 0.5 else None), then


@pytest.mark.parametrize("further", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_a_change_in_one_pass_is_that_of_its_parts(seed, further):
    """The same numbers, floats and buffers; undone by itself; and what can't be done is refused by both."""
    x, y, change, then = pair_and_change(seed)
    alone = Change(ends=change.ends, back=change.back)

    def by_parts(x, y):
        parts = [(x, alone._replace(ratios=change.ratios)), (x, alone._replace(addend=change.addend))]
        if further:
            parts.append((y, lambda: alone._replace(addend=(x.val, then.factors))))
        for numbers, part in reversed(parts) if change.back else parts:
            numbers.change(part() if callable(part) else part)

    first, second, parts, parts_of_other = x.copy(), y.copy(), x.copy(), y.copy()
    change = change._replace(then=then if further else None)
    try:
        by_parts(parts, parts_of_other)
    except FixedPointRangeError as error:
        with pytest.raises(FixedPointRangeError, match=re.escape(str(error))) as found:
            x.change(change)
        where = found.value.index, found.value.numbers is x
        np.testing.assert_array_equal(where, (error.index, error.numbers is parts))
    else:
        x.change(change)
        assert (x, y) == (parts, parts_of_other)
        if change.out is not None:
            np.testing.assert_array_equal(change.out, x.val)
        if further:
            np.testing.assert_array_equal(then.out, y.val)
        x.change(change._replace(back=not change.back))
        assert (x, y) == (first, second)


def test_words_move_when_sixteen_bits_have_come_together():
    """Not to and fro, as ratios in lowest terms have denominators of various sizes."""
    rng, moves = np.random.default_rng(0), []
    x = ExactRep(rng.normal(size=3))
    move = x.stores[0]._move
    x.stores[0]._move = lambda words: (moves.append(words), move(words))
    ratios = [as_ratios(factor) for factor in rng.uniform(0.5, 0.98, (400, 1))]
    for ratio in ratios:
        x.change(Change(ratio))
    assert set(moves) - {0} == {1}
    for ratio in reversed(ratios):
        x.change(Change(ratio, back=True))
    assert set(moves) - {0} == {1, -1}
    assert sum(moves) == 0


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), ExactRep.copy])
def test_a_duplicate_is_independent_and_whole(duplicate):
    start, sizes = np.random.RandomState(0).standard_normal((4, 25)), [60, 40]
    x, ratios = ExactRep(start), as_ratios(np.array([0.3, 0.7]))
    y = ExactRep(start, sizes=sizes).change(Change(ratios))
    twin = duplicate(y)
    assert twin == y
    for each in (twin, y):
        each.change(Change(ratios)).add(1.0)
        each.sub(1.0).change(Change(ratios, back=True)).change(Change(ratios, back=True))
        assert each == ExactRep(start, sizes=sizes)
    np.testing.assert_array_equal(duplicate(x).mul(0.5).val, x.mul(0.5).val)


def test_integers_in_another_order_of_memory():
    ints = np.asfortranarray(np.arange(6).reshape(2, 3) << 50)
    x = ExactRep(ints, from_intrep=True).mul(0.5).add(np.eye(2, 3))
    np.testing.assert_array_equal(x.val, ints / 2.0**53 + np.eye(2, 3))
    np.testing.assert_array_equal(x.sub(np.eye(2, 3)).div(0.5).intrep, ints)


def test_packing_gives_back_the_memory_of_all_heads():
    sizes = [3, 1000]
    x = ExactRep(np.random.RandomState(0).standard_normal(sum(sizes)), sizes=sizes)
    x.change(Change(as_ratios(np.array([0.9, 0.7]))))
    whole = weakref.ref(x.stores[0]._head.base)
    for store in x.stores:
        assert store._head.base is whole()
        store.pack()
    assert whole() is None
    assert sum(store.nbytes for store in x.stores) <= 2 * sum(sizes)


def test_long_run_back_and_forth():
    rng = np.random.RandomState(0)
    x = ExactRep(rng.standard_normal(50))
    changes, factors = rng.standard_normal((3000, 50)) * 0.1, 0.5 + 0.5 * rng.rand(3000)
    for change, factor in zip(changes, factors, strict=True):
        x.mul(factor).add(change)
    x.aux.pack()
    for change, factor in zip(changes[::-1], factors[::-1], strict=True):
        x.sub(change).div(factor)
    assert x == ExactRep(np.random.RandomState(0).standard_normal(50))


def test_float_arithmetic_fails_the_same_test():
    rng = np.random.RandomState(0)
    start = rng.standard_normal(20)
    changes = rng.standard_normal((300, 20))
    x = start.copy()
    for change in changes:
        x = x * 0.9 + change
    for change in changes[::-1]:
        x = (x - change) / 0.9
    assert np.max(np.abs(x - start)) > 1e-4


def test_multiplication_is_right_up_to_its_noise():
    rng = np.random.RandomState(1)
    for factor in (1e-5, 0.3, 0.9, 0.9999, 1.0, 1.01, 2.5, 90.0):
        start = rng.standard_normal(1000)
        x = ExactRep(start).mul(factor)
        noise = 2.0 ** (FACTOR_BITS - 52) * max(factor, 1.0)
        np.testing.assert_allclose(x.val, start * round_to_lattice(factor), rtol=0, atol=2 * noise)


def test_one_stays_one_and_powers_of_two_are_exact():
    start = np.random.RandomState(2).standard_normal(100)
    assert ExactRep(start).mul(1.0) == ExactRep(start)
    assert as_ratio(0.5) == (1, 2)
    assert as_ratio(0.75) == (3, 4)
    np.testing.assert_allclose(ExactRep(start).mul(0.5).val, start / 2, rtol=0, atol=2.0**-51)


def test_smaller_powers_of_two_are_factors_too():
    start = np.random.RandomState(2).standard_normal(100)
    x = ExactRep(start)
    for factor in (2.0**-25, 2.0**-40, 2.0**-33):
        x.mul(factor).add(start)
    assert x.aux.nbytes > 0
    for factor in (2.0**-33, 2.0**-40, 2.0**-25):
        x.sub(start).div(factor)
    assert x == ExactRep(start)
    with pytest.raises(ValueError, match=r"above 2\*\*-25"):
        as_ratio(2.0**-41)


@pytest.mark.parametrize("ratios_of", [as_ratio, as_ratios])
@pytest.mark.parametrize("factor", [0.0, 1e-12, 65537.0, np.nan])
def test_position_of_a_factor_that_is_refused(ratios_of, factor):
    with pytest.raises(FixedPointRangeError) as caught:
        ratios_of(np.array([0.9, 0.5, factor, factor]))
    assert caught.value.index == 2


def test_scalars_and_matrices():
    x = ExactRep(1.5)
    assert x.val.shape == ()
    assert x.mul(0.3).add(0.25).val == pytest.approx(0.7, abs=1e-7)
    assert x.sub(0.25).div(0.3) == ExactRep(1.5)
    matrix = np.arange(6.0).reshape(2, 3)
    y = ExactRep(matrix)
    factors = 0.5 + matrix / 10
    y.mul(factors).sub(matrix)
    np.testing.assert_allclose(y.val, matrix * factors - matrix, atol=1e-7)
    assert y.add(matrix).div(factors) == ExactRep(matrix)


def test_interface_of_2015():
    x = ExactRep(np.array([1.0, -2.0]))
    assert x.add(np.ones(2)) is x
    assert x.rational_mul(3, 4) is x
    np.testing.assert_allclose(x.val, [1.5, -0.75])
    assert isinstance(x.aux, BitStore)
    assert x.intrep.dtype == np.int64
    y = ExactRep(x.intrep, from_intrep=True)
    np.testing.assert_array_equal(y.val, x.val)
    assert y.intrep is not x.intrep
    np.testing.assert_array_equal(x.rational_mul(4, 3).val, [2.0, -1.0])


def test_callers_arrays_are_not_changed():
    start, factor, change = np.full(3, 0.1), np.full(3, 0.7), np.full(3, 0.3)
    x = ExactRep(start)
    x.add(change).mul(factor).sub(change).div(factor)
    x.val[:] = 7.0
    assert (start[0], factor[0], change[0]) == (0.1, 0.7, 0.3)
    assert x.val[0] != 7.0
    ints = np.array([2**52])
    ExactRep(ints, from_intrep=True).add(1.0)
    assert ints[0] == 2**52


@pytest.mark.parametrize("bad", [2048.0, -2049.0, 1e300, np.nan, np.inf, -np.inf])
def test_values_out_of_range_raise(bad):
    with pytest.raises(FixedPointRangeError, match="position 1") as caught:
        ExactRep(np.array([0.5, bad, 0.5]))
    assert caught.value.index == 1


@pytest.mark.parametrize("operation", ["add", "sub"])
@pytest.mark.parametrize("bad", [100.0, np.nan, np.inf])
def test_wrapping_raises_before_anything_changes(operation, bad):
    x = ExactRep(np.array([0.0, 2000.0 if operation == "add" else -2000.0]))
    before = x.intrep.copy()
    with pytest.raises(FixedPointRangeError, match="position 1"):
        getattr(x, operation)(np.array([0.0, bad]))
    np.testing.assert_array_equal(x.intrep, before)


def test_multiplying_out_of_range_raises_before_anything_changes():
    x = ExactRep(np.array([1.0, 1500.0]))
    before = x.intrep.copy()
    for change in (lambda: x.mul(1.5), lambda: x.div(0.5), lambda: x.mul(np.array([1.0, 2.0]))):
        with pytest.raises(FixedPointRangeError, match="range"):
            change()
    np.testing.assert_array_equal(x.intrep, before)
    assert x.aux == BitStore(2)


def test_large_values_that_fit_are_let_through():
    x = ExactRep(np.array([2000.0, -2000.0]))
    for _ in range(100):
        x.add(np.array([40.0, -40.0])).sub(np.array([40.0, -40.0])).mul(0.5).div(0.5)
    np.testing.assert_array_equal(x.val, [2000.0, -2000.0])


@pytest.mark.parametrize("factor", [0.0, -0.5, np.nan, np.inf, 1e-9, 1e9, np.array([0.5, 0.0])])
def test_factors_that_can_not_be_inverted_raise(factor):
    x = ExactRep(np.ones(2))
    for change in (x.mul, x.div):
        with pytest.raises(ValueError, match="factor must be above"):
            change(factor)
    assert x == ExactRep(np.ones(2))


def test_other_radix_trades_range_for_resolution():
    x = ExactRep(np.array([31.0]), radix_bits=58)
    with pytest.raises(FixedPointRangeError):
        x.add(1.5)
    tiny = ExactRep(np.array([2.0**-58]), radix_bits=58)
    assert tiny.val[0] == 2.0**-58
    with pytest.raises(ValueError, match="block sizes"):
        ExactRep(np.ones(3), sizes=[1, 1])


# ---- BitStore alone


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 5))
def test_any_mixture_of_pushes_and_pops_is_retraced(data, length):
    rng = np.random.RandomState(data.draw(st.integers(0, 2**31)))
    store, done = BitStore(length), []
    moduli = st.sampled_from([1, 2, 3, 10, 255, 257, 40503, 2**15, 2**16])
    for push, individual in data.draw(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=120)):
        M = data.draw(moduli) if not individual else rng.randint(1, 2**16 + 1, size=length)
        if push:
            digits = (rng.rand(length) * M).astype(int)
            store.push(digits, M)
        else:
            digits = store.pop(M)
            assert np.all((digits >= 0) & (digits < M)), "a digit out of range"
        done.append((push, digits, M))
    for push, digits, M in reversed(done):
        if push:
            np.testing.assert_array_equal(store.pop(M), digits, err_msg="popped digits")
        else:
            store.push(digits, M)
    assert store == BitStore(length)


def test_what_was_pushed_is_popped_in_reverse_order():
    store = BitStore(3)
    rng = np.random.RandomState(3)
    digits = rng.randint(1000, size=(400, 3))
    for row in digits:
        store.push(row.tolist(), 1000)
    store.pack()
    for row in digits[::-1]:
        np.testing.assert_array_equal(store.pop(1000), row)
    np.testing.assert_array_equal(store.pop(1000), np.zeros(3), err_msg="an empty store gives zeros")


def test_push_rejects_what_is_no_digit():
    store = BitStore(2)
    store.push([1, 2], 5)
    for digits, modulus, error in [
        ([5, 0], 5, ValueError),
        ([-1, 0], 5, ValueError),
        ([0, 0], 2**16 + 1, ValueError),
        ([0, 0], 0, ValueError),
        ([0.5, 0], 5, TypeError),
        ([0, 0], 5.0, TypeError),
        ([0, 0, 0], 5, ValueError),
    ]:
        with pytest.raises(error):
            store.push(digits, modulus)
    np.testing.assert_array_equal(store.pop(5), [1, 2])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_head_stays_within_its_bits(data):
    """The range that `_settle` promises, with digits chosen against it."""
    store = BitStore(1)
    for _ in range(data.draw(st.integers(1, 400))):
        factor = data.draw(st.sampled_from([1 - 2.0**-24, 0.9999, 0.98, 0.5, 1e-4, 2.0**-40, 1.01, 7.0]))
        n, d = as_ratio(factor)
        x = np.array([-1 if data.draw(st.booleans()) else data.draw(st.integers(-(2**62), 2**62))])
        store.multiply(x, n, d)
        assert 0 <= store._head[0] < 2**62


@pytest.mark.parametrize(
    ("decay", "num_steps", "excess"), [(0.5, 10_000, 1.01), (0.9, 10_000, 1.05), (0.98, 10_000, 1.05)]
)
def test_buffer_is_close_to_the_entropy_limit(decay, num_steps, excess):
    rng = np.random.RandomState(4)
    x = ExactRep(rng.standard_normal(64))
    for _ in range(num_steps):
        x.mul(decay).add(rng.standard_normal(64))
    x.aux.pack()
    bits = 8 * x.aux.nbytes / 64
    assert np.log2(1 / decay) * num_steps * 0.99 < bits < np.log2(1 / decay) * num_steps * excess


def test_range_is_checked_element_by_element():
    """The largest factor and the largest number may belong to different elements."""
    start, factors = np.array([1500.0, 0.5]), np.array([1.0, 100.0])
    assert ExactRep(start).mul(factors).div(factors) == ExactRep(start)
    np.testing.assert_allclose(ExactRep(start).mul(factors).val, [1500.0, 50.0])


# ---- refusals


def near_the_range(rng, size):
    """Values that are small, or within reach of +-2048."""
    return np.where(
        rng.rand(size) < 0.3, rng.choice([-1.0, 1.0], size) * rng.uniform(500, 2100, size), rng.randn(size)
    )


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_a_refused_change_is_as_if_it_had_not_been_asked_for(seed, in_blocks):
    """Factors, values and what goes on to other numbers, near the range: each of them may be what is refused."""
    rng = np.random.RandomState(seed)
    ends = np.array([2, 5]) if in_blocks else np.array([5])
    x, y = (ExactRep(rng.randn(5) * scale, sizes=np.diff(ends, prepend=0)) for scale in (300.0, 300.0))
    x_twin, y_twin, done = x.copy(), y.copy(), []
    for _ in range(12):
        ratios = as_ratios(rng.choice([0.9, 0.5, 1.5, 3.0, 0.123], len(ends))) if rng.rand() < 0.7 else None
        addend = (near_the_range(rng, 5), rng.uniform(-2, 2, len(ends))) if rng.rand() < 0.7 else None
        then = Then(y, rng.uniform(-2, 2, len(ends)), None) if rng.rand() < 0.7 else None
        change = Change(ratios, addend, ends, then=then)
        x_before, y_before = x.copy(), y.copy()
        try:
            x.change(change)
            done.append(change)
        except FixedPointRangeError:
            assert x == x_before
            assert y == y_before
    for change in reversed(done):
        x.change(change._replace(back=True))
    assert x == x_twin
    assert y == y_twin


def test_blocks_of_no_elements_hold_nothing_to_tell_apart():
    x, unused = (ExactRep(np.zeros(3), sizes=[2, 0, 1]) for _ in range(2))
    factors = np.array([0.5, 0.25, 0.75])
    x.mul(0.5).mul(factors).mul(0.3)
    x.div(0.3).div(factors).div(0.5)
    assert x == unused
    x.mul(0.5).mul(factors)
    assert x.stores[1] == unused.stores[1]
    assert x.stores[1] != BitStore(1)
