"""The order in which questions became ready for the student: stores that grow in, numbered parts out, written once.

A question is ready when each of its wanted rationales is written or has failed, and at least one is written.
<output_dir>/arrivals/<digest>/
  parts/<number>/   questions.parquet and stores/<teacher>/ with the rationales of these questions
  parts/<number>/part.json   written last: {"rows": [17, 3], "at": 1767225600.0}, rows of the question file as they came
  closed.json       nothing more comes: {"parts": 12, "first_epoch": 290, "rows": 300}
Questions without any rationale are the last part, after the `first_epoch` rows that count as the first epoch.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tinyllm_ray import storage
from tinyllm_ray.config import digest
from tinyllm_ray.data import store
from tinyllm_ray.data.questions import QuestionFile
from tinyllm_ray.data.store import StoreId
from tinyllm_ray.rows import Question, Rationale, from_table, from_values, to_table

PART, CLOSED = "part.json", "closed.json"
MOST_ROWS = 2048  # of a part, so that one is never large
GROWTH = 64  # a part holds at least one in so many of the rows before it, so that their number stays small
MISSING, FAILED, WRITTEN = 0, 1, 2


@dataclass(frozen=True)
class Awaited:
    """One teacher's store, as the arrivals look at it."""

    folder: str
    samples: int  # rationales wanted for a question
    grows: bool  # a store that was given holds all it will ever hold


