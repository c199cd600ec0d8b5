"""The map over items: order, failures, kept results, interruption; on processes, on Dask workers, through SLURM."""

import contextlib
import functools
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import autograd.numpy as np
import cloudpickle
import dask
import joblib
import numpy.random as npr
import pytest
from autograd import grad
from autograd.extend import primitive
from autograd.numpy import tanh
from distributed import Client, KilledWorker, LocalCluster
from numpy import testing
from threadpoolctl import threadpool_info

import hypergrad as hg
from hypergrad import kept_results, odyssey
from hypergrad.parallel import ItemFailedError, collect_results, make_cluster, omap
from hypergrad.transport import digest, dumps, fingerprint, loads

ROOT = Path(__file__).parents[1]
scale = 3.0


def times_scale(x):
    return scale * x


def recorder(path):
    """A function that notes each call's item, and how often each item has been run so far."""

    def record(item):
        with path.open("a") as stream:
            stream.write(f"{item}\n")

    def counts():
        lines = path.read_text().split() if path.exists() else []
        return {item: lines.count(item) for item in sorted(set(lines))}

    return record, counts


def wait_until(condition, what, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.02)


# ---- the map itself


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_the_order_of_the_arguments(jobs):
    def late_first(i):
        time.sleep(0.2 if i == 0 else 0.0)
        return i, os.getpid()

    items, pids = zip(*omap(late_first, (i for i in range(8)), jobs=jobs), strict=True)
    assert items == tuple(range(8)), "order of the results"
    assert (set(pids) == {os.getpid()}) == (jobs == 1), "jobs=1 runs in this process, jobs=2 elsewhere"


def test_two_items_run_at_the_same_time(tmp_path):
    def meet(i):
        (tmp_path / str(i)).touch()
        wait_until((tmp_path / str(1 - i)).exists, "the other item starts while this one runs")
        return True

    assert omap(meet, [0, 1], jobs=2) == [True, True]


def test_the_progress_bar_counts_items_and_is_silent_off_a_terminal(capsys, tmp_path):
    omap(times_scale, range(3), jobs=1, directory=tmp_path)
    assert capsys.readouterr().err == "", "a bar by default, off a terminal"
    omap(times_scale, range(7), jobs=1, directory=tmp_path, progress=True)
    bar = capsys.readouterr().err
    assert "| 3/7 [" in bar, "the bar starts at the items that a directory holds"
    assert "| 7/7 [" in bar, "the bar ends at the number of items"


def test_nothing_to_do():
    assert omap(times_scale, []) == []


def test_hypergradients_are_the_same_in_another_process():
    def hypergradient(seed):
        weights = npr.RandomState(seed).randn(5)

        def validation_loss(log_step):
            rule = hg.Momentum(step_size=np.exp(log_step), decay=0.9)
            return np.sum(
                tanh(hg.train(lambda w, theta, t: np.sum(w**2 * (t + 1)), weights, rule, num_steps=5))
            )

        return grad(validation_loss)(-3.0)

    assert omap(hypergradient, range(3), jobs=2) == omap(hypergradient, range(3), jobs=1)


def test_large_arrays_arrive_as_arrays_that_autograd_differentiates():
    def gradient(w):
        w[0] = 3.0  # the item's own copy
        return type(w), grad(lambda w: np.sum(w * w))(w)[0]

    weights = np.ones(300_000)  # 2.4 MB: joblib alone would send a read-only memory map
    assert omap(gradient, [weights, weights], jobs=2) == [(np.ndarray, 6.0)] * 2
    assert weights[0] == 1.0, "the caller's array"


def test_a_function_keeps_what_it_remembers_from_item_to_item():
    loaded = []

    def load_once(i):
        if not loaded:
            loaded.append(i)
        return os.getpid(), loaded[0]

    results = omap(load_once, range(40), jobs=2)
    assert len(set(results)) == len({pid for pid, _ in results}), "one load for each process"


