from typing import Any

import pytest

from tinyllm_ray.data.formats import BadRow, OtherKind, to_question
from tinyllm_ray.rows import Question
from tinyllm_ray.schema import Columns

COLUMNS = Columns()


def read(form: str, row: Any, columns: Columns = COLUMNS) -> Question:
    return to_question(row, form=form, default_id="train-9", columns=columns)


WITH_STEM = {"stem": "What floats?", "choices": [{"label": "1", "text": "iron"}, {"label": "2", "text": "cork"}]}
NESTED = {"text": ["iron", "cork"], "label": ["A", "B"]}
BOTH = ["iron", "cork"]


@pytest.mark.parametrize(
    ("form", "row", "expected"),
    [
        (
            "reference",
            {"id": 7, "question": "What floats?", "choices": BOTH, "answer": "cork"},
            Question("7", "What floats?", BOTH, "cork"),
        ),
        (
            "obqa",
            {"id": "8-1", "question_stem": "What floats?", "choices": NESTED, "answerKey": "B"},
            Question("8-1", "What floats?", BOTH, "cork"),
        ),
        ("obqa", {"id": "8-2", "question": WITH_STEM, "answerKey": "1"}, Question("8-2", "What floats?", BOTH, "iron")),
        (
            "arc",
            {"id": "T", "question": "What floats?", "choices": NESTED, "answerKey": "A"},
            Question("T", "What floats?", BOTH, "iron"),
        ),
        (
            "riddle",
            {"question": "What floats?", "choices": NESTED, "answerKey": "B"},
            Question("train-9", "What floats?", BOTH, "cork"),
        ),
        (
            "piqa",
            {"goal": "Dry shoes", "sol1": "paper", "sol2": "water", "label": 1},
            Question("train-9", "Dry shoes", ["paper", "water"], "water"),
        ),
        (
            "pubmedqa",
            {
                "pubid": 17,
                "question": "Does tea help?",
                "context": {"contexts": ["We gave tea.", "They slept."]},
                "final_decision": "maybe",
            },
            Question("17", "We gave tea. \n They slept. \n Does tea help?", ["yes", "no", "maybe"], "maybe"),
        ),
        (
            "bioasq",
            {
                "id": "5a",
                "type": "yesno",
                "body": "Is iron a metal?",
                "snippets": [{"text": "Iron is."}],
                "exact_answer": ["Yes"],
            },
            Question("5a", "Iron is. \n Is iron a metal?", ["yes", "no"], "yes"),
        ),
    ],
)
def test_each_publishers_row_becomes_a_question(form: str, row: Any, expected: Question) -> None:
    assert read(form, row) == expected


def test_columns_name_the_fields_of_a_generic_row() -> None:
    columns = Columns(id="key", question="q", choices="options", answer="gold")
    row = {"key": "k", "q": "What floats?", "options": BOTH, "gold": 1}
    assert read("jsonl", row, columns) == Question("k", "What floats?", BOTH, "cork")


@pytest.mark.parametrize(
    ("answer", "text"),
    [("cork", "cork"), ("Cork.", "cork"), ("b", "cork"), ("(B)", "cork"), (0, "iron"), ("1", "cork")],
)
def test_an_answer_may_be_text_letter_or_position(answer: Any, text: str) -> None:
    assert read("json", {"question": "What floats?", "choices": BOTH, "answer": answer}).answer == text


def test_an_answers_text_goes_before_its_position() -> None:
    assert read("json", {"question": "1 + 0?", "choices": ["1", "0"], "answer": "1"}).answer == "1"


