"""Named blocks of one vector, also of one that autograd traces.

`VectorParser` gives names and shapes to consecutive blocks of a vector it holds; `WeightsParser` is the same for
a vector somebody else holds; `fill_parser` makes a vector that is constant on each block, `join` one of arrays, of
which `take_block` takes one.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Hashable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import autograd.numpy as np
import numpy as onp
from autograd.extend import (
    Box,
    SparseObject,
    VSpace,
    defjvp,
    defjvp_argnums,
    defvjp,
    defvjp_argnums,
    primitive,
    vspace,
)

__all__ = ["VectorParser", "WeightsParser", "fill_parser", "join", "places", "take_block"]

Array = Any  # a float array, or what autograd puts in its place while it traces

# Primitives of our own: a gradient of autograd's indexing is added up by np.add.at, ten times slower than
# adding to a slice, and that was a fifth of the time of a network's gradient.  Its np.concatenate indexes, too.


@primitive
def take_block(vect: Array, part: slice | int, shape: tuple[int, ...]) -> Array:
    """vect[part] in this shape, a read-only view; np's indexing with a fast derivative."""
    block = vect[part].reshape(shape)
    block.flags.writeable = False  # it is a view: `parser[name] += 1` would write into the caller's vector
    return block


@primitive
def _put_block(block: Array, part: slice | int, space: VSpace) -> SparseObject:
    def add_to(vect: Array) -> Array:
        vect[part] += np.reshape(block, -1)
        return vect

    return SparseObject(space, add_to)


defvjp(take_block, lambda ans, vect, part, shape: lambda g: _put_block(g, part, vspace(vect)))
defvjp(_put_block, lambda ans, block, part, space: lambda g: take_block(g, part, np.shape(block)))
defjvp(take_block, "same")
defjvp(_put_block, "same")


@functools.lru_cache
def places(shapes: tuple[tuple[int, ...], ...]) -> tuple[slice, ...]:
    """Where arrays of these shapes lie in one vector, end to end."""
    ends = accumulate(map(math.prod, shapes), initial=0)
    return tuple([slice(start, end) for start, end in pairwise(ends)])


@primitive
def join(*arrays: Array) -> Array:
    """The entries of the arrays, end to end: one vector; np.concatenate with a fast derivative."""
    return onp.concatenate([onp.reshape(array, -1) for array in arrays])


def _join_vjp(argnums: tuple[int, ...], ans: Array, args: tuple, kwargs: dict) -> Callable:
    shapes = tuple([np.shape(array) for array in args])
    parts = places(shapes)
    return lambda g: [take_block(g, parts[i], shapes[i]) for i in argnums]


def _join_jvp(argnums: tuple[int, ...], gs: Sequence[Array], ans: Array, args: tuple, kwargs: dict) -> Array:
    moving = dict(zip(argnums, gs, strict=True))
    return join(*[moving.get(i, np.zeros(np.shape(array))) for i, array in enumerate(args)])


defvjp_argnums(join, _join_vjp)
defjvp_argnums(join, _join_jvp)


class WeightsParser:
    """Names and shapes for consecutive blocks of a vector that somebody else holds.

    N: length of the vector.  idxs_and_shapes: name -> (slice, shape), in the order of the blocks.
    """

    def __init__(self) -> None:
        self.idxs_and_shapes: dict[Hashable, tuple[slice, tuple[int, ...]]] = {}
        self.N = 0

    def add_weights(self, name: Hashable, shape: int | Sequence[int]) -> None:
        """Append a block.  Raises ValueError where the name is taken or the shape is none."""
        if name in self.idxs_and_shapes:
            raise ValueError(f"there is a block named {name!r} already")
        shape = tuple(int(length) for length in ((shape,) if np.ndim(shape) == 0 else shape))
        if any(length < 0 for length in shape):
            raise ValueError(f"block {name!r}: lengths must not be negative, got shape {shape}")
        part = slice(self.N, self.N + int(np.prod(shape, dtype=int)))
        self.idxs_and_shapes[name] = (part, shape)
        self.N = part.stop

    def get(self, vect: Array, name: Hashable) -> Array:
        """The block of a vector (N,), in its shape; a read-only view where the vector is a plain array.

        Raises KeyError for an unknown name, ValueError for a vector of another length.
        """
        part, shape = self._find(vect, name)
        return take_block(vect, part, shape)

    def set(self, vect: np.ndarray, name: Hashable, val: Array) -> None:
        """Write val, of the block's shape or what broadcasts to it, into a plain float vector (N,), in place.

        Raises as `get` does, ValueError where val does not fit, and TypeError for a vector not of plain floats.
        """
        part, shape = self._find(vect, name)
        if not isinstance(vect, np.ndarray) or vect.dtype.kind != "f":
            raise TypeError("set writes into a plain float array; use a VectorParser for anything else")
        vect[part] = _filling(_array(val), name, shape)

    def _find(self, vect: Array, name: Hashable) -> tuple[slice, tuple[int, ...]]:
        if np.shape(vect) != (self.N,):
            raise ValueError(f"expected a vector of shape ({self.N},), got shape {np.shape(vect)}")
        if name not in self.idxs_and_shapes:
            raise KeyError(f"no block named {name!r}; there are {list(self.idxs_and_shapes)}")
        return self.idxs_and_shapes[name]


def _array(val: Any) -> Array:
    """An array of a list, whose entries may be traced; an array is returned itself, not a copy."""
    val = np.array(val) if isinstance(val, (list, tuple)) else val
    if not isinstance(val, Box) and onp.asanyarray(val).dtype.kind not in "biufc":
        raise TypeError(f"expected numbers, got {val!r:.60}")
    return val


