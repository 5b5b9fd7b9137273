"""One split under way: questions and rejected rows in, a Parquet file and a file of reasons out, with their counts."""

import hashlib
import json
from array import array
from collections.abc import Container
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq

from tinyllm_ray.config import digest
from tinyllm_ray.data.fields import NO_ANSWER
from tinyllm_ray.data.overlap import question_key, short_hash
from tinyllm_ray.rows import Question, Rejected, schema_of, to_table

BATCH_ROWS = 4096


class SplitWriter:
    """The two files of a split under way, and its counts; questions whose key is in `drop` are left out."""

    def __init__(self, good: Path, bad: Path, *, drop: Container[int]) -> None:
        self.rows = self.rejected = self.skipped = self.leaked = 0
        self.unanswered = 0  # of the rejected rows, those that have no answer
        self.keys = array("Q")
        self.content = (0, 0)  # of all questions, those left out too: their number and the sum of their hashes
        self.hasher = hashlib.blake2b(digest_size=16)
        self._drop = drop
        self.first_reasons: list[str] = []
        self._batch: list[Question] = []
        self._good = pq.ParquetWriter(good, schema_of(Question), compression="zstd", write_page_checksum=True)
        self._bad = bad.open("w", encoding="utf-8")

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._good.close()
        self._bad.close()

    def add(self, item: Question | Rejected | None) -> None:
        if isinstance(item, Question):
            self._add_question(item)
        elif isinstance(item, Rejected):
            self.rejected += 1
            self.unanswered += item.reason == NO_ANSWER
            self._bad.write(json.dumps(asdict(item)) + "\n")
            if len(self.first_reasons) < 3:
                self.first_reasons.append(f"line {item.line}: {item.reason}")
        else:
            self.skipped += 1

    def _add_question(self, question: Question) -> None:
        count, total = self.content
        without_id = short_hash(digest({**vars(question), "question_id": ""}))
        self.content = count + 1, (total + without_id) % 2**64
        key = question_key(question)
        if key in self._drop:
            self.leaked += 1
            return
        self.rows += 1
        self.keys.append(key)
        self.hasher.update(digest(vars(question), 32).encode())
        self._batch.append(question)
        if len(self._batch) == BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._good.write_table(to_table(self._batch, Question))
        self._batch.clear()
