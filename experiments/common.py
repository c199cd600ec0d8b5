"""What every experiment shares: its command line, progress bar, resumption, and where results go.

An experiment is a frozen dataclass `Config` (the paper's settings; `Config.quick()` takes seconds),
`run(config) -> dict of arrays` and `plot(results) -> dict of figures`. A `run` that takes long also takes a
`Track`, `run(config, track=None)`, and does its expensive calls through it.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import inspect
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

import hypergrad
from hypergrad.parallel import omap
from hypergrad.plotting import paper_style, save_figure

Record = dict[str, np.ndarray]

RESULTS = Path(__file__).parent / "results"


class Experiment(NamedTuple):
    """An experiment's name and its three parts."""

    name: str
    config_class: type
    run: Callable[..., Record]
    plot: Callable[[Record], dict]


class Track:
    """Does an experiment's expensive calls: with a progress bar, in parallel where possible, and only once.

    Each call returns a record, a dict of arrays, that goes to the checkpoint before the next call starts. A
    run that was interrupted starts again from the top, gets the records it already has from the checkpoint,
    and so comes to the same numbers as an uninterrupted one. Scalars in a record are shown beside the bar.

    checkpoint: a folder, which gets an npz file for each call; None keeps records in memory alone. settings: all
    that the records depend on, fit for JSON. jobs: processes that `map` may use.
    Raises ValueError where the checkpoint was made with other settings, or jobs < 1.
    """

    def __init__(self, checkpoint: Path | None = None, settings: dict | None = None, jobs: int = 1):
        if jobs < 1:
            raise ValueError(f"expected at least one job, got jobs = {jobs}")
        self.checkpoint, self.jobs = checkpoint, jobs
        self._settings = json.dumps(settings, sort_keys=True)
        self._records: dict[str, list[Record]] = {}
        self._started, self._seconds_before = time.monotonic(), 0.0
        if checkpoint is not None and checkpoint.exists():
            self._load(checkpoint)

    @property
    def seconds(self) -> float:
        """Seconds spent on this run, those before an interruption included."""
        return self._seconds_before + time.monotonic() - self._started

    def stage(self, name: str, total: int) -> Callable[..., Record]:
        """Return step(function, *args) -> record, for `total` calls that need one another's results."""
        records = self._records.setdefault(name, [])
        bar, calls = self._bar(name, total), iter(range(total))

        def step(function: Callable[..., dict], *args: Any) -> Record:
            call = next(calls, None)
            if call is None:
                raise ValueError(f"stage {name!r} was announced with {total} calls and got one more")
            if call == len(records):
                self._keep(name, [function(*args)])
            self._show(bar, records[call : call + 1])
            return records[call]

        return step

    def map(self, name: str, function: Callable[[Any], dict], items: Sequence) -> list[Record]:
        """Return function(item) for every item, `jobs` at a time, in processes of their own where jobs > 1."""
        records = self._records.setdefault(name, [])
        bar = self._bar(name, len(items))
        self._show(bar, records)
        while len(records) < len(items):
            batch = items[len(records) : len(records) + self.jobs]
            self._show(bar, self._keep(name, omap(function, batch, jobs=self.jobs, progress=False)))
        return records

    def _bar(self, name: str, total: int) -> tqdm:
        return tqdm(total=total, desc=name, disable=None, dynamic_ncols=True)  # None: only on a terminal

    def _show(self, bar: tqdm, records: list[Record]) -> None:
        for record in records:
            bar.set_postfix({k: f"{v:.4g}" for k, v in record.items() if v.ndim == 0}, refresh=False)
            bar.update()
        if bar.n == bar.total:
            bar.close()

    def _keep(self, name: str, records: list[dict]) -> list[Record]:
        kept = [{key: np.array(value) for key, value in record.items()} for record in records]
        self._records[name] += kept
        if self.checkpoint is not None:
            first = len(self._records[name]) - len(kept)
            arrays = {
                f"{name}/{first + i}/{key}": value
                for i, record in enumerate(kept)
                for key, value in record.items()
            }
            self.checkpoint.mkdir(parents=True, exist_ok=True)
            count = sum(len(records) for records in self._records.values())
            path = self.checkpoint / f"{count:06}.checkpoint.npz"
            save_arrays(
                path, arrays | {"settings": self._settings, "seconds": self.seconds}, compressed=False
            )
        return kept

    def _load(self, checkpoint: Path) -> None:
        for path in sorted(checkpoint.glob("*.checkpoint.npz")):
            if ".partial." not in path.name:
                self._load_call(path)

    def _load_call(self, path: Path) -> None:
        saved = load_arrays(path)
        before = str(saved.pop("settings"))
        if before != self._settings:
            raise ValueError(
                f"{path.parent} holds an interrupted run with other settings: expected {self._settings}, got "
                f"{before}; finish that run with its own settings, or delete the folder to start afresh"
            )
        self._seconds_before = max(self._seconds_before, float(saved.pop("seconds")))
        for name, value in saved.items():
            stage, index, key = name.rsplit("/", 2)
            records = self._records.setdefault(stage, [])
            if int(index) == len(records):
                records.append({})
            records[int(index)][key] = value


