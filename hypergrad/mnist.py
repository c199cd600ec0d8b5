"""MNIST as arrays: 70,000 images of handwritten digits, 28 x 28 pixels, flattened to 784 columns.

The four files come from $HYPERGRAD_DATA, where that is set, or else from data/mnist of the checkout, the
user's cache, or a public mirror. What counts is the checksum of their uncompressed content.
"""

import functools
import gzip
import operator
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from hypergrad._download import DataFile, DatasetError
from hypergrad.util import dictslice

__all__ = [
    "DatasetError",
    "load_data",
    "load_data_as_dict",
    "load_data_dicts",
    "load_data_subset",
    "one_hot",
    "random_partition",
]

N_TRAIN = 60_000
N_CLASSES = 10
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# Images and labels of the training set, then of the test set; checksums of the uncompressed content.
FILES = tuple(
    DataFile("mnist", name, sha256, MIRRORS, gzip.decompress)
    for name, sha256 in [
        ("train-images-idx3-ubyte.gz", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
        ("train-labels-idx1-ubyte.gz", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        ("t10k-images-idx3-ubyte.gz", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        ("t10k-labels-idx1-ubyte.gz", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    ]
)


class _Raw(NamedTuple):
    """Training rows, then test rows; uint8, read-only, shared by all callers of this module."""

    images: np.ndarray
    labels: np.ndarray
    mean_image: np.ndarray


@functools.cache
def _raw() -> _Raw:
    # A header of 16 bytes (images) or 8 (labels), vouched for by the checksum, then one byte per value.
    train_images, train_labels, test_images, test_labels = (
        np.frombuffer(file.read()[1], np.uint8, offset=16 if "images" in file.name else 8) for file in FILES
    )
    images = np.concatenate([train_images, test_images]).reshape(-1, 784)
    # A sum of integers is exact, so the mean is the same on every machine.
    mean_image = images[:N_TRAIN].sum(axis=0, dtype=np.int64) / (255.0 * N_TRAIN)
    raw = _Raw(images, np.concatenate([train_labels, test_labels]), mean_image)
    for array in raw:
        array.setflags(write=False)
    return raw


def _rows(rows: slice, normalize: bool) -> tuple[np.ndarray, np.ndarray]:
    raw = _raw()
    images = raw.images[rows] / 255.0
    if normalize:
        images -= raw.mean_image
    return images, one_hot(raw.labels[rows], N_CLASSES)


def load_data(normalize: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """The whole of MNIST: train images, train labels, test images, test labels, number of training images.

    Images: float64 (60000, 784) and (10000, 784) in [0, 1], ink = 1; with ``normalize``, less the mean of the
    training images. Labels: one-hot integers (60000, 10) and (10000, 10). All arrays are the caller's own.
    Raises DatasetError where a file is missing or damaged.
    """
    return *_rows(slice(N_TRAIN), normalize), *_rows(slice(N_TRAIN, None), normalize), N_TRAIN


def load_data_subset(*sizes: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Consecutive (images, labels) pairs of the given sizes, from the training rows and then the test rows.

    Images: float64 (size, 784), pixels / 255 less the mean of all 60,000 training images. Labels: one-hot.
    Raises ValueError where a size is negative or they pass 70,000 together; DatasetError as ``load_data``.
    """
    return [_rows(rows, normalize=True) for rows in consecutive(sizes, len(_raw().images), "rows of MNIST")]


def load_data_dicts(*sizes: int) -> list[dict[str, np.ndarray]]:
    """``load_data_subset``, each pair as {"X": images, "T": one-hot labels}."""
    return [{"X": X, "T": T} for X, T in load_data_subset(*sizes)]


def load_data_as_dict(normalize: bool = True) -> dict[str, np.ndarray]:
    """The 60,000 training rows as {"X": images, "T": one-hot labels}; ``normalize`` as in ``load_data``."""
    X, T = _rows(slice(N_TRAIN), normalize)
    return {"X": X, "T": T}


def random_partition(
    data: Mapping[str, np.ndarray], RS: np.random.RandomState, sizes: Iterable[int]
) -> list[dict[str, np.ndarray]]:
    """Disjoint random subsets of the given sizes; rows left over are dropped.

    Invariant: a row keeps its image and its label together, and lands in at most one subset.
    data: {"X": (n, ...), "T": (n, ...)}; RS: draws one permutation of n.
    Raises ValueError where a size is negative or they add up to more than n, or where X and T differ in rows.
    """
    n = len(data["X"])
    if any(len(array) != n for array in data.values()):
        lengths = {key: len(array) for key, array in data.items()}
        raise ValueError(f"random_partition: expected the same number of rows throughout, got {lengths}")
    parts = consecutive(sizes, n, "rows of data")
    shuffled = dictslice(data, RS.permutation(n))
    return [dictslice(shuffled, rows) for rows in parts]


def consecutive(sizes: Iterable[int], available: int, what: str) -> list[slice]:
    """Slices of the given sizes, one after the other from 0; ValueError where they pass ``available``."""
    sizes = [operator.index(size) for size in sizes]
    if min(sizes, default=0) < 0 or sum(sizes) > available:
        raise ValueError(
            f"sizes {sizes} add up to {sum(sizes)}: expected sizes >= 0 for at most {available} {what}"
        )
    ends = np.cumsum(sizes, dtype=int).tolist()
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def one_hot(x: np.ndarray, K: int) -> np.ndarray:
    """Integer labels (n,) in 0 .. K-1 as rows (n, K) of zeros with a single 1.

    Raises ValueError where the labels are not one-dimensional, or one is not among 0 .. K-1.
    """
    x = np.asarray(x)
    if x.ndim != 1:
        raise ValueError(f"one_hot: expected labels of shape (n,), got shape {x.shape}")
    hot = x[:, None] == np.arange(K)
    if not hot.any(axis=1).all():
        first = int(np.argmin(hot.any(axis=1)))
        raise ValueError(f"one_hot: label {x[first]} at index {first} is not among the integers 0 .. {K - 1}")
    return hot.astype(int)