def test_each_local_process_gets_its_share_of_the_cores(monkeypatch):
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

    def limits(_):
        np.dot(np.ones((9, 9)), np.ones((9, 9)))
        pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        return [os.environ[name] for name in variables], pools

    for name in variables:
        monkeypatch.setenv(name, "7")
    share = max(1, joblib.cpu_count() // 2)
    for environment, pools in omap(limits, range(4), jobs=2):
        assert environment == [str(share)] * 3, "threads allowed by the environment of a worker"
        assert pools, "BLAS libraries that threadpoolctl sees in a worker"
        assert max(pools) == share, "threads of BLAS in a worker"
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    assert {limit for environment, _ in omap(limits, range(4), jobs=2) for limit in environment} == {"4"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"jobs": 0}, ValueError, "jobs must be a whole number from 1 on"),
        ({"jobs": True}, ValueError, "jobs must be a whole number"),
        ({"job": 2}, TypeError, "omap has no option 'job'"),
        ({"cluster": "slurm"}, ValueError, "how many slurm jobs"),
        ({"cluster": "sge", "jobs": 2}, ValueError, "one of 'slurm', 'pbs', 'lsf', not 'sge'"),
        ({"client": "tcp://127.0.0.1:8786"}, TypeError, r"distributed\.Client, not a str"),
    ],
)
def test_what_does_not_fit_together_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        omap(times_scale, [1, 2], **options)


def test_what_cannot_be_sent_is_named():
    with pytest.raises(
        TypeError, match=r"the argument of item 1, <unlocked .* cannot be sent to another process"
    ):
        omap(times_scale, [1, threading.Lock()], jobs=2)
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"the function .* cannot be sent to another process"):
        omap(lambda _: lock.locked(), [1, 2], jobs=2)


