from typing import Any

import pytest
from pydantic import ValidationError

from tinyllm_ray.data.fields import BadRow, OtherKind
from tinyllm_ray.data.formats import columns_read, read_parts, to_question
from tinyllm_ray.data.readers import Unreadable
from tinyllm_ray.rows import Question
from tinyllm_ray.schema import Dataset, Experiment

BOTH = ["iron", "cork"]
ROW = {"question": "What floats?", "choices": BOTH, "answer": "cork"}


def read(row: Any, *, reading: str = "text", **section: Any) -> Question:
    dataset = Dataset(name="mine", **{"format": "columns", **section})
    return to_question(read_parts(row, dataset=dataset, default_id="train-9"), dataset=dataset, reading=reading)


def test_columns_name_the_fields_of_a_row() -> None:
    columns = {"id": "meta.key", "question": "q", "context": ["title", "body"], "choices": "options", "answer": "gold"}
    row = {"meta": {"key": 7.0}, "q": "What floats?", "title": "Wood", "body": ["It.", None, ""], "options": BOTH}
    row["body"] = ["It is light.", " "]
    found = read({**row, "gold": 1}, columns=columns, reading="index0")
    assert found == Question("7", "What floats?", BOTH, "cork", "Wood\nIt is light.")


def test_the_premise_is_the_context_and_the_hypothesis_the_question() -> None:
    section = {
        "task": "label",
        "labels": ["entailment", "neutral", "contradiction"],
        "columns": {"context": "premise", "question": "hypothesis", "answer": "label"},
    }
    row = {"premise": "Cork floats.", "hypothesis": "Cork sinks.", "label": 2}
    labels = ["entailment", "neutral", "contradiction"]
    assert read(row, reading="index0", **section) == Question(
        "train-9", "Cork sinks.", labels, "contradiction", "Cork floats.", task="label"
    )
    assert read({**row, "label": "Neutral"}, **section).answer == "neutral"


def test_free_answers_are_kept_as_they_are() -> None:
    number = {"task": "number", "columns": {"answer_after": "####"}}
    assert read({"question": "6 x 7?", "answer": "It is\n#### 42"}, **number) == Question(
        "train-9", "6 x 7?", [], "42", task="number"
    )
    boxed = {"task": "text", "columns": {"answer_after": "\\boxed{"}}
    worked = {"question": "6 over 7?", "answer": "Not \\boxed{1}. It is $\\boxed{\\frac{6}{7}}$, {as said}."}
    assert read(worked, **boxed).answer == "\\frac{6}{7}"
    assert read({"question": "1 - 2?", "answer": -1}, task="number").answer == "-1"
    assert read({"question": "?", "answer": 84.0}, task="number").answer == "84"
    text = {"task": "text", "columns": {"answer": "answer.value", "accepted": "answer.aliases"}}
    row = {"question": "Where?", "answer": {"value": "Rome", "aliases": ["Roma", "Rome"]}}
    assert read(row, **text) == Question("train-9", "Where?", [], "Rome", "", ["Roma"], "text")


def test_the_right_answer_and_its_distractors_are_choices() -> None:
    row = {"question": "What floats?", "right": "cork", "wrong": ["iron", "lead"]}
    found = read(row, columns={"answer": "right", "distractors": "wrong"})
    assert (sorted(found.choices), found.answer) == (["cork", "iron", "lead"], "cork")


def test_an_empty_place_among_the_choices_keeps_the_others_positions() -> None:
    row = {"question": "?", "choices": ["iron", None, "cork", None], "answer": 2}
    assert read(row, reading="index0") == Question("train-9", "?", BOTH, "cork")
    assert read({**row, "answer": "C"}, reading="letter").answer == "cork"
    with pytest.raises(BadRow, match="answer 1 is not among the choices"):
        read({**row, "answer": 1}, reading="index0")


def test_the_right_choice_may_be_marked_at_the_choices() -> None:
    marked = [{"text": "iron", "right": False}, {"text": "cork", "right": True}]
    found = read({"question": "?", "choices": marked}, columns={"answer": "choices.right"}, reading="index0")
    assert found == Question("train-9", "?", BOTH, "cork")


def test_ids_may_be_absent_numbers_or_nested() -> None:
    assert read(ROW).question_id == "train-9"
    assert read({**ROW, "id": None}).question_id == "train-9"
    assert read({**ROW, "id": 17}).question_id == "17"
    with pytest.raises(BadRow, match="no key; the row has"):
        read(ROW, columns={"id": "key"})


