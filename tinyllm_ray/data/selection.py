"""Which teacher a question is learned from: the teachers' own answers and who has a rationale in, one teacher out.

choose("correct", question, having=[0, 1], answers=["iron", "cork"], ...) == Choice(teacher=1, score=0.5)
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tinyllm_ray import storage
from tinyllm_ray.data import store
from tinyllm_ray.data.fit import Counts
from tinyllm_ray.data.join import Asked, Targets
from tinyllm_ray.data.store import StoreId
from tinyllm_ray.rows import Question, Selection
from tinyllm_ray.schema.rationales import NEEDS_OWN_ANSWERS
from tinyllm_ray.tasks.registry import task_of


class Choice(NamedTuple):
    """A teacher by its place, None where the question is to keep its label alone."""

    teacher: int | None
    score: float  # what speaks for it; see rows.Selection


NOBODY = Choice(None, 0.0)


def select_teachers(
    mode: str,
    teachers: Sequence[str],
    asked: Asked,
    targets: dict[int, Targets],
    counts: Counts,
    *,
    stores: Mapping[StoreId, str],
    router: str | None,
    seed: int,
) -> list[Selection]:
    """Leave each training question the rationales of one teacher, in `targets`; says which one, and why.

    `targets`: by the teacher's component, which is its place from 1. `stores`, `router`: folders.
    """
    own: list[dict[str, str]] = [{} for _ in teachers]
    if mode in NEEDS_OWN_ANSWERS:
        own = [store.first_answers(stores[StoreId(name, answers=True)], "train") for name in teachers]
    having = [np.isin(np.arange(len(asked.ids)), targets[component].rows) for component in targets]
    routed = read_routed(router) if router else {}
    chosen = choose_all(mode, asked, having=having, own=own, routed=routed, seed=seed)
    places = np.array([-1 if choice.teacher is None else choice.teacher for choice in chosen])
    for teacher, name in enumerate(teachers):
        mask = places[targets[teacher + 1].rows] == teacher
        counts["masked"][f"{name}/not_selected"] += int((~mask).sum())
        targets[teacher + 1] = targets[teacher + 1].only(mask)
    return [
        Selection(question_id, "" if choice.teacher is None else teachers[choice.teacher], mode, choice.score)
        for question_id, choice in zip(asked.ids.to_pylist(), chosen, strict=True)
    ]


def read_routed(router: str) -> dict[str, list[float]]:
    """Question id -> the probability of each teacher, from the folder that routing.prepare made."""
    table = storage.read_table(storage.join(router, "routed.parquet"))
    return dict(zip(table["question_id"].to_pylist(), table["probabilities"].to_pylist(), strict=True))


def choose_all(
    mode: str,
    asked: Asked,
    *,
    having: Sequence[np.ndarray],
    own: Sequence[Mapping[str, str]],
    routed: Mapping[str, Sequence[float]],
    seed: int,
) -> list[Choice]:
    """One teacher for each question of a split.

    `having`: a mask of the questions for each teacher, true where it has a usable rationale. `own`: for each teacher
    question id -> its own answer, as far as it states one. `routed`: question id -> the router's probability of each
    teacher; read in the mode `router` only.
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
            routed=routed[question.question_id] if mode == "router" else (),
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
    routed: Sequence[float],
    seed: int,
) -> Choice:
    """One of the teachers in `having`, which have a usable rationale for the question.

    `answers`: every teacher's own answer, empty where it states none; `best`: the teacher that is right most often,
    and how often; `routed`: the router's probability of every teacher. Among equally good teachers the question and
    the seed decide.
    """
    if mode == "router":
        likeliest = max(having, key=lambda teacher: routed[teacher], default=None)
        return NOBODY if likeliest is None else Choice(likeliest, routed[likeliest])
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
