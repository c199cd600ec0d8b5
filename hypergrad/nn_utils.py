"""The small neural networks of the experiments, and what their scripts need around them.

Networks have tanh hidden units and a log-softmax output; their weights are a list of (W, b) pairs
(`init_weights`, `net_log_probs`) or one vector (`make_nn_funs`, the 2015 interface), with one forward pass, and
derivatives by hand, for both: see `hypergrad.networks`.  The 2015 package had the parsers of vectors here as well,
so they can be imported from here.  As there, `logit` in this module is the logistic function and `inv_logit` its
inverse; `hypergrad.util` has them under their usual names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import autograd.numpy as np

from hypergrad import util
from hypergrad.differentiation import shape_of, shapes_of
from hypergrad.networks import log_probs, logsumexp, mean_nll, penalty
from hypergrad.parsers import VectorParser, WeightsParser, fill_parser
from hypergrad.util import logistic as logit

__all__ = [
    "BatchList",
    "VectorParser",
    "WeightsParser",
    "d_logit",
    "error_rate",
    "fill_parser",
    "init_weights",
    "inv_logit",
    "logit",
    "logsumexp",
    "make_nn_funs",
    "net_log_probs",
    "net_nll",
    "nice_layer_name",
    "nll",
    "plot_images",
    "plot_mnist_images",
]

Array = Any  # a float array, or what autograd puts in its place while it traces
Weights = Sequence[tuple[Array, Array]]


class BatchList(list):
    """Slices that cut rows 0 .. N_total - 1 into minibatches of N_batch, the last one perhaps smaller.

    all_idxs: the slice of all rows.
    """

    def __init__(self, N_total: int, N_batch: int) -> None:
        if N_total < 1 or N_batch < 1:
            raise ValueError(f"expected at least one row and one row a batch, got {N_total} and {N_batch}")
        super().__init__(slice(i, min(i + N_batch, N_total)) for i in range(0, N_total, N_batch))
        self.all_idxs = slice(0, N_total)


def inv_logit(y: Array) -> Array:
    """The inverse of this module's `logit`, log(y / (1 - y)), elementwise; as in 2015, -inf at 0 and inf at 1.

    Raises ValueError outside of 0..1, where 2015 gave NaN.  `hypergrad.logit` raises at 0 and 1 as well.
    """
    return util.logit(y, closed=True)


def d_logit(x: Array) -> Array:
    """The derivative of the logistic function, elementwise."""
    return logit(x) * logit(np.negative(x))


def _layer_shapes(layer_sizes: Sequence[int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    sizes = [int(size) for size in layer_sizes]
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"expected the sizes of at least an input and an output layer, got {layer_sizes}")
    return [((m, n), (1, n)) for m, n in pairwise(sizes)]


def init_weights(layer_sizes: Sequence[int], RS: np.random.RandomState, scale: Array) -> Weights:
    """Normally distributed initial weights: for each layer W, (m, n), and b, (1, n).

    Invariant: the numbers are those of RS.randn(N) * scale in the order of `make_nn_funs`'s vector.
    scale: standard deviation; one number, or an array that broadcasts to (layers, 2), for W and b of each.
    """
    shapes = _layer_shapes(layer_sizes)
    scales = np.ones((len(shapes), 2)) * np.array(scale)
    if np.shape(scales) != (len(shapes), 2):
        raise ValueError(f"scale must broadcast to shape ({len(shapes)}, 2), got shape {np.shape(scale)}")
    return [
        (scales[i, 0] * RS.randn(*W_shape), scales[i, 1] * RS.randn(*b_shape))
        for i, (W_shape, b_shape) in enumerate(shapes)
    ]


def net_log_probs(weights: Weights, X: Array) -> Array:
    """Log-probabilities of the classes, (rows, classes): tanh layers, the last one log-softmax.

    weights: for each layer W, (m, n), and b, (n,) or (1, n).  X: (rows, m of the first layer).
    Raises ValueError where the shapes do not fit.
    """
    return log_probs(*_arrays(weights, X), X=X)


def net_nll(weights: Weights, X: Array, T: Array) -> Array:
    """nll(net_log_probs(weights, X), T), and the same derivatives, in one operation: the fastest form."""
    arrays = _arrays(weights, X)
    _check_labels((len(X), shape_of(arrays[-2])[1]), T)
    return mean_nll(*arrays, X=X, T=T)


def _arrays(weights: Weights, X: Array) -> list[Array]:
    """W, b, W, ..., of shapes that fit; else ValueError."""
    layers = [weights[i] for i in range(len(weights))]  # autograd's boxes of lists cannot be looped over
    arrays = [array for W, b in layers for array in (W, b)]
    _check_shapes(shapes_of(arrays), shape_of(X))
    return arrays


@functools.lru_cache  # of those that pass
def _check_shapes(shapes: tuple[tuple[int, ...], ...], inputs: tuple[int, ...]) -> None:
    """Raise ValueError unless these, of W, b, W, ..., are those of a network for inputs of this shape."""
    if len(shapes) == 0 or len(inputs) != 2:
        raise ValueError(
            f"expected a layer or more and X of shape (rows, m), got {len(shapes) // 2}, {inputs}"
        )
    width = inputs[1]
    for i, (W, b) in enumerate(zip(shapes[::2], shapes[1::2], strict=True)):
        if len(W) != 2 or W[0] != width or b not in (W[1:], (1, *W[1:])):
            raise ValueError(f"layer {i}: {width} inputs do not fit weights {W} and biases {b}")
        width = W[1]


def nll(log_probs: Array, T: Array) -> Array:
    """Mean negative log-likelihood, nats a row.  log_probs: (rows, classes).  T: the same, one-hot labels."""
    _check_labels(shape_of(log_probs), T)
    return np.sum(log_probs * (T / -len(T)))


def error_rate(log_probs: Array, T: Array) -> float:
    """Fraction of the rows whose most probable class is not the label.  Shapes as for `nll`."""
    _check_labels(shape_of(log_probs), T)
    return np.mean(np.argmax(log_probs, axis=1) != np.argmax(T, axis=1))


def _check_labels(expected: tuple[int, ...], T: Array) -> None:
    shape = shape_of(T)
    if shape != expected or len(shape) != 2 or shape[0] == 0:
        raise ValueError(
            f"expected one-hot labels of the predictions' shape {expected}, (rows, classes), and at least one "
            f"row, got shape {shape}"
        )


def make_nn_funs(layer_sizes: Sequence[int]) -> tuple[VectorParser, Callable, Callable, Callable]:
    """A network whose weights are one vector: (parser, predictions, loss, frac_err).

    parser: its vector, zero, holds weights 0, biases 0, weights 1, ..., of shapes (m, n) and (1, n), under the
        names ("weights", i) and ("biases", i).
    predictions(W_vect, X): as `net_log_probs`.
    loss(W_vect, X, T, L2_reg=0.0): `nll` of the predictions, plus sum(L2_reg * W_vect**2); L2_reg of shape ()
        or that of W_vect.
    frac_err(W_vect, X, T): `error_rate` of the predictions.
    They raise ValueError where shapes do not fit.
    """
    parser, layout = VectorParser(), WeightsParser()
    for i, shapes in enumerate(_layer_shapes(layer_sizes)):
        for kind, shape in zip(("weights", "biases"), shapes, strict=True):
            parser.add_shape((kind, i), shape)
            layout.add_weights((kind, i), shape)

    def check(W_vect: Array, X: Array) -> None:
        if shape_of(W_vect) != (layout.N,):
            raise ValueError(f"expected a vector of shape ({layout.N},), got shape {shape_of(W_vect)}")
        _check_shapes(tuple(shape for _, shape in layout.idxs_and_shapes.values()), shape_of(X))

    def predictions(W_vect: Array, X: Array) -> Array:
        check(W_vect, X)
        return log_probs(W_vect, X=X, layout=layout)

    def loss(W_vect: Array, X: Array, T: Array, L2_reg: Array = 0.0) -> Array:
        if shape_of(L2_reg) not in ((), shape_of(W_vect)):
            raise ValueError(f"L2_reg must be of shape () or {shape_of(W_vect)}, got {shape_of(L2_reg)}")
        check(W_vect, X)
        _check_labels((len(X), layer_sizes[-1]), T)
        data_loss = mean_nll(W_vect, X=X, T=T, layout=layout)
        if isinstance(L2_reg, (int, float)) and L2_reg == 0:
            return data_loss
        return data_loss + penalty(W_vect, L2_reg)

    def frac_err(W_vect: Array, X: Array, T: Array) -> float:
        return error_rate(predictions(W_vect, X), T)

    return parser, predictions, loss, frac_err


def nice_layer_name(key: tuple[str, int]) -> str:
    """A block's name as people count: ("weights", 0) -> "Layer 1 weights"."""
    kind, layer = key
    return f"Layer {layer + 1} {kind}"


