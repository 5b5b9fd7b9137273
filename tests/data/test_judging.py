"""A judge's prompt and its score, character by character."""

from pathlib import Path

import pytest

from tinyllm_ray.config import UserError
from tinyllm_ray.data.judging import judge_prompt, load_judge_prompt, read_score
from tinyllm_ray.rows import Question

FORM = "Q: {question}\nOptions:\n{choices}\nA: {answer}\nWhy: {rationale}\nScore:\n"


def test_the_prompt_holds_question_choices_answer_and_rationale() -> None:
    asked = Question("q", "What floats?", ["iron", "cork"], "cork")
    prompt = judge_prompt(asked, " It is {light}. ", form=FORM)
    assert prompt == "Q: What floats?\nOptions:\n(a) iron\n(b) cork\nA: (b)\nWhy: It is {light}.\nScore:"


def test_a_question_without_choices_has_no_lines_for_them() -> None:
    asked = Question("q", "2 + 2?", [], "4", task="number")
    assert judge_prompt(asked, "Two and two.", form=FORM) == "Q: 2 + 2?\nA: 4\nWhy: Two and two.\nScore:"


def test_the_packaged_prompt_can_be_filled() -> None:
    asked = Question("q", "What floats?", ["iron", "cork"], "cork", context="On water.")
    prompt = judge_prompt(asked, "Cork is light.", form=load_judge_prompt("default"))
    assert "Question: On water.\nWhat floats?\n" in prompt and "Explanation: Cork is light.\n" in prompt
    assert prompt.endswith("Score:")


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("4", 4),
        ("Score: 2.", 2),
        ("I give 5/5", 5),
        ("**3**", 3),
        ("10", 0),
        ("3.5", 0),
        ("7, no: 1", 1),
        ("six", 0),
        ("", 0),
    ],
)
def test_the_score_is_the_first_number_from_1_to_5_that_stands_by_itself(text: str, score: int) -> None:
    assert read_score(text) == score


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("{question} {rationale} {examples}", r"holds '\{examples\}'; allowed in braces: .*\{rationale\}"),
        ("{question}", r"must hold \{rationale\} once"),
        ("{rationale} {rationale} {question}", r"must hold \{rationale\} once"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_refused_with_its_key(tmp_path: Path, form: str, message: str) -> None:
    path = tmp_path / "judge.txt"
    path.write_text(form)
    with pytest.raises(UserError, match=r"rationales.judge.prompt: .*" + message):
        load_judge_prompt(str(path))


def test_a_prompt_that_is_not_there_is_refused_with_its_key() -> None:
    with pytest.raises(UserError, match=r"rationales.judge.prompt: 'no.txt' is neither 'default' nor a readable"):
        load_judge_prompt("no.txt")
