"""The examples run, and the two interfaces come to the same numbers."""

import runpy
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_as_a_script(path, capsys):
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


def test_both_interfaces_learn_the_same_schedules():
    results = [runpy.run_path(str(path))["run"]() for path in EXAMPLES if path.stem.startswith("schedules_")]
    assert len(results) == 2
    (losses_2015, learned_2015), (losses, learned) = results
    np.testing.assert_allclose(losses, losses_2015, rtol=1e-10)
    np.testing.assert_allclose(learned, learned_2015, rtol=1e-8)
    assert losses[-1] < losses[0], "learning schedules lowers the loss"
