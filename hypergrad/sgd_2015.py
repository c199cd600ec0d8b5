"""The training functions of the 2015 package: `sgd` .. `sgd4`, `sgd_parsed`, `sgd_meta_only`, `sgd_meta_only_sub`.

All are the paper's momentum SGD (v <- beta v - (1 - beta) g, then x <- x + alpha v: `hypergrad.Momentum`), and
all are thin calls of the one engine (`hypergrad.train`).  They differ in what they take and differentiate.
x and v are vectors, shape (N,), alphas (step sizes) and betas (decays) of shape (N_iter,), unless a docstring
says otherwise; meta is an array of floats or a tree of such.  No argument is changed.  Errors are those of
`train`, and ValueError where lengths do not agree.

`sgd4`, `sgd_parsed` and the two `sgd_meta_only` take forward_pass_only, as in 2015.  True, the default: train, and
return x alone; nothing is kept for a backward pass unless autograd follows an argument, and then the result can
be differentiated.  False, where autograd follows none: return (x, [None, hypergrad]), where hypergrad maps a
gradient with respect to x, (N,), to those with respect to the hyperparameters, in their order and shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import autograd.numpy as np
from autograd import grad, make_vjp
from autograd.extend import vspace

from hypergrad.differentiation import is_traced, value_of
from hypergrad.reversible import Step, run_rule
from hypergrad.rules import Momentum
from hypergrad.trees import Layout

__all__ = ["sgd", "sgd2", "sgd3", "sgd4", "sgd_meta_only", "sgd_meta_only_sub", "sgd_parsed"]

Array = Any


def sgd(
    loss_fun: Callable[[Array, Any], Array],
    batches: Any,
    N_iter: int,
    x: Array,
    v: Array,
    alphas: Array,
    betas: Array,
    record_learning_curve: bool = False,
) -> dict[str, Any]:
    """Train on loss_fun(x, idxs), batch i % len(batches) at iteration i, and differentiate the final loss.

    batches: a `BatchList`; the final loss is on batches.all_idxs.
    Returns a dict: x_final; learning_curve (the loss on all_idxs at the start and, if recorded, after each epoch of
    len(batches) iterations and at the end); loss_final; and its derivatives d_x, d_v, d_alphas, d_betas, in the
    shapes of the arguments.
    Now: `grad` of a function that calls `hypergrad.train`.
    """
    _check_length(N_iter, alphas, betas)

    def L_grad(x: Array, meta: None, i: int) -> Array:
        return grad(loss_fun)(x, batches[i % len(batches)])

    def full_loss(x: Array, meta: None) -> Array:
        return loss_fun(x, batches.all_idxs)

    curve: list[float] = [float(full_loss(x, None))]

    def record(x: Array, v: Array, g: Array, i: int) -> None:
        if record_learning_curve and i > 0 and i % len(batches) == 0:
            curve.append(float(full_loss(x, None)))

    x_final, pull_back = _train(L_grad, x, v, alphas, betas, None, record)
    loss_final = float(full_loss(x_final, None))
    if record_learning_curve and N_iter > 0:
        curve.append(loss_final)
    results = {"x_final": x_final, "learning_curve": curve, "loss_final": loss_final}
    return results | _named("d_", pull_back(full_loss), ("x", "v", "alphas", "betas"))


def sgd2(
    optimizing_loss: Callable[[Array, Any, Any], Array],
    secondary_loss: Callable[[Array, Any], Array],
    batches: Any,
    N_iter: int,
    x0: Array,
    v0: Array,
    alphas: Array,
    betas: Array,
    meta: Any,
) -> dict[str, Any]:
    """Train on optimizing_loss(x, meta, idxs); differentiate it and secondary_loss(x, meta) at the end.

    batches: a `BatchList`, batch i % len(batches) at iteration i; L is optimizing_loss on batches.all_idxs.
    Returns a dict: x_final; learning_curve (L at the start and after each iteration); L_final; M_final (the
    secondary loss); dLd_x, dLd_v, dLd_alphas, dLd_betas, dLd_meta, in the shapes of the arguments; the same for M.
    Now: two backward passes through one `hypergrad.train` with theta = meta.
    """
    _check_length(N_iter, alphas, betas)

    def L_grad(x: Array, meta: Any, i: int) -> Array:
        return grad(optimizing_loss)(x, meta, batches[i % len(batches)])

    def L(x: Array, meta: Any) -> Array:
        return optimizing_loss(x, meta, batches.all_idxs)

    curve: list[float] = []
    x_final, pull_back = _train(
        L_grad, x0, v0, alphas, betas, meta, lambda x, v, g, i: curve.append(float(L(x, meta)))
    )
    L_final = float(L(x_final, meta))
    results = {"x_final": x_final, "learning_curve": [*curve, L_final]}
    results |= {"L_final": L_final, "M_final": float(secondary_loss(x_final, meta))}
    for prefix, loss in (("dLd_", L), ("dMd_", secondary_loss)):
        results |= _named(prefix, pull_back(loss), ("x", "v", "alphas", "betas", "meta"))
    return results


def sgd3(
    optimizing_loss: Callable[[Array, Any, int], Array],
    secondary_loss: Callable[[Array, Any], Array],
    x0: Array,
    v0: Array,
    alphas: Array,
    betas: Array,
    meta: Any,
    callback: Callable[[Array, int], None] | None = None,
) -> dict[str, Any]:
    """Train on optimizing_loss(x, meta, i) and differentiate secondary_loss(x, meta) at the end.

    callback(x, i) before each update.  Returns a dict: x_final; dMd_x, dMd_v, dMd_alphas, dMd_betas, dMd_meta, in
    the shapes of the arguments.  Now: `grad` of a function that calls `hypergrad.train` with theta = meta.
    """
    _check_length(np.size(alphas), alphas, betas)

    def report(x: Array, v: Array, g: Array, i: int) -> None:
        if callback is not None:
            callback(x, i)

    x_final, pull_back = _train(grad(optimizing_loss), x0, v0, alphas, betas, meta, report)
    gradients = pull_back(secondary_loss)
    return {"x_final": x_final} | _named("dMd_", gradients, ("x", "v", "alphas", "betas", "meta"))


def sgd4(
    L_grad: Callable[[Array, Any, int], Array],
    hypers: Any,
    callback: Callable[[Array, Array, Array, int], None] | None = None,
    forward_pass_only: bool = True,
) -> Any:
    """Train with the gradient L_grad(x, meta, i), from zero velocity: the trained x, (N,).

    hypers: (x0, alphas, betas, meta), a tuple or list; the result can be differentiated with respect to each.
    callback(x, v, g, i) before each update.  forward_pass_only: see the module.
    Now: `hypergrad.train`, which takes the loss itself.
    """
    x0, alphas, betas = (np.array(hypers[i]) for i in range(3))
    N_iter = np.size(alphas)
    _check_length(N_iter, alphas, betas)

    def run(x0: Array, alphas: Array, betas: Array, meta: Any = None) -> Array:
        return _descend(L_grad, x0, None, alphas, betas, meta, N_iter, callback)

    return _trained(run, (x0, alphas, betas), hypers[3], forward_pass_only)


def sgd_parsed(
    L_grad: Callable[[Array, Any, int], Array],
    hypers: Any,
    parser: Any,
    callback: Callable[[Array, Array, Array, int], None] | None = None,
    forward_pass_only: bool = True,
) -> Any:
    """`sgd4` with step sizes and decays for each block of x: the trained x, (N,).

    hypers: (x0, alphas, betas, meta); alphas and betas of shape (N_iter, number of the parser's entries).
    parser: a `VectorParser` or `WeightsParser` of x0.  forward_pass_only: see the module.
    Now: `hypergrad.train` with a list of blocks as weights, and lists of schedules in `Momentum`.
    """
    x0, alphas, betas = (np.array(hypers[i]) for i in range(3))
    parts = [part for part, _ in parser.idxs_and_shapes.values()]
    N_iter = len(alphas) if np.ndim(alphas) else 1
    size = parts[-1].stop if parts else 0
    if np.shape(x0) != (size,):
        raise ValueError(f"x0 must have shape ({size},), as the parser has it, got {np.shape(x0)}")
    for name, values in (("alphas", alphas), ("betas", betas)):
        if np.shape(values) != (N_iter, len(parts)):
            raise ValueError(
                f"{name} must have shape ({N_iter}, {len(parts)}), iterations and blocks of the parser, "
                f"got {np.shape(values)}"
            )

    def run(x0: Array, alphas: Array, betas: Array, meta: Any = None) -> Array:
        blocks = [x0[part] for part in parts]
        columns = [[values[:, j : j + 1] for j in range(len(parts))] for values in (alphas, betas)]
        return _descend(L_grad, blocks, None, *columns, meta, N_iter, callback)

    return _trained(run, (x0, alphas, betas), hypers[3], forward_pass_only)


def sgd_meta_only(
    L_grad: Callable[..., Array],
    meta: Any,
    x0: Array,
    alpha: float,
    beta: float,
    N_iters: int,
    callback: Callable[[Array, Array, Array, int], None] | None = None,
    forward_pass_only: bool = True,
) -> Any:
    """Train with the gradient L_grad(x, meta, i): the trained x, (N,), differentiable in meta only.

    alpha, beta: one step size and decay.  L_grad is called with record_results=True on the forward pass, and
    without the keyword on the backward pass.  forward_pass_only: see the module.
    Now: `hypergrad.train` with theta = meta.
    """

    def recording(x: Array, meta: Any, i: int) -> Array:
        return L_grad(x, meta, i) if is_traced(x) else L_grad(x, meta, i, record_results=True)

    return _meta_only(recording, meta, x0, alpha, beta, N_iters, callback, forward_pass_only)


def sgd_meta_only_sub(
    L_grad_sub: Callable[[Array, Any, int, int], Array],
    meta: Any,
    x0: Array,
    alpha: float,
    beta: float,
    N_iters: int,
    N_sub: int,
    callback: Callable[[Array, Array, Array, int], None] | None = None,
    forward_pass_only: bool = True,
) -> Any:
    """`sgd_meta_only` with the gradient the sum of L_grad_sub(x, meta, i, i_sub) over i_sub = 0 .. N_sub - 1.

    The original accumulated the wrong product for meta; this does not.
    """

    def summed(x: Array, meta: Any, i: int) -> Array:
        return sum(L_grad_sub(x, meta, i, i_sub) for i_sub in range(N_sub))

    if N_sub < 1:
        raise ValueError(f"N_sub must be 1 or more, got {N_sub}")
    return _meta_only(summed, meta, x0, alpha, beta, N_iters, callback, forward_pass_only)


def _meta_only(
    L_grad: Callable[[Array, Any, int], Array],
    meta: Any,
    x0: Array,
    alpha: float,
    beta: float,
    N_iters: int,
    callback: Callable[[Array, Array, Array, int], None] | None,
    forward_pass_only: bool,
) -> Any:
    x0, alpha, beta = (value_of(value) for value in (x0, alpha, beta))

    def run(meta: Any = None) -> Array:
        return _descend(L_grad, x0, None, alpha, beta, meta, N_iters, callback)

    return _trained(run, (), meta, forward_pass_only)


def _descend(
    L_grad: Callable[[Array, Any, int], Array],
    x: Any,
    v: Any,
    alphas: Any,
    betas: Any,
    meta: Any,
    N_iter: int,
    callback: Callable[[Array, Array, Array, int], None] | None,
) -> Array:
    """The one call of the engine.  x: a vector, or a list of the blocks of one; then the result is joined, too."""
    meta_layout = Layout(meta, "meta")

    def join(blocks: Any) -> Array:
        return np.concatenate(blocks) if isinstance(blocks, list) else blocks

    def gradient(leaves: list, theta: list, i: int) -> Array:
        vector = join(leaves) if isinstance(x, list) else leaves[0]
        g = L_grad(vector, meta_layout.rebuild(theta), i)
        if np.shape(g) != np.shape(vector):
            raise ValueError(
                f"the gradient must have shape {np.shape(vector)}, like x, got {np.shape(g)} at iteration {i}"
            )
        return np.ravel(g)

    def report(step: Step) -> None:
        callback(join(step.weights), join(step.state["v"]), join(step.gradient), step.iteration)

    return join(
        run_rule(
            gradient,
            x,
            Momentum(*(np.reshape(c, (-1, 1)) if np.ndim(c) == 1 else c for c in (alphas, betas)), v),
            N_iter,
            meta,
            callback=None if callback is None else report,
        )
    )


def _trained(run: Callable[..., Array], arrays: tuple[Array, ...], meta: Any, forward_pass_only: bool) -> Any:
    """run(*arrays, meta); with its hypergrad, as in 2015, where that is asked for and autograd follows nothing."""
    arguments = (*arrays, Layout(meta, "meta").flatten(meta))
    if forward_pass_only or any(is_traced(argument) for argument in arguments):
        return run(*arrays, meta)
    x_final, pull_back = _with_pull_back(run, arrays, meta)
    return x_final, [None, pull_back if arrays else lambda d_x: pull_back(d_x)[0]]


def _with_pull_back(
    run: Callable[..., Array], arrays: tuple[Array, ...], meta: Any
) -> tuple[Array, Callable]:
    """run(*arrays, meta), and the map from its cotangent to those of the arguments, but for a meta of None."""
    arguments = (*arrays, meta) if meta is not None else arrays
    pull_back, result = make_vjp(lambda packed: run(*[packed[i] for i in range(len(arguments))]))(arguments)
    return result, pull_back


def _train(
    L_grad: Callable, x: Array, v: Array, alphas: Array, betas: Array, meta: Any, callback: Callable
) -> tuple[Array, Callable]:
    """Trained x, and the map from a loss(x, meta) at the end to its gradients: (x, v, alphas, betas[, meta])."""

    def run(x: Array, v: Array, alphas: Array, betas: Array, meta: Any = None) -> Array:
        return _descend(L_grad, x, v, alphas, betas, meta, np.shape(alphas)[0], callback)

    arrays = tuple(np.array(value, dtype=float) for value in (x, v, alphas, betas))
    x_final, vjp = _with_pull_back(run, arrays, meta)

    def pull_back(loss: Callable[[Array, Any], Array]) -> tuple:
        if meta is None:
            return vjp(grad(loss)(x_final, None))
        d_x, d_meta = grad(loss, (0, 1))(x_final, meta)
        gradients = vjp(d_x)
        return (*gradients[:4], vspace(meta).add(gradients[4], d_meta))

    return x_final, pull_back


def _named(prefix: str, gradients: tuple, names: tuple[str, ...]) -> dict[str, Any]:
    return {prefix + name: gradient for name, gradient in zip(names, gradients, strict=True)}


def _check_length(N_iter: int, alphas: Array, betas: Array) -> None:
    for name, values in (("alphas", alphas), ("betas", betas)):
        if np.shape(values) != (N_iter,):
            raise ValueError(
                f"{name} must have shape ({N_iter},), one value per iteration, got {np.shape(values)}"
            )
