"""The outer loop: methods, domains, averages over seeds, records and resumption, and the rules that end it."""

import dataclasses
import errno
import functools
import itertools
import json
import os
import pickle
import re
import sys
import threading
import warnings

import autograd.numpy as np
import numpy as onp
import pytest
from autograd import value_and_grad
from autograd.misc.flatten import flatten

import hypergrad as hg
from hypergrad import evaluations, meta_optimizers
from hypergrad.domains import FreeCoordinates
from hypergrad.util import RandomState

METHODS = ["gradient", "momentum", "rmsprop", "adam", "lbfgs"]
START = {
    "step": 0.1,
    "decay": onp.array([0.5, 0.9]),
    "offset": (onp.array([1.0, -2.0, 0.5]), [onp.zeros((2, 2))]),
}
TRANSFORMS = {"step": "log", "decay": "logit", "offset": (None, [hg.Interval(-1.0, 3.0)])}


def bowl(hypers, seed):
    """Lowest at step 0.3, decay 0.7, offsets 0.2 and 1; with a little noise in the slope from the seed."""
    noise = 0.01 * RandomState(seed).randn()
    return (
        (np.log(hypers["step"]) - np.log(0.3)) ** 2
        + np.sum((hypers["decay"] - 0.7) ** 2)
        + np.sum((hypers["offset"][0] - 0.2) ** 2) * (1.0 + noise)
        + np.sum((hypers["offset"][1][0] - 1.0) ** 2)
    )


def assert_same(found, expected):
    onp.testing.assert_array_equal(flatten(found)[0], flatten(expected)[0])


def same_history(found, expected):
    for name in ("loss", "gradient_norm"):
        onp.testing.assert_array_equal(getattr(found.history, name), getattr(expected.history, name))
    assert_same(found.history.hypers, expected.history.hypers)
    assert_same(found.hypers, expected.hypers)
    assert_same(found.best, expected.best)
    assert found.reason == expected.reason


@pytest.mark.parametrize("method", METHODS)
def test_every_method_descends_and_keeps_to_the_domains(method):
    options = {} if method == "lbfgs" else {"learning_rate": 0.01 if method == "momentum" else 0.05}
    before = flatten(START)[0].copy()
    result = hg.minimize(bowl, START, method, 60, transforms=TRANSFORMS, num_seeds=2, **options)
    assert result.history.loss[-1] < 0.3 * result.history.loss[0]
    assert onp.all(result.history.hypers["step"] > 0)
    assert onp.all((result.history.hypers["decay"] > 0) & (result.history.hypers["decay"] < 1))
    assert onp.all(onp.abs(result.history.hypers["offset"][1][0] - 1.0) < 2.0)
    assert isinstance(result.hypers["offset"], tuple)
    assert result.hypers["offset"][1][0].shape == (2, 2)
    onp.testing.assert_array_equal(flatten(START)[0], before)
    if method == "lbfgs":
        assert float(result.hypers["step"]) == pytest.approx(0.3, rel=1e-4)
        assert result.reason.startswith(
            ("converged", "line search failed", "num_iterations", "gradient_tolerance")
        )


def test_adam_takes_the_steps_of_its_paper():
    result = hg.minimize(
        lambda x, seed: np.sum((x - 3.0) ** 2), onp.array([1.0, -2.0]), "adam", 3, learning_rate=0.1
    )
    x, m, u = onp.array([1.0, -2.0]), 0.0, 0.0
    for t in range(1, 4):
        g = 2 * (x - 3.0)
        m, u = 0.9 * m + 0.1 * g, 0.999 * u + 0.001 * g**2
        x = x - 0.1 * (m / (1 - 0.9**t)) / (onp.sqrt(u / (1 - 0.999**t)) + 1e-8)
    assert result.hypers == pytest.approx(x, rel=1e-12)
    assert result.history.hypers.shape == (3, 2)


