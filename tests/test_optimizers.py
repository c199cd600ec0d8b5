"""The training functions of the 2015 package: values and gradients against an unrolled loop and differences."""

import autograd.numpy as np
import numpy as onp
import pytest
from autograd import grad
from autograd.misc.flatten import flatten
from conftest import relative_error

from hypergrad.exact_rep import round_to_lattice
from hypergrad.nn_utils import BatchList, VectorParser
from hypergrad.optimizers import sgd, sgd2, sgd3, sgd4, sgd_meta_only, sgd_meta_only_sub, sgd_parsed

N, T = 7, 9
BATCHES = BatchList(10, 4)
DATA = onp.random.RandomState(0).randn(10, N)


def loss(x, meta, idxs):
    return np.mean(np.tanh(np.dot(DATA[idxs], x)) ** 2) + np.sum(np.exp(meta) * x**2) * 0.1


def by_index(x, meta, i):
    return loss(x, meta, BATCHES[i % len(BATCHES)])


def final(x, meta):
    return np.sum(np.sin(x)) + np.sum(x**2 * meta)


L_grad = grad(by_index)


def hypers(columns=()):
    rng = onp.random.RandomState(1)
    shape = (T, *columns)
    return {
        "x": rng.randn(N),
        "v": rng.randn(N),
        "alphas": 0.1 + 0.2 * rng.rand(*shape),
        "betas": round_to_lattice(0.4 + 0.5 * rng.rand(*shape)),
        "meta": 0.5 * rng.randn(N),
    }


def unrolled(h, widen=lambda row: row, gradient=L_grad):
    """Momentum in floats, differentiated by plain autograd."""
    x, v = h["x"], h["v"]
    for i in range(T):
        alpha, beta = widen(h["alphas"][i]), widen(h["betas"][i])
        v = beta * v - (1 - beta) * gradient(x, h["meta"], i)
        x = x + alpha * v
    return x


def check_differences(f, h, gradient):
    """2015's check: central differences along random directions, total step 1e-2, rtol 1e-3, atol 1e-4."""
    rng = onp.random.RandomState(2)
    for name in gradient:
        direction = rng.randn(*onp.shape(h[name]))
        direction /= onp.linalg.norm(direction)
        up, down = ({**h, name: h[name] + sign * 5e-3 * direction} for sign in (1, -1))
        slope = (f(up) - f(down)) / 1e-2
        expected = onp.sum(gradient[name] * direction)
        onp.testing.assert_allclose(slope, expected, rtol=1e-3, atol=1e-4, err_msg=name)


def check(results, prefix, names, run, true_loss, h):
    """The entries of a returned dict against the unrolled loop and against differences of the function itself."""
    true = grad(true_loss)(h)
    found = {name: results[prefix + name] for name in names}
    for name in names:
        assert found[name].shape == h[name].shape
        assert relative_error(found[name], true[name]) < 1e-7, prefix + name
    check_differences(run, h, found)


def test_sgd():
    h = hypers()
    before = flatten(h)[0].copy()

    def fixed(x, idxs):
        return loss(x, h["meta"], idxs)

    def run(h, record=False):
        return sgd(fixed, BATCHES, T, h["x"], h["v"], h["alphas"], h["betas"], record)

    def true(h_):
        return fixed(unrolled({**h_, "meta": h["meta"]}), BATCHES.all_idxs)

    found = run(h, True)
    names = ("x", "v", "alphas", "betas")
    assert set(found) == {"x_final", "learning_curve", "loss_final", *("d_" + name for name in names)}
    onp.testing.assert_allclose(found["x_final"], unrolled(h), rtol=1e-7)
    check(found, "d_", names, lambda h: run(h)["loss_final"], true, h)
    onp.testing.assert_array_equal(flatten(h)[0], before, err_msg="the arguments")


