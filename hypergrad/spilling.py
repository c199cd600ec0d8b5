"""Words of an information buffer on disk, for runs whose buffers outgrow memory."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator, MutableMapping
from os import PathLike

import numpy as np
from numpy.typing import NDArray

__all__ = ["WordsOnDisk"]

SEGMENT_BYTES = 1 << 24  # files grow by this much


class WordsOnDisk(MutableMapping[int, "NDArray[np.uint16]"]):
    """A mapping from depth to a word of every element, (length,) uint16, that lies in memory-mapped files.

    What a `BitStore` keeps its words in where it is told to.  Words go out and come back in the order of depth,
    so the last segment alone is in use; the others are written to disk and take no memory.  The files have no
    names: they vanish with the mapping, or with the process.

    folder: where the files are, None for the system's folder for temporary files.
    Raises FileNotFoundError where there is no such folder; OSError where the disk is full.
    """

    def __init__(self, length: int, folder: str | PathLike[str] | None = None) -> None:
        self._length = length
        self._folder = folder
        self._rows_each = max(1, SEGMENT_BYTES // max(1, 2 * length))
        self._segments: dict[int, tuple[mmap.mmap, NDArray[np.uint16]]] = {}
        self._used: dict[int, set[int]] = {}  # depths in use, by segment

    def __getitem__(self, depth: int) -> NDArray[np.uint16]:
        segment, row = divmod(depth, self._rows_each)
        if depth not in self._used.get(segment, ()):
            raise KeyError(depth)
        return self._segments[segment][1][row]

    def __setitem__(self, depth: int, word: NDArray[np.uint16]) -> None:
        segment, row = divmod(depth, self._rows_each)
        if segment not in self._segments:
            self._put_aside()
            self._segments[segment] = self._make_segment()
            self._used[segment] = set()
        self._segments[segment][1][row] = word
        self._used[segment].add(depth)

    def __delitem__(self, depth: int) -> None:
        segment, _ = divmod(depth, self._rows_each)
        if depth not in self._used.get(segment, ()):
            raise KeyError(depth)
        self._used[segment].remove(depth)
        if not self._used[segment]:
            del self._used[segment], self._segments[segment]

    def __iter__(self) -> Iterator[int]:
        return (depth for depths in self._used.values() for depth in depths)

    def __len__(self) -> int:
        return sum(map(len, self._used.values()))

    def setdefault(self, depth: int, word: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """The word at this depth, put there where there is none: the one in the file, to be changed in place."""
        if depth not in self:
            self[depth] = word
        return self[depth]

    def _make_segment(self) -> tuple[mmap.mmap, NDArray[np.uint16]]:
        shape = self._rows_each, max(1, self._length)
        size = 2 * shape[0] * shape[1]
        with tempfile.TemporaryFile(dir=self._folder) as file:  # the mapping keeps it alive
            if hasattr(
                os, "posix_fallocate"
            ):  # a full disk raises here, not as a crash when it is written to
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            mapping = mmap.mmap(file.fileno(), size)
        return mapping, np.frombuffer(mapping, np.uint16).reshape(shape)[:, : self._length]

    def _put_aside(self) -> None:
        """Write what there is to disk, and give its memory back."""
        for mapping, _ in self._segments.values():
            mapping.flush()
            if hasattr(mapping, "madvise"):
                mapping.madvise(mmap.MADV_DONTNEED)