def test_importing_the_module_is_light():
    heavy = "numba", "joblib", "tqdm", "dask", "distributed", "cloudpickle", "matplotlib"
    code = (
        f"import sys, hypergrad.parallel, hypergrad.odyssey; print([m for m in {heavy} if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]", "modules that importing hypergrad.parallel loads"


def test_the_names_of_2015():
    assert odyssey.omap(lambda x: x + 1, [1, 2], jobs=1) == [2, 3]
    assert odyssey.collect_results is collect_results


# ---- failures


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failed_item_is_named_and_the_others_are_finished(jobs):
    def divide(x):
        return 12 / x["step"]

    with pytest.raises(ItemFailedError) as caught:
        omap(divide, [{"step": step} for step in (3, 0, 4, 0, 6)], jobs=jobs)
    failed = caught.value
    assert (failed.index, failed.argument) == (1, {"step": 0}), "the failed item"
    assert failed.results == {0: 4.0, 2: 3.0, 4: 2.0}, "results of the others"
    assert sorted(failed.failures) == [1, 3], "all that failed"
    assert isinstance(failed.__cause__, ZeroDivisionError), "what the function raised"
    for text in ("item 1 failed", "{'step': 0}", "[1, 3]", 'return 12 / x["step"]', "ZeroDivisionError"):
        assert text in str(failed), f"the message says {text}"
    again = loads(dumps(failed))
    assert str(again) == str(failed), "the exception survives pickling"


class TwoPartError(Exception):
    """An exception that can be pickled and not unpickled, as many are."""

    def __init__(self, what, where):
        super().__init__(f"{what} in {where}")


def test_what_a_worker_cannot_send_back_fails_its_own_item():
    def misbehave(i):
        if i == 0:
            raise TwoPartError("loss diverged", "item 0")
        if i == 1:
            return (j for j in range(3))
        if i == 2:
            sys.exit("item 2 gives up")
        return i

    with pytest.raises(ItemFailedError) as caught:
        omap(misbehave, range(5), jobs=2)
    errors = {index: str(failure.error) for index, failure in caught.value.failures.items()}
    assert errors[0] == "TwoPartError: loss diverged in item 0"
    assert "cannot pickle 'generator' object" in errors[1]
    assert errors[2] == "item 2 gives up"
    assert caught.value.results == {3: 3, 4: 4}, "results of the others"


# ---- results kept in a directory


def test_finished_items_are_not_run_again(tmp_path):
    record, counts = recorder(tmp_path / "log")

    def square(x, record=record):
        record(x)
        if x == 3 and not (tmp_path / "repaired").exists():
            raise ValueError("not yet")
        return {"square": np.full(2, x**2)}

    with pytest.raises(ItemFailedError):
        omap(square, range(5), jobs=2, directory=tmp_path / "kept")
    (tmp_path / "repaired").touch()
    with pytest.raises(ValueError, match=r"1 of 5 items are not finished \(the first is item 3\)"):
        collect_results(tmp_path / "kept")
    assert collect_results(tmp_path / "kept", default=None)[3] is None, "an unfinished item, by default"
    for jobs in (1, 2):
        results = omap(square, range(5), jobs=jobs, directory=tmp_path / "kept")
        testing.assert_array_equal([result["square"] for result in results], [[x**2] * 2 for x in range(5)])
    assert counts() == {"0": 1, "1": 1, "2": 1, "3": 2, "4": 1}, "runs of each item"
    testing.assert_array_equal(collect_results(tmp_path / "kept")[4]["square"], [16, 16])


def test_a_longer_list_goes_on_and_a_shorter_one_takes_the_first_results(tmp_path):
    record, counts = recorder(tmp_path / "log")
    plus_one = lambda x, record=record: (record(x), x + 1)[1]  # noqa: E731
    for length in (2, 4, 3):
        results = omap(plus_one, range(length), jobs=1, directory=tmp_path / "kept")
        assert results == list(range(1, length + 1)), f"results of {length} arguments"
    assert counts() == {"0": 1, "1": 1, "2": 1, "3": 1}, "runs of each item"
    assert collect_results(tmp_path / "kept") == [1, 2, 3, 4], "the longest list remains on record"


def test_an_interruption_in_this_process_keeps_what_was_done(tmp_path):
    record, counts = recorder(tmp_path / "log")

    def interrupted(x):
        record(x)
        if x == 2 and counts()["2"] == 1:
            raise KeyboardInterrupt
        return x

    with pytest.raises(KeyboardInterrupt):
        omap(interrupted, range(4), jobs=1, directory=tmp_path / "kept")
    assert collect_results(tmp_path / "kept", default="-") == [0, 1, "-", "-"]
    assert omap(interrupted, range(4), jobs=1, directory=tmp_path / "kept") == [0, 1, 2, 3]
    assert counts() == {"0": 1, "1": 1, "2": 2, "3": 1}, "runs of each item"


def test_ctrl_c_on_a_script_with_processes_keeps_what_was_done(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from hypergrad.parallel import omap\n"
        "here = Path(sys.argv[1])\n"
        "def slow(item):\n"
        "    with (here / 'log').open('a') as stream:\n"
        "        stream.write(f'{item}\\n')\n"
        "    while item > 1 and not (here / 'go').exists():\n"
        "        time.sleep(0.02)\n"
        "    return item * 10\n"
        "print(omap(slow, range(4), jobs=2, directory=here / 'kept'))\n"
    )
    _, counts = recorder(tmp_path / "log")
    command = [sys.executable, script, tmp_path]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    # In a session of its own, so that the signal reaches it and its workers, as a terminal's Ctrl-C would.
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            wait_until(lambda: counts() == dict.fromkeys("0123", 1), "two items run, two wait")
            wait_until(lambda: len([*tmp_path.glob("kept/*.pickle")]) == 2, "two results are kept")
            os.killpg(process.pid, signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert b"KeyboardInterrupt" in errors, "how the script ended"
    assert collect_results(tmp_path / "kept", default="-") == [0, 10, "-", "-"]
    (tmp_path / "go").touch()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert again.stdout.strip() == "[0, 10, 20, 30]"
    assert counts() == {"0": 1, "1": 1, "2": 2, "3": 2}, "runs of each item"


def test_a_directory_of_another_map_is_refused(tmp_path, monkeypatch):
    def scaled_by(factor, power=1):
        return lambda x: factor * times_scale(x) ** power

    kept = tmp_path / "kept"
    omap(scaled_by(2.0), [1.0, 2.0, 3.0], jobs=1, directory=kept)
    before = {file.name: file.read_bytes() for file in kept.iterdir()}

    def refused(fun, arglist, message):
        with pytest.raises(ValueError, match=message):
            omap(fun, arglist, jobs=1, directory=kept)

    refused(scaled_by(5.0), [1.0, 2.0, 3.0], "another function: .*what differs: the value of 'factor';")
    refused(times_scale, [1.0, 2.0, 3.0], "another function: .*<lambda> then, times_scale now; .*its code")
    refused(
        scaled_by(2.0),
        [1.0, 2.5, 3.0],
        r"other arguments: 1 of 3 differ, the first is item 1: 2.0 then, 2.5 now",
    )
    refused(scaled_by(2.0), [1], r"other arguments: .*1.0 then, 1 now")
    with monkeypatch.context() as changed:
        changed.setattr(sys.modules[__name__], "scale", 4.0)
        refused(scaled_by(2.0), [1.0, 2.0, 3.0], "what differs: the value of 'times_scale'")
    assert {file.name: file.read_bytes() for file in kept.iterdir()} == before, (
        "the directory, left as it was"
    )
    assert omap(scaled_by(2.0), [1.0, 2.0, 3.0], jobs=1, directory=kept) == [6.0, 12.0, 18.0]

    (kept / "omap.json").unlink()
    refused(scaled_by(2.0), [1.0, 2.0, 3.0], "holds pickles but no omap.json")
    with pytest.raises(FileNotFoundError):
        collect_results(kept)


def test_another_python_is_named_when_code_differs(tmp_path):
    omap(times_scale, [1.0], jobs=1, directory=tmp_path)
    manifest = json.loads((tmp_path / "omap.json").read_text())
    manifest["parts"]["its code"], manifest["python"] = "0" * 32, "3.9"
    (tmp_path / "omap.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"its code \(compiled by Python 3.9, now by 3\.\d+\)"):
        omap(times_scale, [1.0], jobs=1, directory=tmp_path)


def test_damaged_files_are_named(tmp_path):
    omap(times_scale, [1.0, 2.0], jobs=1, directory=tmp_path)
    (tmp_path / "000001.pickle").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"000001\.pickle cannot be read .*delete it to compute its item again"
    ):
        omap(times_scale, [1.0, 2.0], jobs=1, directory=tmp_path)
    (tmp_path / "omap.json").write_text("{")
    with pytest.raises(ValueError, match=r"omap\.json is damaged"):
        collect_results(tmp_path)


def test_a_result_is_kept_whole_or_not_at_all(tmp_path, monkeypatch):
    def no_space(_):
        raise OSError("no space left on device")

    kept = kept_results.KeptResults(tmp_path, times_scale, [1.0])
    with monkeypatch.context() as full:
        full.setattr(kept_results.os, "fsync", no_space)
        with pytest.raises(OSError, match="no space left"):
            kept.keep(0, 3.0)
        with pytest.raises(ItemFailedError, match="no space left") as caught:
            omap(times_scale, [1.0], jobs=1, directory=tmp_path)
    assert caught.value.results == {0: 3.0}, "a result that could not be written is handed over"
    assert [file.name for file in tmp_path.iterdir()] == ["omap.json"], "files after a failed write"
    (tmp_path / "000000.pickle.0123.part").write_bytes(b"cut off in the mid")
    assert omap(times_scale, [1.0], jobs=1, directory=tmp_path) == [3.0], (
        "a file cut off by a crash is no result"
    )


def test_what_cannot_be_compared_is_named(tmp_path):
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"the value of 'lock': a lock cannot be compared between runs"):
        omap(lambda x: lock.locked(), [1], jobs=1, directory=tmp_path)
    assert list(tmp_path.iterdir()) == [], "files after the refusal"


# ---- telling functions and values apart


def test_fingerprints_are_the_same_in_every_process(tmp_path):
    (tmp_path / "work.py").write_text(
        "import json\n"
        "from dataclasses import dataclass, field\n"
        "from typing import NamedTuple\n"
        "import autograd.numpy as np\n"
        "from autograd import grad\n"
        "from hypergrad.transport import digest, fingerprint\n"
        "names = {'alpha', 'beta', 'gamma', 'delta'}\n"
        "mixed = {'a': 1, 2: 'b', ('c', 3): {4.5, 'six'}}\n"
        "def factorial(n):\n"
        "    return 1 if n in {0, 1, 'one', 'zero'} else n * factorial(n - 1)\n"
        "def fun(x, activation=np.tanh):\n"
        "    pair = ((1, 2), (1, 2), 'some text', 2j)\n"
        "    return [names, mixed, pair, factorial(3), grad(lambda y: activation(y) + (1, 2)[0])(x)]\n"
        "@dataclass\n"
        "class Model:\n"
        "    names: set = field(default_factory=set)\n"
        "    def __call__(self, x):\n"
        "        return fun(x), Model, Pair\n"
        "class Pair(NamedTuple):\n"
        "    one: int\n"
        "functions = [fun, grad(fun), Model(names), Model.__call__]\n"
        "print(json.dumps([*map(fingerprint, functions), digest(mixed), digest(names)]))\n"
    )
    outputs = set()
    for seed in "12":  # the second process reads the byte code that the first has written
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "PYTHONHASHSEED": seed,
            "PYTHONDONTWRITEBYTECODE": "",
        }
        command = [sys.executable, "-c", "import work"]
        run = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        outputs.add(run.stdout)
    assert (tmp_path / "__pycache__").exists(), "byte code for the second process"
    assert len(outputs) == 1, "fingerprints in processes with different hash seeds"


