"""What engines that keep soft targets share: generated ids and each one's likeliest in, fields of an Outcome out."""

import functools
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyllm_ray.config import UserError
from tinyllm_ray.data.token_spans import token_ends
from tinyllm_ray.rows import Outcome
from tinyllm_ray.schema import EndpointSettings, Teacher
from tinyllm_ray.teachers.engines.models import model_path, resolved

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def check_soft_targets(teacher: Teacher) -> None:
    if not teacher.soft_targets:
        return
    known = len(teacher_vocabulary(teacher))
    if teacher.soft_targets.top_k > known:
        raise UserError(
            f"teachers.{teacher.name}.soft_targets.top_k is {teacher.soft_targets.top_k}, but the vocabulary of "
            f"{teacher.model} has {known} tokens; set it lower"
        )


def teacher_vocabulary(teacher: Teacher) -> dict[str, int]:
    """Token -> id. Raises UserError as `teacher_tokenizer` does."""
    return teacher_tokenizer(teacher).backend_tokenizer.get_vocab()


def teacher_tokenizer(teacher: Teacher) -> "PreTrainedTokenizerFast":
    """The tokenizer of the model; of a served one, that which `engine.tokenizer` names.

    Raises UserError where it is not there or is none that finds tokens in a text.
    """
    key, path, hint = f"teachers.{teacher.name}.model", model_path(teacher), ""
    if isinstance(teacher.engine, EndpointSettings):
        key, path = f"teachers.{teacher.name}.engine.tokenizer", resolved(teacher.engine.tokenizer or path)
        hint = "; soft_targets need it: name the folder or hub id of the model that the server runs"
    return _tokenizer(path, teacher.revision, teacher.trust_remote_code, teacher.name, key, hint)


@functools.lru_cache(maxsize=8)
def _tokenizer(
    path: str, revision: str | None, trust_remote_code: bool, name: str, key: str, hint: str
) -> "PreTrainedTokenizerFast":
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # noqa: BLE001 - the library in Rust raises Exception itself
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{key}: the tokenizer of {path} cannot be loaded: {reason}{hint}") from None
    if getattr(loaded, "backend_tokenizer", None) is None:
        raise UserError(
            f"teachers.{name}.soft_targets: the tokenizer of {path} has no tokenizer.json, by which tokens are found "
            "in a text; leave soft_targets out"
        )
    return loaded


def likeliest(pairs: Iterable[tuple[int, float]], k: int) -> tuple[list[int], list[float]]:
    """The `k` token ids of the largest log-probabilities, and these, the largest first."""
    best = sorted(pairs, key=lambda pair: -pair[1])[:k]
    return [number for number, _ in best], [value for _, value in best]


def with_soft_targets(
    made: Outcome, tokenizer: Any, ids: Sequence[int], *, top_ids: np.ndarray, top_logprobs: np.ndarray
) -> Outcome:
    """`ids` [n]: all that was generated, to the end token where it came; `top_...` [n, k].

    Kept are the tokens that write the outcome's text, which may be cut before a stop text, and an end token directly
    behind them. Nothing is kept of a text that its tokens do not write as it stands, such as one with a secret blanked
    or one that ends within a token.
    """
    marks = set(tokenizer.all_special_ids)
    if made.failure or not marks.isdisjoint(ids[:-1]):
        return made
    whole, ends = token_ends(tokenizer.backend_tokenizer, ids)
    if not whole.startswith(made.text):
        return made
    count, ends = _kept(whole, ends, made.text)
    if made.text[ends[count - 1] if count else 0 :].strip():
        return made
    if made.text == whole and ids[-1] in marks:
        count, ends = len(ids), [*ends[:count], *[len(whole)] * (len(ids) - count)]
    fields: dict[str, Any] = {
        "token_ids": np.asarray(ids[:count], np.int32),
        "token_ends": np.asarray(ends[:count], np.int32),
        "top_ids": top_ids[:count].astype(np.int32).ravel(),
        "top_logprobs": top_logprobs[:count].astype(np.float16).ravel(),
    }
    return replace(made, **fields)


def may_write(tokenizer: Any, ids: Sequence[int], text: str) -> bool:
    """Whether generated ids [n] may have become a text; special tokens among them leave it open."""
    if not set(tokenizer.all_special_ids).isdisjoint(ids[:-1]):
        return True
    return token_ends(tokenizer.backend_tokenizer, ids)[0].startswith(text)


def _kept(whole: str, ends: list[int], text: str) -> tuple[int, list[int]]:
    """The number of tokens that write a text, the start of `whole`, and their ends in it."""
    size = len(text)
    count = bisect_right(ends, size)
    while count and ends[count - 1] == (ends[count - 2] if count > 1 else 0):
        count -= 1  # a part of a character, or nothing
    reached = ends[count - 1] if count else 0
    if reached < size and whole[size : ends[count]].isspace():  # the stop text begins with the token's white space
        return count + 1, [*ends[:count], size]
    return count, ends
