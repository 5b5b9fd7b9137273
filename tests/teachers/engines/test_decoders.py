"""When a text that loops is ended: the same answer as vLLM's own rule, and what is made of Ray's rows."""

import random
from pathlib import Path
from typing import Any

import pytest
from support.tiny_teachers import save_tokenizer
from transformers import AutoTokenizer

from tinyllm_ray.schema import Sampling
from tinyllm_ray.teachers.engines.base import failed, outcome
from tinyllm_ray.teachers.engines.decoders import ends_in_repeats, repetition_detection
from tinyllm_ray.teachers.engines.ray_data_llm import _outcome, _soft

SAMPLING = Sampling(max_tokens=100, stop=["\n\n", "\nQuestion:"], stop_at_repeats=3)


def test_a_run_of_eight_tokens_three_times_in_a_row_is_a_loop_and_nothing_shorter() -> None:
    run = list(range(8))
    assert ends_in_repeats([99, *run * 3], SAMPLING)
    assert not ends_in_repeats([99, *run * 2], SAMPLING)
    assert not ends_in_repeats([99, *run * 3, 5], SAMPLING)
    assert not ends_in_repeats([7] * 23, SAMPLING) and ends_in_repeats([7] * 24, SAMPLING)
    assert not ends_in_repeats([*range(41)] * 3, SAMPLING) and ends_in_repeats([*range(40)] * 3, SAMPLING)
    assert not ends_in_repeats([99, *run * 9], Sampling())


def test_the_rule_is_vllms_own() -> None:
    from vllm.sampling_params import RepetitionDetectionParams
    from vllm.v1.core.sched.utils import check_sequence_repetition

    params = RepetitionDetectionParams(**repetition_detection(SAMPLING))
    draw, found = random.Random(0), 0
    for _ in range(400):
        run = [draw.randrange(3) for _ in range(draw.randrange(1, 45))]
        tokens = [draw.randrange(3) for _ in range(5)] + run * draw.randrange(1, 5) + [0] * draw.randrange(2)
        assert ends_in_repeats(tokens, SAMPLING) == check_sequence_repetition(tokens, params)
        found += ends_in_repeats(tokens, SAMPLING)
    assert 50 < found < 350


@pytest.mark.parametrize(
    ("text", "tokens", "stored", "reason", "saved"),
    [
        ("Ice melts.\nQuestion:", [*range(30)], "Ice melts.", "stop", 70),
        ("Ice melts.", [*range(30)], "Ice melts.", "stop", 0),  # by an end token of its own
        ("so so so", [*range(8)] * 3, "so so so", "repetition", 76),
        ("so so so", [*range(25)] * 4, "so so so", "length", 0),  # the last token was one of the loop and of the limit
    ],
)
def test_why_a_text_of_ray_data_llm_ended(text: str, tokens: list[int], stored: str, reason: str, saved: int) -> None:
    row: dict[str, Any] = {"__inference_error__": "", "generated_text": text, "generated_tokens": tokens}
    made = _outcome(row | {"num_input_tokens": 9}, SAMPLING)
    assert (made.text, made.finish_reason, made.saved_tokens) == (stored, reason, saved)
    assert (made.input_tokens, made.output_tokens) == (9, len(tokens))


def test_ray_data_llm_keeps_the_likeliest_without_the_written_token_that_is_none_of_them(tmp_path: Path) -> None:
    """A dictionary for each token, the written one first, as Ray gives vLLM's; a failed row has none."""
    save_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    first, second = tokenizer("the rain", add_special_tokens=False)["input_ids"]
    places = [{first: -0.5, 7: -1.5}, {second: -3.0, 8: -0.25, 9: -2.0}]
    row: dict[str, Any] = {
        "generated_tokens": [first, second],
        "logprobs": [{token: {"logprob": value, "rank": 1} for token, value in place.items()} for place in places],
    }
    found = _soft(outcome("the rain", "stop", input_tokens=1, output_tokens=2), row, tokenizer=tokenizer, top_k=2)
    assert (found.token_ids.tolist(), found.top_ids.tolist()) == ([first, second], [first, 7, 8, 9])
    assert found.top_logprobs.tolist() == [-0.5, -1.5, -0.25, -2.0]
    lost = failed("engine error: no")
    assert _soft(lost, {"generated_tokens": [], "logprobs": None}, tokenizer=tokenizer, top_k=2) is lost