def _filling(val: Array, name: Hashable, shape: tuple[int, ...]) -> Array:
    """A vector of val for a block of this shape: broadcast to it, or with axes of length one left out or added.

    (n,) for (1, n) or (n, 1) passes; (3, 2) for (2, 3) would scramble.
    """
    if [n for n in np.shape(val) if n != 1] == [n for n in shape if n != 1]:
        return np.ravel(val)
    try:
        fits = math.prod(onp.broadcast_shapes(np.shape(val), shape)) == math.prod(shape)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"block {name!r} has shape {shape}, got an array of shape {np.shape(val)}, which does not broadcast "
            "to it"
        )
    return np.ravel(val * onp.ones(shape))  # autograd's broadcast_to takes no further axes


class _Block(onp.ndarray):
    """A block of a plain vector, read-only, whose in-place operators make a new array, as those of numbers do.

    So `parser[name] += 1` computes a sum and assigns it, while `parser[name][0] = 1`, which would be lost or change
    somebody's vector, raises.
    """

    def __array_ufunc__(self, ufunc: onp.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        options = {
            name: tuple(map(_plain, value)) if name == "out" else _plain(value)
            for name, value in kwargs.items()
        }
        return getattr(ufunc, method)(*map(_plain, inputs), **options)


def _plain(value: Any) -> Any:
    return onp.asarray(value) if isinstance(value, _Block) else value


def _in_place(name: str) -> Callable[[_Block, Any], Any]:
    def operation(self: _Block, other: Any) -> Any:  # a copy of a block may be written to
        return getattr(operator, f"i{name}" if self.flags.writeable else name)(_plain(self), other)

    return operation


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    setattr(_Block, f"__i{_name}__", _in_place(_name))
Box.type_mappings[onp.ndarray].register(_Block)  # to autograd it is an array
VSpace.register(_Block, VSpace.mappings[onp.ndarray])


class VectorParser:
    """Named blocks of one vector.

    Invariant: `vect` is never written to; assigning a block puts a new vector in its place.  So neither the
    arrays that came in nor vectors handed out before change, and all of it can be differentiated.

    vect: shape (N,), N the sum of the sizes of the blocks; zeros at first.
    idxs_and_shapes: name -> (slice, shape).  Names are anything hashable, such as ("weights", 0).

    parser[name] is the block, in its shape, read-only; KeyError where there is none.  parser[name] = value appends
    a block of the value's shape where there is none, and otherwise fills the block, with a value of its shape, up
    to axes of length one, or with what NumPy broadcasts to it.  So parser[name] += 1 works; block = parser[name],
    then block += 1, makes a new array, which is the caller's.  Raises ValueError where the value does not fit,
    TypeError where it holds no numbers.
    """

    def __init__(self) -> None:
        self._layout = WeightsParser()
        self.vect: Array = np.zeros(0)

    @property
    def idxs_and_shapes(self) -> dict[Hashable, tuple[slice, tuple[int, ...]]]:
        """Where each block lies, and its shape: name -> (slice, shape), in the order of the blocks."""
        return self._layout.idxs_and_shapes

    @property
    def names(self) -> list[Hashable]:
        """The names, in the order of the blocks."""
        return list(self.idxs_and_shapes)

    def add_shape(self, name: Hashable, shape: int | Sequence[int]) -> None:
        """Append a block of zeros.  Raises ValueError where the name is taken or the shape is none."""
        self._layout.add_weights(name, shape)
        self.vect = np.concatenate([self.vect, np.zeros(self._layout.N - len(self.vect))])

    def new_vect(self, vect: Array) -> VectorParser:
        """A parser with the same blocks of another vector, plain or traced: `vect` is that vector, not a copy.

        Assigning its blocks leaves the vector alone, see the class.  Raises ValueError if it is not (N,).
        """
        if np.shape(vect) != (self._layout.N,):
            raise ValueError(f"expected a vector of shape {(self._layout.N,)}, got shape {np.shape(vect)}")
        new = VectorParser()
        new._layout.idxs_and_shapes, new._layout.N = dict(self.idxs_and_shapes), self._layout.N
        new.vect = _array(vect)
        return new

    def copy(self) -> VectorParser:
        """An independent parser with the same blocks and numbers."""
        return self.new_vect(self.vect)

    def empty_copy(self) -> VectorParser:
        """A parser with the same blocks, all zero."""
        return self.new_vect(np.zeros(self._layout.N))

    def as_dict(self) -> dict[Hashable, Array]:
        """All blocks: name -> array."""
        return {name: self[name] for name in self.names}

    def __getitem__(self, name: Hashable) -> Array:
        block = self._layout.get(self.vect, name)
        return block.view(_Block) if isinstance(block, onp.ndarray) else block

    def __setitem__(self, name: Hashable, val: Array) -> None:
        val = _array(val)
        if name not in self.idxs_and_shapes:
            self.add_shape(name, np.shape(val))
        part, shape = self._layout._find(self.vect, name)
        block = _filling(val, name, shape)
        self.vect = np.concatenate([self.vect[: part.start], block, self.vect[part.stop :]])


def fill_parser(parser: VectorParser, items: Array) -> Array:
    """A vector like parser.vect with items[i] throughout block i.

    items: one number for each block, in the order of the blocks; a list, or an array of shape (blocks,).
    Raises ValueError where there are more or fewer.
    """
    parts = [part for part, _ in parser.idxs_and_shapes.values()]
    items = _array(items)
    if np.shape(items) != (len(parts),):
        raise ValueError(f"expected a number for each of {len(parts)} blocks, got shape {np.shape(items)}")
    return items[np.repeat(np.arange(len(parts)), [part.stop - part.start for part in parts])]