def test_digests_tell_values_apart_and_nothing_else():
    class Config:
        def __init__(self, rate):
            self.rate = rate

    x = np.arange(4.0)
    different = [
        *(1, 1.0, True, "1", b"1", None, (1,), [1], {1}, frozenset({1}), {"a": 1}, {"a": 2}, np.float64(1.0)),
        *(x, x.reshape(2, 2), x.astype(np.float32), x + 1, [x], {"w": x}, Config(1.0), Config(2.0), Config),
        *(np.tanh, np.sin, np, time.sleep, len, [1].append, npr.RandomState(1), npr.RandomState(2)),
        *(lambda: 1, lambda: 2, lambda x: x, lambda x=1: x, lambda: x, lambda: times_scale(1), times_scale),
    ]
    for one, other in itertools.combinations(different, 2):
        assert digest(one) != digest(other), f"digests of {one!r} and {other!r}"
    word = "".join(["w", "0"])
    for one, other in [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ([word, word], ["w0", "".join(["w", "0"])]),
        ((x, x), (x, x.copy())),
        (Config(x), Config(x.copy())),
        (lambda: x, lambda: x),
    ]:
        assert digest(one) == digest(other), f"digests of {one!r} and {other!r}"


def test_fingerprints_see_into_partials_and_methods(monkeypatch):
    class Model:
        def loss(self, x):
            return times_scale(x)

    for fun in (
        functools.partial(times_scale, 1.0),
        functools.partial(functools.partial(times_scale)),
        Model().loss,
    ):
        before = fingerprint(fun)
        dumps(fun)
        assert fingerprint(fun) == before, f"fingerprint of {fun}, again"
        with monkeypatch.context() as changed:
            changed.setattr(sys.modules[__name__], "scale", 4.0)
            assert fingerprint(fun) != before, f"fingerprint of {fun} when a value that it reads has changed"


