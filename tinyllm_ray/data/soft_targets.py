"""Soft targets on their way from a store to the student: store columns in, arrays by example out.

A store's numbers wait in files without a form, as the texts do, since there may be gigabytes. Ids mean the same to
teacher and student, since they have one vocabulary (vocabulary.py). Legend: n tokens of a text, k kept for each.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tinyllm_ray.data.arrays import ArrayWriter, SoftArrays
from tinyllm_ray.data.token_spans import find_span, token_ends
from tinyllm_ray.rows import SOFT_COLUMNS

if TYPE_CHECKING:
    from tinyllm_ray.data.tokenizer import StudentTokenizer

_KINDS: tuple[np.dtype[Any], ...] = (np.dtype(np.int32), np.dtype(np.int32), np.dtype(np.float16))  # of SOFT_COLUMNS


class Kept(NamedTuple):
    """One text's tokens, and each one's likeliest with their log-probabilities."""

    token_ids: np.ndarray  # int32 [n]
    top_ids: np.ndarray  # int32 [n, k]
    top_logprobs: np.ndarray  # float16 [n, k]


@dataclass(frozen=True)
class KeptRows:
    """The soft targets of a component's target texts, in the texts' order; lengths are 0 where a text has none."""

    starts: np.ndarray  # int64, tokens
    lengths: np.ndarray  # int64, tokens
    top_k: int
    files: tuple[BinaryIO, ...]  # of SOFT_COLUMNS

    def __getitem__(self, chosen: Any) -> "KeptRows":
        return replace(self, starts=self.starts[chosen], lengths=self.lengths[chosen])

    def __len__(self) -> int:
        return len(self.starts)

    def read(self) -> list[Kept | None]:
        spans = zip(self.starts.tolist(), self.lengths.tolist(), strict=True)
        return [self._read(start, length) if length else None for start, length in spans]

    def _read(self, start: int, length: int) -> Kept:
        widths = (1, self.top_k, self.top_k)
        ids, top, values = (
            np.frombuffer(os.pread(file.fileno(), length * width * kind.itemsize, start * width * kind.itemsize), kind)
            for file, kind, width in zip(self.files, _KINDS, widths, strict=True)
        )
        return Kept(ids, top.reshape(length, -1), values.reshape(length, -1))


class KeptWriter:
    """Takes the soft columns of a store's rows, table by table."""

    def __init__(self, top_k: int) -> None:
        self._top_k = top_k
        self._files = tuple(tempfile.TemporaryFile() for _ in SOFT_COLUMNS)  # noqa: SIM115  the rows are read from them
        self._lengths = [np.zeros(0, np.int64)]

    def add(self, table: pa.Table) -> None:
        lengths = [pc.fill_null(pc.list_value_length(table[name]), 0).to_numpy() for name in SOFT_COLUMNS]
        whole = (lengths[1] == self._top_k * lengths[0]) & (lengths[2] == lengths[1]) & (lengths[0] > 0)
        for name, kind, file in zip(SOFT_COLUMNS, _KINDS, self._files, strict=True):
            values = table[name].filter(pa.array(whole)).combine_chunks().flatten()
            file.write(np.ascontiguousarray(values.to_numpy(zero_copy_only=False), kind).data)
        self._lengths.append(np.where(whole, lengths[0], 0).astype(np.int64))

    def finish(self) -> KeptRows:
        for file in self._files:
            file.flush()
        lengths = np.concatenate(self._lengths)
        return KeptRows(np.cumsum(lengths) - lengths, lengths, self._top_k, self._files)


class Soft(NamedTuple):
    """Soft targets of a part of a target."""

    kept: Kept
    first: int  # token of the target


def of_rationale(kept: Kept, tokenizer: "StudentTokenizer") -> tuple[list[int], Soft]:
    """The target with the teacher's own tokens, and its soft targets. An end token other than the student's is no part
    of them."""
    ids = kept.token_ids.tolist()
    if ids[-1] != tokenizer.eos and ids[-1] in tokenizer.special:
        kept = Kept(*(part[:-1] for part in kept))
        ids = ids[:-1]
    return ids if ids and ids[-1] == tokenizer.eos else [*ids, tokenizer.eos], Soft(kept, 0)


