"""What the kinds of task have in common."""

import inspect
import time
from typing import get_args

import pytest

from tinyllm_ray.config import UserError, validate
from tinyllm_ray.rows import Question
from tinyllm_ray.schema import TaskName
from tinyllm_ray.schema.base import FREE_TASKS
from tinyllm_ray.tasks.registry import Task, task_of

KINDS = get_args(TaskName)
QUESTIONS = {
    "choice": Question("q", "What floats?", ["iron", "cork"], "cork", task="choice"),
    "label": Question("q", "It is good.", ["positive", "negative"], "positive", task="label"),
    "number": Question("q", "How many?", [], "6 * 7", task="number"),
    "text": Question("q", "Which city?", [], "Rome", task="text"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_all_functions_with_the_same_parameters(kind: TaskName) -> None:
    module = task_of(kind)
    for name, wanted in inspect.getmembers(Task, inspect.isfunction):
        if not name.startswith("_"):
            given = inspect.signature(getattr(module, name)).parameters
            assert list(given) == list(inspect.signature(wanted).parameters)[1:]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stated_right_answer_is_read_and_right(kind: TaskName) -> None:
    task, question = task_of(kind), QUESTIONS[kind]
    read = task.read(f"Because it is so. The answer is {question.answer}.", question)
    assert read and task.is_right(read, question) and task.same(read, question.answer)
    assert task.problem(question) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_the_gold_answer_alone_is_right_and_nothing_is_wrong(kind: TaskName) -> None:
    task, question = task_of(kind), QUESTIONS[kind]
    assert task.is_right(question.answer, question)
    assert task.read("", question) == ""
    assert not task.is_right("", question)


@pytest.mark.parametrize("kind", KINDS)
def test_the_passage_is_in_what_the_student_reads(kind: TaskName) -> None:
    question = QUESTIONS[kind]
    with_passage = Question(**{**vars(question), "context": "A passage."})
    assert task_of(kind).student_text(with_passage) == f"A passage.\n{task_of(kind).student_text(question)}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_ranked_exactly_where_it_has_choices(kind: TaskName) -> None:
    assert ("ranking" in task_of(kind).SCORINGS) == bool(QUESTIONS[kind].choices) == (kind not in FREE_TASKS)


def experiment(dataset: dict, **sections: dict) -> dict:
    return {"name": "e", "dataset": {"name": "d", **dataset}, "student": {"model": "m"}, **sections}


def test_a_free_answer_is_generated_unless_asked_otherwise_and_ranking_it_is_refused() -> None:
    assert validate(experiment({"task": "number"})).evaluation.by == "generation"
    assert validate(experiment({"task": "text"}, evaluation={"batch_size": 2})).evaluation.by == "generation"
    assert validate(experiment({})).evaluation.by == "ranking"
    with pytest.raises(UserError, match=r"dataset\.task number has not"):
        validate(experiment({"task": "number"}, evaluation={"by": "ranking"}))


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"task": "label"}, "must name two different labels"),
        ({"task": "label", "labels": ["yes", "yes"]}, "must name two different labels"),
        ({"labels": ["yes", "no"]}, "labels are given, but task is choice"),
    ],
)
def test_labels_belong_to_the_task_label(dataset: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(experiment(dataset))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["the answer is ", "\\boxed{", " question:", "\n# ", "1 and 2 ", "(", '"'])
def test_a_text_of_any_length_is_read_in_little_time(kind: TaskName, part: str) -> None:
    """200,000 characters of what a looping model may write; reading each statement to the end would take minutes."""
    started = time.process_time()
    task_of(kind).read(part * (200_000 // len(part)), QUESTIONS[kind])
    assert time.process_time() - started < 5