def plot_images(
    images: np.ndarray,
    ax: Any,
    ims_per_row: int = 5,
    padding: int = 5,
    digit_dimensions: tuple[int, int] = (28, 28),
    cmap: Any = "binary",
    vmin: float | None = None,
) -> Any:
    """Draw images side by side, row by row, in one matplotlib axes; returns matplotlib's AxesImage.

    images: (number, height * width) or (number, height, width).  padding: pixels around each image, drawn as
    vmin, which is the smallest pixel unless given.  digit_dimensions: (height, width).  cmap: colour map.
    Raises ValueError where there is no image or the sizes do not fit.
    """
    height, width = digit_dimensions
    images = np.asarray(images)
    if len(images) == 0 or images[0].size != height * width:
        raise ValueError(f"expected images of {height} x {width} pixels, got shape {images.shape}")
    vmin = images.min() if vmin is None else vmin
    columns = min(ims_per_row, len(images))
    rows = -(-len(images) // columns)
    tall, wide = height + padding, width + padding
    canvas = np.full((rows * tall + padding, columns * wide + padding), float(vmin))
    for i, image in enumerate(images):
        top, left = padding + i // columns * tall, padding + i % columns * wide
        canvas[top : top + height, left : left + width] = image.reshape(height, width)
    ax.set_xticks([])
    ax.set_yticks([])
    return ax.imshow(canvas, cmap=cmap, vmin=vmin)


plot_mnist_images = plot_images