@pytest.mark.parametrize(
    ("method", "last"),
    [
        (meta_optimizers.Gradient(0.1), [1.0, 0.8, 0.64]),
        (meta_optimizers.Momentum(0.1, 0.5), [1.0, 0.8, 0.54]),
        (meta_optimizers.RMSprop(0.1, 0.75, 1e-12), [1.0, 0.8, 0.8 - 0.16 / onp.sqrt(0.75 + 0.64)]),
    ],
    ids=lambda x: type(x).__name__,
)
def test_other_methods_take_their_steps(method, last):
    result = hg.minimize(lambda x, seed: x**2, 1.0, method, 2)
    assert [*result.history.hypers, float(result.hypers)] == pytest.approx(last, rel=1e-9)


def test_average_and_standard_errors_are_those_of_the_seeds():
    result = hg.minimize(
        bowl, START, "gradient", 2, transforms=TRANSFORMS, num_seeds=4, seed=10, learning_rate=0.1
    )
    coordinates = FreeCoordinates(START, TRANSFORMS)
    free = coordinates.to_free(START)
    for i in range(2):
        pairs = [
            value_and_grad(lambda x, s=s: bowl(coordinates.from_free(x), s))(free)
            for s in range(10 + 4 * i, 14 + 4 * i)
        ]
        losses, gradients = (onp.array(column) for column in zip(*pairs, strict=True))
        assert result.history.loss[i] == pytest.approx(losses.mean(), rel=1e-14)
        assert result.history.loss_sem[i] == pytest.approx(losses.std(ddof=1) / 2, rel=1e-9)
        assert result.history.gradient_norm[i] == pytest.approx(onp.linalg.norm(gradients.mean(0)), rel=1e-12)
        expected = onp.linalg.norm(gradients.std(axis=0, ddof=1) / 2)
        assert result.history.gradient_sem[i] == pytest.approx(expected, rel=1e-9)
        free = free - 0.1 * gradients.mean(axis=0)
    assert_same(
        hg.minimize(bowl, START, num_iterations=1, transforms=TRANSFORMS).history.loss_sem or 0.0, 0.0
    )


def test_seeds_are_fresh_or_the_same():
    def asked(**options):
        seeds = []

        def objective(x, seed):
            seeds.append(seed)
            return x**2

        hg.minimize(objective, 1.0, num_iterations=3, num_seeds=2, seed=5, **options)
        return seeds

    assert asked() == [5, 6, 7, 8, 9, 10]
    assert asked(fresh_seeds=False) == [5, 6] * 3
    assert set(asked(method="lbfgs")) == {5, 6}


def test_processes_come_to_the_same_numbers():
    one, two = (
        hg.minimize(bowl, START, num_iterations=3, transforms=TRANSFORMS, num_seeds=3, jobs=jobs)
        for jobs in (1, 2)
    )
    same_history(two, one)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("when", [1, 5])
def test_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, monkeypatch, method, when):
    whole = hg.minimize(bowl, START, method, 8, transforms=TRANSFORMS, num_seeds=2)
    evaluate_seed, seen = evaluations._evaluate_seed, []

    def run(at_call=0, error=KeyboardInterrupt):
        calls = itertools.count(1)

        def interrupted(*arguments):
            if next(calls) == at_call:
                raise error
            return evaluate_seed(*arguments)

        monkeypatch.setattr(evaluations, "_evaluate_seed", interrupted)
        return hg.minimize(
            bowl,
            START,
            method,
            8,
            transforms=TRANSFORMS,
            num_seeds=2,
            checkpoint=tmp_path,
            callback=lambda i, *_: seen.append(i),
        )

    first = run(at_call=2 * when + 1)
    assert first.reason == "interrupted"
    assert len(first.history.loss) == when
    onp.testing.assert_array_equal(first.history.loss, whole.history.loss[:when])
    same_history(run(), whole)
    assert seen == list(range(len(whole.history.loss))), "the callback is called once for each evaluation"
    same_history(run(at_call=1, error=AssertionError("everything is on record")), whole)


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path):
    def run(n, folder):
        return hg.minimize(bowl, START, "adam", n, transforms=TRANSFORMS, checkpoint=folder)

    run(3, tmp_path / "a")
    same_history(run(6, tmp_path / "a"), run(6, tmp_path / "b"))


