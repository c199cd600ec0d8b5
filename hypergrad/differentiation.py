"""What the engine asks of automatic differentiation: a gradient, and a gradient with its pullback.

The only module that touches autograd's internals, so that another differentiator can be put here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as onp
from autograd.core import VJPNode, add_outgrads, vspace
from autograd.extend import defvjp, defvjp_argnums, primitive
from autograd.tracer import getval, isbox, new_box, trace_stack
from autograd.util import toposort
from numpy.typing import NDArray

from hypergrad.exact_rep import round_to_lattice
from hypergrad.parsers import join

__all__ = ["gradient", "gradient_with_pullback", "is_traced", "joint_primitive", "rounded_factor", "value_of"]

value_of = getval  # the plain value under any number of autograd's boxes
is_traced = isbox


def gradient(loss: Callable[[list], Any], leaves: Sequence[Any], where: str) -> Any:
    """The gradient of loss(leaves), a scalar, as one flat vector of all leaves end to end.

    leaves: float arrays, possibly traced; then so is the result.  where: for error messages.
    Raises ValueError where the loss is no real scalar.
    """
    value, roots = _trace(loss, leaves)
    plain = getval(value)
    if plain is None or isinstance(plain, (tuple, list, dict, str)):
        raise ValueError(f"the training loss must return one float, got a {type(plain).__name__} ({where})")
    if onp.size(plain) != 1 or onp.result_type(plain).kind != "f":
        what = f"{onp.result_type(plain)} of shape {onp.shape(plain)}"
        raise ValueError(f"the training loss must return one float, got {what} ({where})")
    if roots is None:
        warnings.warn(f"the training loss does not depend on the weights ({where})", stacklevel=2)
        return onp.zeros(sum(onp.size(getval(leaf)) for leaf in leaves))
    slopes = _backward(vspace(value._value).ones(), value._node, roots)
    return _join(slopes, leaves)


def gradient_with_pullback(
    flat_gradient: Callable[[list], Any], leaves: Sequence[NDArray]
) -> tuple[NDArray, Callable[[NDArray], NDArray]]:
    """flat_gradient(leaves), (N,), with the map from a cotangent (N,) of it to that of all leaves, end to end.

    Where the leaves are weights, then hyperparameters, the pullback is the Hessian-vector and the mixed product.
    """
    value, roots = _trace(flat_gradient, leaves)
    if roots is None:  # a loss linear in the weights
        return value, lambda _: onp.zeros(sum(onp.size(leaf) for leaf in leaves))
    return value._value, lambda cotangent: _join(_backward(cotangent, value._node, roots), leaves)


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


def _trace(function: Callable[[list], Any], leaves: Sequence[Any]) -> tuple[Any, list[VJPNode] | None]:
    """function(leaves) recorded, with the nodes of the leaves; None for them if it does not depend on any."""
    with trace_stack.new_trace() as trace:
        roots = [VJPNode.new_root() for _ in leaves]
        boxes = [new_box(leaf, trace, root) for leaf, root in zip(leaves, roots, strict=True)]
        value = function(boxes)
    return value, roots if isbox(value) and value._trace == trace else None


def _backward(cotangent: Any, end: VJPNode, roots: list[VJPNode]) -> list[Any]:
    """The cotangents of the roots; None for those that `end` does not depend on.

    autograd's own backward pass serves one root; packing all leaves into one would cost several copies of them.
    """
    pending = {end: (cotangent, False)}
    found = dict.fromkeys(roots)
    for node in toposort(end):
        total = pending.pop(node)[0]
        if node in found:
            found[node] = total
        for parent, part in zip(node.parents, node.vjp(total), strict=True):
            pending[parent] = add_outgrads(pending.get(parent), part)
    return list(found.values())


def _join(parts: list[Any], leaves: Sequence[Any]) -> Any:
    """The parts end to end, zeros for those that are None."""
    sizes = [onp.size(getval(leaf)) for leaf in leaves]
    if any(isbox(part) for part in parts):
        return join(*[onp.zeros(n) if x is None else x for x, n in zip(parts, sizes, strict=True)])
    joined, start = onp.empty(sum(sizes)), 0
    for part, size in zip(parts, sizes, strict=True):
        block = joined[start : start + size]
        block.reshape(onp.shape(part) if part is not None else size)[...] = 0.0 if part is None else part
        start += size
    return joined