def test_fingerprints_name_what_differs_in_methods_partials_and_objects():
    class Model:
        def __init__(self, rate):
            self.rate = rate

        def loss(self, x):
            return self.rate * x

    def differing(one, other):
        one, other = fingerprint(one), fingerprint(other)
        return {part for part in one.keys() | other.keys() if one.get(part) != other.get(part)}

    assert differing(Model(1.0).loss, Model(2.0).loss) == {"the value of 'self.rate'"}
    assert differing(functools.partial(times_scale, 1.0), functools.partial(times_scale, 2.0)) == {
        "the arguments bound to it"
    }
    assert differing(Model(1.0), Model(1.0)) == set()


def test_classes_of_the_functions_own_file_count_with_their_code(monkeypatch):
    class Base:
        def helper(self, x):
            return x

    class Model(Base):
        rate = 1.0

        @property
        def doubled(self):
            return 2.0 * self.rate

        @staticmethod
        def halved(x):
            return x / 2

        @functools.cached_property
        def tripled(self):
            return 3.0 * self.rate

        def loss(self, x):
            return Base, Model, self.helper(x)

    @functools.lru_cache
    def load(name):
        return name

    def make(x):
        return Model().loss(x), load("data")

    changes = [
        (Base, "helper", lambda self, x: x + 1),
        (Model, "rate", 2.0),
        (Model, "doubled", property(lambda self: 4.0)),
        (Model, "halved", staticmethod(lambda x: x / 3)),
        (Model, "tripled", functools.cached_property(lambda self: 5.0)),
        (load, "__wrapped__", lambda name: name * 2),
    ]
    before = fingerprint(make)
    make(1)
    assert fingerprint(make) == before
    for owner, name, value in changes:
        with monkeypatch.context() as changed:
            changed.setattr(owner, name, value)
            assert fingerprint(make) != before, f"fingerprint with another {name}"
    assert fingerprint(make) == before


