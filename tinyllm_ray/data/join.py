"""Store rows joined to question rows by question id, never by position; what cannot be used is counted.

In: a store's split and the question ids. Out: the usable target texts by row: rows [0, 0, 2], texts ["It", "So", "As"]
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tinyllm_ray import storage
from tinyllm_ray.data import store
from tinyllm_ray.data.fit import ROWS_AT_ONCE, Counts
from tinyllm_ray.data.soft_targets import Kept, KeptRows, KeptWriter
from tinyllm_ray.rows import SOFT_COLUMNS, Question, from_table
from tinyllm_ray.tasks.registry import task_of


@dataclass(frozen=True)
class Asked:
    """The questions of one split as the stores are joined to them, and the ids of the other splits."""

    table: pa.Table  # of what decides whether an answer is right
    elsewhere: pa.Array  # ids; a store may hold rationales of a question that lies in another split now

    @property
    def ids(self) -> pa.ChunkedArray:
        return self.table["question_id"]

    def at(self, rows: np.ndarray) -> list[Question]:
        return from_table(
            self.table.take(pa.array(rows)).append_column("question", pa.array([""] * len(rows))), Question
        )

    def iterate(self) -> Iterator[Question]:
        for first in range(0, len(self.ids), ROWS_AT_ONCE):
            yield from self.at(np.arange(first, min(first + ROWS_AT_ONCE, len(self.ids))))


@dataclass(frozen=True)
class Wanted:
    """Which of a store's texts may become targets."""

    drop: frozenset[str] = frozenset()  # flags
    keep: str = "all"
    pick: str = "all"
    per_question: int = 1
    scores: Mapping[str, int] | None = None  # a judge's, by the rationale's key; None where nobody judges
    threshold: int = 0  # lowest score that is used


@dataclass(frozen=True)
class Targets:
    """Target texts of one component, by row in ascending order; the texts lie in a file, for there may be gigabytes."""

    rows: np.ndarray  # int64
    starts: np.ndarray  # int64, bytes
    lengths: np.ndarray  # int64, bytes
    file: BinaryIO
    kept: KeptRows | None = None  # their soft targets

    def between(self, first: int, end: int) -> tuple[np.ndarray, list[str]]:
        low, high = np.searchsorted(self.rows, [first, end])
        spans = zip(self.lengths[low:high].tolist(), self.starts[low:high].tolist(), strict=True)
        return self.rows[low:high], [os.pread(self.file.fileno(), length, start).decode() for length, start in spans]

    def kept_between(self, first: int, end: int) -> list[Kept | None]:
        low, high = np.searchsorted(self.rows, [first, end])
        return self.kept[low:high].read() if self.kept is not None else [None] * int(high - low)

    def only(self, mask: np.ndarray) -> "Targets":
        kept = None if self.kept is None else self.kept[mask]
        return replace(self, rows=self.rows[mask], starts=self.starts[mask], lengths=self.lengths[mask], kept=kept)


def read_asked(path: str, others: list[str]) -> Asked:
    """From the question files of a split and of the others."""
    columns = ["question_id", "choices", "answer", "accepted", "task"]
    ids = [storage.read_table(other, ["question_id"])["question_id"].combine_chunks() for other in others]
    return Asked(storage.read_table(path, columns), pa.concat_arrays([pa.array([], pa.string()), *ids]))


