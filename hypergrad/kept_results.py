"""Results of a long map, kept in a directory item by item, and found again by the next call.

``KeptResults`` writes and reads the directory; ``collect_results`` reads one without computing anything.
The directory holds ``omap.json`` (which function, which arguments) and one pickle for each finished item.

What any record needs is here as well: ``identity`` of a function and the ``difference`` of two, files that are
written whole (``write_whole``), and damage that is named (``read_manifest``, ``naming``).
"""

import contextlib
import json
import os
import pickle
import platform
import reprlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

_MANIFEST = "omap.json"
_RAISE = object()

_repr = reprlib.Repr()
_repr.maxother = _repr.maxstring = 80
_repr.maxdict = _repr.maxlist = _repr.maxtuple = 8


class KeptResults:
    """The finished items of one map: one function, one list of arguments.

    Invariant: a result file is whole or absent, also where the process or the machine dies while writing it.
    A longer list of arguments goes on where a shorter one ended; a shorter one takes the first results.
    Results are pickles: reading a directory runs what its writer put there, so use only those that you wrote.
    Raises ValueError where the directory belongs to another function or to other arguments, saying what differs,
    before any result is read; TypeError where the function or an argument cannot be compared (`transport.digest`).
    """

    def __init__(self, directory: str | os.PathLike[str], fun: Any, arglist: Sequence[Any]) -> None:
        self._directory = Path(directory)
        self._length = len(arglist)
        wanted = _manifest(fun, arglist)
        if (self._directory / _MANIFEST).exists():
            found = _read_manifest(self._directory)
            _check(self._directory, found, wanted)
            longer = len(wanted["arguments"]) > len(found["arguments"])
        elif any(self._directory.glob("*.pickle")):
            raise ValueError(
                f"{self._directory} holds pickles but no {_MANIFEST}, so they are not omap's: choose another "
                "directory"
            )
        else:
            longer = True
        if longer:
            make_folder(self._directory, "directory")
            write_whole(self._directory / _MANIFEST, json.dumps(wanted, indent=1).encode())

    def load(self) -> dict[int, Any]:
        """Read the finished items: {index: result}, in the order of the arguments.

        Raises ValueError for a file that cannot be read, naming it.
        """
        return _load(self._directory, range(self._length))

    def keep(self, index: int, result: Any) -> None:
        """Write one result. Raises what pickling or writing raises; then nothing is kept of it."""
        write_whole(_file(self._directory, index), pickle.dumps(result, protocol=pickle.HIGHEST_PROTOCOL))


def collect_results(directory: str | os.PathLike[str], default: Any = _RAISE) -> list[Any]:
    """Read the results of a map whose caller has gone, or that still runs elsewhere; compute nothing.

    directory: what `omap` was given as ``directory``; reading it runs what its writer put there.
    default: stands for the items that are not finished; without it they are an error.
    Returns the results in the order of the arguments.
    Raises ValueError where items are not finished or a file cannot be read, FileNotFoundError where omap
    never used the directory.
    """
    directory = Path(directory)
    length = len(_read_manifest(directory)["arguments"])
    results = _load(directory, range(length))
    missing = [index for index in range(length) if index not in results]
    if missing and default is _RAISE:
        raise ValueError(
            f"{directory}: {len(missing)} of {length} items are not finished (the first is item {missing[0]}): "
            "call omap again with the same function, arguments and directory, or say what to return for them "
            "(default=...)"
        )
    return [results.get(index, default) for index in range(length)]


def shown(value: Any) -> str:
    """Show a value in one line that stays readable however large the value is."""
    return " ".join(_repr.repr(value).split())


def identity(fun: Any) -> dict[str, Any]:
    """What tells a function from others: its name, its `transport.fingerprint`, and the Python that compiled it.

    Raises TypeError where a value that it reads cannot be compared, naming it.
    """
    from hypergrad.transport import fingerprint

    return {
        "function": getattr(fun, "__qualname__", None) or shown(fun),
        "parts": fingerprint(fun),
        "python": ".".join(platform.python_version_tuple()[:2]),
    }


