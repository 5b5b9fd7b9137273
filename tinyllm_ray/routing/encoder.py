"""Vectors of questions: texts in, what an encoder makes of them out, [questions, width] in float32.

The encoder is any model that transformers loads, such as a sentence-transformers folder, or the student as it is before
training; it runs on the CPU, where a router is made. A student that is made from scratch has nothing to say about a
text, so the words take its place.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tinyllm_ray.config import UserError
from tinyllm_ray.data.model_digest import folder_digest
from tinyllm_ray.rows import Question
from tinyllm_ray.schema import Experiment
from tinyllm_ray.student.model import load_student

BATCH = 32  # texts of one forward pass
WORD_WIDTH = 384
_POOLING = "1_Pooling/config.json"  # of a sentence-transformers folder


@dataclass(frozen=True)
class Encoder:
    model: nn.Module
    encode: Callable[[list[str]], list[list[int]]]  # texts -> tokens, cut to the wanted length
    first_token: bool  # its vector is the first token's state instead of the mean of all

    @torch.no_grad()
    def vectors(self, texts: Sequence[str], *, advance: Callable[[int], None]) -> np.ndarray:
        """[texts, width]; texts of similar length share a forward pass."""
        encoded = self.encode(list(texts))
        order = sorted(range(len(encoded)), key=lambda place: len(encoded[place]))
        found: list[np.ndarray] = []
        for start in range(0, len(order), BATCH):
            batch = [encoded[place] for place in order[start : start + BATCH]]
            found.append(self._pooled(batch).numpy())
            advance(len(batch))
        return np.concatenate(found)[np.argsort(order)]

    def _pooled(self, batch: list[list[int]]) -> torch.Tensor:
        """[batch, width]"""
        ids, mask = torch.zeros(2, len(batch), max(map(len, batch)), dtype=torch.long)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state  # [batch, tokens, width]
        if self.first_token:
            return states[:, 0]
        return (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


def router_text(question: Question) -> str:
    """The question, then its passage where there is one. The choices stand for no subject, so they are left out."""
    return f"{question.question}\n{question.context}".strip()


def question_vectors(
    experiment: Experiment, questions: Sequence[Question], *, tokenizer_folder: str, advance: Callable[[int], None]
) -> np.ndarray:
    """[questions, width]. Raises UserError where `rationales.router.encoder` cannot be loaded."""
    texts = [router_text(question) for question in questions]
    if _reads_words(experiment):
        advance(len(texts))
        return word_vectors(texts)
    return load_encoder(experiment, tokenizer_folder=tokenizer_folder).vectors(texts, advance=advance)


def word_vectors(texts: Sequence[str]) -> np.ndarray:
    """[texts, WORD_WIDTH]: the sum of a text's words, each a random vector of its own times log(texts / those with it).

    Rare words, such as names, decide; a word of every text counts nothing.
    """
    words = [re.findall(r"\w+", text.lower()) for text in texts]
    found = Counter(word for row in words for word in set(row))
    weighted = {word: math.log(len(texts) / count) * _word_vector(word) for word, count in found.items()}
    return np.array([sum((weighted[word] for word in row), np.zeros(WORD_WIDTH)) for row in words], np.float32)


def encoder_key(experiment: Experiment, *, tokenizer_folder: str) -> list[Any]:
    """What the vectors depend on beside the questions."""
    settings, student = experiment.rationales.router, experiment.student
    if _reads_words(experiment):
        return ["words", WORD_WIDTH]
    if settings.encoder is None:
        folder = Path(student.model).expanduser()
        content = folder_digest(str(folder)) if folder.is_dir() else student.revision
        return ["student", student.model, content, tokenizer_folder.rpartition("/")[2], settings.max_tokens]
    folder = Path(settings.encoder).expanduser()
    return [settings.encoder, folder_digest(str(folder)) if folder.is_dir() else None, settings.max_tokens]


def load_encoder(experiment: Experiment, *, tokenizer_folder: str) -> Encoder:
    """Raises UserError where `rationales.router.encoder` cannot be loaded."""
    settings = experiment.rationales.router
    if settings.encoder is None:
        student = experiment.student.model_copy(update={"lora": None})
        model, tokenizer = load_student(student, tokenizer_folder=tokenizer_folder, seed=0)
        return Encoder(
            _without_head(model),
            lambda texts: [tokenizer.cut(ids, settings.max_tokens, target=False) for ids in tokenizer.sources(texts)],
            first_token=False,
        )
    return load_named(str(Path(settings.encoder).expanduser()), max_tokens=settings.max_tokens)


def _reads_words(experiment: Experiment) -> bool:
    student = experiment.student
    return experiment.rationales.router.encoder is None and student.model in student.from_scratch


def _word_vector(word: str) -> np.ndarray:
    """[WORD_WIDTH], of length about 1; equal on every machine."""
    seed = int.from_bytes(hashlib.blake2b(word.encode(errors="surrogatepass"), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).standard_normal(WORD_WIDTH) / math.sqrt(WORD_WIDTH)


def load_named(name: str, *, max_tokens: int) -> Encoder:
    """A model of transformers by its folder or hub id. Raises UserError where it cannot be loaded."""
    from transformers import AutoModel, AutoTokenizer

    try:
        model = AutoModel.from_pretrained(name, use_safetensors=True, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(name)
        pooling = _read_pooling(name)
    except Exception as error:  # noqa: BLE001 - damaged files make transformers and tokenizers raise almost anything
        raise UserError(
            f"rationales.router.encoder: {name!r} cannot be loaded: {type(error).__name__}: "
            f"{' '.join(str(error).split())}; name a folder or hub id of a model, or leave the key out"
        ) from None
    return Encoder(
        _without_head(model),
        lambda texts: tokenizer(texts, truncation=True, max_length=max_tokens)["input_ids"],
        first_token=pooling.get("pooling_mode_cls_token") is True,
    )


def _without_head(model: Any) -> nn.Module:
    """What turns tokens into hidden states: the encoder of an encoder-decoder, else the model without its head."""
    inner = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    return inner.eval().requires_grad_(False)


def _read_pooling(name: str) -> dict[str, Any]:
    """Empty for a model that is not of sentence-transformers."""
    from transformers.utils import cached_file

    path = cached_file(name, _POOLING, _raise_exceptions_for_missing_entries=False)
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