class Arrivals:
    """The parts that there are; readers and the one writer alike."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def part(self, number: int) -> str:
        return storage.join(self.folder, "parts", f"{number:06d}")

    def questions_path(self, number: int) -> str:
        return storage.join(self.part(number), "questions.parquet")

    def questions(self, number: int) -> QuestionFile:
        name = digest([self.folder.rpartition("/")[2], number])
        return QuestionFile(self.questions_path(number), len(self.rows(number)), 0, "", name)

    def stores(self, number: int, teachers: Sequence[str]) -> dict[StoreId, str]:
        return {StoreId(name): storage.join(self.part(number), "stores", name) for name in teachers}

    def rows(self, number: int) -> list[int]:
        """Rows of the question file. Raises FileNotFoundError where the part is not there yet."""
        return storage.read_json(storage.join(self.part(number), PART))["rows"]

    def there(self, number: int) -> bool:
        return storage.exists(storage.join(self.part(number), PART))

    def iterate(self) -> Iterator[dict[str, Any]]:
        """What each part says of itself, in order."""
        number = 0
        while self.there(number):
            yield storage.read_json(storage.join(self.part(number), PART))
            number += 1

    def closed(self) -> dict[str, int] | None:
        uri = storage.join(self.folder, CLOSED)
        return storage.read_json(uri) if storage.exists(uri) else None


class Collector:
    """The one writer: looks at the stores, and writes a part where enough questions have become ready.

    It continues what is there: a question that is in a part is in no other one.
    """

    def __init__(
        self, arrivals: Arrivals, questions: QuestionFile, stores: Mapping[str, Awaited], *, window_rows: int, rows: int
    ) -> None:
        """`window_rows`: of the first part; `rows`: of a later part at least, but for the last."""
        self.arrivals, self.stores = arrivals, stores
        self._window_rows, self._rows = window_rows, rows
        self._table = storage.read_table(questions.path)
        self._ids = self._table["question_id"].combine_chunks()
        self._state = {name: np.zeros((len(self._ids), at.samples), np.uint8) for name, at in stores.items()}
        self._held: dict[int, list[tuple[str, Rationale]]] = {}  # of rows that are in no part yet
        self._ready: list[int] = []
        self._taken = np.zeros(len(self._ids), bool)  # in a part, or ready for one
        self._seen: dict[str, set[str]] = {name: set() for name in stores}
        before = {name: storage.list_files(storage.join(at.folder, "train"), ".parquet") for name, at in stores.items()}
        self._failed_before = {uri for uris in before.values() for uri in uris}  # whose failed rows are tried again
        self.parts = self.written = 0
        self.tokens = 0  # of the rationales that were found in the stores
        for part in arrivals.iterate():
            self._taken[part["rows"]] = True
            self.parts, self.written = self.parts + 1, self.written + len(part["rows"])

    @property
    def counts(self) -> dict[str, int]:
        """Questions that each teacher has done with, whether they are in a part or not."""
        return {name: int((self._taken | (state > MISSING).all(axis=1)).sum()) for name, state in self._state.items()}

    def poll(self) -> None:
        """Take in what is new in the stores, and write the parts that are full."""
        if self.arrivals.closed():
            return
        for name, at in self.stores.items():
            for uri in storage.list_files(storage.join(at.folder, "train"), ".parquet"):
                if uri not in self._seen[name]:
                    self._read(name, uri)
            if not at.grows:
                self._state[name][self._state[name] == MISSING] = FAILED
        self._find_ready(self._all_done())
        self._write(everything=False)
        if all((state > MISSING).all() for state in self._state.values()):
            self.close()

    def close(self) -> None:
        """The teachers have ended: what has any rationale is ready, and the rest is the last part."""
        if self.arrivals.closed():
            return
        some = np.zeros(len(self._ids), bool)
        some[list(self._held)] = True
        self._find_ready(some)
        self._write(everything=True)
        first_epoch = self.written
        self._ready = np.flatnonzero(~self._taken).tolist()
        self._taken[:] = True
        self._write(everything=True)
        closed = {"parts": self.parts, "first_epoch": first_epoch, "rows": len(self._ids)}
        storage.write_json(storage.join(self.arrivals.folder, CLOSED), closed)

    def _read(self, name: str, uri: str) -> None:
        try:
            table = store.read_part(uri)
        except FileNotFoundError:  # it was merged into another one meanwhile
            return
        self._seen[name].add(uri)
        state = self._state[name]
        numbers = pc.index_in(table["question_id"], value_set=self._ids).to_pylist()
        for values, row in zip(table.to_pylist(), numbers, strict=True):
            if row is None:
                continue
            sample = min(values["sample"], state.shape[1] - 1)
            if values["failure"]:
                new = uri not in self._failed_before and state[row, sample] == MISSING
                state[row, sample] = FAILED if new else state[row, sample]
            elif state[row, sample] != WRITTEN or not self.stores[name].grows:
                state[row, sample] = WRITTEN
                self.tokens += values["output_tokens"]
                if not self._taken[row]:
                    self._held.setdefault(row, []).append((name, from_values(values, Rationale)))

    def _all_done(self) -> np.ndarray:
        """Questions that no teacher is at any more, with a rationale at least; bool [rows]."""
        done = np.all([(state > MISSING).all(axis=1) for state in self._state.values()], axis=0)
        return done & np.any([(state == WRITTEN).any(axis=1) for state in self._state.values()], axis=0)

    def _find_ready(self, ready: np.ndarray) -> None:
        new = np.flatnonzero(ready & ~self._taken)
        self._ready += new.tolist()
        self._taken[new] = True

    def _write(self, *, everything: bool) -> None:
        while self._ready:
            wanted = max(self._rows, self.written // GROWTH) if self.parts else self._window_rows
            if len(self._ready) < wanted and not everything:
                return
            rows, self._ready = self._ready[: max(wanted, MOST_ROWS)], self._ready[max(wanted, MOST_ROWS) :]
            self._write_part(rows)

    def _write_part(self, rows: list[int]) -> None:
        folder = self.arrivals.part(self.parts)
        storage.remove_folder(folder)  # what a killed writer left
        questions = from_table(self._table.take(pa.array(rows)), Question)
        storage.write_table(self.arrivals.questions_path(self.parts), to_table(questions, Question))
        by_teacher: dict[str, list[Rationale]] = {name: [] for name in self.stores}
        for row in rows:
            for name, rationale in self._held.pop(row, []):
                by_teacher[name].append(rationale)
        for name, rationales in by_teacher.items():
            own = storage.join(folder, "stores", name)
            store.open_store(own, store.read_manifest(self.stores[name].folder))
            if rationales:
                store.append(own, "train", rationales)
        storage.write_json(storage.join(folder, PART), {"rows": rows, "at": time.time()})
        self.parts, self.written = self.parts + 1, self.written + len(rows)
