"""Arrays with a row an image that lie on disk: memory holds one part of them at a time."""

import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.base.tensor import Array

# Values of a part that is read at a time; more need more memory and save nothing.
_PART = 1 << 21


class RowsOnDisk:
    """An array [N, ...] that grows by rows. Its file has no name and is gone with the object.

    folder: where the file lies; it takes as many bytes as the array.
    """

    def __init__(self, folder: Path) -> None:
        # Not in the folder of temporary files, which is memory on many systems.
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by the finalizer
        weakref.finalize(self, self._file.close)
        self._row: tuple[int, ...] = ()
        self._dtype = np.dtype(np.uint8)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, rows: Array) -> None:
        """Adds rows [n, ...]. All that are added have one shape and one type."""
        if not self._count:
            self._row, self._dtype = rows.shape[1:], rows.dtype
        elif (rows.shape[1:], rows.dtype) != (self._row, self._dtype):
            raise ValueError(
                f"expected rows {self._dtype} {self._row}, got {rows.dtype} {rows.shape[1:]}"
            )
        self._file.seek(0, os.SEEK_END)
        self._file.write(np.ascontiguousarray(rows).data)
        self._count += len(rows)

    def parts(self) -> Iterator[Array]:
        """All rows in their order, some at a time; arrays of the same rows have the same parts."""
        step = max(1, _PART // max(1, int(np.prod(self._row, dtype=np.int64))))
        for start in range(0, self._count, step):
            yield self._read(start, min(step, self._count - start))

    def rows(self, indices: NDArray[np.intp]) -> Array:
        """Some rows [n, ...], in memory."""
        if not len(indices):
            return np.empty((0, *self._row), self._dtype)
        return np.concatenate([self._read(int(index), 1) for index in indices])

    def columns(self, first: int, last: int) -> Array:
        """Columns `first` to `last`, the latter not included, of an array [N, C], in memory."""
        return np.concatenate([part[:, first:last] for part in self.parts()])

    def _read(self, start: int, count: int) -> Array:
        size = int(np.prod(self._row, dtype=np.int64)) * self._dtype.itemsize
        found = np.empty((count, *self._row), self._dtype)
        self._file.seek(start * size)
        self._file.readinto(found.reshape(-1).view(np.uint8).data)
        return found
