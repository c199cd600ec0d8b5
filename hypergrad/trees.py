"""Nested containers of float arrays ("pytrees") as one flat vector, and back.

A tree is an array, or a dict, list, tuple, named tuple or None of trees.  Inside a function that autograd
differentiates, containers and leaves may arrive as autograd's boxes; everything here takes them too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import autograd.numpy as np
import numpy as onp

from hypergrad.differentiation import is_traced, shape_of, value_of
from hypergrad.parsers import places, take_block

__all__ = ["Layout", "broadcast_prefix", "schedule"]

Tree = Any


def _children(tree: Tree) -> list[tuple[str, Tree]] | None:
    """The (path suffix, subtree) pairs of a container in order; None for a leaf."""
    value = value_of(tree)
    if value is None:
        return []
    if isinstance(value, dict):
        return [(f"[{key!r}]", tree[key]) for key in value]
    if isinstance(value, (list, tuple)):
        return [(f"[{i}]", tree[i]) for i in range(len(value))]
    return None


def _leaves_of(tree: Tree, name: str) -> list[tuple[str, Any]]:
    """All (path, leaf) pairs in order, paths starting with `name`."""
    below = _children(tree)
    if below is None:
        return [(name, tree)]
    return [pair for suffix, subtree in below for pair in _leaves_of(subtree, name + suffix)]


class Layout:
    """How a tree of float arrays lies in one flat vector: leaves end to end, in order, row by row.

    tree: the tree to take the shapes from.  name: what error messages call it.
    Raises TypeError where a leaf is not an array of floats, ValueError where it holds NaN or infinity.
    """

    def __init__(self, tree: Tree, name: str) -> None:
        self.name = name
        self._build = _builder(tree)
        pairs = [(path, value_of(leaf)) for path, leaf in _leaves_of(tree, name)]
        self.paths = [path for path, _ in pairs]
        for path, leaf in pairs:
            _check_leaf(path, leaf)
        self.shapes = [onp.shape(leaf) for _, leaf in pairs]
        self.slices = places(tuple(self.shapes))
        self.sizes = [part.stop - part.start for part in self.slices]
        self.ends = onp.cumsum(self.sizes, dtype=onp.int64)
        self.size = sum(self.sizes)

    def flatten(self, tree: Tree, name: str | None = None) -> Any:
        """The leaves of `tree` as one vector, (size,), of float64, or of float32 if all are; differentiable.

        It is never a view of the leaves.

        Raises ValueError where the tree does not match, TypeError where a leaf holds no floats.
        """
        name = name or self.name
        pairs = _leaves_of(tree, name)
        order = {name + path.removeprefix(self.name): i for i, path in enumerate(self.paths)}
        pairs.sort(key=lambda pair: order.get(pair[0], len(order)))  # keys of dicts may come in any order
        shapes = [shape_of(leaf) for _, leaf in pairs]
        for path, leaf in pairs:
            _check_leaf(path, value_of(leaf))
        if [path for path, _ in pairs] != list(order) or shapes != self.shapes:
            raise ValueError(
                f"{name} must match {self.name}: expected {_describe(self.paths, self.shapes)}, "
                f"got {_describe([path for path, _ in pairs], shapes)}"
            )
        if not pairs:
            return onp.zeros(0)
        return _as_float64(np.concatenate([np.ravel(leaf) for _, leaf in pairs]) * 1.0)

    def unflatten(self, vector: Any) -> Tree:
        """The tree whose leaves are the parts of `vector`, (size,): views, in plain containers."""
        return self.rebuild(self.split(vector))

    def split(self, vector: Any) -> list[Any]:
        """The leaves alone."""
        if is_traced(vector):
            return [take_block(vector, *place) for place in zip(self.slices, self.shapes, strict=True)]
        return [vector[part].reshape(shape) for part, shape in zip(self.slices, self.shapes, strict=True)]

    def rebuild(self, leaves: Iterable[Any]) -> Tree:
        """The tree with these leaves."""
        return self._build(iter(leaves))

    def check_unchanged(self, tree: Tree, leaves: Sequence[Any], t: int) -> None:
        """Raise ValueError where a tree of these leaves, that a function got, has others by now."""
        pairs = _leaves_of(tree, self.name)
        if len(pairs) == len(leaves) and all(
            pair[1] is leaf for pair, leaf in zip(pairs, leaves, strict=True)
        ):
            return
        found = dict(pairs)
        changed = [path for path, leaf in zip(self.paths, leaves, strict=True) if found.get(path) is not leaf]
        what = changed[0] if changed else next(path for path in found if path not in self.paths)
        raise ValueError(
            f"the training loss changed its {self.name}, at {what} (iteration {t}): nothing that it assigns there "
            "is trained; let it work on a copy, dict(...)"
        )

    def locate(self, index: int) -> str:
        """What to call element `index` of the flat vector, like weights['W1'][3, 5]."""
        for path, part, shape in zip(self.paths, self.slices, self.shapes, strict=True):
            if part.start <= index < part.stop:
                position = ", ".join(str(int(i)) for i in onp.unravel_index(index - part.start, shape))
                return f"{path}[{position}]" if shape else path
        raise IndexError(index)


def broadcast_prefix(
    prefix: Tree, tree: Tree, prefix_name: str, name: str, none_is_leaf: bool = False
) -> Iterator[tuple[str, Any]]:
    """For every leaf of `tree`, the (path, leaf) of `prefix` that stands for it.

    A leaf of `prefix`, with none_is_leaf also None, stands for all leaves below that place in `tree`; containers of
    `prefix` must have the same keys or length as those of `tree` at their place, else ValueError.
    """
    below, below_prefix = _children(tree), _children(prefix)
    if below_prefix is None or (none_is_leaf and prefix is None):
        for _ in _leaves_of(tree, name):
            yield prefix_name, prefix
        return
    keys = None if below is None else [suffix for suffix, _ in below]
    keys_prefix = [suffix for suffix, _ in below_prefix]
    if keys is None or sorted(keys) != sorted(keys_prefix):
        expected = "one value" if keys is None else f"entries {' '.join(keys) or '(none)'}"
        raise ValueError(
            f"{prefix_name} does not match {name}: expected {expected}, got entries "
            f"{' '.join(keys_prefix) or '(none)'}; give one value for all, or a container of values with the "
            f"structure of {name}"
        )
    by_suffix = dict(below_prefix)
    for suffix, subtree in below:
        yield from broadcast_prefix(
            by_suffix[suffix], subtree, prefix_name + suffix, name + suffix, none_is_leaf
        )


def schedule(value: Any, name: str, weights: Tree, num_steps: int, before: int = 0) -> Any:
    """A hyperparameter of a rule as an array of shape (1 or num_steps, 1 or number of leaves); differentiable.

    value: a scalar, an array of shape (num_steps,) or (num_steps, 1), or a tree of those like the weights or a
        prefix of them.
    before: steps before the first; num_steps is to be read as before + num_steps.
    Raises ValueError where the shape or the tree does not match, or where an array of one per step might also be
    meant as one per entry of an array of weights; TypeError where it holds no numbers.
    """
    shapes = {path: shape_of(leaf) for path, leaf in _leaves_of(weights, name)}
    if _children(value) is None:
        return _column(value, name, num_steps, before, shapes.get(name))
    _check_is_no_list_of_steps(value, weights, name, before + num_steps)
    pairs = broadcast_prefix(value, weights, name, "weights")
    columns = [_column(leaf, path, num_steps, before, shapes.get(path)) for path, leaf in pairs]
    rows = max((shape_of(column)[0] for column in columns), default=1)
    return np.concatenate([column * onp.ones((rows, 1)) for column in columns], axis=1)


def _column(value: Any, path: str, num_steps: int, before: int, weights_shape: tuple[int, ...] | None) -> Any:
    """weights_shape: of the array of weights at the same place, if there is one."""
    plain, steps = value_of(value), before + num_steps
    if isinstance(plain, onp.ma.MaskedArray):
        raise TypeError(
            f"{path} is a masked array, whose mask would be lost: fill it first, by numpy.ma.filled"
        )
    plain = onp.asarray(plain)
    if plain.dtype.kind not in "fiu":
        raise TypeError(f"{path} must be a number, or an array of one per step, got {value_of(value)!r:.60}")
    if plain.shape not in ((), (steps,), (steps, 1)):
        whole = f", the {before} steps before included" if before else ""
        raise ValueError(
            f"{path} must be a scalar, or a schedule of shape ({steps},) with one value per step{whole}, got shape "
            f"{plain.shape}"
        )
    if plain.shape and plain.shape == weights_shape and plain.size > 1:
        explicit = f"shape ({steps}, 1)" if plain.shape == (steps,) else f"shape ({steps},)"
        raise ValueError(
            f"{path} has the shape {plain.shape} of the weights that it is for, and might mean one value for each "
            f"of them, or for each of {steps} steps: for a schedule, give it {explicit}; there are no step sizes "
            "or decays of single weights"
        )
    return _as_float64(np.reshape(value, (-1, 1)) * 1.0)


def _as_float64(array: Any) -> Any:
    """An array of half or extended precision as one of double; single precision stays."""
    return array if value_of(array).dtype.char in "fd" else array.astype(onp.float64)


def _check_is_no_list_of_steps(value: Tree, weights: Tree, name: str, steps: int) -> None:
    """Raise where a list of numbers is no tree like the weights, but would do as a schedule."""
    plain, leaves = value_of(value), _children(value)
    if not isinstance(plain, (list, tuple)) or hasattr(plain, "_fields") or len(leaves) != steps:
        return
    below = _children(weights)
    matches = below is not None and [key for key, _ in below] == [key for key, _ in leaves]
    if not matches and all(onp.shape(value_of(leaf)) == () for _, leaf in leaves):
        raise TypeError(
            f"{name} is a {type(plain).__name__}, which stands for a tree like the weights: give a schedule of one "
            f"value per step as an array, numpy.array({name})"
        )


def _builder(tree: Tree) -> Callable[[Iterator], Tree]:
    """What makes the same tree, in plain containers, of other leaves, one after the other."""
    value = value_of(tree)
    if value is None:
        return lambda leaves: None
    if isinstance(value, dict):
        builders = {key: _builder(tree[key]) for key in value}
        return lambda leaves: {key: build(leaves) for key, build in builders.items()}
    if isinstance(value, (list, tuple)):
        builders = [_builder(tree[i]) for i in range(len(value))]
        if isinstance(value, list):
            return lambda leaves: [build(leaves) for build in builders]
        kind = type(value) if hasattr(value, "_fields") else lambda *entries: entries
        return lambda leaves: kind(*[build(leaves) for build in builders])
    return next


def _check_leaf(path: str, leaf: Any) -> None:
    if isinstance(leaf, float) or (isinstance(leaf, (onp.ndarray, onp.generic)) and leaf.dtype.kind == "f"):
        kind = type(leaf)
        if isinstance(leaf, onp.ma.MaskedArray):
            raise TypeError(
                f"{path} is a masked array, whose mask would be lost: fill it first, by numpy.ma.filled, or leave "
                "out what is masked"
            )
        if isinstance(leaf, onp.ndarray) and kind not in (onp.ndarray, onp.memmap):
            raise TypeError(
                f"{path} must be a plain numpy.ndarray, got a {kind.__name__}; use numpy.asarray({path})"
            )
        if not onp.all(onp.isfinite(leaf)):
            raise ValueError(f"{path} holds NaN or infinity")
        return
    kind, dtype = type(leaf), getattr(leaf, "dtype", None)
    what = f"dtype {dtype}" if isinstance(leaf, (onp.ndarray, onp.generic)) else f"type {kind.__name__}"
    advice = f"convert it with numpy.asarray({path}, float)"
    if isinstance(leaf, complex) or getattr(dtype, "kind", "") == "c":
        advice = "give real and imaginary parts as two arrays of floats"
    elif kind.__module__.partition(".")[0] == "torch":
        what, advice = f"a torch.{kind.__name__}", f"convert it with {path}.detach().numpy()"
    elif kind.__module__.partition(".")[0] in ("jax", "jaxlib"):
        what, advice = "a JAX array", f"convert it with numpy.asarray({path})"
    raise TypeError(f"{path} must be an array of floats, got {what}; {advice}")


def _describe(paths: list[str], shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(f"{path} {shape}" for path, shape in zip(paths, shapes, strict=True)) or "nothing"
