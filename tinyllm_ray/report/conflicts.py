"""What the teachers answer by themselves, and where they contradict each other, as the page shows it.

In: the stores of own answers, or of rationales where there are no others, and the questions. Out: OwnAnswers, and the
questions on which the teachers disagree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinyllm_ray.config import UserError
from tinyllm_ray.data import store
from tinyllm_ray.data.conflict import Answers, Conflict, find_conflict
from tinyllm_ray.data.store import StoreId
from tinyllm_ray.rows import SPLITS, Question
from tinyllm_ray.schema import Experiment
from tinyllm_ray.tasks.registry import task_of

SHOWN = 10  # questions on which teachers contradict each other


@dataclass(frozen=True)
class OwnAnswers:
    """Of the first split that every teacher has answered."""

    split: str
    found: Conflict
    forced: bool  # the answers are what rationales state that may have been written with the gold answer in view
    answers: Answers = field(repr=False)
    questions: Sequence[Question] = field(repr=False)


@dataclass(frozen=True)
class Contradiction:
    """A question with what each teacher answers, whether that is right, and its rationale."""

    question: Question
    said: list[dict[str, Any]]  # teacher, answer, right, text


def read_own_answers(
    experiment: Experiment,
    tags: Mapping[str, str],
    questions: Mapping[str, Sequence[Question]],
    stores: Mapping[str, str],
    missing: list[str],
) -> OwnAnswers | None:
    """From the stores of own answers that the run names in `tags`, else from the rationales in `stores`; None where
    some teacher has neither."""
    names = [teacher.name for teacher in experiment.teachers]
    own = {name: tags[key] for name in names if (key := f"rationales.{StoreId(name, answers=True)}") in tags}
    for folders, forced in ((own, False), (stores, True)):
        for split in SPLITS if names and set(folders) == set(names) else []:
            try:
                answers = {name: store.every_answer(folders[name], split) for name in names}
            except (UserError, OSError) as error:
                missing.append(f"the teachers' own answers to {split}: {error}")
                continue
            if all(answers.values()) and split in questions:
                return OwnAnswers(split, find_conflict(questions[split], answers), forced, answers, questions[split])
    return None


def find_contradictions(
    own: OwnAnswers, rationales: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> list[Contradiction]:
    """Evenly spread over the questions to which two teachers state different answers. `rationales`: teacher ->
    question id -> row of its store."""
    disputed = [question for question in own.questions if _disagree(question, own.answers)]
    count = min(SHOWN, len(disputed))
    return [_shown(disputed[i * len(disputed) // count], own.answers, rationales) for i in range(count)]


def _first(answers: Answers, teacher: str, question: Question) -> str:
    return next(iter(answers[teacher].get(question.question_id, [])), "")


def _disagree(question: Question, answers: Answers) -> bool:
    stated = [answer for teacher in answers if (answer := _first(answers, teacher, question))]
    return any(not task_of(question.task).same(stated[0], other) for other in stated[1:])


def _shown(
    question: Question, answers: Answers, rationales: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> Contradiction:
    said = []
    for teacher in answers:
        answer = _first(answers, teacher, question)
        row = rationales[teacher].get(question.question_id) if teacher in rationales else None
        right = task_of(question.task).is_right(answer, question)
        said.append({"teacher": teacher, "answer": answer, "right": right, "text": row["rationale"] if row else ""})
    return Contradiction(question, said)
