"""Training rows that come while the training runs: parts of features in, the rows of each step out.

    arrivals   0 1 2 3 4 5 6 ...   in the order of the parts, which never changes
    buffer     [0 1 2]             row 3 takes the place of the one that is drawn, and so on; at the end it empties
    positions  1 0 3 2 ...         the first epoch, a function of the arrivals and the seed alone

A step takes the next `batch_size` positions, whoever computes it and whenever it runs. After the first epoch each epoch
is the permutation of the question file that it is without a stream.
Legend: A arrivals so far, B rows of a step.
"""

import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.data import feature_parts
from tinyllm_ray.data.arrays import (
    COMPONENT,
    ROW,
    SOURCE_LENGTH,
    SOURCE_START,
    TARGET_LENGTH,
    TARGET_START,
    Features,
)
from tinyllm_ray.data.features import load_arrays, open_features, read_meta
from tinyllm_ray.data.fit import ROWS_AT_ONCE
from tinyllm_ray.student.batches import epoch_order, shuffled_rationales

POLL_S, CLOUD_POLL_S = 0.25, 5.0
COUNTED = ("total", "truncated", "unknown_tokens")


def open_training(folder: str, *, seed: int, shuffle_rationales: bool = False) -> "Features | Stream":
    """What a training reads: the features of the whole train split, or those that grow.

    `shuffle_rationales`: the control; in a stream the rationales change places within a part.
    """
    if "arrivals" in read_meta(folder)["plan"]:
        return Stream(folder, seed=seed, shuffle_rationales=shuffle_rationales)
    features = open_features(folder, "train")
    return shuffled_rationales(features, seed=seed) if shuffle_rationales else features


class Shuffle:
    """Arrivals in, the first epoch's order out: each draw takes one of `size` rows that wait, and the next one comes.

    Its output so far never depends on how the arrivals were dealt to calls.
    """

    def __init__(self, size: int, *, seed: int) -> None:
        self.order: list[int] = []
        self._size, self._random = size, random.Random(f"{seed}/first epoch")
        self._buffer: list[int] = []
        self._next = 0

    def extend(self, arrivals: int, *, last: bool) -> None:
        """`arrivals`: how many there are by now; `last`: no more will come, so the buffer is emptied."""
        for arrival in range(self._next, arrivals):
            if len(self._buffer) < self._size:
                self._buffer.append(arrival)
                continue
            place = self._random.randrange(self._size)
            self.order.append(self._buffer[place])
            self._buffer[place] = arrival
        self._next = arrivals
        while last and self._buffer:
            place = self._random.randrange(len(self._buffer))
            self._buffer[place], self._buffer[-1] = self._buffer[-1], self._buffer[place]
            self.order.append(self._buffer.pop())


@dataclass(frozen=True)
class Part:
    features: Features
    rows: np.ndarray  # int64: of the question file
    counts: dict[str, Any]


