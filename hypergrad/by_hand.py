"""Functions with derivatives by hand.

`with_derivatives` takes a function in plain NumPy that returns its derivatives along with its result, as closures,
and makes it one that autograd differentiates twice.  Its gradient, and the pullback of that, then cost what the
closures cost: no graph of operations is built, and what the function has computed is at hand for both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from autograd import make_jvp, make_vjp
from autograd.extend import (
    SparseObject,
    VSpace,
    defjvp,
    defjvp_argnums,
    defvjp,
    defvjp_argnums,
    primitive,
)

from hypergrad.differentiation import Parts, is_traced, shapes_of
from hypergrad.parsers import join, places

__all__ = ["OneVector", "with_derivatives"]

Array = Any  # a float array, or what autograd puts in its place while it traces
Shapes = tuple[tuple[int, ...], ...]


def with_derivatives(function: Callable, otherwise: Callable | None = None) -> Callable:
    """Have autograd differentiate a function by the derivatives that it returns.

    function(*arrays, **data), in plain NumPy, returns its result and pullback, where
        pullback(cotangent of the result) returns a list, the cotangents of the arrays, and its own pullback, where
        second(list of cotangents of those) returns the cotangent of what pullback had been given, and a list,
        the cotangents of the arrays.
        They must leave alone what they are given, and what they have returned.
    otherwise: the same function in autograd's operations, for what the closures do not give: third derivatives,
        forward mode, and derivatives with respect to data, of the gradient as well.

    Returns the function.  Under differentiation it raises NotImplementedError where it needs `otherwise` and there
    is none, and ValueError where cotangents are not of the arrays' number and shapes.
    """

    @functools.wraps(function)
    def differentiable(*arrays: Array, **data: Any) -> Array:
        traced = {name: value for name, value in data.items() if is_traced(value)}
        return _value(_Call(function, otherwise, len(arrays), data, tuple(traced)), *arrays, *traced.values())

    return differentiable


class OneVector(list):
    """New arrays of the shapes of others and of one type, entries to be filled in: views of one vector, `whole`.

    Cotangents that come as this take no copy to be put end to end, which is how training wants them.
    """

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.shapes = shapes_of(arrays)
        self.whole = np.empty(places(self.shapes)[-1].stop, arrays[0].dtype)
        super().__init__(_split(self.whole, self.shapes))


class _Call:
    """One evaluation of the function; its inputs are the arrays, then those of the data that are traced."""

    def __init__(
        self, function: Callable, otherwise: Callable | None, count: int, data: dict, traced: tuple[str, ...]
    ) -> None:
        self.function, self.otherwise = function, otherwise
        self.count, self.data, self.traced = count, data, traced
        self.shapes: Shapes = ()  # of the arrays; this and the next once the function has run
        self.pullback: Callable | None = None

    def apply(self, function: Callable, inputs: Sequence[Array]) -> Any:
        """The function, or the other form of it, of these inputs."""
        traced = dict(zip(self.traced, inputs[self.count :], strict=True))
        return function(*inputs[: self.count], **{**self.data, **traced})

    def by_operations(self, what: str) -> Callable:
        """The function of the inputs, in operations that autograd knows."""
        if self.otherwise is None:
            name = getattr(self.function, "__name__", "the function")
            raise NotImplementedError(
                f"{name} brings no derivatives for {what}; give with_derivatives the same function in "
                f"autograd's operations, as `otherwise`"
            )
        return lambda *inputs: self.apply(self.otherwise, inputs)

    def gradient_by_operations(self, what: str) -> Callable:
        """Its pullback to the arrays, as a function of the cotangent and the inputs."""
        function = self.by_operations(what)

        def gradient(cotangent: Array, *inputs: Array) -> Any:
            pull_back, _ = make_vjp(function, tuple(range(self.count)))(*inputs)
            return _end_to_end(pull_back(cotangent))

        return gradient


class _Gradient:
    """One call of the pullback, and the pullback of that once it has run."""

    def __init__(self, call: _Call) -> None:
        self.call = call
        self.second: Callable | None = None

    def evaluate(self, cotangent: Array) -> Array:
        """The cotangents of the arrays, `_end_to_end`."""
        parts, self.second = self.call.pullback(cotangent)
        return _end_to_end(_checked(parts, self.call.shapes, "pullback"))

    def differentiate(self, directions: Sequence[Array]) -> tuple[Array, Sequence[Array]]:
        """The cotangents of the cotangent, and of the arrays, given those of `evaluate`'s parts."""
        d_cotangent, d_arrays = self.second(directions)
        return d_cotangent, _checked(d_arrays, self.call.shapes, "the pullback of the pullback")