def test_a_cache_that_fills_is_no_change():
    @hg.util.memoize
    def load(name):
        return name * 2

    def fun(x):
        return load("data"), x

    before = fingerprint(fun)
    fun(1)
    assert fingerprint(fun) == before


def test_autograd_functions_keep_their_gradients_on_the_way():
    module = "import pickle, sys; from autograd import grad; f = pickle.load(sys.stdin.buffer); print(grad(f)(0.3))"
    for fun in (tanh, lambda x: tanh(x), {"activation": tanh}["activation"]):
        sent = subprocess.run(
            [sys.executable, "-c", module], input=dumps(fun), capture_output=True, check=True
        )
        assert float(sent.stdout) == grad(tanh)(0.3), "gradient in another process"
    by_value = subprocess.run(
        [sys.executable, "-c", module], input=cloudpickle.dumps(tanh), capture_output=True
    )
    assert b"NotImplementedError" in by_value.stderr, (
        "plain cloudpickle loses the gradient, so we need our own"
    )

    @primitive
    def local(x):
        return x

    with pytest.raises(pickle.PicklingError, match="'local' is no module's attribute"):
        dumps(local)


# ---- Dask


@pytest.fixture(scope="module")
def client():
    # allowed-failures: how many workers an item may take down before Dask gives it up.
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def test_nothing_is_lost_when_a_dask_worker_is_killed(client, tmp_path):
    record, counts = recorder(tmp_path / "log")

    def square(x):
        record(x)
        if x == 7 and counts()["7"] == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
        return x**2, os.getpid()

    workers = set(client.run(os.getpid).values())
    assert len(workers) == 2, "workers at the start"
    results = omap(square, range(30), client=client, directory=tmp_path / "kept")
    assert [result for result, _ in results] == [x**2 for x in range(30)], "results, in order"
    assert collect_results(tmp_path / "kept") == results, "kept results"
    assert counts()["7"] == 2, "runs of the item whose worker was killed"
    assert workers & {pid for _, pid in results}, "the surviving worker went on"
    assert len(workers - set(client.run(os.getpid).values())) == 1, "workers that are gone"


def test_an_item_that_kills_every_worker_is_named(client):
    with pytest.raises(ItemFailedError, match="item 0 failed, with the argument 'deadly'") as caught:
        omap(lambda _: os.kill(os.getpid(), signal.SIGKILL), ["deadly"], client=client)
    assert isinstance(caught.value.__cause__, KilledWorker)


def test_a_failed_item_on_dask_is_named(client):
    with pytest.raises(
        ItemFailedError, match=r"item 1 failed, with the argument 0(.|\n)*ZeroDivisionError"
    ) as caught:
        omap(lambda x: 1 / x, [1, 0, 2], client=client)
    assert caught.value.results == {0: 1.0, 2: 0.5}


def test_an_interruption_takes_the_work_off_the_dask_workers(client, tmp_path, monkeypatch):
    keep = kept_results.KeptResults.keep

    def keep_two(self, index, result):
        if collect_results(tmp_path / "kept", default="-").count("-") == 48:
            raise KeyboardInterrupt
        keep(self, index, result)

    def work_left():
        return client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))

    with monkeypatch.context() as interrupted:
        interrupted.setattr(kept_results.KeptResults, "keep", keep_two)
        with pytest.raises(KeyboardInterrupt):
            omap(lambda x: time.sleep(0.05) or x, range(50), client=client, directory=tmp_path / "kept")
    wait_until(lambda: work_left() == 0, "no work is left at the workers")
    kept = collect_results(tmp_path / "kept", default="-")
    assert [result for result in kept if result != "-"] == [x for x in range(50) if kept[x] != "-"], (
        "kept results"
    )
    assert kept.count("-") == 48, "unfinished items"


