"""Small tools: repeatable random streams, containers of arrays, memoize, timing, logistic and its inverse."""

import functools
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import autograd.numpy as np
import numpy as onp
import numpy.random as npr

# Since NumPy 2, repr(np.int64(3)) is "np.int64(3)"; as before it is "3", as that of the same Python number.
_PLAIN_SCALARS = {"legacy": "1.25"} if int(onp.__version__.split(".")[0]) >= 2 else {}

Result = TypeVar("Result")


class RandomState(npr.RandomState):
    """NumPy's legacy generator, seeded by what an object looks like in print.

    Invariant: equal ``str(obj)`` give equal streams, on every machine and in every process.
    obj: anything whose str is stable, e.g. ``(seed, meta_iteration, iteration)``. NumPy's scalars, in containers,
    too, count as they print without their type: ``(0, np.int64(3))`` as ``(0, 3)``, whatever NumPy's version.
    The seed is int(md5(str(obj)).hexdigest()[:8], 16), as in the 2015 package, so its streams come out again.
    """

    def __init__(self, obj: Any) -> None:
        with onp.printoptions(**_PLAIN_SCALARS):
            text = str(obj)
        # usedforsecurity=False: some hardened Python builds refuse md5 otherwise.
        digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        super().__init__(int(digest[:8], 16))

    def int32(self) -> int:
        """Draw an integer uniformly from 0 .. 2**32 - 1, e.g. to seed another stream."""
        return int(self.randint(2**32, dtype=np.int64))


def dictslice(d: Mapping[Any, Any], idxs: Any) -> dict[Any, Any]:
    """Take the rows ``idxs`` (a slice, indices or a mask) of every array in a dict."""
    return {key: value[idxs] for key, value in d.items()}


def listslice(lst: Iterable[Any], idxs: Any) -> list[Any]:
    """Take the rows ``idxs`` (a slice, indices or a mask) of every array in a list."""
    return [value[idxs] for value in lst]


def dictmap(f: Callable[[Any], Any], d: Mapping[Any, Any]) -> dict[Any, Any]:
    """Apply ``f`` to every value of a dict; the keys stay."""
    return {key: f(value) for key, value in d.items()}


def memoize(function: Callable[..., Result]) -> Callable[..., Result]:
    """Remember what a function returned for each set of arguments, for as long as the function lives.

    Invariant: the function runs once for each set of arguments; a call that raised is not remembered.
    Arguments are compared by value: hashable ones, and arrays, lists, tuples, dicts and slices of those.
    The results are handed out themselves, not copies. Raises TypeError for an argument of another kind.
    """
    cache: dict[Any, Result] = {}

    @functools.wraps(function)
    def memoized(*args: Any, **kwargs: Any) -> Result:
        key = (_frozen(args), _frozen(kwargs))
        if key not in cache:
            cache[key] = function(*args, **kwargs)
        return cache[key]

    return memoized


def _frozen(value: Any) -> Any:
    """A hashable stand-in that is equal for equal values; types are kept, so that 1, 1.0 and True differ."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return (type(value), value.shape, value.dtype.str, value.tobytes())
    if isinstance(value, dict):
        return (dict, frozenset((_frozen(key), _frozen(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return (type(value), tuple(_frozen(item) for item in value))
    if isinstance(value, slice):  # not hashable before Python 3.12
        return (slice, _frozen((value.start, value.stop, value.step)))
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"memoize cannot compare an argument of type {type(value).__name__}: expected hashable values, "
            "and arrays, lists, tuples, dicts or slices of those; pass what identifies the value instead"
        ) from None
    return (type(value), value)


@contextmanager
def tictoc(text: str = "") -> Iterator[None]:
    """Print how many seconds the ``with`` block took, also when it raised.

    text: what is being timed, for the printed line.
    """
    print("--- Start clock ---")
    start = time.perf_counter()
    try:
        yield
    finally:
        print(f"--- Stop clock {text}: {time.perf_counter() - start:.3f} seconds elapsed ---")


def logistic(x: Any) -> Any:
    """The logistic function 1 / (1 + exp(-x)), elementwise and differentiable.

    x: scalar or array of any size of entry, infinite ones included: no overflow, and no loss of digits where the
    result is tiny.
    Returns values in [0, 1]: exactly 1 from about x = 37 on, exactly 0 below about x = -745.
    """
    finite = np.clip(x, -1e300, 1e300)  # at infinity the derivative of logaddexp, which should be 0, is NaN
    return np.exp(-np.logaddexp(0.0, np.negative(finite)))


def logit(p: Any, closed: bool = False) -> Any:
    """The inverse of the logistic function, log(p / (1 - p)), elementwise and differentiable.

    p: scalar or array, every entry strictly between 0 and 1.
    closed: take 0 and 1 as well; the result there is the limit, -inf or inf, which `logistic` takes back.
    Raises ValueError where an entry is outside (NaN included).
    """
    above, below = (np.greater_equal, np.less_equal) if closed else (np.greater, np.less)
    outside = np.logical_not(np.logical_and(above(p, 0), below(p, 1)))
    if np.any(outside):
        first = tuple(int(i) for i in np.argwhere(outside)[0])
        where = f" at index {first}, one of {np.sum(outside)} such entries of {np.size(p)}" if first else ""
        domain = "from 0 to 1" if closed else "strictly between 0 and 1"
        raise ValueError(f"logit: expected values {domain}, got {np.array(p)[first]}{where}")
    with onp.errstate(divide="ignore"):
        return np.log(p) - np.log1p(np.negative(p))
