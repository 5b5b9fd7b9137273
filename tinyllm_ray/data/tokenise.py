"""Text to token lists for the student, and token lists to one flat file.

["predict: Is water wet?\n..."] -> [[2345, 10, 27, ..., 1]]
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyllm_ray import storage


@dataclass(frozen=True)
class StudentTokenizer:
    """A fast tokenizer and the special tokens of the student's kind."""

    backend: Any  # tokenizers.Tokenizer
    encoder_decoder: bool
    bos: int | None
    eos: int
    pad: int

    @classmethod
    def open(cls, folder: str) -> "StudentTokenizer":
        """From a folder made by student.model.prepare_tokenizer."""
        from tokenizers import Tokenizer

        local = storage.local_folder(folder)
        backend = Tokenizer.from_file(str(local / "tokenizer.json"))
        backend.no_truncation()
        backend.no_padding()
        return cls(backend=backend, **json.loads((local / "layout.json").read_text()))

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def sources(self, texts: list[str]) -> list[list[int]]:
        """Encoder inputs, or the prompts of a decoder-only student, which end in a line break."""
        if self.encoder_decoder:
            return [[*ids, self.eos] for ids in self.encode(texts)]
        first = [] if self.bos is None else [self.bos]
        return [[*first, *ids] for ids in self.encode([f"{text}\n" for text in texts])]

    def targets(self, texts: list[str]) -> list[list[int]]:
        return [[*ids, self.eos] for ids in self.encode(texts)]

    def decode(self, ids: list[int]) -> str:
        return self.backend.decode(ids, skip_special_tokens=True).strip()

    def cut(self, ids: list[int], limit: int, *, target: bool) -> list[int]:
        """At most `limit` tokens; the end mark stays, as in the reference."""
        if len(ids) <= limit:
            return ids
        return [*ids[: limit - 1], self.eos] if target or self.encoder_decoder else ids[:limit]


class TokenWriter:
    """Appends token lists to one flat file."""

    def __init__(self, path: Path) -> None:
        self.path, self.file, self.written = path, path.open("wb"), 0

    def add(self, encoded: list[list[int]]) -> np.ndarray:
        """[lists, 2]: start and length of each in the flat array."""
        lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
        flat = np.fromiter((token for ids in encoded for token in ids), dtype=np.int32, count=int(lengths.sum()))
        self.file.write(flat.tobytes())
        starts = (
            self.written + np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)[:-1]]) if len(encoded) else lengths
        )
        self.written += len(flat)
        return np.column_stack([starts, lengths])

    def finish(self, target: Path) -> None:
        self.file.close()
        array = np.lib.format.open_memmap(target, mode="w+", dtype=np.int32, shape=(self.written,))
        if self.written:
            array[:] = np.memmap(self.path, dtype=np.int32, mode="r")
        array.flush()
        self.path.unlink()