def test_checkpoint_of_another_problem_is_refused(tmp_path):
    hg.minimize(bowl, START, num_iterations=2, transforms=TRANSFORMS, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="its seed was 0, now it is 1"):
        hg.minimize(bowl, START, num_iterations=2, transforms=TRANSFORMS, checkpoint=tmp_path, seed=1)
    with pytest.raises(ValueError, match="its options was"):
        hg.minimize(
            bowl, START, num_iterations=2, transforms=TRANSFORMS, checkpoint=tmp_path, learning_rate=0.5
        )
    with pytest.raises(ValueError, match=r"evaluation 0 was at another value of hypers\['step'\] "):
        hg.minimize(
            bowl, {**START, "step": 0.2}, num_iterations=2, transforms=TRANSFORMS, checkpoint=tmp_path
        )
    assert json.loads((tmp_path / "minimize.json").read_text())["method"] == "adam"
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "evaluation-000000.npz",
        "evaluation-000001.npz",
        "minimize.json",
    ]


def scaled(scale, offset, x, seed):
    return scale * np.sum((x - offset) ** 2)


def scaled_by(scale, offset=0.0):
    return lambda x, seed: scaled(scale, offset, x, seed)


class Valley:
    """An objective with data and a helper of its own."""

    def __init__(self, scale):
        self.scale = scale

    def distance(self, x):
        return x - 1.0

    def loss(self, x, seed):
        return self.scale * self.distance(x) ** 2

    __call__ = loss


def of_one_step(loss):
    return lambda x, seed: np.sum(hg.train(loss, x, hg.Momentum(0.1, 0.5), 1) ** 2)


REPLACED = [
    (scaled_by(2.0), scaled_by(3.0), "the value of 'scale';"),
    (scaled_by(2.0, onp.zeros(3)), scaled_by(2.0, onp.array([0, 0, 5e-324])), "the value of 'offset';"),
    (scaled_by(2.0), lambda x, seed: x**2, "<lambda> then, .*<lambda> now; what differs: its code,"),
    (functools.partial(scaled, 2.0, 0.0), functools.partial(scaled, 3.0, 0.0), "the arguments bound to it;"),
    (Valley(1.0).loss, Valley(2.0).loss, r"Valley\.loss now; what differs: the value of 'self\.scale';"),
    (Valley(1.0), Valley(2.0), r"what differs: the value of 'self\.scale';"),
    (of_one_step(lambda w, _, t: w**2), of_one_step(lambda w, _, t: w**3), "the value of 'loss';"),
]


@pytest.mark.parametrize(
    ("objective", "other", "what"),
    REPLACED,
    ids=["constant", "array", "code", "partial", "method", "object", "training loss"],
)
def test_checkpoint_of_another_objective_is_refused_and_what_differs_is_named(
    tmp_path, objective, other, what
):
    def run(objective):
        return hg.minimize(objective, 0.5, num_iterations=2, checkpoint=tmp_path)

    first = run(objective)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=f"belongs to another problem, its objective: .*{what}"):
        run(other)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    same_history(run(objective), first)


def test_checkpoint_is_refused_when_a_helper_of_the_objective_has_changed(tmp_path, monkeypatch):
    def run(objective, folder):
        return hg.minimize(objective, 0.5, num_iterations=1, checkpoint=tmp_path / folder)

    valley = Valley(1.0)
    run(valley.loss, "method")
    run(scaled_by(2.0), "function")
    monkeypatch.setattr(Valley, "distance", lambda self, x: x - 2.0)
    with pytest.raises(ValueError, match="what differs: the class of its object;"):
        run(valley.loss, "method")
    monkeypatch.setattr(sys.modules[__name__], "scaled", lambda *_: 0.0)
    with pytest.raises(ValueError, match="what differs: the value of 'scaled';"):
        run(scaled_by(2.0), "function")


@dataclasses.dataclass(frozen=True)
class Steps:
    """A method, whose option is what `minimize` keeps of it, but for its code."""

    rate: float = 0.1

    def init(self, x):
        return None

    def step(self, x, g, state):
        return x - self.rate * g, state