class Stream:
    """The train split as it grows. Every rank has its own, and all of them see the same rows in each step."""

    def __init__(self, folder: str, *, seed: int, shuffle_rationales: bool) -> None:
        meta = read_meta(folder)
        self.components: list[str] = meta["plan"]["components"]
        self.total: int = meta["splits"]["train"]["rows"]
        self.trained = set(range(len(self.components)))  # what the teachers will have written is not known yet
        self.softened: list[str] = []  # a training on soft targets starts when all is written
        self.waited_s = 0.0  # for rows that had not come yet
        self.first_epoch: int | None = None  # rows in it; None while more may come
        self._folder, self._seed, self._shuffles = folder, seed, shuffle_rationales
        self._poll_s = POLL_S if storage.is_local(folder) else CLOUD_POLL_S
        self._parts: list[Part] = []
        self._ends: list[int] = []  # arrivals up to the end of each part
        self._shuffle = Shuffle(meta["plan"]["window_rows"], seed=seed)
        self._window = meta["plan"]["window_rows"]
        self._arrival_of = np.zeros(self.total, np.int64)  # row of the question file -> its arrival

    @property
    def parts(self) -> int:
        """How many this rank knows."""
        return len(self._parts)

    def of_step(self, step: int, *, batch_size: int) -> tuple[Features, np.ndarray]:
        """The rows of one step (from 0) as features of their own, and which of them in which order; [B].

        Waits for rows that have not come. Raises UserError where they never will.
        """
        arrivals = self._arrivals(range(step * batch_size, (step + 1) * batch_size))
        distinct = np.unique(arrivals)
        distinct = distinct[np.argsort(self._numbers(distinct), kind="stable")]
        place_of = {arrival: place for place, arrival in enumerate(distinct.tolist())}
        return self._gather(distinct), np.array([place_of[arrival] for arrival in arrivals])

    def in_first_epoch(self, step: int, *, batch_size: int) -> bool:
        """Whether any row of the step (from 0) belongs to it."""
        return self.first_epoch is None or step * batch_size < self.first_epoch

    def counts(self, steps: int, *, batch_size: int) -> dict[str, dict[str, int]]:
        """What was cut or unknown in the texts that so many steps needed, as in the features' meta.json."""
        needed = steps * batch_size + self._window
        used = sum(end - len(part.rows) < needed for end, part in zip(self._ends, self._parts, strict=True))
        found: dict[str, Counter[str]] = {name: Counter() for name in COUNTED}
        for part in self._parts[:used]:
            for name in COUNTED:
                found[name].update(part.counts[name])
        return {name: dict(counter) for name, counter in found.items()}

    def _arrivals(self, positions: range) -> np.ndarray:
        self._wait_for(positions[-1])
        order, first = self._shuffle.order, self.first_epoch
        found = []
        for position in positions:
            if first is None or position < first:
                found.append(order[position])
            else:
                epoch, place = divmod(position - first, self.total)
                found.append(self._arrival_of[epoch_order(self._seed, epoch + 1, self.total)[place]])
        return np.array(found)

    def _wait_for(self, position: int) -> None:
        began = time.monotonic()
        while self.first_epoch is None and position >= len(self._shuffle.order):
            self._refresh()
            if self.first_epoch is not None or position < len(self._shuffle.order):
                break
            message = feature_parts.stopped(self._folder)
            if message is not None:
                raise UserError(f"the training stopped where the teachers did: {message}")
            time.sleep(self._poll_s)
        self.waited_s += time.monotonic() - began

    def _refresh(self) -> None:
        """Map the parts that have come since."""
        closed = feature_parts.closed(self._folder)  # first: all parts of it are there
        while feature_parts.is_built(self._folder, len(self._parts)):
            part = self._open(len(self._parts))
            end = (self._ends[-1] if self._ends else 0) + len(part.rows)
            self._arrival_of[part.rows] = np.arange(end - len(part.rows), end)
            self._parts.append(part)
            self._ends.append(end)
        known = self._ends[-1] if self._ends else 0
        if closed is None:
            self._shuffle.extend(known, last=False)
            return
        assert known == closed["rows"] == self.total and self.parts == closed["parts"]
        self._shuffle.extend(closed["first_epoch"], last=True)
        self.first_epoch = closed["first_epoch"]

    def _open(self, number: int) -> Part:
        folder = feature_parts.part_folder(self._folder, number)
        features = load_arrays(folder, self.components)
        if self._shuffles:
            features = shuffled_rationales(features, seed=self._seed)
        local = storage.local_folder(folder)
        counts = storage.read_json(str(local / feature_parts.COUNTS))
        return Part(features, np.load(local / "rows.npy"), counts)

    def _place(self, arrival: int) -> tuple[int, int]:
        """Its part and its row there."""
        part = int(np.searchsorted(self._ends, arrival, side="right"))
        return part, arrival - (self._ends[part] - len(self._parts[part].rows))

    def _numbers(self, arrivals: np.ndarray) -> np.ndarray:
        places = [self._place(arrival) for arrival in arrivals.tolist()]
        return np.array([self._parts[part].rows[row] for part, row in places])

    def _gather(self, arrivals: np.ndarray) -> Features:
        """Features of some rows alone, laid out in the order of the features of a whole split."""
        tables, parts, ids = [], [], []
        for place, arrival in enumerate(arrivals.tolist()):
            number, row = self._place(arrival)
            features = self._parts[number].features
            table = np.array(features.examples[features.row_starts[row] : features.row_starts[row + 1]])
            table[:, ROW] = place
            tables.append(table)
            parts += [number] * len(table)
            ids.append(features.question_ids[row])
        table = np.concatenate(tables)
        chunks = self._numbers(arrivals)[table[:, ROW]] // ROWS_AT_ONCE
        examples, tokens = self._copy(table, parts, np.lexsort((table[:, ROW], table[:, COMPONENT], chunks)))
        return Features(tokens=tokens, examples=examples, question_ids=np.array(ids), components=self.components)

    def _copy(self, table: np.ndarray, parts: list[int], order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The table with new starts, and the tokens that they point at: all sources in `order`, then all targets."""
        examples, pieces, end = table.copy(), [], 0
        copied: dict[tuple[int, int], int] = {}  # of a source: its part and start there -> start here
        for start, length in ((SOURCE_START, SOURCE_LENGTH), (TARGET_START, TARGET_LENGTH)):
            for i in order.tolist():
                there, count = int(table[i, start]), int(table[i, length])
                shared = copied.get((parts[i], there)) if start == SOURCE_START else None
                examples[i, start] = end if shared is None else shared
                if shared is None:
                    copied[parts[i], there] = end
                    pieces.append(self._parts[parts[i]].features.tokens[there : there + count])
                    end += count
        return examples, np.concatenate(pieces)