@pytest.mark.parametrize(
    ("num_iterations", "recorded"), [(0, [0]), (2, [0, 2]), (3, [0, 3]), (6, [0, 3, 6]), (8, [0, 3, 6, 8])]
)
def test_sgd_records_its_loss_at_every_epoch_and_at_the_end(num_iterations, recorded):
    h, batches = hypers(), BatchList(12, 4)
    data = onp.random.RandomState(4).randn(12, N)

    def run(count, **options):
        start = h["x"], h["v"], h["alphas"][:count], h["betas"][:count]
        return sgd(
            lambda x, idxs: np.mean(np.tanh(np.dot(data[idxs], x)) ** 2), batches, count, *start, **options
        )

    found = run(num_iterations, record_learning_curve=True)
    assert found["learning_curve"][1:] == [run(count)["loss_final"] for count in recorded[1:]]
    assert found["learning_curve"][0] == np.mean(np.tanh(np.dot(data, h["x"])) ** 2)
    assert run(num_iterations)["learning_curve"] == found["learning_curve"][:1], "not asked for"


def test_sgd2():
    h = hypers()

    def run(h):
        return sgd2(loss, final, BATCHES, T, h["x"], h["v"], h["alphas"], h["betas"], h["meta"])

    found = run(h)
    assert len(found["learning_curve"]) == T + 1
    names = tuple(h)
    check(
        found,
        "dLd_",
        names,
        lambda h: run(h)["L_final"],
        lambda h: loss(unrolled(h), h["meta"], BATCHES.all_idxs),
        h,
    )
    check(found, "dMd_", names, lambda h: run(h)["M_final"], lambda h: final(unrolled(h), h["meta"]), h)


def test_sgd3():
    h, seen = hypers(), []

    def run(h):
        return sgd3(
            by_index,
            final,
            h["x"],
            h["v"],
            h["alphas"],
            h["betas"],
            h["meta"],
            lambda x, i: seen.append((i, x)),
        )

    found = run(h)
    assert [i for i, _ in seen] == list(range(T))
    onp.testing.assert_allclose(seen[0][1], h["x"], rtol=0, atol=2.0**-53)  # the nearest fixed-point numbers
    check(
        found,
        "dMd_",
        tuple(h),
        lambda h: final(run(h)["x_final"], h["meta"]),
        lambda h: final(unrolled(h), h["meta"]),
        h,
    )


def parser():
    made = VectorParser()
    made.add_shape("a", (2, 2))
    made.add_shape("b", 3)
    return made


@pytest.mark.parametrize("container", [list, tuple])
@pytest.mark.parametrize("parsed", [False, True])
def test_sgd4_and_sgd_parsed(container, parsed):
    h = hypers((2,) if parsed else ())
    h["v"] = onp.zeros(N)
    names = ("x", "alphas", "betas", "meta")

    def widen(row):
        return row[onp.array([0] * 4 + [1] * 3)] if parsed else row

    def trained(packed):
        return sgd_parsed(L_grad, packed, parser()) if parsed else sgd4(L_grad, packed)

    def objective(packed):
        return final(trained(packed), packed[3])

    true = grad(lambda h: final(unrolled(h, widen), h["meta"]))(h)
    found = dict(zip(names, grad(objective)(container(h[name] for name in names)), strict=True))
    for name in names:
        assert relative_error(found[name], true[name]) < 1e-7, name
    check_differences(lambda h: objective(container(h[name] for name in names)), h, found)
    alone = grad(lambda betas: objective(container([h["x"], h["alphas"], betas, h["meta"]])))(h["betas"])
    onp.testing.assert_array_equal(alone, found["betas"])


def test_meta_may_be_a_tree_or_a_float():
    h = hypers()

    def gradient(x, meta, i):
        return L_grad(x, meta["a"][0] * np.ones(N), i)

    def run(a):
        return np.sum(sgd4(gradient, (h["x"], h["alphas"], h["betas"], {"a": [a]})) ** 2)

    def plain(a):
        return np.sum(unrolled({**h, "v": onp.zeros(N), "meta": a * np.ones(N)}) ** 2)

    assert grad(run)(0.3) == pytest.approx(grad(plain)(0.3), rel=1e-7)


