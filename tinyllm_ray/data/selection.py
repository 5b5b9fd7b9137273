"""Which teacher a question is learned from: the teachers' own answers and who has a rationale in, one teacher out.

choose("correct", question, having=[0, 1], answers=["iron", "cork"], ...) == Choice(teacher=1, score=0.5)
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tinyllm_ray.data.join import Asked
from tinyllm_ray.rows import Question
from tinyllm_ray.tasks.registry import task_of


class Choice(NamedTuple):
    """A teacher by its place, None where the question is to keep its label alone."""

    teacher: int | None
    score: float  # what speaks for it: share of the teachers that qualify or agree, or the teacher's accuracy


NOBODY = Choice(None, 0.0)


def choose_all(
    mode: str, asked: Asked, *, having: Sequence[np.ndarray], own: Sequence[Mapping[str, str]], seed: int
) -> list[Choice]:
    """One teacher for each question of a split.

    `having`: a mask of the questions for each teacher, true where it has a usable rationale. `own`: for each teacher
    question id -> its own answer, as far as it states one.
    """
    best = most_right(asked.iterate(), own) if mode == "best_teacher" else (0, 0.0)
    holders = np.array(having)  # [teachers, questions]
    return [
        choose(
            mode,
            question,
            having=np.flatnonzero(holders[:, row]).tolist(),
            answers=[answers.get(question.question_id, "") for answers in own],
            best=best,
            seed=seed,
        )
        for row, question in enumerate(asked.iterate())
    ]


def choose(
    mode: str,
    question: Question,
    *,
    having: Sequence[int],
    answers: Sequence[str],
    best: tuple[int, float],
    seed: int,
) -> Choice:
    """One of the teachers in `having`, which have a usable rationale for the question.

    `answers`: every teacher's own answer, empty where it states none; `best`: the teacher that is right most often,
    and how often. Among equally good teachers the question and the seed decide.
    """
    if mode == "best_teacher":
        return Choice(*best) if best[0] in having else NOBODY
    if mode == "random_one":
        qualified, score = list(having), 1 / max(len(having), 1)
    elif mode == "correct":
        right = [task_of(question.task).is_right(answer, question) for answer in answers]
        qualified, score = [teacher for teacher in having if right[teacher]], sum(right) / len(right)
    else:
        largest, score = _largest_groups(question, answers)
        unanimous = score == 1 and len(answers) > 1
        qualified = [teacher for teacher in having if teacher in largest and (mode == "majority" or unanimous)]
    if not qualified:
        return NOBODY
    return Choice(random.Random(f"{seed}/teacher of/{question.question_id}").choice(qualified), score)


def most_right(questions: Iterable[Question], own: Sequence[Mapping[str, str]]) -> tuple[int, float]:
    """The teacher whose own answers are right most often, the first of equals, and the share of right ones."""
    right, count = [0] * len(own), 0
    for question in questions:
        count += 1
        for teacher, answers in enumerate(own):
            right[teacher] += task_of(question.task).is_right(answers.get(question.question_id, ""), question)
    best = max(range(len(own)), key=lambda teacher: right[teacher])
    return best, right[best] / max(count, 1)


def _largest_groups(question: Question, answers: Sequence[str]) -> tuple[set[int], float]:
    """The teachers whose answer no other answer outnumbers, and the share of all teachers that give it."""
    same = task_of(question.task).same
    sizes = [sum(same(one, other) for other in answers if other) if one else 0 for one in answers]
    largest = max(sizes, default=0)
    if not largest:
        return set(), 0.0
    return {teacher for teacher, size in enumerate(sizes) if size == largest}, largest / len(answers)
