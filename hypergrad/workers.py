"""Run items in other processes: here, or on the workers of a Dask cluster.

``run_items`` yields what each item gave, as they finish; ``attempt`` runs one and returns what it raised as a
`Failure`; ``make_cluster`` describes Dask workers that SLURM, PBS or LSF start.
"""

import contextlib
import shutil
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hypergrad.kept_results import shown

_CLUSTERS = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster"}
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


@dataclass(frozen=True)
class Failure:
    """What one item raised: the exception, and its traceback as text (an exception loses it between processes)."""

    error: BaseException
    traceback: str


def make_cluster(system: str, *, cores: int = 1, **options: Any) -> Any:
    """Describe Dask workers that a queueing system starts, one worker for each job, one item at a time for each.

    system: "slurm", "pbs" or "lsf".  cores: for each worker; its BLAS gets that many threads.
    options: of that system's class in dask_jobqueue, e.g. queue, memory, walltime, interface,
        job_script_prologue (lines to run before a worker starts); what is left out comes from Dask's configuration.
    Returns the dask_jobqueue cluster, without workers yet: ``.job_script()`` shows what would be submitted.
    Raises ImportError without dask_jobqueue, ValueError for a system of another name.
    """
    if system not in _CLUSTERS:
        raise ValueError(f"cluster must be one of {', '.join(map(repr, _CLUSTERS))}, not {system!r}")
    try:
        import dask
        import dask_jobqueue
    except ImportError as error:
        raise ImportError(f"{error}: run pip install 'reversible-hypergrad[cluster]'") from error
    configured = dask.config.get(f"jobqueue.{system}")
    extra = options.pop("worker_extra_args", configured["worker-extra-args"])
    prologue = options.pop("job_script_prologue", configured["job-script-prologue"])
    return getattr(dask_jobqueue, _CLUSTERS[system])(
        cores=cores,
        processes=1,
        # The last --nthreads counts: the job has its cores, the worker runs one item.
        worker_extra_args=[*extra, "--nthreads", "1"],
        job_script_prologue=[*(f"export {name}={cores}" for name in _THREAD_VARIABLES), *prologue],
        **options,
    )


def run_items(
    fun: Any,
    todo: dict[int, Any],
    jobs: int | None,
    client: Any,
    cluster: str | None,
    cluster_options: dict[str, Any],
) -> Iterator[tuple[int, Any]]:
    """Run ``fun`` on each argument of {index: argument}; yield (index, result or Failure) as they finish.

    jobs, client, cluster, cluster_options: where, as `hypergrad.parallel.omap` describes it.
    Closing the generator stops what still runs.
    """
    import joblib

    if not todo:
        return
    if cluster is not None:
        with _cluster_client(cluster, min(jobs, len(todo)), cluster_options) as client:
            yield from _on_dask(fun, todo, client)
    elif client is not None:
        yield from _on_dask(fun, todo, client)
    elif (processes := min(jobs or joblib.cpu_count(), len(todo))) > 1:
        yield from _on_processes(fun, todo, processes)
    else:
        for index, arg in todo.items():
            yield index, attempt(fun, arg)


def _on_processes(fun: Any, todo: dict[int, Any], processes: int) -> Iterator[tuple[int, Any]]:
    import joblib

    from hypergrad.transport import loads

    threads = max(1, joblib.cpu_count() // processes)
    with joblib.parallel_config("loky", n_jobs=processes, inner_max_num_threads=threads):
        parallel = joblib.Parallel(return_as="generator_unordered")
    pickled_fun, pickled_args = _pickled(fun, todo)
    calls = (joblib.delayed(_run_item)(index, pickled_fun, arg) for index, arg in pickled_args.items())
    with contextlib.closing(parallel(calls)) as finished:
        for index, outcome in finished:
            yield index, attempt(loads, outcome)


def _on_dask(fun: Any, todo: dict[int, Any], client: Any) -> Iterator[tuple[int, Any]]:
    from distributed import KilledWorker, as_completed

    from hypergrad.transport import loads

    pickled_fun, pickled_args = _pickled(fun, todo)
    # pure=False: else Dask gives two equal arguments one result, also where the function draws at random.
    futures = [
        client.submit(_run_item, index, pickled_fun, arg, check=_check_dask_worker, pure=False)
        for index, arg in pickled_args.items()
    ]
    indices = dict(zip(futures, todo, strict=True))
    try:
        for future in as_completed(futures, loop=client.loop):
            try:
                index, outcome = future.result()
            except KilledWorker as error:  # this item's workers died, again and again
                yield indices[future], Failure(error, f"{error}\n")
            else:
                yield index, attempt(loads, outcome)
            future.release()
    finally:
        client.cancel(futures)


@contextlib.contextmanager
def _cluster_client(system: str, jobs: int, options: dict[str, Any]) -> Iterator[Any]:
    with make_cluster(system, **options) as cluster:
        command = cluster.job_cls.submit_command.split()[0]
        if shutil.which(command) is None:
            raise RuntimeError(
                f"there is no {command} on this machine: call omap where jobs can be submitted"
            )
        from distributed import Client

        # adapt, where scale would do: it also replaces a job that came to the end of its time.
        cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)
        with Client(cluster, set_as_default=False) as client:
            yield client


def _pickled(fun: Any, todo: dict[int, Any]) -> tuple[bytes, dict[int, bytes]]:
    # Bytes travel untouched: joblib would turn large arrays into memory maps, which autograd does not
    # differentiate, and Dask would look inside the arguments for work of its own.
    from hypergrad.transport import dumps

    def pickled(value: Any, what: str) -> bytes:
        try:
            return dumps(value)
        except Exception as error:  # pickling runs the value's own code, which raises anything at all
            raise TypeError(f"{what} cannot be sent to another process: {error}") from error

    return pickled(fun, f"the function {shown(fun)}"), {
        index: pickled(arg, f"the argument of item {index}, {shown(arg)},") for index, arg in todo.items()
    }


def _run_item(
    index: int, fun: bytes, arg: bytes, check: Callable[[], None] | None = None
) -> tuple[int, bytes]:
    """Run one item in the process it was sent to; what comes back can be unpickled, whatever happened."""
    from hypergrad.transport import dumps, load_function, loads

    def run() -> Any:
        if check is not None:
            check()
        return load_function(fun)(loads(arg))

    def packed() -> bytes:
        pickled = dumps(outcome)
        if isinstance(outcome, Failure):
            loads(pickled)  # an exception may be pickled well and still refuse to be made again
        return pickled

    outcome = attempt(run)
    pickled = attempt(packed)
    if isinstance(pickled, Failure):
        failure = outcome if isinstance(outcome, Failure) else pickled
        pickled = dumps(
            Failure(RuntimeError(f"{type(failure.error).__name__}: {failure.error}"), failure.traceback)
        )
    return index, pickled


def _check_dask_worker() -> None:
    from distributed import get_worker

    threads = get_worker().state.nthreads
    if threads != 1:
        raise RuntimeError(
            f"this Dask worker runs {threads} items at once, as threads of one process, and autograd would mix up "
            "their gradients: start the workers with threads_per_worker=1 (dask worker --nthreads 1)"
        )


def attempt(fun: Callable[..., Any], *args: Any) -> Any:
    """Return what the function returns, or a `Failure` with what it raised; KeyboardInterrupt passes."""
    # SystemExit: an item that calls sys.exit() ends itself, not the map.
    try:
        return fun(*args)
    except (Exception, SystemExit) as error:
        return Failure(error, traceback.format_exc())
