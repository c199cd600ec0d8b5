"""The names of the 2015 package, with their parameters; and the corners of its training functions."""

import importlib
import inspect

import autograd.numpy as np
import numpy as onp
import pytest
from autograd import grad
from test_optimizers import L_grad, N, T, by_index, final, hypers, parser

from hypergrad.exact_rep import BitStore, ExactRep
from hypergrad.nn_utils import BatchList, VectorParser, WeightsParser, make_nn_funs
from hypergrad.optimizers import sgd3, sgd4, sgd_meta_only, sgd_meta_only_sub, sgd_parsed
from hypergrad.recoveries import Reversible

# module: {name: parameters in order, those with defaults as name=default}
FUNCTIONS = {
    "optimizers": {
        "sgd": "loss_fun batches N_iter x v alphas betas record_learning_curve=False",
        "sgd2": "optimizing_loss secondary_loss batches N_iter x0 v0 alphas betas meta",
        "sgd3": "optimizing_loss secondary_loss x0 v0 alphas betas meta callback=None",
        "sgd4": "L_grad hypers callback=None forward_pass_only=True",
        "sgd_parsed": "L_grad hypers parser callback=None forward_pass_only=True",
        "sgd_meta_only": "L_grad meta x0 alpha beta N_iters callback=None forward_pass_only=True",
        "sgd_meta_only_sub": "L_grad_sub meta x0 alpha beta N_iters N_sub callback=None forward_pass_only=True",
        "simple_sgd": "grad x callback=None num_iters=200 step_size=0.1 mass=0.9",
        "rms_prop": "grad x callback=None num_iters=100 step_size=0.1 gamma=0.9 eps=1e-08",
        "adam": "grad x callback=None num_iters=100 step_size=0.1 b1=0.1 b2=0.01 eps=0.0001 lam=0.0001",
        "bfgs": "obj_and_grad x callback=None num_iters=100",
    },
    "nn_utils": {
        "VectorParser": "",
        "WeightsParser": "",
        "fill_parser": "parser items",
        "BatchList": "N_total N_batch",
        "logsumexp": "X axis",
        "logit": "x",
        "inv_logit": "y",
        "d_logit": "x",
        "make_nn_funs": "layer_sizes",
        "nice_layer_name": "key",
        "plot_images": "images ax ims_per_row=5 padding=5 digit_dimensions=(28, 28) cmap='binary' vmin=None",
        "plot_mnist_images": "images ax ims_per_row=5 padding=5 digit_dimensions=(28, 28) cmap='binary' vmin=None",
    },
    "mnist": {
        "load_data": "normalize=False",
        "load_data_subset": "*sizes",
        "load_data_dicts": "*sizes",
        "load_data_as_dict": "normalize=True",
        "random_partition": "data RS sizes",
        "one_hot": "x K",
    },
    "omniglot": {
        "load_data": "alphabets",
        "load_data_split": None,
        "load_curated_alphabets": None,
        "load_flipped_alphabets": "RS normalize=True",
        "load_rotated_alphabets": "RS normalize=True angle=90",
        "random_partition": "data RS num_chars",
        "show_alphabets": "alphabets ax=None n_cols=20",
    },
    "kernel_methods": {
        "make_exp_kernel": "L0",
        "make_sq_exp_kernel": "L0",
        "weighted_neighbors_loss": "train_data valid_data kernel",
    },
    "transforms": {"translate": "Lx Ly nx ny", "matrix_exp": "A t"},
    "util": {
        "RandomState": "obj",
        "dictslice": None,
        "listslice": None,
        "dictmap": None,
        "memoize": None,
        "tictoc": None,
    },
    "odyssey": {"omap": "fun arglist", "collect_results": None},
    "exact_rep": {"ExactRep": "val from_intrep=False", "BitStore": "length"},
}
FUNCTIONS["data"] = FUNCTIONS["mnist"]
METHODS = [
    (ExactRep, "add sub mul div rational_mul val aux"),
    (BitStore, "push pop"),
    (VectorParser, "add_shape new_vect empty_copy as_dict names __getitem__ __setitem__"),
    (WeightsParser, "add_weights get set"),
]


def shown(parameter):
    """A parameter as FUNCTIONS writes it."""
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
    return f"{stars}{parameter.name}{default}"


