"""Ten tasks of handwritten characters, and nets for them whose layers are mixtures of common latent weights.

The tasks are to tell apart the characters of five alphabets, and of the same five rotated. Every task has a net of
its own. In layer l, task i has the weights w_i = sum_j T_l[i, j] z_j: the matrices T_l, the transforms, say which
tasks share what.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import autograd.numpy as np

from hypergrad import omniglot
from hypergrad.nn_utils import WeightsParser, error_rate, net_log_probs, nll
from hypergrad.util import RandomState

NUM_ALPHABETS = 5
NUM_TASKS = 2 * NUM_ALPHABETS
DIVISIONS = ("own", "common")

Data = list[
    dict[str, np.ndarray]
]  # of each task: drawings "X", (rows, 784), and one-hot characters "T", (rows, 55)


def load_tasks(name: str, seed: int, normalize: bool = True) -> Data:
    """Return five alphabets, then the same turned left by 90 degrees: task i + 5 has the rows and labels of task i.

    name: "omniglot", or "made up" for small ones that need no files. The seed chooses the order of rows and labels.
    """
    random = RandomState((seed, "tasks"))
    if name == "made up":
        return made_up_tasks(random)
    if name == "omniglot":
        return omniglot.load_rotated_alphabets(random, normalize, angle=-90)
    raise ValueError(f"no tasks named {name!r}: expected 'omniglot' or 'made up'")


def made_up_tasks(random: np.random.RandomState) -> Data:
    """Return tasks like those of Omniglot, of four characters each: coarse patterns, drawn 15 times with noise."""
    originals, rotations = [], []
    for _ in range(NUM_ALPHABETS):
        patterns = np.kron(random.rand(4, 7, 7) < 0.3, np.ones((4, 4)))
        drawings = np.repeat(patterns, 15, axis=0) * random.uniform(0.5, 1, size=(60, 28, 28))
        labels = np.repeat(np.eye(4, 55), 15, axis=0)
        originals.append({"X": drawings.reshape(60, 784), "T": labels})
        rotations.append({"X": np.rot90(drawings, axes=(1, 2)).reshape(60, 784), "T": labels})
    return originals + rotations


def divide(tasks: Data, sizes: Sequence[int], division: str, key: tuple) -> list[Data]:
    """Return one group of drawings per size, with that many of each character of each task.

    division: "own", at random for each task, or "common" to a task and its rotation; key: of the random stream.
    """
    if division == "own":
        return omniglot.random_partition(tasks, RandomState(key), sizes)
    if division == "common":  # the same stream divides both halves in the same way
        halves = tasks[:NUM_ALPHABETS], tasks[NUM_ALPHABETS:]
        divided = [omniglot.random_partition(half, RandomState(key), sizes) for half in halves]
        return [originals + rotations for originals, rotations in zip(*divided, strict=True)]
    raise ValueError(f"no division {division!r}: expected one of {DIVISIONS}")


def sharing_transforms(sharing: Sequence[float]) -> np.ndarray:
    """Return a matrix per layer, (layers, tasks, tasks): from I, at sharing 0, to 1 / tasks throughout, at 1."""
    separate, shared = np.eye(NUM_TASKS), np.full((NUM_TASKS, NUM_TASKS), 1 / NUM_TASKS)
    return np.array([(1 - share) * separate + share * shared for share in sharing])


def correlation(transforms: np.ndarray) -> np.ndarray:
    """Return the correlation of the tasks' weights where the entries of z are independent: T T', normalised."""
    covariance = transforms @ np.swapaxes(transforms, -1, -2)
    deviation = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    return covariance / (deviation[..., :, None] * deviation[..., None, :])


def with_rotation_and_others(correlations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean correlation of a task with its rotation, and that of all other pairs of two tasks."""
    itself = np.eye(NUM_TASKS, dtype=bool)
    rotation = np.roll(itself, NUM_ALPHABETS, axis=1)
    return correlations[..., rotation].mean(axis=-1), correlations[..., ~rotation & ~itself].mean(axis=-1)


class Nets:
    """The nets of all tasks, with tanh units, computed in the given precision.

    z: latent weights; for each layer the weights and biases end to end, (tasks, (inputs + 1) * outputs).
    transforms: (layers, tasks, tasks).
    """

    def __init__(self, layer_sizes: Sequence[int], precision: str):
        self.precision = precision
        self._layers = []
        for inputs, outputs in pairwise(layer_sizes):
            layer = WeightsParser()
            for task in range(NUM_TASKS):
                layer.add_weights(("weights", task), (inputs, outputs))
                layer.add_weights(("biases", task), (1, outputs))
            self._layers.append(layer)

    def initial(self, random: np.random.RandomState, scale: float) -> list[np.ndarray]:
        """Return normally distributed latent weights."""
        return [random.randn(NUM_TASKS, layer.N // NUM_TASKS) * scale for layer in self._layers]

    def log_probs(self, transforms: np.ndarray, z: list[np.ndarray], data: Data) -> list[np.ndarray]:
        """Return the log-probabilities of the characters, (rows, characters), for each task."""
        T, z = transforms.astype(self.precision), [latent.astype(self.precision) for latent in z]
        mixed = [np.ravel(np.dot(T[i], latent)) for i, latent in enumerate(z)]
        layers = list(zip(self._layers, mixed, strict=True))
        nets = [
            [(layer.get(w, ("weights", task)), layer.get(w, ("biases", task))) for layer, w in layers]
            for task in range(NUM_TASKS)
        ]
        return [
            net_log_probs(net, task["X"].astype(self.precision)) for net, task in zip(nets, data, strict=True)
        ]

    def loss(self, transforms: np.ndarray, z: list[np.ndarray], data: Data) -> np.ndarray:
        """Return the mean over the tasks of their mean negative log-likelihoods, in nats."""
        predictions = self.log_probs(transforms, z, data)
        return sum(nll(p, task["T"]) for p, task in zip(predictions, data, strict=True)) / NUM_TASKS

    def error(self, transforms: np.ndarray, z: list[np.ndarray], data: Data) -> float:
        """Return the mean over the tasks of the fraction of drawings taken for another character."""
        predictions = self.log_probs(transforms, z, data)
        return sum(error_rate(p, task["T"]) for p, task in zip(predictions, data, strict=True)) / NUM_TASKS
