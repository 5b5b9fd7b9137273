"""The features of one split in memory: what the training step reads. Imports nothing but numpy.

One row of `examples`: [17, 1, 52310, 48, 52358, 96]
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

ARRAYS = ("tokens", "examples", "question_ids")
COLUMNS = ("row", "task", "source_start", "source_length", "target_start", "target_length")
ROW, TASK, SOURCE_START, SOURCE_LENGTH, TARGET_START, TARGET_LENGTH = range(len(COLUMNS))


@dataclass(frozen=True)
class Features:
    """One split, memory-mapped. E examples, Q questions."""

    tokens: np.ndarray  # int32 [tokens]
    examples: np.ndarray  # int64 [E, 6]
    question_ids: np.ndarray  # text [Q]
    tasks: list[str]

    @cached_property
    def row_starts(self) -> np.ndarray:
        """First example of each row, and the number of examples at the end; [Q + 1]."""
        return np.searchsorted(self.examples[:, 0], np.arange(len(self.question_ids) + 1))

    def examples_of(self, rows: np.ndarray) -> np.ndarray:
        """Example indices of the given rows, in their order."""
        return np.concatenate(
            [np.arange(self.row_starts[row], self.row_starts[row + 1]) for row in rows] or [np.zeros(0, np.int64)]
        )