@pytest.mark.parametrize(
    ("module", "name", "expected"),
    [(module, name, text) for module, names in FUNCTIONS.items() for name, text in names.items()],
)
def test_name_is_there_with_its_parameters(module, name, expected):
    found = getattr(importlib.import_module(f"hypergrad.{module}"), name)
    assert callable(found)
    assert found.__doc__
    if expected is None:
        return
    parameters = list(inspect.signature(found).parameters.values())
    words = expected.replace(", ", ",").split()
    for parameter, word in zip(parameters, words, strict=False):
        assert (
            shown(parameter).replace(", ", ",") if "=" in word else shown(parameter).split("=")[0]
        ) == word
    assert len(parameters) >= len(words)
    for parameter in parameters[len(words) :]:
        assert parameter.default is not parameter.empty or parameter.kind is parameter.VAR_KEYWORD, (
            "further ones are optional"
        )


@pytest.mark.parametrize(("kind", "names"), METHODS)
def test_methods_are_there(kind, names):
    assert [name for name in names.split() if not hasattr(kind, name)] == []


def test_attributes_are_there():
    made, batches, rep = parser(), BatchList(10, 4), ExactRep(onp.zeros(3))
    assert made.vect.shape == (7,)
    assert list(made.idxs_and_shapes) == ["a", "b"]
    assert batches.all_idxs == slice(0, 10)
    assert rep.intrep.dtype == onp.int64
    layout = WeightsParser()
    layout.add_weights("a", (2, 3))
    assert layout.N == 6
    assert list(make_nn_funs([3, 2, 2])[0].names) == [
        ("weights", 0),
        ("biases", 0),
        ("weights", 1),
        ("biases", 1),
    ]


# ---- meta as a float, callbacks, plain lists


def scaled(x, meta, i):
    return L_grad(x, meta * np.ones(N), i)


def difference(f, x, step=1e-4):
    return (f(x + step) - f(x - step)) / (2 * step)


@pytest.mark.parametrize("meta", [0.3, onp.array(0.3), onp.float64(0.3)])
def test_meta_may_be_one_number(meta):
    h = hypers((2,))

    def by_sgd3(meta):
        return sgd3(
            lambda x, meta, i: by_index(x, meta * np.ones(N), i),
            lambda x, meta: np.sum(x**2) * meta,
            h["x"],
            h["v"],
            h["alphas"][:, 0],
            h["betas"][:, 0],
            meta,
        )

    slope = difference(lambda m: float(np.sum(by_sgd3(m)["x_final"] ** 2) * m), float(meta))
    assert by_sgd3(meta)["dMd_meta"] == pytest.approx(slope, rel=1e-5)
    for run in (
        lambda m: sgd4(scaled, (h["x"], h["alphas"][:, 0], h["betas"][:, 0], m)),
        lambda m: sgd_parsed(scaled, (h["x"], h["alphas"], h["betas"], m), parser()),
        lambda m: sgd_meta_only(
            lambda x, m, i, record_results=False: scaled(x, m, i), m, h["x"], 0.2, 0.75, T
        ),
        lambda m: sgd_meta_only_sub(lambda x, m, i, j: scaled(x, m * (1 + j), i), m, h["x"], 0.2, 0.75, T, 2),
    ):
        found = grad(lambda m, run=run: np.sum(run(m) ** 2))(meta)
        slope = difference(lambda m, run=run: float(np.sum(run(m) ** 2)), float(meta))
        assert found == pytest.approx(slope, rel=1e-5)


def test_callbacks_get_x_v_g_and_i_before_each_update():
    h, wide, calls = hypers(), hypers((2,)), {}

    def record(name):
        return lambda x, v, g, i: calls.setdefault(name, []).append((x.copy(), v.copy(), g.copy(), i))

    finals = {
        "sgd4": sgd4(L_grad, (h["x"], h["alphas"], h["betas"], h["meta"]), record("sgd4")),
        "parsed": sgd_parsed(
            L_grad, (h["x"], wide["alphas"], wide["betas"], h["meta"]), parser(), record("parsed")
        ),
        "meta": sgd_meta_only(with_keyword, h["meta"], h["x"], 0.2, 0.75, T, record("meta")),
        "sub": sgd_meta_only_sub(
            lambda x, meta, i, j: L_grad(x, meta, i) / 2, h["meta"], h["x"], 0.2, 0.75, T, 2, record("sub")
        ),
    }
    columns = onp.array([0] * 4 + [1] * 3)
    steps = {
        "sgd4": lambda i: (h["alphas"][i], h["betas"][i]),
        "parsed": lambda i: (wide["alphas"][i][columns], wide["betas"][i][columns]),
        "meta": lambda i: (0.2, 0.75),
        "sub": lambda i: (0.2, 0.75),
    }
    for name, seen in calls.items():
        assert [i for *_, i in seen] == list(range(T)), name
        states = [*((x, v) for x, v, _, _ in seen[1:]), (finals[name], None)]
        for (x, v, g, i), (next_x, next_v) in zip(seen, states, strict=True):
            onp.testing.assert_allclose(g, L_grad(x, h["meta"], i), rtol=1e-12)
            alpha, beta = steps[name](i)
            moved = beta * v - (1 - beta) * g
            onp.testing.assert_allclose(next_x, x + alpha * moved, atol=1e-7, err_msg=name)
            if next_v is not None:
                onp.testing.assert_allclose(next_v, moved, atol=1e-7, err_msg=name)


