"""Run all benchmarks, or some: `python -m benchmarks cost memory --quick`."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
from pathlib import Path
from types import ModuleType

import benchmarks
from benchmarks.common import describe, machine
from experiments.common import settings_of
from hypergrad.plotting import paper_style, save_figure

RESULTS = Path(__file__).parent / "results"


def discover() -> dict[str, ModuleType]:
    """The benchmarks of this folder, name -> module; a new file of their shape needs no listing."""
    names = sorted(
        info.name for info in pkgutil.iter_modules(benchmarks.__path__) if not info.name.startswith("_")
    )
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "report")}


def command_line(arguments: list[str] | None = None) -> None:
    """Run the named benchmarks, or all where none is named; print tables, save JSON and figures."""
    available = discover()
    parser = argparse.ArgumentParser(description="Run all benchmarks, or those named.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(available))
    parser.add_argument("--quick", action="store_true", help="shrink to seconds; saved in results/quick")
    parser.add_argument("--out", type=Path, help="save in this folder (benchmarks/results)")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(available))
    if unknown:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are {', '.join(available)}")
    folder = options.out or (RESULTS / "quick" if options.quick else RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    for name in options.names or available:
        module, facts = available[name], machine()
        config = module.Config.quick() if options.quick else module.Config()
        print(f"{name}: {module.__doc__.strip().splitlines()[0]}\n{describe(facts)}\n", flush=True)
        results = module.run(config)
        print(f"{module.report(results)}\n", flush=True)
        saved = {"settings": settings_of(config), "quick": options.quick, "machine": facts, **results}
        (folder / f"{name}.json").write_text(json.dumps(saved, indent=1) + "\n")
        if hasattr(module, "plot"):
            with paper_style():
                for title, figure in module.plot(results).items():
                    for path in save_figure(figure, folder / title):
                        print(path)


if __name__ == "__main__":
    command_line()