def test_checkpoint_of_another_method_object_is_refused(tmp_path, monkeypatch):
    def run(method):
        return hg.minimize(scaled_by(2.0), 0.5, method, 2, checkpoint=tmp_path)

    first = run(Steps())
    same_history(run(Steps()), first)
    with pytest.raises(ValueError, match="its options was"):
        run(Steps(0.2))
    monkeypatch.setattr(Steps, "step", lambda self, x, g, state: (x - self.rate * g / 2, state))
    with pytest.raises(ValueError, match=r"its method's code: .*what differs: the class of its object;"):
        run(Steps())


def test_an_objective_that_changes_what_it_holds_is_told_so(tmp_path):
    def run(values):
        def objective(x, seed):
            values.append(seed)
            return x**2

        return hg.minimize(objective, 0.5, num_iterations=2, checkpoint=tmp_path)

    values = []
    first = run(values)
    with pytest.raises(
        ValueError, match=r"the value of 'values'; what the function itself changes.* has no place"
    ):
        run(values)
    same_history(run([]), first)  # as in a process of its own


def test_an_objective_that_cannot_be_compared_is_refused_before_it_is_evaluated(tmp_path):
    lock, valley = threading.Lock(), Valley(1.0)
    valley.lock = lock
    for objective, name in ((lambda x, seed: lock.locked() + x**2, "lock"), (valley.loss, "self.lock")):
        with pytest.raises(
            TypeError, match=f"the value of '{name}': a lock cannot be compared .*make it inside the function"
        ):
            hg.minimize(objective, 0.5, num_iterations=1, checkpoint=tmp_path / "record")
    assert not (tmp_path / "record").exists()
    assert hg.minimize(objective, 0.5, num_iterations=1).reason == "num_iterations"


def test_line_searches_do_not_go_on_under_another_limit_of_growth(tmp_path):
    """They turn back at the limit, so that it shapes their course; other methods only end there."""

    def run(method, limit, folder):
        return hg.minimize(
            scaled_by(2.0), 0.5, method, 1, growth_limit=limit, checkpoint=tmp_path / folder
        ).reason

    run("lbfgs", 30.0, "lbfgs")
    with pytest.raises(ValueError, match=r"its growth_limit was 30\.0, now it is 60\.0"):
        run("lbfgs", 60.0, "lbfgs")
    assert run("adam", 30.0, "adam") == run("adam", 60.0, "adam")


# ---- records that are no records


def test_records_that_do_not_say_of_what_they_are_are_refused(tmp_path):
    def run():
        return hg.minimize(scaled_by(2.0), 0.5, num_iterations=2, checkpoint=tmp_path)

    run()
    file = tmp_path / "minimize.json"
    settings = json.loads(file.read_text())
    del settings["objective"]
    file.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"does not say what its objective was \(earlier versions did not"):
        run()
    file.unlink()
    with pytest.raises(ValueError, match=r"holds evaluations but no minimize\.json"):
        run()


