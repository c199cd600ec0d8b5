"""What the engine asks of automatic differentiation: a gradient, and a gradient with its pullback.

The only module that touches autograd's internals, so that another differentiator can be put here.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any, NoReturn

import autograd.numpy as np
import numpy as onp
from autograd.core import VJPNode, add_outgrads, primitive_jvps, primitive_vjps
from autograd.extend import defvjp, defvjp_argnums, primitive
from autograd.numpy.numpy_boxes import ArrayBox
from autograd.tracer import Box, isbox, new_box, notrace_primitives, trace_stack
from autograd.util import toposort
from numpy.typing import DTypeLike, NDArray

from hypergrad.errors import NonFiniteGradientError
from hypergrad.exact_rep import round_to_lattice
from hypergrad.parsers import join

__all__ = [
    "FlatGradient",
    "LossGradient",
    "Parts",
    "gradient",
    "gradient_with_pullback",
    "is_traced",
    "joint_primitive",
    "rounded_factor",
    "shape_of",
    "shapes_of",
    "value_of",
]

is_traced = isbox


def value_of(x: Any) -> Any:
    """The plain value under any number of autograd's boxes."""
    while type(x) in Box.types:
        x = x._value
    return x


def shape_of(array: Any) -> tuple[int, ...]:
    """The shape of an array, traced or not, or of what NumPy would make one."""
    value = value_of(array)
    return value.shape if isinstance(value, onp.ndarray) else onp.shape(value)


