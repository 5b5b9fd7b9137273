"""What the teachers answer by themselves, without having been shown the answer: who is right, and who agrees. Pure.

In: questions, and teacher -> question id -> its answers, one for each sample. Out: one Conflict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

from tinyllm_ray.rows import Question
from tinyllm_ray.tasks.registry import task_of

Answers = Mapping[str, Mapping[str, Sequence[str]]]  # an answer is empty where a text states none


@dataclass(frozen=True)
class Pair:
    """Two teachers over the questions to which both state an answer."""

    one: str
    other: str
    questions: int
    agree: float  # share
    agreed_right: float  # share of those on which they agree that they get right; 0 where they never agree


@dataclass(frozen=True)
class Conflict:
    questions: int
    stated: dict[str, int]  # teacher -> questions to which its first text states an answer
    right: dict[str, int]  # of those, how many it answers rightly
    passes: dict[str, dict[int, float]]  # teacher -> k -> share of questions that one of k samples gets right
    pairs: list[Pair]
    oracle: float  # share of questions whose first answer is right of at least one teacher
    nobody: int  # questions that no teacher answers rightly in any sample

    @property
    def accuracy(self) -> dict[str, float]:
        return {teacher: shares[1] for teacher, shares in self.passes.items()}


def find_conflict(questions: Sequence[Question], answers: Answers) -> Conflict:
    right = {
        teacher: {
            question.question_id: [
                task_of(question.task).is_right(answer, question) for answer in own.get(question.question_id, [])
            ]
            for question in questions
        }
        for teacher, own in answers.items()
    }
    first = [any(marks[q.question_id][:1] == [True] for marks in right.values()) for q in questions]
    solved = [any(any(marks[q.question_id]) for marks in right.values()) for q in questions]
    return Conflict(
        questions=len(questions),
        stated={
            teacher: sum(any(own.get(q.question_id, [])[:1]) for q in questions) for teacher, own in answers.items()
        },
        right={teacher: sum(row[:1] == [True] for row in marks.values()) for teacher, marks in right.items()},
        passes={teacher: _passes(list(marks.values())) for teacher, marks in right.items()},
        pairs=[_pair(one, other, questions, answers) for one, other in combinations(answers, 2)],
        oracle=sum(first) / max(len(questions), 1),
        nobody=len(questions) - sum(solved),
    )


def pass_at(k: int, marks: Sequence[bool]) -> float:
    """Probability that at least one of k samples drawn from these is right; a sample that is missing is wrong."""
    total, wrong = max(len(marks), k), max(len(marks), k) - sum(marks)
    return 1 - comb(wrong, k) / comb(total, k)


def _passes(marks: Sequence[Sequence[bool]]) -> dict[int, float]:
    """For k = 1, 2, 4, ... up to the number of samples."""
    samples = max((len(row) for row in marks), default=1)
    return {
        2**power: sum(pass_at(2**power, row) for row in marks) / max(len(marks), 1)
        for power in range(max(samples, 1).bit_length())
    }


def _pair(one: str, other: str, questions: Sequence[Question], answers: Answers) -> Pair:
    both = agreed = right = 0
    for question in questions:
        task = task_of(question.task)
        first, second = (next(iter(answers[name].get(question.question_id, [])), "") for name in (one, other))
        if first and second:
            both += 1
            if task.same(first, second):
                agreed += 1
                right += task.is_right(first, question)
    return Pair(one, other, both, agreed / max(both, 1), right / max(agreed, 1))
