"""Store rows joined to question rows by question id, never by position; what cannot be used is counted.

In: a store's split and the question ids. Out: the usable target texts by row: rows [0, 0, 2], texts ["It", "So", "As"]
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tinyllm_ray.data import store


@dataclass(frozen=True)
class Targets:
    """Target texts of one task, by row in ascending order."""

    rows: np.ndarray  # int64
    texts: pa.ChunkedArray

    def between(self, first: int, end: int) -> tuple[np.ndarray, list[str]]:
        low, high = np.searchsorted(self.rows, [first, end])
        return self.rows[low:high], self.texts.slice(low, high - low).to_pylist()


def join_targets(
    folder: str, split: str, ids: pa.Array, column: str, name: str, drop: list[str], counts: dict[str, Counter]
) -> Targets:
    """A store's usable texts, joined to the rows by question id; what cannot be used is counted by reason."""
    table = store.read(folder, split, ["question_id", column, "flags"])
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
        wanted = set(drop)
        flagged = np.array([not wanted.isdisjoint(flags or ()) for flags in table["flags"].to_pylist()], dtype=bool)
        counts["masked"][f"{name}/flagged"] += int((flagged & usable).sum())
        usable &= ~flagged
    rows = rows.to_numpy().astype(np.int64)[usable]
    counts["masked"][f"{name}/missing"] += len(ids) - len(np.unique(rows))
    order = np.argsort(rows, kind="stable")
    return Targets(rows[order], texts.filter(pa.array(usable)).take(pa.array(order)))