def difference(found: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """What differs between two functions, given the `identity` of each, in words; None where nothing does."""
    then, now = found["parts"], wanted["parts"]
    parts = sorted(part for part in then.keys() | now.keys() if then.get(part) != now.get(part))
    if not parts:
        return None
    versions = (found["python"], wanted["python"])
    compiled = "" if versions[0] == versions[1] else " (compiled by Python {}, now by {})".format(*versions)
    changing = ""
    if all(part in then and part in now and part.startswith("the value of") for part in parts):
        changing = (
            "; what the function itself changes, like a counter or a list it appends to, has no place in it"
        )
    what_differs = ", ".join(parts) + compiled + changing
    return f"{found['function']} then, {wanted['function']} now; what differs: {what_differs}"


def make_folder(folder: Path, argument: str) -> None:
    """Make a folder, if there is none.  Raises ValueError, naming the argument, where a file is in its place."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{argument} must be a folder, but {error.filename} is a file") from error


def read_manifest(file: Path, keys: Iterable[str]) -> dict[str, Any]:
    """What a JSON file says, under these keys and others.  Raises ValueError, naming it, where it is damaged."""
    content = file.read_bytes()
    with naming(
        file, "is damaged", "choose another directory, or delete this one to compute everything again"
    ):
        found = json.loads(content)
        missing = [key for key in keys if key not in found]
        if missing:
            raise KeyError(f"it has no {', '.join(missing)}")
    return found


@contextlib.contextmanager
def naming(file: Path, what: str, advice: str) -> Iterator[None]:
    """Within it, whatever is raised becomes a ValueError that names the file and says what to do."""
    try:
        yield
    except Exception as error:  # damaged files, and pickles of classes that have gone, raise anything at all
        raise ValueError(f"{file} {what} ({type(error).__name__}: {error}): {advice}") from error


def write_whole(file: Path, content: bytes) -> None:
    """Write a file whole or not at all, also where the process or the machine dies meanwhile."""
    # Under another name first, and on the disk before it gets its own: readers see the whole file or none.
    unfinished = file.with_name(f"{file.name}.{uuid.uuid4().hex}.part")
    try:
        with unfinished.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def _manifest(fun: Any, arglist: Sequence[Any]) -> dict[str, Any]:
    from hypergrad.transport import digest, home_of

    home = home_of(fun)
    arguments = [{"shown": shown(arg), "digest": digest(arg, home)} for arg in arglist]
    return {**identity(fun), "arguments": arguments}


def _check(directory: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    advice = "choose another directory, or delete this one to compute everything again"
    what_differs = difference(found, wanted)
    if what_differs:
        raise ValueError(f"{directory} holds results of another function: {what_differs}; {advice}")
    pairs = list(zip(found["arguments"], wanted["arguments"], strict=False))
    differing = [index for index, (then, now) in enumerate(pairs) if then["digest"] != now["digest"]]
    if differing:
        then, now = pairs[differing[0]]
        raise ValueError(
            f"{directory} holds results of other arguments: {len(differing)} of {len(pairs)} differ, the first is "
            f"item {differing[0]}: {then['shown']} then, {now['shown']} now; {advice}"
        )


def _read_manifest(directory: Path) -> dict[str, Any]:
    return read_manifest(directory / _MANIFEST, ("function", "parts", "python", "arguments"))


def _load(directory: Path, indices: Iterable[int]) -> dict[int, Any]:
    results = {}
    for index in indices:
        file = _file(directory, index)
        if file.exists():
            with (
                naming(file, "cannot be read", "delete it to compute its item again"),
                file.open("rb") as stream,
            ):
                results[index] = pickle.load(stream)
    return results


def _file(directory: Path, index: int) -> Path:
    return directory / f"{index:06d}.pickle"
