"""The kinds of task: `task_of("number")` is the module that knows how numbers are shown, read and compared."""

from typing import Protocol

from tinyllm_ray.rows import Question
from tinyllm_ray.schema import TaskName
from tinyllm_ray.tasks import choice, label, number, text


class Task(Protocol):
    """What every kind's module holds."""

    SCORINGS: tuple[str, ...]  # ways in which a student may be scored, the usual one first

    def problem(self, question: Question) -> str:
        """Why the question cannot be asked as this kind; empty where it can."""

    def show_choices(self, question: Question) -> str:
        """The choices as a teacher's prompt lists them; empty where the answer is free."""

    def show_answer(self, question: Question) -> str:
        """The right answer as a teacher's prompt shows it."""

    def student_text(self, question: Question) -> str:
        """The question as the student reads it, after the task prefix."""

    def read(self, text: str, question: Question) -> str:
        """The answer that a free text states; empty where none can be read."""

    def same(self, one: str, other: str) -> bool:
        """Whether two answers, as `read` returns them, are the same one."""

    def is_right(self, answer: str, question: Question) -> bool:
        """Whether a bare answer is a right one."""

    def partial_scores(self, answer: str, question: Question) -> dict[str, float]:
        """Scores of this kind, beside right or wrong, by name."""


_TASKS: dict[TaskName, Task] = {"choice": choice, "label": label, "number": number, "text": text}


def task_of(kind: TaskName) -> Task:
    return _TASKS[kind]