def of_answer(kept: Kept, answer: str, target: Sequence[int], tokenizer: "StudentTokenizer") -> Soft | None:
    """Soft targets of an answer within a teacher's text, for the last tokens that the teacher writes as `target` does.

    The target is the student's own, by which its choices are ranked: many tokenizers write a word in a sentence with
    the space before it, and so with another token than the word alone.
    """
    text, ends = token_ends(tokenizer.backend, kept.token_ids.tolist())
    span = find_span(text, ends, answer)
    if span is None:
        return None
    first, end = span
    ended = end == len(ends) - 1 and int(kept.token_ids[end]) == tokenizer.eos == target[-1]
    end, wanted = (end + 1, target) if ended else (end, target[:-1])
    pairs = list(zip(kept.token_ids[first:end].tolist()[::-1], wanted[::-1], strict=False))
    same = next((i for i, (one, other) in enumerate(pairs) if one != other), len(pairs))
    return Soft(Kept(*(part[end - same : end] for part in kept)), len(wanted) - same) if same else None


def soften(
    encoded: Sequence[list[int]],
    kept: Sequence[Kept | None],
    texts: Sequence[str],
    writer: "SoftWriter",
    tokenizer: "StudentTokenizer",
    *,
    rationales: bool,
) -> tuple[list[list[int]], list[Soft | None]]:
    """The targets of one component and their soft targets, where there are any; else as the student writes the text."""
    targets: list[list[int]] = []
    found: list[Soft | None] = []
    for ids, item, text in zip(encoded, map(writer.readable, kept), texts, strict=True):
        if item is None:
            target, soft = ids, None
        elif rationales:
            target, soft = of_rationale(item, tokenizer)
        else:
            target, soft = ids, of_answer(item, text, ids, tokenizer)
        targets.append(target)
        found.append(soft)
    return targets, found


class SoftWriter:
    """Writes soft_ids.npy, soft_logprobs.npy and soft_spans.npy of a split, as `SoftArrays` holds them."""

    def __init__(self, folder: Path, *, width: int, vocabulary_size: int) -> None:
        self._width, self._vocabulary_size = width, vocabulary_size
        self._ids = ArrayWriter(folder / "soft_ids.npy", np.int32, (width,))
        self._values = ArrayWriter(folder / "soft_logprobs.npy", np.float16, (width,))
        self._spans = ArrayWriter(folder / "soft_spans.npy", np.int64, (3,))

    def readable(self, kept: Kept | None) -> Kept | None:
        """None where a text holds an id that no token has, which some models have room for."""
        return kept if kept and int(kept.token_ids.max()) < self._vocabulary_size else None

    def add(self, soft: Soft | None, target: Sequence[int]) -> tuple[int, int, int]:
        """The span of an example; a target that was cut keeps what is left of it."""
        if soft is None:
            return 0, 0, 0
        tokens = soft.kept.token_ids[: len(target) - soft.first]
        other = np.flatnonzero(tokens != np.asarray(target[soft.first : soft.first + len(tokens)]))
        count = int(other[0]) if len(other) else len(tokens)
        ids, values = soft.kept.top_ids[:count], soft.kept.top_logprobs[:count]
        values = np.where(ids < self._vocabulary_size, values, np.float16(-np.inf))
        missing = ((0, 0), (0, self._width - ids.shape[1]))
        start = self._ids.rows
        self._ids.add(np.pad(np.where(ids < self._vocabulary_size, ids, 0), missing))
        self._values.add(np.pad(values, missing, constant_values=-np.inf))
        return start, soft.first, count

    def place(self, spans: np.ndarray) -> None:
        """The spans of the next examples, in their order; int64 [examples, 3]."""
        self._spans.add(spans)

    def finish(self) -> None:
        for writer in (self._ids, self._values, self._spans):
            writer.finish()


def open_soft(folder: Path) -> SoftArrays | None:
    """None where the features were built without soft targets."""
    if not (folder / "soft_spans.npy").exists():
        return None
    return SoftArrays(*(np.load(folder / f"soft_{name}.npy", mmap_mode="r") for name in ("ids", "logprobs", "spans")))