# The values of these two are by hand always, whatever is traced: training that is run backwards must see the same
# bits as forwards, where nothing is.


@primitive
def _value(call: _Call, *inputs: Array) -> Array:
    call.shapes = shapes_of(inputs[: call.count])
    result, call.pullback = call.apply(call.function, inputs)
    return result


@primitive
def _gradient(gradient: _Gradient, cotangent: Array, *inputs: Array) -> Any:
    return gradient.evaluate(cotangent)


def _end_to_end(parts: Sequence[Array]) -> Array:
    """One array as it is, more as one vector."""
    if isinstance(parts, OneVector):
        return parts.whole
    return parts[0] if len(parts) == 1 else _concatenated(*parts)


@primitive
def _concatenated(*parts: Array) -> Array:
    return join(*parts)


def _parts(whole: Any, shapes: Shapes) -> Iterable[Array]:
    """What `_end_to_end` has put together; or what has stayed apart, as a tuple."""
    if isinstance(whole, tuple):
        return whole
    if len(shapes) == 1:
        return [whole]
    if is_traced(whole):
        return Parts(whole, lambda: (_take_part(whole, shapes, i) for i in range(len(shapes))))
    return Parts(whole, lambda: iter(_split(whole, shapes)))


def _split(whole: np.ndarray, shapes: Shapes) -> list[np.ndarray]:
    """Views of these shapes."""
    return [whole[place].reshape(shape) for place, shape in zip(places(shapes), shapes, strict=True)]


# The derivative of a slice would add to a vector of zeros.  Here each part is taken once, so that their cotangents
# need not be added up: they stay apart, as a tuple.


class _Tuples(VSpace):
    """Tuples of so many arrays; 0.0 stands for an array of zeros."""

    def __init__(self, count: int) -> None:
        self.count = count

    def zeros(self) -> tuple:
        return (0.0,) * self.count


@primitive
def _take_part(whole: Array, shapes: Shapes, i: int) -> Array:
    return whole[i] if isinstance(whole, tuple) else _split(whole, shapes)[i]


@primitive
def _put_part(part: Array, shapes: Shapes, i: int) -> SparseObject:
    def add_to(parts: tuple) -> tuple:
        return (*parts[:i], part, *parts[i + 1 :])

    return SparseObject(_Tuples(len(shapes)), add_to)


defvjp(_take_part, lambda ans, whole, shapes, i: lambda g: _put_part(g, shapes, i))
defvjp(_put_part, lambda ans, part, shapes, i: lambda g: _take_part(g, shapes, i))
defjvp(_take_part, "same")
defjvp(_put_part, "same")


def _concatenated_vjp(argnums: tuple[int, ...], ans: Array, parts: tuple, kwargs: dict) -> Callable:
    shapes = shapes_of(parts)

    def pull_back(cotangent: Any) -> list[Array]:
        cotangents = list(_parts(cotangent, shapes))
        return [cotangents[i] for i in argnums]

    return pull_back


def _concatenated_jvp(
    argnums: tuple[int, ...], tangents: Any, ans: Array, parts: tuple, kwargs: dict
) -> Array:
    moving = dict(zip(argnums, tangents, strict=True))
    return _concatenated(*[moving.get(i, np.zeros(np.shape(part))) for i, part in enumerate(parts)])