def shapes_of(arrays: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    """`shape_of` each."""
    return tuple([x.shape if type(x) is onp.ndarray else shape_of(x) for x in arrays])


def gradient(loss: Callable[[list], Any], leaves: Sequence[Any], where: str) -> Any:
    """The gradient of loss(leaves), a scalar, as one flat vector of all leaves end to end.

    leaves: float arrays, possibly traced; then so is the result.  where: for error messages.
    Raises ValueError where the loss is no real scalar.
    """
    return _gradient(loss, leaves, where)[0]


class FlatGradient:
    """What `reversible.run_rule` needs of gradient(leaves, theta leaves, t), one flat vector."""

    def __init__(self, gradient: Callable[[list, list, int], Any]) -> None:
        self._gradient = self.given = gradient

    def __call__(self, leaves: list, theta_leaves: list, t: int) -> Any:
        """The gradient; traced where leaves are."""
        return self._gradient(leaves, theta_leaves, t)

    def with_pullback(
        self, leaves: list, theta_leaves: list, t: int, wants_theta: bool
    ) -> tuple[NDArray, Callable[[NDArray], NDArray]]:
        """`gradient_with_pullback` of it, to the leaves, followed by those of theta if wanted."""
        count, theta = len(leaves), theta_leaves if wants_theta else []
        return gradient_with_pullback(
            lambda boxes: self(boxes[:count], boxes[count:] or theta_leaves, t), [*leaves, *theta]
        )

    def uses_traced_values(self) -> ValueError:
        """What to raise where a gradient is traced, though its arguments are not."""
        names = list(_names_of_traced(self.given))
        which = f", {', '.join(names)}," if names else ""
        return ValueError(
            f"the training loss uses a value that is being differentiated{which} from outside its arguments, where "
            "no derivative can be followed: pass it as theta=, and have the loss take it from its second argument"
        )


class LossGradient(FlatGradient):
    """The same of loss(leaves, theta leaves, t).

    Where the whole loss is one function with derivatives by hand, the second of these serves as the pullback,
    without a trace of the first: what was seen last says whether to try.

    dtype: of the leaves as the loss gets them.  given: the user's function that loss calls.
    """

    def __init__(
        self,
        loss: Callable[[list, list, int], Any],
        dtype: DTypeLike = onp.float64,
        given: Callable | None = None,
    ) -> None:
        self._loss, self.given = loss, given or loss
        self._dtype = onp.dtype(dtype)
        self._by_hand = False

    def __call__(self, leaves: list, theta_leaves: list, t: int) -> Any:
        """As `gradient`."""
        return self._as_float64(self._evaluate(leaves, theta_leaves, t)[0])

    def with_pullback(
        self, leaves: list, theta_leaves: list, t: int, wants_theta: bool
    ) -> tuple[NDArray, Callable[[NDArray], NDArray]]:
        """As of any gradient."""
        if self._by_hand and not wants_theta:  # untraced, theta might be anywhere in the loss
            value, pullback = self._evaluate(leaves, theta_leaves, t)
            if pullback is not None:
                return self._as_float64(value), lambda cotangent: pullback(*self._cast([cotangent]))
        return super().with_pullback(leaves, theta_leaves, t, wants_theta)

    def _evaluate(self, leaves: list, theta_leaves: list, t: int) -> tuple[Any, Callable | None]:
        leaves, theta_leaves = self._cast(leaves), self._cast(theta_leaves)  # no part of the trace
        found = _gradient(lambda boxes: self._loss(boxes, theta_leaves, t), leaves, f"iteration {t}")
        self._by_hand = found[1] is not None
        return found

    def _cast(self, leaves: list) -> list:
        return leaves if self._dtype == onp.float64 else [leaf.astype(self._dtype) for leaf in leaves]

    def _as_float64(self, gradient: Any) -> Any:
        return gradient if self._dtype == onp.float64 else gradient.astype(onp.float64)


def _gradient(loss: Callable[[list], Any], leaves: Sequence[Any], where: str) -> tuple[Any, Callable | None]:
    """The gradient, and the map from a cotangent of it to that of all leaves where the loss brings it by hand."""
    value, roots = _trace(loss, leaves)
    plain = value_of(value)
    if not isinstance(plain, float):  # np.float64 is one
        _check_is_one_float(plain, where)
    if roots is None:
        warnings.warn(f"the training loss does not depend on the weights ({where})", stacklevel=2)
        found = onp.zeros(sum(onp.size(value_of(leaf)) for leaf in leaves)), None
    else:
        ones, node = 1.0 if isinstance(plain, float) else onp.ones_like(plain), value._node
        _forbid(value, leaves)
        if hasattr(node.vjp, "both_by_hand") and node.parents == roots:
            found = node.vjp.both_by_hand(ones)
        else:
            found = _backward(ones, node, roots, leaves), None
    finite = math.isfinite(plain) if isinstance(plain, float) else onp.isfinite(plain).all()
    if not finite and onp.isfinite(value_of(found[0])).all():  # else the gradient says where
        raise NonFiniteGradientError(
            f"the training loss is {float(onp.ravel(plain)[0])} ({where}), though its gradient is finite; look at "
            "the loss there"
        )
    return found


def _check_is_one_float(plain: Any, where: str) -> None:
    if plain is None or isinstance(plain, (tuple, list, dict, str)):
        what = f"a {type(plain).__name__}"
    elif onp.size(plain) != 1 or onp.result_type(plain).kind != "f":
        what = f"{onp.result_type(plain)} of shape {onp.shape(plain)}"
    else:
        return
    raise ValueError(f"the training loss must return one float, got {what} ({where})")


def gradient_with_pullback(
    flat_gradient: Callable[[list], Any], leaves: Sequence[NDArray]
) -> tuple[NDArray, Callable[[NDArray], NDArray]]:
    """flat_gradient(leaves), (N,), with the map from a cotangent (N,) of it to that of all leaves, end to end.

    Where the leaves are weights, then hyperparameters, the pullback is the Hessian-vector and the mixed product.
    """
    value, roots = _trace(flat_gradient, leaves)
    if roots is None:  # a loss linear in the weights
        return value, lambda _: onp.zeros(sum(onp.size(leaf) for leaf in leaves))
    return value._value, lambda cotangent: _backward(cotangent, value._node, roots, leaves)


def joint_primitive(function: Callable, pullback: Callable) -> Callable:
    """Make function(run, *arrays) one node of autograd's graph.

    pullback(run, argnums, cotangent) returns the cotangents of all traced arguments at once, in order of
    `argnums` (counted without run).
    """
    node = primitive(function)

    def make_vjp(argnums: tuple[int, ...], ans: Any, args: tuple, kwargs: dict) -> Callable:
        if any(isbox(arg) for arg in args):
            raise NotImplementedError(
                "hypergrad.train can be differentiated once, not twice; use differences of hypergradients instead"
            )
        return lambda cotangent: pullback(args[0], tuple(argnum - 1 for argnum in argnums), cotangent)

    defvjp_argnums(node, make_vjp)
    return node


@primitive
def rounded_factor(factor: Any) -> Any:
    """The nearest factor that fixed point can apply, differentiated as if it were `factor` itself.

    Training is a step function of its decays, with steps of 2**-24; its slope, here, is that of the line
    through the steps.
    """
    return round_to_lattice(factor)


defvjp(rounded_factor, lambda ans, factor: lambda cotangent: cotangent)


@primitive
def _power(x: Any, exponent: Any) -> Any:
    """x ** exponent."""
    return x**exponent


# autograd takes ** of what it traces for numpy.power.  NumPy's ** of an array is something else for exponents of 2,
# 0.5 and -1 (square, root, reciprocal), and before NumPy 2.3 differs from it in the last bit of one entry in a
# thousand.  So the gradient of a loss with ** or tanh in it was not the same on the way back, where it is traced.
for derivatives in (primitive_vjps, primitive_jvps):
    derivatives[_power] = derivatives[np.power]
ArrayBox.__pow__ = lambda self, other: _power(self, other)
ArrayBox.__rpow__ = lambda self, other: _power(other, self)


class Parts:
    """What a node may return as the cotangents of its parents: one vector, to be taken apart only if need be.

    whole: their entries, end to end; may be traced.  parts(): one after the other.
    """

    def __init__(self, whole: Any, parts: Callable[[], Iterator[Any]]) -> None:
        self.whole, self.parts = whole, parts

    def __iter__(self) -> Iterator[Any]:
        return self.parts()


USED_LATER = (
    "a value that the training loss computed is used outside of that call, where no derivative can be followed: "
    "have train return weights along the way by keep=, and compute from those what is to be differentiated; a "
    "callback= sees every step, for a record"
)


class _Node(VJPNode):
    """A node of a trace of our own, which knows when that is over: what comes of it then has no derivative."""

    __slots__ = ("live",)

    def __init__(
        self, value: Any, fun: Callable, args: tuple, kwargs: dict, parent_argnums: tuple, parents: Sequence
    ) -> None:
        self.live = parents[0].live
        if trace_stack.top >= 0 and not all(getattr(parent, "live", True) for parent in parents):
            raise ValueError(USED_LATER)
        super().__init__(value, fun, args, kwargs, parent_argnums, parents)

    def initialize_root(self, live: list[bool]) -> None:
        super().initialize_root()
        self.live = live


notrace_primitives[_Node] = notrace_primitives[VJPNode]  # those without a derivative


def _forbid(value: Box, leaves: Sequence[Any]) -> None:
    """Have it raise if a derivative is ever taken of a loss's value, once it was returned."""

    def refuse(_: Any) -> NoReturn:
        raise ValueError(USED_LATER)

    outside = trace_stack.top - any(isbox(leaf) for leaf in leaves)
    if outside >= 0:
        value._trace, value._node = outside, VJPNode.new_root()
        value._node.vjp = refuse


def _names_of_traced(function: Callable) -> Iterator[str]:
    """The names of the variables of a function, from around it, that hold traced values."""
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(function, "__code__", None)
    if code is None:
        return
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    around = [(name, cell.cell_contents) for name, cell in cells]
    around += [(name, function.__globals__.get(name)) for name in code.co_names]
    for name, value in around:
        if _holds_traced(value):
            yield repr(name)
        elif isinstance(value, FunctionType) and value is not function:
            yield from _names_of_traced(value)


def _holds_traced(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return isbox(value) or (isinstance(value, (list, tuple)) and any(_holds_traced(each) for each in value))


def _trace(function: Callable[[list], Any], leaves: Sequence[Any]) -> tuple[Any, tuple[VJPNode, ...] | None]:
    """function(leaves) recorded, with the nodes of the leaves; None for them if it does not depend on any."""
    live, top = [True], trace_stack.top
    roots = tuple(_Node.new_root(live) for _ in leaves)
    try:
        with trace_stack.new_trace() as trace:
            boxes = [new_box(leaf, trace, root) for leaf, root in zip(leaves, roots, strict=True)]
            value = function(boxes)
    finally:
        live.clear()
        trace_stack.top = top  # which autograd leaves where it was if the function raises
    return value, roots if isbox(value) and value._trace == trace else None


def _backward(cotangent: Any, end: VJPNode, roots: Sequence[VJPNode], leaves: Sequence[Any]) -> Any:
    """The cotangents of the leaves, the values of the roots, end to end.

    autograd's own backward pass serves one root; packing all leaves into one would cost several copies of them.
    """
    pending = {end: (cotangent, False)}
    found, whole = dict.fromkeys(roots), None
    for node in toposort(end):
        total, _ = pending.pop(node, (None, False))  # None: a root that has only come in as part of a whole
        if node in found:
            found[node] = total
            continue
        parts = node.vjp(total)
        if isinstance(parts, Parts) and node.parents == roots:
            whole = parts.whole if whole is None else add_outgrads((whole, False), parts.whole)[0]
            continue
        for parent, part in zip(node.parents, parts, strict=True):
            pending[parent] = add_outgrads(pending.get(parent), part)
    if whole is not None and all(part is None for part in found.values()):
        return whole
    pairs = zip(found.values(), leaves, strict=True)
    parts = [onp.zeros(onp.size(value_of(leaf))) if part is None else part for part, leaf in pairs]
    if len(parts) == 1 and whole is None and onp.ndim(value_of(parts[0])) == 1:
        return parts[0]
    joined = join(*parts)  # an array of its own, which can be added to
    return joined if whole is None else add_outgrads((joined, True), whole)[0]