def with_keyword(x, meta, i, record_results=False):
    return L_grad(x, meta, i)


def by_parts(x, meta, i, j):
    return L_grad(x, meta, i) * (1 + j)


def all_hypers(columns=()):
    h = hypers(columns)
    return tuple(h[name] for name in ("x", "alphas", "betas", "meta"))


FORWARD_AND_BACKWARD = {  # (hyperparameters, what trains with them)
    "sgd4": (all_hypers(), lambda h, **options: sgd4(L_grad, h, **options)),
    "sgd_parsed": (all_hypers((2,)), lambda h, **options: sgd_parsed(L_grad, h, parser(), **options)),
    "sgd_meta_only": (
        hypers()["meta"],
        lambda meta, **options: sgd_meta_only(with_keyword, meta, hypers()["x"], 0.2, 0.75, T, **options),
    ),
    "sgd_meta_only_sub": (
        hypers()["meta"],
        lambda meta, **options: sgd_meta_only_sub(by_parts, meta, hypers()["x"], 0.2, 0.75, T, 2, **options),
    ),
}


@pytest.mark.parametrize("name", FORWARD_AND_BACKWARD)
def test_forward_pass_only_or_with_the_hypergradient_as_in_2015(name, monkeypatch):
    values, run = FORWARD_AND_BACKWARD[name]
    d_x = onp.random.RandomState(5).randn(N)
    x_final, (nothing, hypergrad) = run(values, forward_pass_only=False)
    assert nothing is None
    found = hypergrad(d_x)
    for options in (
        {},
        {"forward_pass_only": True},
        {"forward_pass_only": False},
    ):  # alike while autograd follows
        expected = grad(lambda values, options=options: np.dot(d_x, run(values, **options)))(values)
        for one, other in zip(
            *((g if isinstance(g, tuple) else (g,)) for g in (found, expected)), strict=True
        ):
            assert onp.any(other)
            onp.testing.assert_array_equal(one, other, err_msg=str(options))
    monkeypatch.setattr(
        Reversible, "start", lambda *_: pytest.fail("nothing need be kept for a backward pass")
    )
    onp.testing.assert_array_equal(run(values), x_final)
    onp.testing.assert_array_equal(run(values, forward_pass_only=True), x_final)


def test_schedules_may_be_plain_lists():
    h, wide = hypers(), hypers((2,))
    for run, alphas, betas in (
        (lambda a, b: sgd4(L_grad, (h["x"], a, b, h["meta"])), h["alphas"], h["betas"]),
        (
            lambda a, b: sgd3(by_index, final, h["x"], h["v"], a, b, h["meta"])["dMd_alphas"],
            h["alphas"],
            h["betas"],
        ),
        (
            lambda a, b: sgd_parsed(L_grad, (h["x"], a, b, h["meta"]), parser()),
            wide["alphas"],
            wide["betas"],
        ),
    ):
        onp.testing.assert_array_equal(run(alphas.tolist(), betas.tolist()), run(alphas, betas))


def test_gradients_at_our_tolerance():
    """Differences of 2**-11, on the lattice of the decays: large beside the noise of 1e-9 in the weights."""
    h = hypers()
    h["v"] = onp.zeros(N)
    names = ("x", "alphas", "betas", "meta")

    def objective(*values):
        return final(sgd4(L_grad, values), values[3])

    values = [h[name] for name in names]
    gradients = grad(objective, (0, 1, 2, 3))(*values)
    for j, name in enumerate(names):
        signs = 2.0**-11 * onp.random.RandomState(3).choice([-1.0, 1.0], onp.shape(values[j]))
        up, down = ([*values[:j], values[j] + s * signs, *values[j + 1 :]] for s in (1, -1))
        found = onp.sum(gradients[j] * signs)
        assert (objective(*up) - objective(*down)) / 2 == pytest.approx(found, rel=2e-4), name