defvjp_argnums(_concatenated, _concatenated_vjp)
defjvp_argnums(_concatenated, _concatenated_jvp)


def _checked(parts: Sequence[Array], expected: Shapes, what: str) -> Sequence[Array]:
    shapes = parts.shapes if isinstance(parts, OneVector) else shapes_of(parts)
    if shapes != expected:
        raise ValueError(
            f"{what} must return cotangents of shapes {list(expected)}, those of the arrays, got {list(shapes)}"
        )
    return parts


def _value_vjp(argnums: tuple[int, ...], ans: Array, args: tuple, kwargs: dict) -> Callable:
    call, *inputs = args
    places = [argnum - 1 for argnum in argnums]
    data_places = [place for place in places if place >= call.count]

    def pull_back(cotangent: Array) -> Iterable[Array]:
        found = {}
        if len(data_places) < len(places):
            parts = _parts(_gradient(_Gradient(call), cotangent, *inputs), call.shapes)
            if places == list(range(call.count)):
                return parts
            found = dict(enumerate(parts))
        if data_places:
            function = call.by_operations("data passed by name")
            found |= zip(data_places, make_vjp(function, data_places)(*inputs)[0](cotangent), strict=True)
        return [found[place] for place in places]

    def both_by_hand(cotangent: Array) -> tuple[Array, Callable[[Array], Array]]:
        """What pull_back returns, as one vector, and the pullback of that: what two traces would find."""
        gradient = _Gradient(call)
        value = np.asarray(gradient.evaluate(cotangent))

        def pull_back_again(directions: Array) -> Array:
            parts = _parts(directions.reshape(value.shape), call.shapes)
            return np.asarray(_end_to_end(gradient.differentiate(list(parts))[1])).reshape(-1)

        return value.reshape(-1), pull_back_again

    if places == list(range(len(inputs))) and not any(map(is_traced, inputs)):
        pull_back.both_by_hand = both_by_hand
    return pull_back


def _gradient_vjp(argnums: tuple[int, ...], ans: Any, args: tuple, kwargs: dict) -> Callable:
    gradient, *inputs = args  # the cotangent first
    call, places = gradient.call, tuple(argnum - 1 for argnum in argnums)

    def pull_back(directions: Any) -> Iterable[Array]:
        pairs = zip(_parts(directions, call.shapes), call.shapes, strict=True)
        directions = [v if np.shape(v) == shape else np.zeros(shape) for v, shape in pairs]
        if places[-1] > call.count or any(is_traced(x) for x in (*inputs, *directions)):
            what = "data passed by name" if places[-1] > call.count else "third derivatives"
            by_operations = call.gradient_by_operations(what)
            return make_vjp(by_operations, places)(*inputs)[0](_end_to_end(directions))
        d_cotangent, d_arrays = gradient.differentiate(directions)
        if places == tuple(range(1, 1 + call.count)):
            return _parts(_end_to_end(d_arrays), call.shapes)
        d = [d_cotangent, *d_arrays]
        return [d[place] for place in places]

    return pull_back


def _value_jvp(argnums: tuple[int, ...], tangents: Any, ans: Array, args: tuple, kwargs: dict) -> Array:
    call, *inputs = args
    return _pushed(call.by_operations("forward mode"), argnums, inputs, tangents)


def _gradient_jvp(argnums: tuple[int, ...], tangents: Any, ans: Any, args: tuple, kwargs: dict) -> Any:
    gradient, *inputs = args
    return _pushed(gradient.call.gradient_by_operations("forward mode"), argnums, inputs, tangents)


def _pushed(function: Callable, argnums: tuple[int, ...], inputs: Sequence[Array], tangents: Any) -> Any:
    places = tuple(argnum - 1 for argnum in argnums)
    return make_jvp(function, places)(*inputs)(tuple(tangents))[1]


defvjp_argnums(_value, _value_vjp)
defvjp_argnums(_gradient, _gradient_vjp)
defjvp_argnums(_value, _value_jvp)
defjvp_argnums(_gradient, _gradient_jvp)
