"""Soft targets of what became the rationale: its tokens decode to it, whatever was cut and parted from it."""

import numpy as np
import pytest

from tinyllm_ray.rows import Question
from tinyllm_ray.teachers.rationales import make_rationale

QUESTION = Question("q", "Who ate it?", ["cat", "dog"], "cat")
K = 2


def row(*pieces, end=True, text=None):
    """An engine's row whose tokens are the pieces, numbered from 10 on, and the end token 1."""
    ids = [*range(10, 10 + len(pieces)), *([1] if end else [])]
    ends = np.cumsum([*map(len, pieces), *([0] if end else [])]).tolist()
    top = np.repeat(ids, K)
    fields = {"token_ids": np.array(ids, np.int32), "token_ends": np.array(ends), "top_ids": top}
    fields |= {"top_logprobs": -top.astype(np.float16), "text": text or "".join(pieces), "question": vars(QUESTION)}
    counted = {"input_tokens": 1, "output_tokens": len(ids), "dropped_examples": 0}
    return fields | counted | {"key": "k", "sample": 0, "finish_reason": "stop", "failure": ""}


def made(given, reasoning="keep"):
    rationale = make_rationale(given, reasoning=reasoning, opened=False)
    assert len(rationale.top_ids) == len(rationale.top_logprobs) == K * len(rationale.token_ids)
    assert list(rationale.top_ids) == np.repeat(np.asarray(rationale.token_ids), K).tolist()
    return rationale.rationale, list(rationale.token_ids)


def test_white_space_around_the_text_goes_with_its_tokens():
    assert made(row("\n", " The", " cat", ".")) == ("The cat.", [11, 12, 13, 1])
    assert made(row("The", " cat", ".", "\n\n")) == ("The cat.", [10, 11, 12])  # the end does not follow directly


def test_without_an_end_there_is_none():
    assert made(row("The", " cat", end=False)) == ("The cat", [10, 11])


@pytest.mark.parametrize(("reasoning", "wanted"), [("drop", ("So cat", [14, 15, 1])), ("only", ("It ate", [11, 12]))])
def test_a_thought_and_what_follows_have_their_own_tokens(reasoning, wanted):
    thinking = row("<think>", "It", " ate", "</think>", " So", " cat")
    assert made(thinking, reasoning) == wanted


def test_a_text_put_together_from_two_places_has_no_soft_targets():
    assert made(row("<think>", "It", "</think>", " So")) == ("It\n\nSo", [])


def test_a_failed_row_and_one_of_an_engine_without_soft_targets_have_none():
    assert made(row("It") | {"failure": "engine error", "text": ""}) == ("", [])
    bare = row("It", " ate")
    for name in ("token_ids", "token_ends", "top_ids", "top_logprobs"):
        del bare[name]
    assert made(bare) == ("It ate", [])