def test_rows_of_another_kind_are_no_mistake() -> None:
    where = {"type": "yesno", "year": [2001, 2002]}
    assert read({**ROW, "type": "yesno", "year": 2002}, where=where).answer == "cork"
    assert read({**ROW, "type": "yesno", "year": "2001"}, where=where).answer == "cork"
    for other in ({"type": "list", "year": 2002}, {"type": "yesno", "year": 2003}):
        with pytest.raises(OtherKind):
            read({**ROW, **other}, where=where)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": None}, "no question; the row has question, choices, answer"),
        ({"question": " "}, "no question"),
        ({"question": 5}, "question is of type int"),
        ({"question": Unreadable("not UTF-8")}, "question is unreadable: not UTF-8"),
        ({"choices": ["cork"]}, "1 choice"),
        ({"choices": [*map(str, range(26)), "cork"]}, "27 choices"),
        ({"choices": ["cork", ""]}, "a choice is empty"),
        ({"choices": ["cork", "cork "]}, "two choices are 'cork"),
        ({"choices": [None, None]}, "there are no choices"),
        ({"answer": "lead"}, "'lead' is not among the choices when it is read as the text"),
        ({"answer": None}, "no answer"),
        ({"answer": {"a": 1}}, "not among the choices"),
        ({"id": ""}, "id is empty"),
        ({"id": [1]}, "id is of type list"),
        ({"question": "q\ud800"}, "broken UTF-8"),
    ],
)
def test_a_bad_row_says_why(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        read({**ROW, **change})


def test_a_row_without_the_named_columns_says_which() -> None:
    with pytest.raises(BadRow, match="the row is of type list, not an object"):
        read(["a"])
    with pytest.raises(BadRow, match="no answer; the row has question, choices"):
        read({"question": "?", "choices": BOTH})
    with pytest.raises(BadRow, match="no passage; the row has"):
        read(ROW, columns={"context": "passage"})
    assert read({**ROW, "passage": None}, columns={"context": "passage"}).context == ""


def test_a_column_named_context_is_the_passage_where_it_holds_text() -> None:
    assert read({**ROW, "context": "Wood is light."}).context == "Wood is light."
    assert read({**ROW, "context": ["Wood is light.", "Iron is not."]}).context == "Wood is light.\nIron is not."
    assert read({**ROW, "context": {"meshes": []}}).context == ""
    with pytest.raises(BadRow, match="context is unreadable"):
        read({**ROW, "context": Unreadable("not UTF-8")})


def test_only_the_columns_that_are_used_are_asked_for() -> None:
    section = {"columns": {"question": "q.stem | q", "choices": ["a", "b"], "context": "c.d"}, "where": {"kind": "x"}}
    assert sorted(columns_read(Dataset(name="mine", format="columns", **section))) == [
        "a",
        "answer",
        "b",
        "c",
        "kind",
        "q",
    ]
    labels = Dataset(name="mine", format="columns", task="label", labels=["yes", "no"])
    assert columns_read(labels) == ["question", "answer"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"task": "label"}, "must name two different labels or more"),
        ({"task": "text", "labels": ["a", "b"]}, "labels are given, but task is text"),
        ({"task": "number", "columns": {"answer_is": "letter"}}, "takes columns.answer_is: value"),
        ({"columns": {"answer_is": "value"}}, "for the tasks number and text"),
        ({"task": "label", "labels": ["a", "b"], "columns": {"answer_is": "label"}}, "for `labels` set text"),
        ({"columns": {"choices": None}}, "no choices: set columns.choices, columns.distractors or labels"),
        ({"splits": {"test": "t"}, "split_from_train": {"test": 0.1}}, "both name test"),
        ({"split_from_train": {"test": 0.5, "validation": 0.5}}, "must sum to less than 1"),
    ],
)
def test_keys_that_do_not_fit_together_are_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Dataset(name="mine", format="columns", **section)


def test_a_named_layout_sets_keys_and_what_is_given_goes_before_it() -> None:
    named = Dataset(name="mine", format="socialiqa", columns={"id": "key"})
    assert named.columns.choices == ["answerA", "answerB", "answerC"]
    assert (named.columns.id, named.columns.answer_is) == ("key", "index1")
    assert Dataset.model_validate(named.model_dump()) == named


def test_a_layout_with_free_answers_is_scored_by_what_is_generated() -> None:
    raw = {"name": "mine", "dataset": {"name": "gsm8k", "format": "gsm8k"}, "student": {"model": "s"}}
    assert Experiment.model_validate(raw).evaluation.by == "generation"
