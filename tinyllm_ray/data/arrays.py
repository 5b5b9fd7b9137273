"""The features of one split: arrays that grow on disk, and what the training step reads of them. Imports only numpy.

One row of `examples`: [17, 1, 52310, 48, 52358, 96]
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

ARRAYS = ("tokens", "examples", "question_ids")
COLUMNS = ("row", "component", "source_start", "source_length", "target_start", "target_length")
ROW, COMPONENT, SOURCE_START, SOURCE_LENGTH, TARGET_START, TARGET_LENGTH = range(len(COLUMNS))


@dataclass(frozen=True)
class SoftArrays:
    """Soft targets of one split, memory-mapped. S tokens that have them, K kept for each, E examples."""

    ids: np.ndarray  # int32 [S, K]
    log_probabilities: np.ndarray  # float16 [S, K]; -inf where fewer than K are kept
    spans: np.ndarray  # int64 [E, 3]: first of S, first token of the target that has one, number of tokens (0: none)


@dataclass(frozen=True)
class Features:
    """One split, memory-mapped. E examples, Q questions."""

    tokens: np.ndarray  # int32 [tokens]
    examples: np.ndarray  # int64 [E, 6]
    question_ids: np.ndarray  # text [Q]
    components: list[str]
    soft: SoftArrays | None = None

    @property
    def total(self) -> int:
        """Questions of the split."""
        return len(self.question_ids)

    @cached_property
    def trained(self) -> set[int]:
        """Components that have any target."""
        return set(np.unique(self.examples[:, COMPONENT]).tolist())

    @cached_property
    def row_starts(self) -> np.ndarray:
        """First example of each row, and the number of examples at the end; [Q + 1]."""
        return np.searchsorted(self.examples[:, 0], np.arange(len(self.question_ids) + 1))

    @cached_property
    def softened(self) -> list[str]:
        """Components of which any example has soft targets."""
        if self.soft is None:
            return []
        found = set(self.examples[self.soft.spans[:, 2] > 0, COMPONENT].tolist())
        return [name for i, name in enumerate(self.components) if i in found]

    def examples_of(self, rows: np.ndarray) -> np.ndarray:
        """Example indices of the given rows, in their order."""
        return np.concatenate(
            [np.arange(self.row_starts[row], self.row_starts[row + 1]) for row in rows] or [np.zeros(0, np.int64)]
        )


class ArrayWriter:
    """Grows one .npy file along its first axis. Nothing stays in memory, and no page of the file is mapped."""

    def __init__(self, path: Path, dtype: DTypeLike, row_shape: tuple[int, ...] = ()) -> None:
        self.dtype, self.row_shape, self.rows = np.dtype(dtype), row_shape, 0
        self._file = path.open("wb")
        self._write_header()

    def add(self, rows: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(rows, self.dtype).data)
        self.rows += len(rows)

    def finish(self) -> None:
        self._file.seek(0)
        self._write_header()  # numpy leaves room in it for a longer first axis
        self._file.close()

    def _write_header(self) -> None:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows, *self.row_shape)}
        np.lib.format.write_array_header_1_0(self._file, header)
