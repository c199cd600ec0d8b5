"""Map a function over seeds or hyperparameters: in this process, on local processes, or on a cluster.

``omap`` is the map; ``ItemFailedError`` says which item failed and why; ``collect_results`` reads the results of a
map whose caller has gone; ``make_cluster`` starts Dask workers through SLURM, PBS or LSF.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import Any

from hypergrad.kept_results import KeptResults, collect_results, shown
from hypergrad.workers import Failure, attempt, make_cluster, run_items

__all__ = ["Failure", "ItemFailedError", "collect_results", "make_cluster", "omap"]


class ItemFailedError(RuntimeError):
    """An item of `omap` raised; all other items were finished first. Chained to what the first of them raised.

    index, argument: the first failed item, and what the function was called with.
    failures: {index: Failure} of all failed items.  results: {index: result} of all others.
    """

    def __init__(
        self, index: int, argument: Any, failures: dict[int, Failure], results: dict[int, Any]
    ) -> None:
        super().__init__(index, argument, failures, results)
        self.index, self.argument, self.failures, self.results = index, argument, failures, results

    def __str__(self) -> str:
        return (
            f"item {self.index} failed, with the argument {shown(self.argument)}; {len(self.failures)} items "
            f"failed ({shown(sorted(self.failures))}), the results of {len(self.results)} are in this exception's "
            f".results\n\n{self.failures[self.index].traceback}"
        )


def omap(
    fun: Callable[[Any], Any],
    arglist: Iterable[Any],
    *,
    jobs: int | None = None,
    directory: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    client: Any = None,
    cluster: str | None = None,
    **cluster_options: Any,
) -> list[Any]:
    """Call ``fun`` on each argument, many at a time; return the results in the order of the arguments.

    Invariant: an item has its process to itself (autograd numbers its traces process-wide), and all items of the
    local processes together use no more threads than there are cores: n jobs on c cores get max(1, c // n) each.

    fun: any function, also a lambda or a closure; an item may be run twice where a cluster loses a worker.
    jobs: how many items at a time: local processes (default: one for each core; 1 runs in this process), or
        cluster jobs.
    directory: keeps each finished item at once, so that an interrupted call goes on where it stopped when called
        again; see `hypergrad.kept_results.KeptResults`. On this machine, also where the work is done on a cluster.
    progress: show a progress bar; None shows it on a terminal only.
    client: a `distributed.Client`, to run on the workers that it has, each with one thread.
    cluster: "slurm", "pbs" or "lsf": run on ``jobs`` workers, started with ``cluster_options`` by `make_cluster`
        and stopped at the end.

    Raises ItemFailedError, after all other items, where the function raises.  ValueError or TypeError for arguments
    that do not fit together, a directory of another map, and what cannot be sent to another process.
    """
    from tqdm.auto import tqdm

    arglist = list(arglist)
    _check_request(jobs, client, cluster, cluster_options)
    kept = None if directory is None else KeptResults(directory, fun, arglist)
    results = {} if kept is None else kept.load()
    todo = {index: arg for index, arg in enumerate(arglist) if index not in results}
    failures = {}
    hidden = None if progress is None else not progress
    with (
        tqdm(total=len(arglist), initial=len(results), unit="item", disable=hidden) as bar,
        contextlib.closing(run_items(fun, todo, jobs, client, cluster, cluster_options)) as outcomes,
    ):
        for index, outcome in outcomes:
            if isinstance(outcome, Failure):
                failures[index] = outcome
            else:
                results[index] = outcome
                # A result that cannot be kept fails its own item, not the others.
                if kept is not None and isinstance(unkept := attempt(kept.keep, index, outcome), Failure):
                    failures[index] = unkept
            bar.update()
    if failures:
        first = min(failures)
        raise ItemFailedError(first, arglist[first], failures, results) from failures[first].error
    return [results[index] for index in range(len(arglist))]


def _check_request(jobs: Any, client: Any, cluster: Any, cluster_options: dict[str, Any]) -> None:
    if jobs is not None and (isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1):
        raise ValueError(
            f"jobs must be a whole number from 1 on, or None for one job on each core, not {jobs!r}"
        )
    if client is not None:
        from distributed import Client

        if not isinstance(client, Client):
            raise TypeError(f"client must be a distributed.Client, not a {type(client).__name__}")
        if cluster is not None or jobs is not None:
            raise ValueError(
                "a client brings its workers with it: leave out jobs and cluster, or leave out client"
            )
    if cluster is not None and jobs is None:
        raise ValueError(f"say how many {cluster} jobs to start (jobs=...)")
    if cluster is None and cluster_options:
        raise TypeError(
            f"omap has no option {', '.join(map(repr, cluster_options))} (a cluster has, see make_cluster)"
        )