def test_a_damaged_record_is_named_and_its_evaluation_alone_runs_again(tmp_path):
    def run():
        return hg.minimize(scaled_by(2.0), onp.ones(3), num_iterations=3, checkpoint=tmp_path, callback=note)

    ran = []
    note = lambda i, *_: ran.append(i)  # noqa: E731
    first = run()
    file = tmp_path / "evaluation-000001.npz"
    whole = file.read_bytes()
    rng = onp.random.default_rng(0)
    damaged = [b"", whole[: len(whole) // 2], whole[:-1], bytes(len(whole)), b"nonsense"]
    for position in rng.integers(len(whole), size=40):
        damaged.append(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
    for fields in ({"loss": 1.0}, {**onp.load(file), "gradient": onp.ones(2)}):
        onp.savez(file, **fields)
        damaged.append(file.read_bytes())
    refusals = []
    for content in damaged:
        file.write_bytes(content)
        try:
            same_history(run(), first)  # a byte that says nothing, such as of the time
        except ValueError as error:
            refusals.append(str(error))
    assert len(refusals) > 30
    for refusal in refusals:
        assert re.search(
            r"evaluation-000001\.npz is damaged .*: delete it, and that evaluation runs again", refusal
        )
    file.unlink()
    ran.clear()
    same_history(run(), first)
    assert ran == [1]


def test_damaged_settings_are_named(tmp_path):
    def run():
        return hg.minimize(scaled_by(2.0), 0.5, num_iterations=1, checkpoint=tmp_path)

    run()
    file = tmp_path / "minimize.json"
    whole = file.read_bytes()
    for content in (
        b"",
        whole[:-9],
        bytes(len(whole)),
        b"[]",
        b"\xff" + whole[1:],
        whole.replace(b'"parts"', b'"carts"'),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"minimize\.json is damaged .*delete"):
            run()


def test_a_checkpoint_that_cannot_be_kept_says_so_before_anything_is_evaluated(tmp_path, monkeypatch):
    def run(folder, num_iterations=1):
        return hg.minimize(scaled_by(2.0), 0.5, num_iterations=num_iterations, checkpoint=folder)

    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "folder"):
        with pytest.raises(ValueError, match=f"checkpoint must be a folder, but .*{folder.name} is a file"):
            run(folder)
    first = run(tmp_path / "kept")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(evaluations, "_evaluate_seed", lambda *_: pytest.fail("evaluated"))
    same_history(run(tmp_path / "kept"), first)
    for folder in (tmp_path / "kept", tmp_path / "new"):
        with pytest.raises(PermissionError, match=f"checkpoint .*{folder.name} is read-only"):
            run(folder, num_iterations=2)


def test_an_evaluation_that_cannot_be_kept_is_named(tmp_path, monkeypatch):
    def no_space(_):
        raise OSError(errno.ENOSPC, "no space left on device")

    def callback(*_):
        monkeypatch.setattr(os, "fsync", no_space)

    with pytest.raises(
        OSError, match=r"evaluation 1 can't be kept: no space left on device: .*evaluation-000001"
    ):
        hg.minimize(scaled_by(2.0), 0.5, num_iterations=2, checkpoint=tmp_path, callback=callback)
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["evaluation-000000.npz", "minimize.json"]


def test_limits_end_the_run():
    def run(**limits):
        return hg.minimize(lambda x, seed: x**2, 1.0, "gradient", 50, num_seeds=2, **limits)

    result = run(max_evaluations=7)
    assert (result.reason, len(result.history.loss)) == ("max_evaluations", 3)
    assert float(result.hypers) == pytest.approx(0.8**3)
    result = run(max_seconds=0.0)
    assert (result.reason, len(result.history.loss)) == ("max_seconds", 1)
    result = run(gradient_tolerance=0.5)
    assert result.reason == "gradient_tolerance"
    assert result.history.gradient_norm[-1] <= 0.5 < result.history.gradient_norm[-2]
    assert run().reason == "num_iterations"
    assert hg.minimize(lambda x, seed: x**2, 1.0, num_iterations=0).history.loss.shape == (0,)


def training(hypers, seed):
    """A step size on a loss on which descent is chaotic for large ones."""

    def loss(w, theta, t):
        return np.sum(np.cos(3.0 * w)) + 0.05 * np.sum(w**2)

    rule = hg.Momentum(hypers["step"], 0.5)
    weights = hg.train(loss, RandomState(seed).randn(4), rule, 30)
    return np.mean((weights - 40.0) ** 2) / 1e3


def test_growing_adjoint_ends_the_run_and_keeps_what_was_done():
    start = {"step": 0.05}
    with pytest.warns(UserWarning, match="minimize ended after .* growing adjoint"):
        result = hg.minimize(
            lambda h, seed: training(h, seed) - 10.0 * np.log(h["step"]),
            start,
            "gradient",
            40,
            transforms="log",
            growth_limit=30.0,
            learning_rate=0.02,
        )
    assert result.reason.startswith("growing adjoint: going back from iteration 30")
    assert 0 < len(result.history.loss) < 40
    assert onp.all(result.history.growth <= 30.0)
    assert result.history.growth.shape == result.history.loss.shape
    assert hg.minimize(training, start, num_iterations=1, transforms="log").history.growth is None


def test_growth_is_the_largest_of_all_runs_of_all_seeds():
    """The first seed trains tamely last, the second wildly first, and its runs have a monitor of their own."""
    start = onp.array([0.3, -0.7, 1.1])

    def loss(w, theta, t):
        return np.sum(np.cos(3.0 * w)) + 0.05 * np.sum(w**2)

    def objective(h, seed):
        runs = [
            hg.train(loss, h * start, hg.Momentum(step, 0.5), 30, monitor=lambda step: None)
            for step in ((1.0, 2.0)[seed], 0.01)
        ]
        return sum(np.sum(w**2) for w in runs)

    def growth(seed, num_seeds):
        result = hg.minimize(
            objective, 1.0, num_iterations=1, seed=seed, num_seeds=num_seeds, growth_limit=1e30
        )
        return result.history.growth[0]

    alone = growth(0, 1), growth(1, 1)
    assert min(alone) > 30
    assert growth(0, 2) == max(alone)


def test_growth_is_not_known_where_a_line_search_turned_back():
    def objective(h, seed):
        if float(getattr(h, "_value", h)) > 2.0:
            raise hg.FixedPointRangeError("out of range", 0)
        return 100.0 * (hg.train(lambda w, theta, t: (w - 1.0) ** 2, h, hg.Momentum(0.1, 0.5), 2) - 1.9) ** 2

    history = hg.minimize(objective, 0.0, "lbfgs", 5, growth_limit=30.0).history
    assert onp.isinf(history.loss).any()
    onp.testing.assert_array_equal(onp.isnan(history.growth), onp.isinf(history.loss))


def test_training_that_fails_ends_the_run_and_says_why():
    def objective(h, seed):
        if float(getattr(h, "_value", h)) > 1.25:
            raise hg.NonFiniteGradientError("the gradient is nan at iteration 3")
        return -h

    with pytest.warns(UserWarning, match="ended after 3 evaluations, training failed: the gradient is nan"):
        result = hg.minimize(objective, 1.0, "gradient", 10, learning_rate=0.1)
    assert result.history.loss == pytest.approx([-1.0, -1.1, -1.2])
    with pytest.raises(hg.NonFiniteGradientError):
        hg.minimize(objective, 2.0, "gradient", 10)


def test_line_search_turns_back_from_training_that_fails():
    def objective(h, seed):
        if float(getattr(h, "_value", h)) > 2.0:
            raise hg.FixedPointRangeError("out of range", 0)
        return 100.0 * (h - 1.9) ** 2

    result = hg.minimize(objective, 0.0, "lbfgs", 30)
    assert float(result.best) == pytest.approx(1.9, abs=1e-3)


def test_what_is_not_finite_is_named():
    def objective(h, seed):
        return np.sum(h["a"]) + (np.sqrt(h["b"][1]) if seed else 0.0)

    with (
        pytest.warns(
            UserWarning,
            match=r"gradient with respect to hypers\['b'\]\[1\] is inf \(meta-iteration 1, seed 1\)",
        ),
        onp.errstate(all="ignore"),
    ):
        hg.minimize(objective, {"a": onp.ones(2), "b": onp.array([1.0, 0.0])}, "gradient", 5)
    with pytest.raises(ArithmeticError, match=r"the loss is nan \(meta-iteration 0, seed 0\)"):
        hg.minimize(lambda h, seed: h * onp.nan, 1.0)


def test_callback_sees_hyperparameters_in_their_own_coordinates():
    seen = []
    hg.minimize(
        bowl,
        START,
        "gradient",
        2,
        transforms=TRANSFORMS,
        callback=lambda i, hypers, loss, gradient: seen.append((i, hypers, loss, gradient)),
    )
    assert [i for i, *_ in seen] == [0, 1]
    assert flatten(seen[0][1])[0] == pytest.approx(flatten(START)[0])
    assert seen[0][2] == pytest.approx(float(bowl(START, 0)))
    assert float(seen[0][3]["step"]) == pytest.approx(2 * (onp.log(0.1) - onp.log(0.3)))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"hypers": {**START, "step": 0.0}}, r"hypers\['step'\] must be between 0 and inf.*got 0"),
        ({"hypers": {**START, "decay": onp.array([0.5, 1.0])}}, r"got 1 at hypers\['decay'\]\[1\]"),
        ({"method": "newton"}, "method must be one of gradient, momentum, rmsprop, adam, lbfgs"),
        ({"momentum": 0.9}, "adam has no option momentum; it has learning_rate, beta1, beta2, eps"),
        ({"learning_rate": -1.0}, "learning_rate of Adam must be above 0"),
        ({"beta1": 1.0}, "beta1 of Adam must be above 0 and below 1"),
        ({"num_seeds": 0}, "num_seeds must be 1 or more"),
        ({"num_iterations": -1}, "num_iterations must be 0 or more"),
        ({"transforms": {"step": "log"}}, "transforms does not match hypers"),
    ],
)
def test_bad_arguments_are_refused(change, match):
    arguments = {"hypers": START, "transforms": TRANSFORMS, "num_iterations": 1} | change
    with pytest.raises(ValueError, match=match):
        hg.minimize(bowl, **arguments)