@pytest.mark.parametrize("sub", [False, True])
def test_sgd_meta_only(sub):
    h = {"x": hypers()["x"], "v": onp.zeros(N), "alphas": [0.2] * T, "betas": [0.75] * T}
    meta, recorded = hypers()["meta"], []

    def recording(x, meta, i, record_results=False):
        recorded.append(record_results)
        return L_grad(x, meta, i)

    def part(x, meta, i, i_sub):
        return L_grad(x, meta * (1.0 + i_sub), i + i_sub)

    def total(x, meta, i):
        return part(x, meta, i, 0) + part(x, meta, i, 1) + part(x, meta, i, 2)

    def run(meta):
        if sub:
            return final(sgd_meta_only_sub(part, meta, h["x"], 0.2, 0.75, T, 3), meta)
        return final(sgd_meta_only(recording, meta, h["x"], 0.2, 0.75, T), meta)

    found = grad(run)(meta)
    assert sub or recorded == [True] * T + [False] * T
    true = grad(lambda m: final(unrolled({**h, "meta": m}, gradient=total if sub else L_grad), m))(meta)
    assert relative_error(found, true) < 1e-7
    check_differences(lambda h: run(h["meta"]), {"meta": meta}, {"meta": found})


def test_integers_are_refused_where_floats_are_meant():
    h, integers = hypers(), onp.arange(N)
    for run in (
        lambda x, meta: sgd4(L_grad, (x, h["alphas"], h["betas"], meta)),
        lambda x, meta: sgd_meta_only_sub(lambda x, meta, i, j: L_grad(x, meta, i), meta, x, 0.1, 0.5, T, 1),
    ):
        with pytest.raises(TypeError, match="weights must be an array of floats, got dtype int64"):
            run(integers, h["meta"])
        with pytest.raises(TypeError, match="meta must be an array of floats, got dtype int64"):
            run(h["x"], integers)
    schedules = h["alphas"], h["betas"]
    with pytest.raises(TypeError, match="meta must be an array of floats, got dtype int64"):
        sgd3(by_index, final, h["x"], h["v"], *schedules, integers)
    as_floats = [sgd3(by_index, final, x, x, *schedules, h["meta"]) for x in (integers, integers * 1.0)]
    onp.testing.assert_array_equal(as_floats[0]["x_final"], as_floats[1]["x_final"])


def test_mismatches_raise():
    h = hypers()
    with pytest.raises(ValueError, match=r"betas must have shape \(9,\)"):
        sgd4(L_grad, (h["x"], h["alphas"], h["betas"][1:], h["meta"]))
    with pytest.raises(ValueError, match=r"alphas must have shape \(8,\)"):
        sgd(lambda x, idxs: loss(x, h["meta"], idxs), BATCHES, 8, h["x"], h["v"], h["alphas"], h["betas"])
    with pytest.raises(ValueError, match=r"alphas must have shape \(9, 2\)"):
        sgd_parsed(L_grad, (h["x"], h["alphas"], h["betas"], h["meta"]), parser())
    wide = hypers((2,))
    with pytest.raises(ValueError, match=r"x0 must have shape \(7,\)"):
        sgd_parsed(L_grad, (h["x"][1:], wide["alphas"], wide["betas"], h["meta"]), parser())
    with pytest.raises(ValueError, match="the gradient must have shape"):
        sgd4(lambda x, meta, i: x[1:], (h["x"], h["alphas"], h["betas"], h["meta"]))
    with pytest.raises(ValueError, match="N_sub must be 1 or more"):
        sgd_meta_only_sub(lambda *args: 0.0, h["meta"], h["x"], 0.1, 0.5, T, 0)
