"""Store rows joined to question rows by question id, never by position; what cannot be used is counted.

In: a store's split and the question ids. Out: the usable target texts by row: rows [0, 0, 2], texts ["It", "So", "As"]
"""

import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tinyllm_ray.data import store


@dataclass(frozen=True)
class Targets:
    """Target texts of one component, by row in ascending order; the texts lie in a file, for there may be gigabytes."""

    rows: np.ndarray  # int64
    starts: np.ndarray  # int64, bytes
    lengths: np.ndarray  # int64, bytes
    file: BinaryIO

    def between(self, first: int, end: int) -> tuple[np.ndarray, list[str]]:
        low, high = np.searchsorted(self.rows, [first, end])
        spans = zip(self.lengths[low:high].tolist(), self.starts[low:high].tolist(), strict=True)
        return self.rows[low:high], [os.pread(self.file.fileno(), length, start).decode() for length, start in spans]


def join_targets(
    folder: str, split: str, ids: pa.Array, column: str, name: str, drop: list[str], counts: dict[str, Counter]
) -> Targets:
    """A store's usable texts, joined to the rows by question id; what cannot be used is counted by reason."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the targets
    rows, lengths = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for table in store.iterate(folder, split, ["question_id", column, "flags"]):
        found, texts = _usable(table, ids, column, name, set(drop), counts)
        encoded = [text.encode() for text in texts.to_pylist()]
        file.write(b"".join(encoded))
        rows.append(found)
        lengths.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))
    file.flush()
    every, sizes = np.concatenate(rows), np.concatenate(lengths)
    counts["masked"][f"{name}/missing"] += len(ids) - len(np.unique(every))
    order = np.argsort(every, kind="stable")
    return Targets(every[order], (np.cumsum(sizes) - sizes)[order], sizes[order], file)


def _usable(
    table: pa.Table, ids: pa.Array, column: str, name: str, drop: set[str], counts: dict[str, Counter]
) -> tuple[np.ndarray, pa.ChunkedArray]:
    """Rows and texts of what can be used."""
    rows = pc.index_in(table["question_id"], value_set=ids)
    known = pc.is_valid(rows)
    counts["store_rows"][name] += len(table)
    counts["unknown"][name] += len(table) - pc.sum(known).as_py() if len(table) else 0
    table, rows = table.filter(known), rows.filter(known)
    texts = pc.utf8_trim_whitespace(table[column])
    empty = pc.is_in(pc.utf8_lower(texts), pa.array(["", "nan"]))
    usable = ~empty.to_numpy(zero_copy_only=False).astype(bool)
    counts["masked"][f"{name}/empty"] += int((~usable).sum())
    if drop:
        flagged = np.array([not drop.isdisjoint(flags or ()) for flags in table["flags"].to_pylist()], dtype=bool)
        counts["masked"][f"{name}/flagged"] += int((flagged & usable).sum())
        usable &= ~flagged
    return rows.to_numpy().astype(np.int64)[usable], texts.filter(pa.array(usable))
