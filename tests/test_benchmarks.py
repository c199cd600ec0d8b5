"""The quick form of every benchmark runs, and its numbers make sense; no assertion on time."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks.__main__ import command_line, discover
from benchmarks.common import Stopwatch, seconds_of

BENCHMARKS = discover()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_quick_form_runs_and_saves(name, tmp_path, capsys):
    command_line([name, "--quick", "--out", str(tmp_path)])
    saved = json.loads((tmp_path / f"{name}.json").read_text())
    assert saved["quick"]
    assert saved["machine"]
    assert name in capsys.readouterr().out


def test_there_is_one_for_cost_and_one_for_memory():
    assert {"cost", "memory"} <= set(BENCHMARKS)


def test_buffer_takes_no_less_than_the_limit_and_little_more():
    module = BENCHMARKS["memory"]
    config = module.Config(decays=(0.5, 0.9), num_steps=(1_000, 10_000), num_weights=50, run_decays=())
    results = module.run(config)
    for index, (decay, limit) in enumerate(zip(results["decays"], results["limits"], strict=True)):
        bits, steps = np.array(results["bits"][index]), np.array(results["num_steps"])
        assert np.all(bits > 0.99 * limit * steps), (
            f"no lossless buffer is smaller than the limit, decay {decay}"
        )
        assert np.all(bits < limit * steps + 17), f"one word may be less than full, decay {decay}"
        assert module.growth_of_buffer(results, index) < (1 + module.GOAL) * limit, f"goal, decay {decay}"


def test_parts_add_up_to_the_passes_and_none_is_missed():
    module = BENCHMARKS["cost"]
    for case in module.measure_all(module.Config.quick()):
        for way in ("forward", "backward"):
            parts = {name: case[f"{way} {name}"]["median"] for name in module.PARTS}
            for name, part in parts.items():
                assert part > 0, f"{way} {name}: the stopwatch saw no call"
        assert case["num_weights"] == 784 * 20 + 20 + 20 * 10 + 10
        assert case["num_hypers"] == 2 * 4 * 5 + case["theta"] * case["num_weights"]


def test_nothing_but_the_buffer_grows_with_the_number_of_steps():
    module = BENCHMARKS["memory"]
    config = module.Config(decays=(), run_decays=(0.5,), run_steps=(64, 320), run_weights=20_000)
    bits, _ = module.growth(module.run(config), 0)
    assert 0.99 < bits < 1.1, "bits per weight and step at a decay of 0.5"


def test_finer_factors_mean_smaller_stairs_and_more_noise():
    module = BENCHMARKS["factor_bits"]
    results = module.run(module.Config.quick())
    stairs = np.array(results["difference_errors"])
    assert stairs[0, 2] > 10 * stairs[2, 2], "differences of 1e-5 at k = 16 and 24"
    assert np.all(np.diff(results["noise_rms"]) > 0)
    limits = 100 * 2.0 ** (np.array(results["factor_bits"]) - 52)
    assert np.all(results["noise_largest"] < limits), "noise of 2^(k - 52) a step"


def test_time_of_an_inner_call_counts_once():
    stopwatch = Stopwatch()
    inner = stopwatch.timed("inner", lambda: sum(range(20_000)))
    total, _ = seconds_of(stopwatch.timed("outer", lambda: [inner() for _ in range(5)]))
    assert 0 < sum(stopwatch.seconds.values()) <= total
    assert stopwatch.seconds["inner"] > stopwatch.seconds["outer"] > 0


def test_unknown_name_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        command_line(["costs"])
    assert "no benchmark named costs; there are cost, " in capsys.readouterr().err


def test_a_contender_that_is_refused_memory_is_said_to_be_out_of_it(monkeypatch):
    module = BENCHMARKS["peers"]

    def greedy(problem):
        too_much = len(problem.batches) > 2  # the first calls, with two steps, go well
        return lambda: np.empty(2**58 if too_much else 1)

    class Connection(list):
        send = list.append

    monkeypatch.setitem(module.CONTENDERS, "greedy", module.Contender(greedy, "numpy"))
    sent = Connection()
    module._measure(sent, module.Config.quick(), "schedules", 5, "greedy")
    assert sent == [{"failure": "out of memory"}]


@pytest.mark.parametrize("short", [0.0, 1000.0])
def test_peers_are_measured_in_turns_in_processes_that_stay_if_all_calls_are_short(short, monkeypatch):
    module = BENCHMARKS["peers"]
    started = []

    class Process(module.Process):
        def __init__(self, config, network, num_steps, name):
            started.append(name)
            super().__init__(config, network, num_steps, name)

    monkeypatch.setattr(module, "Process", Process)
    config = dataclasses.replace(module.Config.quick(), short=short)
    found = module.measure_in_turns(config, "schedules", 5, ["hypergrad", "autograd"])
    assert started == ["hypergrad", "autograd"] * (2 if short == 0.0 else 1)
    assert all(each["seconds"] > 0 and each["difference"] < 1e-6 for each in found.values())


def test_other_failures_are_not_taken_for_a_lack_of_memory():
    module = BENCHMARKS["peers"]
    assert module._refused_memory(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes."))
    assert module._refused_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not module._refused_memory(RuntimeError("shapes do not match"))
