"""From Omniglot's archives of 105 x 105 drawings to arrays of 28 x 28, kept on disk between runs."""

import functools
import io
import math
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np

from hypergrad import _download
from hypergrad._download import DataFile

NUM_EXAMPLES = 15  # drawings of each character that we use, of 20
SIDE = 28  # pixels of a drawing as we give it out
DRAWN_SIDE = 105  # and in the archives
MIRRORS = (
    "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/",
    "https://github.com/brendenlake/omniglot/raw/master/python/",
)
ARCHIVES = tuple(
    DataFile("omniglot", name, sha256, MIRRORS)
    for name, sha256 in [
        ("images_background_small1.zip", "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4"),
        ("images_background_small2.zip", "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f"),
    ]
)

# 105 is 3.75 times 28, so pixels overlap in part. On a grid that divides both, the area average is a count: how
# many of the 15 x 15 small squares of one of our pixels have ink.
FINE_SIDE = math.lcm(SIDE, DRAWN_SIDE)
FULL_INK = (FINE_SIDE // SIDE) ** 2
OVERLAP = np.repeat(np.eye(SIDE), FINE_SIDE // SIDE, axis=1).reshape(SIDE, DRAWN_SIDE, -1).sum(axis=2)


@functools.cache
def ink_counts(archives: tuple[DataFile, ...]) -> dict[str, np.ndarray]:
    """How much ink each pixel has: for each alphabet (characters, 15, 784), uint8, 0 .. FULL_INK = 225.

    The arrays are shared by all callers, and read-only. Raises DatasetError where an archive is missing or damaged.
    """
    counts: dict[str, np.ndarray] = {}
    for archive in archives:
        counts |= _kept(archive)  # Greek and Latin are in both, and the same
    for array in counts.values():
        array.setflags(write=False)
    return counts


def _kept(archive: DataFile) -> dict[str, np.ndarray]:
    """``_converted``, kept as npz beside the archive or, where that can't be written, in the user's cache."""
    path, content = archive.read()
    npz = f"{path.stem}-{SIDE}x{SIDE}.npz"
    folders = [path.parent, _download.user_cache(archive.dataset)]
    for folder in folders:
        try:
            with np.load(folder / npz) as stored:
                if str(stored["sha256"]) == archive.sha256:
                    return {name: stored[name] for name in stored.files if name != "sha256"}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            pass  # not there, or not whole: made again below
    counts = _converted(content)
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                np.savez_compressed(Path(scratch, npz), sha256=archive.sha256, **counts)
                Path(scratch, npz).replace(folder / npz)
            break
        except OSError:
            pass  # the next folder; with neither, the next run converts again
    return counts


def _converted(content: bytes) -> dict[str, np.ndarray]:
    """The ink counts of an archive's alphabets, of the first 15 drawings of each character."""
    from PIL import Image

    drawings: dict[str, dict[str, list[np.ndarray]]] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in sorted(archive.namelist()):  # e.g. images_background_small1/Greek/character01/0394_01.png
            if not name.endswith(".png"):
                continue
            _, alphabet, character, _ = PurePosixPath(name).parts
            drawn = drawings.setdefault(alphabet, {}).setdefault(character, [])
            if len(drawn) < NUM_EXAMPLES:
                with archive.open(name) as file, Image.open(file) as image:
                    drawn.append(~np.asarray(image))  # one bit per pixel: paper is True
    counts = {}
    for alphabet, characters in drawings.items():
        ink = np.array(list(characters.values()), dtype=float)
        fine = OVERLAP @ ink @ OVERLAP.T  # exact: floats hold integers of this size
        counts[alphabet] = fine.astype(np.uint8).reshape(*ink.shape[:2], SIDE**2)
    return counts
