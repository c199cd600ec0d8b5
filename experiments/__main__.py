"""List the experiments, or run some: `python -m experiments figure_1 schedules --quick`."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

from experiments import discover
from experiments.common import Experiment, argument_parser, perform, results_folder, settings_of


def describe(name: str, module: ModuleType, folder: Path) -> str:
    """Return two lines: the name with the docstring's first line, and whether there are results."""
    status = "not run yet"
    if (folder / "run.json").exists():
        facts = json.loads((folder / "run.json").read_text())
        status = f"run on {facts['date']}, took {facts['duration_seconds']:.0f} s"
        if facts["settings"] != settings_of(module.Config()):
            status += ", with other settings than the script's"
    return f"{name:<18} {(module.__doc__ or '').strip().splitlines()[0]}\n{'':<18} {status}"


def command_line(arguments: list[str] | None = None) -> None:
    """Run the named experiments one after another, or list all of them where none is named."""
    experiments = discover()
    parser = argument_parser("List the experiments, or run those named.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(experiments)}, or all")
    options = parser.parse_args(arguments)
    names = list(experiments) if options.names == ["all"] else options.names
    unknown = sorted(set(names) - set(experiments))
    if unknown:
        parser.error(f"no experiment named {', '.join(unknown)}; there are {', '.join(experiments)} (or all)")
    if not names:
        for name, module in experiments.items():
            print(describe(name, module, results_folder(name, options)))
    for name in names:
        module = experiments[name]
        perform(Experiment(name, module.Config, module.run, module.plot), options)


if __name__ == "__main__":
    command_line()