def test_other_transforms_and_intervals_are_refused():
    with pytest.raises(TypeError, match=r"transforms\['step'\] must be 'log', 'logit', an Interval or None"):
        hg.minimize(bowl, START, transforms={**TRANSFORMS, "step": "exp"})
    with pytest.raises(ValueError, match="low < high, got 2 and 1"):
        hg.Interval(2, 1)


def test_transforms_are_inverse_to_each_other():
    coordinates = FreeCoordinates(START, TRANSFORMS)
    free = coordinates.to_free(START)
    assert flatten(coordinates.from_free(free))[0] == pytest.approx(flatten(START)[0], rel=1e-12)
    assert free[list(coordinates.layout.paths).index("hypers['step']")] == pytest.approx(onp.log(0.1))


def test_learns_a_schedule_through_training():
    """Step size and decay of every step, positive throughout, over fresh seeds."""

    def objective(h, seed):
        rng = RandomState(seed)
        scales = onp.array([1.0, 4.0, 9.0])
        weights = hg.train(
            lambda w, theta, t: np.sum(scales * w**2), rng.randn(3), hg.Momentum(h["step"], h["decay"]), 10
        )
        return np.sum(scales * weights**2)

    start = {"step": onp.full(10, 0.02), "decay": onp.full(10, 0.5)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = hg.minimize(
            objective,
            start,
            "adam",
            40,
            transforms={"step": "log", "decay": "logit"},
            num_seeds=3,
            learning_rate=0.1,
            growth_limit=30.0,
        )
    assert result.history.loss[-5:].mean() < 0.1 * result.history.loss[:5].mean()
    assert onp.all(result.hypers["step"] > 0)


def test_errors_of_training_come_through_other_processes_whole():
    error = pickle.loads(pickle.dumps(hg.FixedPointRangeError("weights[3] is out of range", 3)))
    assert (str(error), error.index) == ("weights[3] is out of range", 3)

    def objective(h, seed):
        if float(getattr(h, "_value", h)) > 1.15:
            raise hg.FixedPointRangeError("weights[3] is out of range", 3)
        return -h

    with pytest.warns(UserWarning, match=r"training failed: weights\[3\] is out of range"):
        result = hg.minimize(objective, 1.0, "gradient", 10, learning_rate=0.1, num_seeds=2, jobs=2)
    assert result.history.loss == pytest.approx([-1.0, -1.1])
    assert float(result.hypers) == pytest.approx(1.1), "the last point where training worked"


def test_checkpoint_of_other_transforms_is_refused(tmp_path):
    hg.minimize(lambda x, seed: x**2, 0.5, num_iterations=1, transforms="log", checkpoint=tmp_path)
    with pytest.raises(ValueError, match="its transforms was"):
        hg.minimize(lambda x, seed: x**2, 0.5, num_iterations=1, transforms="logit", checkpoint=tmp_path)


def test_a_step_far_off_stays_in_the_domain():
    """Where floats come to the end of an interval, the last number before stands for it."""
    for transform, low, high in (
        ("log", 0.0, onp.inf),
        ("logit", 0.0, 1.0),
        (hg.Interval(2.0, 3.0), 2.0, 3.0),
    ):
        coordinates = FreeCoordinates(2.5 if low else 0.5, transform)
        for y in (-1e4, 1e4):
            x = float(coordinates.from_free(onp.array([y])))
            assert low < x < high
