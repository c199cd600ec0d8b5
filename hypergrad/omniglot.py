"""Omniglot as arrays: the characters of eight alphabets, each drawn by fifteen people, 28 x 28 pixels.

An alphabet is {"X": (n, 784), "T": (n, 55)}: drawings, float64 in [0, 1] with ink = 1, and one-hot characters.
There is a column for each character of the largest of Omniglot's fifty alphabets; the others leave columns empty.

From the two small background sets of Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through
probabilistic program induction", Science 2015. The archives come from $HYPERGRAD_DATA, where that is set, or else
from data/omniglot of the checkout, the user's cache, or the data set's public repository.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hypergrad._download import DatasetError
from hypergrad._omniglot_archives import ARCHIVES, FULL_INK, NUM_EXAMPLES, SIDE, ink_counts
from hypergrad.mnist import consecutive, one_hot
from hypergrad.util import RandomState, dictslice

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "ALPHABETS",
    "CURATED_ALPHABETS",
    "DatasetError",
    "load_curated_alphabets",
    "load_data",
    "load_data_split",
    "load_flipped_alphabets",
    "load_rotated_alphabets",
    "random_partition",
    "show_alphabets",
]

Alphabet = dict[str, np.ndarray]

NUM_CHARS = 55
ALPHABETS = (
    "Balinese",
    "Early_Aramaic",
    "Greek",
    "Japanese_(katakana)",
    "Korean",
    "Latin",
    "Sanskrit",
    "Tagalog",
)
# Five that make ten different tasks with their rotations. Left out: Korean, whose letters rotated are often other
# Korean letters; Latin, many of whose letters are Greek's too; Tagalog, with 17 characters much the smallest.
CURATED_ALPHABETS = ("Balinese", "Early_Aramaic", "Greek", "Japanese_(katakana)", "Sanskrit")


def load_data(alphabets: Sequence[str | int] = ALPHABETS) -> list[Alphabet]:
    """The given alphabets, by name or by index into ALPHABETS, in the order given.

    Rows: 15 drawings of the first character, then of the second, and so on. The arrays are the caller's own.
    Raises ValueError for an alphabet that is not there; DatasetError where an archive is missing or damaged.
    """
    if isinstance(alphabets, str):
        raise ValueError(f"expected a list of alphabets, got the string {alphabets!r}: write [{alphabets!r}]")
    names = [_name(alphabet) for alphabet in alphabets]
    counts = ink_counts(ARCHIVES)
    return [
        {
            "X": counts[name].reshape(-1, SIDE**2) / float(FULL_INK),
            "T": one_hot(np.repeat(np.arange(len(counts[name])), NUM_EXAMPLES), NUM_CHARS),
        }
        for name in names
    ]


def load_data_split(
    num_chars: Sequence[int], RS: np.random.RandomState, num_alphabets: int = len(ALPHABETS)
) -> list[list[Alphabet]]:
    """A random choice of alphabets, in groups of drawings as ``random_partition`` makes them.

    num_chars: drawings of each character in each group, e.g. [10, 2, 3]; num_alphabets: 1 .. 8. The characters are
    put in random columns, and the drawings are less the mean of all drawings of the chosen alphabets.
    Returns a list of alphabets per group. Raises ValueError where one of the numbers is more than there is.
    """
    if not 1 <= num_alphabets <= len(ALPHABETS):
        raise ValueError(f"expected num_alphabets from 1 to {len(ALPHABETS)}, got {num_alphabets}")
    chosen = np.sort(RS.choice(len(ALPHABETS), size=num_alphabets, replace=False))
    return _shuffled_split(chosen, num_chars, RS)


def load_curated_alphabets(num_chars: Sequence[int], RS: np.random.RandomState) -> list[list[Alphabet]]:
    """The five CURATED_ALPHABETS, in groups of drawings; otherwise as ``load_data_split``."""
    return _shuffled_split(CURATED_ALPHABETS, num_chars, RS)


def load_flipped_alphabets(RS: np.random.RandomState, normalize: bool = True) -> list[Alphabet]:
    """The five CURATED_ALPHABETS, then the same mirrored top to bottom: ten alphabets.

    Otherwise as ``load_rotated_alphabets``.
    """
    return _with_copies(RS, lambda images: np.flip(images, axis=1), normalize)


def load_rotated_alphabets(
    RS: np.random.RandomState, normalize: bool = True, angle: float = 90
) -> list[Alphabet]:
    """The five CURATED_ALPHABETS, then the same rotated: ten alphabets, the tasks of the paper's figure 8.

    RS: puts the characters in random columns and the rows in random order; alphabet i + 5 has the rows and labels
    of alphabet i. normalize: less the mean of all the drawings, else in [0, 1]. angle: degrees clockwise, 90 being
    np.rot90(image, -1); quarter turns are exact, other angles interpolate linearly and cut the corners off.
    Raises TypeError where RS is no generator.
    """

    def rotated(images: np.ndarray) -> np.ndarray:
        if angle % 90 == 0:
            return np.rot90(images, -int(angle // 90), axes=(1, 2))
        from scipy.ndimage import rotate

        # grid-constant: paper around the drawing, so that ink at the very edge fades instead of vanishing.
        return rotate(images, -angle, axes=(1, 2), reshape=False, order=1, mode="grid-constant")

    return _with_copies(RS, rotated, normalize)


def random_partition(
    data: Iterable[Alphabet], RS: np.random.RandomState, num_chars: Sequence[int]
) -> list[list[Alphabet]]:
    """Disjoint random groups of drawings, each with a given number of every character: e.g. train, valid, test.

    Invariant: group k has num_chars[k] drawings of each character of each alphabet. Further drawings are dropped.
    RS: draws one permutation of the rows per alphabet, so an alphabet and its rotation are divided differently.
    Returns a list of alphabets per group. Raises ValueError where a character has fewer drawings than asked for.
    """
    return _grouped([_shuffled_rows(alphabet, RS) for alphabet in data], num_chars)


def show_alphabets(alphabets: Sequence[Alphabet], ax: "Axes | None" = None, n_cols: int = 20) -> "Axes":
    """Draw one row of ``n_cols`` drawings, 28 x 28 units each, per alphabet; ink is dark. Returns the axes.

    The drawings are picked at random, but by row number alone: an alphabet stands above its rotation.
    """
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(8, 8 * len(alphabets) / n_cols), layout="constrained")
    strips = []
    for alphabet in alphabets:
        picked = alphabet["X"][RandomState(1).randint(len(alphabet["X"]), size=n_cols)]
        strips.append(np.concatenate(picked.reshape(n_cols, SIDE, SIDE), axis=1))
    ax.imshow(np.concatenate(strips), cmap="binary", interpolation="none")
    ax.set_xticks([])
    ax.set_yticks([])
    return ax


def _name(alphabet: str | int) -> str:
    if isinstance(alphabet, str):
        if alphabet in ALPHABETS:
            return alphabet
    elif 0 <= operator.index(alphabet) < len(ALPHABETS):
        return ALPHABETS[alphabet]
    raise ValueError(
        f"no alphabet {alphabet!r}: expected an index from 0 to {len(ALPHABETS) - 1}, "
        f"or one of {', '.join(ALPHABETS)}"
    )


# Random order, groups, and copies of alphabets.  None of these changes what it is given.


def _permutation(RS: np.random.RandomState, n: int) -> np.ndarray:
    if not hasattr(RS, "permutation"):
        raise TypeError(f"expected RS, a generator of random numbers like RandomState(0), got {RS!r}")
    return RS.permutation(n)


def _shuffled_rows(alphabet: Alphabet, RS: np.random.RandomState) -> Alphabet:
    return dictslice(alphabet, _permutation(RS, len(alphabet["X"])))


def _shuffled(alphabet: Alphabet, RS: np.random.RandomState) -> Alphabet:
    columns = _permutation(RS, alphabet["T"].shape[1])
    return _shuffled_rows({**alphabet, "T": alphabet["T"][:, columns]}, RS)


def _shuffled_split(
    alphabets: Sequence[str | int], num_chars: Sequence[int], RS: np.random.RandomState
) -> list[list[Alphabet]]:
    # Less one mean for all groups (the 2015 code took each group's own), so that the groups stay comparable.
    shuffled = [_shuffled(alphabet, RS) for alphabet in load_data(alphabets)]
    return _grouped(_less_mean(shuffled), num_chars)


def _grouped(data: list[Alphabet], num_chars: Sequence[int]) -> list[list[Alphabet]]:
    """The first num_chars[0] drawings of each character, then the next num_chars[1], and so on."""
    by_alphabet = []
    for alphabet in data:
        so_far = np.cumsum(alphabet["T"], axis=0)
        position = np.sum((so_far - 1) * alphabet["T"], axis=1)  # of each row among those of its character
        fewest = int(np.min(so_far[-1][so_far[-1] > 0]))
        groups = consecutive(num_chars, fewest, "drawings of each character")
        by_alphabet.append(
            [dictslice(alphabet, (rows.start <= position) & (position < rows.stop)) for rows in groups]
        )
    return [list(group) for group in zip(*by_alphabet, strict=True)]


def _less_mean(alphabets: list[Alphabet]) -> list[Alphabet]:
    mean_image = np.concatenate([alphabet["X"] for alphabet in alphabets]).mean(axis=0)
    return [{**alphabet, "X": alphabet["X"] - mean_image} for alphabet in alphabets]


def _with_copies(
    RS: np.random.RandomState, transform: Callable[[np.ndarray], np.ndarray], normalize: bool
) -> list[Alphabet]:
    originals = [_shuffled(alphabet, RS) for alphabet in load_data(CURATED_ALPHABETS)]
    copies = [
        {"X": transform(X.reshape(-1, SIDE, SIDE)).reshape(X.shape), "T": T.copy()}
        for X, T in (alphabet.values() for alphabet in originals)
    ]
    return _less_mean(originals + copies) if normalize else originals + copies