def save_arrays(path: Path, arrays: dict, compressed: bool = True) -> None:
    """Write an npz file so that an interruption leaves the old one or the new one, never a part."""
    partial = path.with_name(f"{path.stem}.partial.checkpoint.npz")
    (np.savez_compressed if compressed else np.savez)(partial, **arrays)
    os.replace(partial, path)


def load_arrays(path: Path) -> Record:
    """Read every array of an npz file; never unpickles."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def settings_of(config: Any) -> dict:
    """Return a Config's settings as they come back from JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def versions() -> dict[str, str]:
    """Return the versions that numbers may depend on."""
    packages = {name: importlib.metadata.version(name) for name in ("numpy", "scipy", "autograd", "numba")}
    return {"python": platform.python_version(), **packages, "hypergrad": hypergrad.__version__}


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the options that every experiment has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="shrink to seconds; saved in results/quick")
    parser.add_argument("--seed", type=int, help="another seed than the script's")
    parser.add_argument("--jobs", type=int, default=1, help="processes for what can run in parallel (1)")
    parser.add_argument("--replot", action="store_true", help="redraw from saved results, without running")
    parser.add_argument("--out", type=Path, help="save in OUT/NAME (experiments/results/NAME)")
    return parser


def results_folder(name: str, options: argparse.Namespace) -> Path:
    """Return where an experiment's results go: quick ones never land on those of the full run."""
    return (options.out or (RESULTS / "quick" if options.quick else RESULTS)) / name


def configure(experiment: Experiment, options: argparse.Namespace) -> Any:
    """Return the settings under these options. Raises ValueError for a seed where nothing is drawn."""
    config = experiment.config_class.quick() if options.quick else experiment.config_class()
    if options.seed is None:
        return config
    if not hasattr(config, "seed"):
        raise ValueError(
            f"--seed {options.seed}: {experiment.name} draws no random numbers; leave the option out"
        )
    return dataclasses.replace(config, seed=options.seed)


def perform(experiment: Experiment, options: argparse.Namespace) -> Path:
    """Run (unless only redrawing), save, draw; return the folder of results.npz, run.json and figures."""
    folder = results_folder(experiment.name, options)
    results, facts = folder / "results.npz", folder / "run.json"
    if not options.replot:
        config = configure(experiment, options)
        settings = {"settings": settings_of(config), "versions": versions()}
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = folder / "run.checkpoint"
        track = Track(checkpoint, settings, options.jobs)
        tracked = "track" in inspect.signature(experiment.run).parameters
        save_arrays(results, experiment.run(config, track) if tracked else experiment.run(config))
        about = {
            "experiment": experiment.name,
            **settings,
            "quick": options.quick,
            "cpu_count": os.cpu_count(),
            "date": datetime.date.today().isoformat(),
            "duration_seconds": round(track.seconds, 2),
        }
        facts.write_text(json.dumps(about, indent=2) + "\n")
        shutil.rmtree(checkpoint, ignore_errors=True)
        print(f"{results}\n{facts}")
    elif not results.exists():
        raise FileNotFoundError(
            f"nothing to redraw: {results} does not exist; run {experiment.name} without --replot"
        )
    with paper_style():
        for name, figure in experiment.plot(load_arrays(results)).items():
            for path in save_figure(figure, folder / name):
                print(path)
    return folder


def main(
    config_class: type,
    run: Callable[..., Record],
    plot: Callable[[Record], dict],
    arguments: list[str] | None = None,
) -> None:
    """Give one experiment's script its command line; it is named for the file that `run` is in."""
    options = argument_parser(sys.modules[run.__module__].__doc__).parse_args(arguments)
    perform(Experiment(Path(inspect.getfile(run)).stem, config_class, run, plot), options)