def join_targets(
    folder: str,
    split: str,
    asked: Asked,
    *,
    column: str,
    name: str,
    wanted: Wanted,
    counts: Counts,
    top_k: int | None = None,
) -> Targets:
    """A store's usable texts, joined to the rows by question id; what cannot be used is counted by reason.

    `top_k`: with the soft targets that the store holds, so many for each token.
    """
    file = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the targets
    rows, lengths, samples = ([np.zeros(0, np.int64)] for _ in range(3))
    writer = KeptWriter(top_k) if top_k else None
    soft = SOFT_COLUMNS if writer else ()
    columns = dict.fromkeys(["key", "question_id", column, "sample", "predicted_answer", "flags", *soft])
    for table in store.iterate(folder, split, list(columns)):
        found, usable = _usable(table, asked, column, name, wanted, counts)
        encoded = [text.encode() for text in usable[column].to_pylist()]
        file.write(b"".join(encoded))
        rows.append(found)
        lengths.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        samples.append(usable["sample"].to_numpy().astype(np.int64))
        if writer:
            writer.add(usable)
    file.flush()
    every, sizes, numbers = np.concatenate(rows), np.concatenate(lengths), np.concatenate(samples)
    counts["masked"][f"{name}/missing"] += len(asked.ids) - len(np.unique(every))
    order = np.argsort(every, kind="stable")
    kept = writer.finish()[order] if writer else None
    targets = Targets(every[order], (np.cumsum(sizes) - sizes)[order], sizes[order], file, kept)
    if wanted.pick == "all":
        return targets
    first = numbers[order]
    picked = _picked(targets.rows, [first] if wanted.pick == "first" else [targets.lengths, first], wanted.per_question)
    counts["masked"][f"{name}/not_picked"] += int((~picked).sum())
    return targets.only(picked)


def _picked(rows: np.ndarray, smallest_first: list[np.ndarray], count: int) -> np.ndarray:
    """Mask of the first `count` of each row, ordered by the arrays, the most important one first."""
    order = np.lexsort([*reversed(smallest_first), rows])
    ordered = rows[order]
    place = np.arange(len(rows)) - np.searchsorted(ordered, ordered)  # in its row
    mask = np.zeros(len(rows), dtype=bool)
    mask[order] = place < count
    return mask


def _usable(
    table: pa.Table, asked: Asked, column: str, name: str, wanted: Wanted, counts: Counts
) -> tuple[np.ndarray, pa.Table]:
    """Rows and texts of what can be used."""
    rows = pc.index_in(table["question_id"], value_set=asked.ids)
    known = pc.is_valid(rows)
    strangers = table.filter(pc.invert(known))["question_id"]
    counts["store_rows"][name] += len(table)
    counts["unknown"][name] += len(strangers) - (pc.sum(pc.is_in(strangers, value_set=asked.elsewhere)).as_py() or 0)
    table = table.filter(known)
    table = table.set_column(table.column_names.index(column), column, pc.utf8_trim_whitespace(table[column]))
    places = rows.filter(known).to_numpy().astype(np.int64)
    empty = pc.is_in(pc.utf8_lower(table[column]), pa.array(["", "nan"]))
    usable = ~empty.to_numpy(zero_copy_only=False).astype(bool)
    counts["masked"][f"{name}/empty"] += int((~usable).sum())
    if wanted.drop:
        flagged = np.array([not wanted.drop.isdisjoint(f or ()) for f in table["flags"].to_pylist()], dtype=bool)
        counts["masked"][f"{name}/flagged"] += int((flagged & usable).sum())
        usable &= ~flagged
    if wanted.keep == "correct":
        pairs = zip(table["predicted_answer"].to_pylist(), asked.at(places), strict=True)
        wrong = ~np.array([task_of(question.task).is_right(said, question) for said, question in pairs], dtype=bool)
        counts["masked"][f"{name}/wrong"] += int((wrong & usable).sum())
        usable &= ~wrong
    if wanted.scores is not None:
        scores = np.array([wanted.scores.get(key, 0) for key in table["key"].to_pylist()], dtype=np.int64)
        counts["masked"][f"{name}/not_judged"] += int(((scores == 0) & usable).sum())
        counts["masked"][f"{name}/below_threshold"] += int(((scores > 0) & (scores < wanted.threshold) & usable).sum())
        usable &= scores >= wanted.threshold
    return places[usable], table.filter(pa.array(usable))
