"""The quick form of every benchmark runs, and its numbers make sense; no assertion on time."""

import json

import numpy as np
import pytest

from benchmarks.__main__ import command_line, discover

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
    results = module.run(module.Config.quick())
    bits, limits = np.array(results["bits"]), np.array(results["limits"])
    assert np.all(bits[:, -1] > 0.99 * limits), "no lossless buffer is smaller than the limit"
    assert np.all(bits[:, -1] < (1 + module.GOAL) * limits), "goal at 10,000 steps"
    assert np.all(np.diff(bits, axis=1) < 0), "the constant part weighs less in longer runs"