@pytest.mark.parametrize(
    ("form", "row", "reason"),
    [
        ("jsonl", ["a"], "not an object"),
        ("jsonl", {"choices": BOTH, "answer": "cork"}, "no question; the row has choices, answer"),
        ("jsonl", {"question": " ", "choices": BOTH, "answer": "cork"}, "no question"),
        ("jsonl", {"question": 5, "choices": BOTH, "answer": "cork"}, "question is of type int"),
        ("jsonl", {"question": "q", "choices": ["cork"], "answer": "cork"}, "1 choices"),
        ("jsonl", {"question": "q", "choices": [str(n) for n in range(27)], "answer": "1"}, "27 choices"),
        ("jsonl", {"question": "q", "choices": "ab", "answer": "a"}, "choices is of type str"),
        ("jsonl", {"question": "q", "choices": ["a", None], "answer": "a"}, "a choice is null"),
        ("jsonl", {"question": "q", "choices": ["a", ""], "answer": "a"}, "a choice is empty"),
        ("jsonl", {"question": "q", "choices": BOTH, "answer": "lead"}, "'lead' is not among the choices"),
        ("jsonl", {"question": "q", "choices": BOTH, "answer": 2}, "outside of the 2 choices"),
        ("jsonl", {"question": "q", "choices": BOTH, "answer": True}, "answer is of type bool"),
        ("jsonl", {"question": "q", "choices": BOTH, "answer": None}, "no answer"),
        ("jsonl", {"question": "q\ud800", "choices": BOTH, "answer": 0}, "broken UTF-8"),
        ("jsonl", {"id": "", "question": "q", "choices": BOTH, "answer": 0}, "id is empty"),
        ("obqa", {"question_stem": "q", "choices": {"text": BOTH}, "answerKey": "A"}, "no label"),
        ("arc", {"question": "q", "choices": NESTED, "answerKey": "E"}, "'E' is not one of the labels"),
        ("piqa", {"goal": "g", "sol1": "a", "sol2": "b", "label": -1}, "label is -1"),
        ("piqa", {"goal": "g", "sol1": "a", "sol2": "b", "label": "x"}, "label is x"),
        ("pubmedqa", {"question": "q", "context": "text", "final_decision": "yes"}, "context is of type str"),
        ("bioasq", {"body": "q", "snippets": [], "exact_answer": []}, "answer is of type list"),
    ],
)
def test_a_bad_row_says_why(form: str, row: Any, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        read(form, row)


def test_questions_of_another_kind_are_no_mistake() -> None:
    with pytest.raises(OtherKind):
        read("bioasq", {"type": "list", "body": "Which?", "snippets": [], "exact_answer": ["a"]})


def test_labels_come_by_name_or_number_with_their_passage() -> None:
    columns = Columns(question="hypothesis", context="premise", answer="label")
    row = {"premise": "He runs.", "hypothesis": "He rests."}
    for label in (1, "1", "no"):
        asked = to_question(
            row | {"label": label}, form="jsonl", default_id="t", columns=columns, task="label", labels=["yes", "no"]
        )
        assert asked == Question("t", "He rests.", ["yes", "no"], "no", context="He runs.", task="label")
    for label, reason in ((2, "label 2 is not one of the numbers 0 to 1"), ("maybe", "'maybe' is not one of yes, no")):
        with pytest.raises(BadRow, match=reason):
            to_question(
                row | {"label": label},
                form="jsonl",
                default_id="t",
                columns=columns,
                task="label",
                labels=["yes", "no"],
            )


def test_free_answers_need_no_choices_and_may_be_several() -> None:
    asked = to_question(
        {"question": "Which city?", "answer": ["Rome", "Roma"]},
        form="jsonl",
        default_id="t",
        columns=COLUMNS,
        task="text",
    )
    assert asked == Question("t", "Which city?", [], "Rome", accepted=["Roma"], task="text")
    row = {"question": "How many?", "answer": "( 84.0 / 2.0 )", "context": "A passage."}
    asked = to_question(row, form="jsonl", default_id="t", columns=COLUMNS, task="number")
    assert asked == Question("t", "How many?", [], "( 84.0 / 2.0 )", context="A passage.", task="number")
    with pytest.raises(BadRow, match="'many' is neither a number"):
        to_question(row | {"answer": "many"}, form="jsonl", default_id="t", columns=COLUMNS, task="number")
