"""The paper's figures, one standalone script each; `python -m experiments` lists and runs them."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def discover() -> dict[str, ModuleType]:
    """Return the experiments of this folder, name -> module, in alphabetical order.

    An experiment is a module with `Config`, `run` and `plot`; a new file of that shape needs no listing.
    """
    names = sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return {
        name: module
        for name, module in modules.items()
        if all(hasattr(module, part) for part in ("Config", "run", "plot"))
    }
