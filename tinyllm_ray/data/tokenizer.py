"""Text to token lists for the student, and token lists to one flat file.

["predict: Is water wet?\n..."] -> [[2345, 10, 27, ..., 1]]
"""

import functools
import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.data.arrays import ArrayWriter
from tinyllm_ray.data.text_tokens import TextTokenizer, find_marks, text_tokenizer


@dataclass(frozen=True)
class StudentTokenizer:
    """A fast tokenizer and the special tokens of the student's kind."""

    backend: Any  # tokenizers.Tokenizer
    encoder_decoder: bool
    bos: int | None
    eos: int
    pad: int
    unknown: int | None = None  # what stands for text that the tokenizer cannot write

    @classmethod
    def open(cls, folder: str) -> "StudentTokenizer":
        """From a folder made by student.model.prepare_tokenizer."""
        from tokenizers import Tokenizer

        local = storage.local_folder(folder)
        try:
            backend = Tokenizer.from_file(str(local / "tokenizer.json"))
            layout = json.loads((local / "layout.json").read_text())
            tokenizer = cls(backend=backend, **layout)
        except Exception as error:  # noqa: BLE001 - tokenizers raises Exception itself
            raise UserError(f"{folder} is damaged ({error}); remove this folder, and it is made again") from None
        backend.no_truncation()
        backend.no_padding()
        return tokenizer

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Special tokens are added by this class alone; one that a text holds stays text."""
        text = self._text
        texts = [text.clean(given) for given in texts]
        return [encoding.ids for encoding in text.backend.encode_batch_fast(texts, add_special_tokens=False)]

    @functools.cached_property
    def special(self) -> frozenset[int]:
        """Ids of the special tokens."""
        return frozenset(find_marks(self.backend))

    @functools.cached_property
    def _text(self) -> TextTokenizer:
        found = text_tokenizer(self.backend, find_marks(self.backend))
        if found is None:
            raise UserError(
                "student.tokenizer: this tokenizer reads special tokens in a text always, so a question that holds one "
                "would end the text; choose another"
            )
        return found

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
    """Appends token lists to one flat .npy file."""

    def __init__(self, path: Path) -> None:
        self._array = ArrayWriter(path, np.int32)

    def add(self, encoded: list[list[int]]) -> np.ndarray:
        """[lists, 2]: start and length of each in the flat array."""
        lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
        starts = self._array.rows + np.cumsum(lengths) - lengths
        self._array.add(np.fromiter(chain.from_iterable(encoded), np.int32, int(lengths.sum())))
        return np.column_stack([starts, lengths])

    def finish(self) -> None:
        self._array.finish()
