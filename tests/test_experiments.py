"""Every experiment's quick form runs, redraws and resumes; what is committed belongs to the scripts as they are."""

import inspect
import json
import subprocess
import sys

import numpy as np
import pytest

from experiments import common, discover, figure_1, figure_1_float16, figure_6, figure_7, gallery
from experiments.__main__ import command_line
from experiments.common import RESULTS, Track, load_arrays, main, settings_of

EXPERIMENTS = discover()
TRACKED = [
    name for name, module in EXPERIMENTS.items() if "track" in inspect.signature(module.run).parameters
]
COMMITTED = [name for name in EXPERIMENTS if (RESULTS / name / "run.json").exists()]
LOG = RESULTS.parents[1] / "research-log.md"
LOGGED = {name for name in COMMITTED if LOG.exists() and f"results/{name}/" in LOG.read_text()}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_same_arrays(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name.endswith(("_time", "_peak_bytes")):  # measured, so never the same
            continue
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_quick_form_runs_saves_and_redraws_identically(name, tmp_path, monkeypatch):
    command_line([name, "--quick", "--out", str(tmp_path)])
    folder = tmp_path / name
    before = contents(folder)
    figures = {file.removesuffix(".png") for file in before if file.endswith(".png")}
    assert figures
    assert before.keys() == {"results.npz", "run.json"} | {
        f + kind for f in figures for kind in (".png", ".pdf")
    }
    about = json.loads(before["run.json"])
    assert about["settings"] == settings_of(EXPERIMENTS[name].Config.quick())
    assert set(about["versions"]) == {"python", "numpy", "scipy", "autograd", "numba", "hypergrad"}
    for key, value in load_arrays(folder / "results.npz").items():
        assert value.dtype.kind == "U" or np.all(np.isfinite(value)), key

    for file in figures:
        (folder / f"{file}.png").unlink()
        (folder / f"{file}.pdf").unlink()
    monkeypatch.setattr(EXPERIMENTS[name], "run", lambda *_: pytest.fail("--replot must not run"))
    command_line([name, "--quick", "--replot", "--out", str(tmp_path)])
    after = contents(folder)
    assert after.keys() == before.keys()
    assert [file for file in before if before[file] != after[file]] == []


@pytest.mark.parametrize("name", TRACKED)
def test_interrupted_run_resumes_to_the_same_numbers(name, tmp_path, monkeypatch):
    command_line([name, "--quick", "--out", str(tmp_path / "whole")])
    keep, kept = Track._keep, []

    def keep_two(self, stage, records):
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(stage)
        return keep(self, stage, records)

    monkeypatch.setattr(Track, "_keep", keep_two)
    with pytest.raises(KeyboardInterrupt):
        command_line([name, "--quick", "--out", str(tmp_path / "parts")])
    folder = tmp_path / "parts" / name
    assert [path.name for path in folder.iterdir()] == ["run.checkpoint"]

    def count(self, stage, records):
        kept.append(stage)
        return keep(self, stage, records)

    monkeypatch.setattr(Track, "_keep", count)
    command_line([name, "--quick", "--out", str(tmp_path / "parts")])
    resumed = list(kept)
    kept.clear()
    command_line([name, "--quick", "--out", str(tmp_path / "again")])
    assert resumed == kept, "the resumed run must do each call once"
    assert not (folder / "run.checkpoint").exists()
    assert_same_arrays(
        load_arrays(folder / "results.npz"), load_arrays(tmp_path / "whole" / name / "results.npz")
    )


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_results_have_the_settings_of_the_script(name):
    about = json.loads((RESULTS / name / "run.json").read_text())
    assert about["settings"] == settings_of(EXPERIMENTS[name].Config())
    assert not about["quick"]


def test_figure_1_reaches_the_losses_of_2015():
    results = figure_1.run(figure_1.Config())
    published = [395.30, 356.57, 356.34]
    np.testing.assert_allclose(results["final_losses_rounded_up"], published, rtol=0, atol=5e-3)
    np.testing.assert_allclose(results["final_losses"], published, rtol=1.5e-4)
    committed = load_arrays(RESULTS / "figure_1" / "results.npz")
    np.testing.assert_allclose(results["final_losses"], committed["final_losses"], rtol=1e-7)


@pytest.mark.parametrize(("rounding", "expected"), [(None, 395.355), (2**16, 395.305)])
def test_rounding_of_the_decay_explains_the_difference_to_2015(rounding, expected):
    config = figure_1.Config()
    kept = config.decay if rounding is None else np.ceil(config.decay * rounding) / rounding
    w, v = np.array(config.initial_weights), np.zeros(2)
    for _ in range(config.num_iterations):
        v = kept * v - (1 - config.decay) * figure_1_float16.gradient(w)
        w = w + np.exp(config.log_step_size) * v
    assert abs(figure_1.training_loss(w) - expected) < 1e-3


def test_figure_6_starts_from_the_penalty_of_2015():
    assert figure_6.Config().initial_l2 == np.exp(1) / 100


@pytest.mark.parametrize("stage", figure_7.STAGES)
def test_figure_7_starts_where_its_committed_results_do(stage):
    config, (name, train) = figure_7.Config(), figure_7.STAGES[stage]
    rows = figure_7.load_rows(config.num_rows)
    problem = figure_7.Problem(getattr(config, name), *rows, config.seed, train)
    committed = load_arrays(RESULTS / "figure_7" / "results.npz")
    np.testing.assert_allclose(
        problem.objective(problem.initial), committed[f"{stage}_objective"][0], rtol=1e-9
    )


def test_figure_7_has_the_numbers_of_2015():
    results = load_arrays(RESULTS / "figure_7" / "results.npz")
    first, last = 2.32189, 0.419342
    np.testing.assert_allclose(results["ten_objective"][[0, 39]], [first, last], rtol=0, atol=3e-5)
    np.testing.assert_allclose(results["ten_rounded_objective"][0], first, rtol=0, atol=5e-6)
    np.testing.assert_allclose(results["ten_rounded_objective"][39], last, rtol=0, atol=5e-7)
    thirty = {
        name: results[f"thirty_2015_rounded_{name}"] for name in ("objective", "test_error", "test_loss")
    }
    np.testing.assert_allclose(thirty["objective"][0], 580.61, rtol=0, atol=5e-3)
    np.testing.assert_allclose(thirty["objective"][99], 1.00902, rtol=0, atol=5e-6)
    np.testing.assert_allclose(thirty["test_error"][0], 0.884, rtol=0, atol=5e-4)
    np.testing.assert_allclose(thirty["test_error"][99], 0.1325, rtol=0, atol=1e-9)
    np.testing.assert_allclose(thirty["test_error"].min(), 0.118, rtol=0, atol=5e-4)
    np.testing.assert_allclose(thirty["test_loss"][99], 0.457, rtol=0, atol=5e-4)
    ours = results["thirty_2015_objective"]
    np.testing.assert_allclose(ours[[0, 99]], thirty["objective"][[0, 99]], rtol=1e-2)


def test_only_exact_arithmetic_leads_back():
    results = figure_1_float16.run(figure_1_float16.Config())
    start = figure_1_float16.Config().initial_weights
    np.testing.assert_array_equal(results["exact_back"], results["exact_there"])
    np.testing.assert_allclose(results["exact_back"][0], start, rtol=0, atol=2**-52)
    np.testing.assert_allclose(results["float16_there"][-1], results["exact_there"][-1], atol=0.02)
    assert results["float16_distance"][0] > 10
    assert 0 < results["float64_distance"][0] < results["float32_distance"][0] < 0.1


def test_listing_shows_every_experiment_and_which_have_run(tmp_path, capsys):
    command_line(["figure_1", "--out", str(tmp_path)])
    command_line(["figure_1_float16", "--quick", "--out", str(tmp_path)])
    capsys.readouterr()
    command_line(["--out", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    status = {line.split()[0]: lines[i + 1] for i, line in enumerate(lines) if not line.startswith(" ")}
    assert set(status) == set(EXPERIMENTS)
    assert "took" in status["figure_1"]
    assert "other settings" not in status["figure_1"]
    assert "other settings" in status["figure_1_float16"]
    assert "not run yet" in status["schedules"]


def test_unknown_name_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        command_line(["figure_1", "figure_11"])
    message = capsys.readouterr().err
    assert "no experiment named figure_11; there are " in message
    assert ", figure_1, " in message


def test_quick_results_never_land_on_the_full_ones():
    folders = {
        common.results_folder("figure_1", common.argument_parser("").parse_args(arguments))
        for arguments in ([], ["--quick"])
    }
    assert folders == {RESULTS / "figure_1", RESULTS / "quick" / "figure_1"}
    assert "/quick/" in (RESULTS / ".gitignore").read_text().split()


def test_seed_reaches_the_config_and_is_refused_where_nothing_is_drawn(tmp_path):
    module = EXPERIMENTS["schedules"]
    main(module.Config, module.run, module.plot, ["--quick", "--seed", "3", "--out", str(tmp_path)])
    main(module.Config, module.run, module.plot, ["--quick", "--out", str(tmp_path / "other")])
    about = json.loads((tmp_path / "schedules" / "run.json").read_text())
    assert about["settings"]["seed"] == 3
    losses = [
        load_arrays(folder / "schedules" / "results.npz")["train_loss"]
        for folder in (tmp_path, tmp_path / "other")
    ]
    assert np.all(losses[0] != losses[1])
    with pytest.raises(ValueError, match="figure_1 draws no random numbers"):
        main(figure_1.Config, figure_1.run, figure_1.plot, ["--seed", "3", "--out", str(tmp_path)])


def test_replot_without_results_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="run figure_1 without --replot"):
        command_line(["figure_1", "--replot", "--out", str(tmp_path)])


def test_track_refuses_a_checkpoint_of_other_settings(tmp_path):
    path = tmp_path / "run.checkpoint"
    Track(path, {"seed": 0}).stage("work", 2)(lambda: {"loss": 1.0})
    with pytest.raises(ValueError, match=r'expected \{"seed": 1\}, got \{"seed": 0\}'):
        Track(path, {"seed": 1})


def test_track_recalls_stages_and_maps_of_arrays_and_scalars(tmp_path):
    path, rng = tmp_path / "run.checkpoint", np.random.default_rng(0)
    whole = [{"loss": rng.normal(), "w": rng.normal(size=(2, 3))} for _ in range(12)]
    first = Track(path, {"seed": 0})
    step = first.stage("descent/fast", 12)
    for record in whole[:11]:
        step(lambda record=record: record)
    first.map("curves", lambda item: {"square": item**2}, [1.0, 2.0])

    second = Track(path, {"seed": 0})
    step = second.stage("descent/fast", 12)
    for record in whole[:11]:
        assert_same_arrays(step(lambda: pytest.fail("done before")), record)
    assert_same_arrays(step(lambda: whole[11]), whole[11])
    with pytest.raises(ValueError, match="announced with 12 calls"):
        step(lambda: whole[0])
    curves = second.map("curves", lambda item: {"square": item**2}, [5.0, 5.0, 3.0])
    assert [record["square"] for record in curves] == [1.0, 4.0, 9.0]


def square(item):
    return {"square": item**2}


def test_track_maps_in_parallel_to_the_same_records():
    items = [1.0, 2.0, 3.0]
    assert Track(jobs=2).map("squares", square, items) == Track().map("squares", square, items)


def test_track_needs_a_job():
    with pytest.raises(ValueError, match="at least one job, got jobs = 0"):
        Track(jobs=0)


def test_scripts_run_on_their_own(tmp_path):
    command = ["-m", "experiments.figure_1", "--quick", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, *command], cwd=RESULTS.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "figure_1" / "figure_1.png") in done.stdout


def test_readme_shows_what_the_committed_results_say():
    text = gallery.README.read_text()
    assert gallery.updated(text) == text, "bring README up to date: python -m experiments.gallery"


def test_gallery_shows_a_figure_of_every_committed_experiment():
    assert {picture.experiment for picture in gallery.PICTURES} >= set(COMMITTED) - LOGGED
    for experiment, file, _ in gallery.PICTURES:
        assert (RESULTS / experiment / f"{file}.png").exists()