def test_dask_leaves_the_arguments_alone(client):
    # A tuple that starts with a function would be a task to Dask; equal arguments would be one task.
    results = omap(
        lambda arg: (arg[0](arg[1]), npr.RandomState().randint(2**31)), [(abs, -3)] * 2, client=client
    )
    assert [result for result, _ in results] == [3, 3]
    assert results[0] != results[1], "two items with equal arguments draw their own random numbers"


def test_dask_workers_with_threads_are_refused():
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": ":0"}
    with (
        LocalCluster(**options) as cluster,
        Client(cluster, set_as_default=False) as client,
        pytest.raises(ItemFailedError, match="runs 2 items at once, as threads of one process"),
    ):
        omap(times_scale, [1], client=client)


def test_a_client_brings_its_own_workers(client):
    with pytest.raises(ValueError, match="a client brings its workers"):
        omap(times_scale, [1], client=client, jobs=2)


# ---- queueing systems


@pytest.mark.parametrize(
    ("system", "lines"),
    [
        ("slurm", ["#SBATCH -p short", "#SBATCH --cpus-per-task=4", "#SBATCH --mem=2G", "#SBATCH -t 01:30"]),
        ("pbs", ["#PBS -q short", "#PBS -l select=1:ncpus=4:mem=2048MB", "#PBS -l walltime=01:30"]),
        ("lsf", ["#BSUB -q short", "#BSUB -n 4", "#BSUB -M 2147484", "#BSUB -W 01:30"]),
    ],
)
def test_job_scripts_ask_for_what_was_asked(system, lines):
    options = {"queue": "short", "cores": 4, "memory": "2GiB", "walltime": "01:30"}
    prologue = ["module load python"]
    local = {"host": "127.0.0.1", "dashboard_address": ":0"}
    with make_cluster(system, job_script_prologue=prologue, scheduler_options=local, **options) as cluster:
        script = cluster.job_script().splitlines()
    for line in [*lines, "export OMP_NUM_THREADS=4", "export OPENBLAS_NUM_THREADS=4", *prologue]:
        assert line in script, f"job script of {system}"
    assert script[-1].endswith("--nthreads 1") or script[-2].endswith("--nthreads 1"), "one item at a time"


def test_without_the_queueing_system_the_call_says_so(monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(RuntimeError, match="there is no sbatch on this machine"):
        omap(times_scale, [1, 2], cluster="slurm", jobs=1, memory="1GiB")


def test_slurm_jobs_run_items_and_a_lost_job_is_replaced(tmp_path, monkeypatch):
    # A stand-in for SLURM: sbatch runs the job script at once, in a session of its own, and scancel ends it.
    stand_in = {
        "sbatch": 'cp "$1" "$JOBS/$$.sh"; setsid bash "$JOBS/$$.sh" > "$JOBS/$$.log" 2>&1 < /dev/null &\n'
        'echo "Submitted batch job $!"\n',
        "scancel": 'kill -- "-$1"\n',
    }
    for name, body in stand_in.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("JOBS", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    record, counts = recorder(tmp_path / "log")

    def square(x):
        record(x)
        if x == 2 and counts()["2"] == 1:
            os.killpg(os.getpgrp(), signal.SIGKILL)  # the job's time is up
        return x**2, os.getpid(), os.environ["OMP_NUM_THREADS"]

    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}):
        results = omap(
            square,
            range(5),
            cluster="slurm",
            jobs=1,
            cores=2,
            memory="1GiB",
            scheduler_options={"host": "127.0.0.1", "dashboard_address": ":0"},
        )
    assert [result for result, _, _ in results] == [x**2 for x in range(5)], "results, in order"
    assert counts()["2"] == 2, "runs of the item whose job was lost"
    assert os.getpid() not in {pid for _, pid, _ in results}, "items run in the jobs"
    assert {threads for _, _, threads in results} == {"2"}, "BLAS threads of a job"
