"""The loops of `hypergrad.compiled`, by the same names: `loops.multiply(...)`.

They are imported when the first is used, as Numba takes about as long to load as all the rest of the library.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    from hypergrad import compiled

    globals().update({each: getattr(compiled, each) for each in compiled.__all__})
    if name not in globals():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals()[name]
