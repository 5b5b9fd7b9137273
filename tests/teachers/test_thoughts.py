"""A reasoning model's thought, parted from what it says after it."""

from typing import Any

import pytest

from tinyllm_ray.teachers.rationales import make_rationale
from tinyllm_ray.teachers.thoughts import Thought, choose_text, join_thought, split_thought


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("Because.", False, Thought("", "Because.", True)),
        ("<think>It is wet.</think>\n\nSo (b).", False, Thought("It is wet.", "So (b).", True)),
        ("\n<think>\nIt is wet.\n</think>", False, Thought("It is wet.", "", True)),
        ("It is wet.</think>So (b).", True, Thought("It is wet.", "So (b).", True)),
        ("It is wet.</think>So (b).", False, Thought("It is wet.", "So (b).", True)),
        ("<think>It is", False, Thought("It is", "", False)),
        ("It is", True, Thought("It is", "", False)),
        ("<think>\n\n</think>\n\nSo (b).", False, Thought("", "So (b).", True)),
        ("<thinking>a</thinking>b", False, Thought("a", "b", True)),
        ("I think <think> is a tag.", False, Thought("", "I think <think> is a tag.", True)),
    ],
)
def test_a_text_is_parted_at_its_tags(text: str, opened: bool, expected: Thought) -> None:
    assert split_thought(text, opened=opened) == expected


def test_the_configuration_says_what_becomes_the_rationale() -> None:
    both, plain = Thought("a", "b", True), Thought("", "b", True)
    assert [choose_text(both, how) for how in ("keep", "drop", "only")] == ["a\n\nb", "b", "a"]
    assert [choose_text(plain, how) for how in ("keep", "drop", "only")] == ["b", "b", "b"]


def test_what_a_server_gives_apart_is_one_text_again() -> None:
    for thought, said in (("a", "b"), ("", "b")):
        assert split_thought(join_thought(thought, said), opened=False) == Thought(thought, said, True)
    assert split_thought(join_thought("a", ""), opened=False) == Thought("a", "", False)


def rationale(text: str, reasoning: Any, *, finish_reason: str = "stop") -> Any:
    question = {"question_id": "q", "question": "What is wet?", "choices": ["rain", "sand"], "answer": "rain"}
    row = {"key": "k", "question": question, "sample": 0, "text": text, "finish_reason": finish_reason, "failure": ""}
    counts = {"dropped_examples": 0, "input_tokens": 3, "output_tokens": 4}
    return make_rationale(row | counts, reasoning=reasoning, opened=False)


def test_the_answer_is_read_after_the_thought_whatever_is_kept() -> None:
    text = "<think>The answer is (b)? No, sand is dry.</think>The answer is (a)."
    assert [rationale(text, how).predicted_answer for how in ("keep", "drop", "only")] == ["rain"] * 3


def test_an_unfinished_thought_is_flagged_and_fails_where_thoughts_are_dropped() -> None:
    kept = rationale("<think>Rain falls from the clouds and", "keep", finish_reason="length")
    assert (kept.failure, kept.rationale) == ("", "Rain falls from the clouds and")
    assert "unfinished_thought" in kept.flags
    dropped = rationale("<think>Rain falls from the clouds and", "drop", finish_reason="length")
    assert (dropped.failure, dropped.finish_reason, dropped.rationale) == ("unfinished thought", "failed", "")
