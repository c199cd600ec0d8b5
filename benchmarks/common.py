"""What every benchmark shares: stopwatches, processes with a set number of BLAS threads, facts, tables."""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from experiments.common import versions

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class Stopwatch:
    """Seconds by name, exclusive: what runs inside a timed function under another name counts there alone.

    Two readings of the clock and a Python call, about half a microsecond, go with every call of a timed function,
    so only functions that take much longer should be timed.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = 0.0  # seconds of timed calls within the one under way

    def timed(self, name: str, function: Callable) -> Callable:
        """The function, its time counted under `name`."""
        self.seconds.setdefault(name, 0.0)

        def counted(*args: Any, **kwargs: Any) -> Any:
            outer, self._inner = self._inner, 0.0
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = time.perf_counter() - start
                self.seconds[name] += elapsed - self._inner
                self._inner = outer + elapsed

        return counted

    @contextlib.contextmanager
    def watching(self, places: Sequence[tuple[str, Any, str]]) -> Iterator[None]:
        """Time functions, methods and properties, each given as (name, owner, attribute), inside a with block."""
        with contextlib.ExitStack() as stack:
            for name, owner, attribute in places:
                original = getattr(owner, attribute)
                if isinstance(original, property):
                    replacement = property(self.timed(name, original.fget))
                else:
                    replacement = self.timed(name, original)
                stack.enter_context(mock.patch.object(owner, attribute, replacement))
            yield


def seconds_of(function: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds that a call takes, and its result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles: on a shared machine the mean says more about the neighbours."""
    low, median, high = np.percentile(values, [25, 50, 75]).tolist()
    return {"median": median, "quartiles": [low, high]}


def with_blas_threads(threads: int, function: Callable[[Any], dict], argument: Any) -> dict:
    """function(argument), evaluated in a fresh process that has this many BLAS threads.

    The number of threads is read when NumPy is loaded, so it can't be changed in this process.
    """
    with (
        mock.patch.dict(os.environ, dict.fromkeys(THREAD_VARIABLES, str(threads))),
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        return pool.submit(function, argument).result()


def peak_memory() -> int:
    """The most that this process has had resident at any time, in bytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def resident_memory(pid: int | str = "self") -> int:
    """What a process has resident now, in bytes; 0 where it has ended.  Linux alone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def load_average() -> float | None:
    """Processes that ran or waited to, averaged over the last minute; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def machine() -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    blas = np.show_config("dicts")["Build Dependencies"]["blas"]
    return {
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "blas": f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip(),
        "blas_threads": {name: os.environ.get(name) for name in THREAD_VARIABLES},
        "load_average": load_average(),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def describe(facts: dict[str, Any]) -> str:
    """One paragraph of `machine()`."""
    software = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    threads = {value for value in facts["blas_threads"].values() if value is not None}
    load = facts["load_average"]
    return (
        f"{facts['date']}; {software}\n"
        f"{facts['cpu']}, {facts['cpu_count']} CPUs, {facts['system']}; {facts['blas']}, "
        f"threads {' or '.join(sorted(threads)) or 'not set'} unless a table says so; "
        f"load average {'unknown' if load is None else f'{load:.2f}'} at the start"
    )


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under headers, the first flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if j == 0 else cell.rjust(width)
            for j, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (headers, ["-" * width for width in widths], *rows)
    ]
    return "\n".join(lines)


def verdict(value: float, goal: float) -> str:
    """Whether a value is at most its goal, in words."""
    return "met" if value <= goal else "not met"
