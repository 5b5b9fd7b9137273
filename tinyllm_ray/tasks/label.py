"""Labels: the answer is one of a list that all rows share, such as entailment, neutral and contradiction. Pure.

The list is in the question's `choices`. read("So the answer is neutral.", question) == "neutral"
"""

import re

from tinyllm_ray.rows import Question
from tinyllm_ray.tasks import choice
from tinyllm_ray.tasks.statements import MOST, REST, after, before_new_question, statements

SCORINGS: tuple[str, ...] = ("ranking", "generation", "both")
_ENDS = re.compile(r"(?!\w)")
_CONCLUDES = re.compile(r"(?:\b(?:is|are|be|label|thus|so|therefore|hence)\b|:)[\s:,]*", re.IGNORECASE)


def problem(question: Question) -> str:
    if len(question.choices) < 2:
        return "fewer than two labels; name them in dataset.labels"
    repeated = choice.equal_choice(question.choices)
    if repeated:
        return f"two labels are {repeated[:60]!r}; each must be another text"
    if question.answer not in question.choices:
        return f"label {question.answer[:80]!r} is not one of {', '.join(question.choices)[:200]}"
    return ""


def show_choices(question: Question) -> str:
    return "\n".join(question.choices)


def show_answer(question: Question) -> str:
    return question.answer


def student_text(question: Question) -> str:
    context = f"{question.context}\n" if question.context else ""
    return f"{context}{question.question}\nLabels: {', '.join(question.choices)}"


def read(text: str, question: Question) -> str:
    """The label that the last plain statement names, else the one that the text starts with or concludes with."""
    text = before_new_question(text)
    stated = next(
        (label for rest in [*statements(text), text[:REST]] if (label := _leading(rest, question.choices))), ""
    )
    concluded = (after(match) for match in list(_CONCLUDES.finditer(text))[-MOST:])
    return stated or next((label for rest in concluded if (label := choice.find_choice(rest, question.choices))), "")


def same(one: str, other: str) -> bool:
    return one == other


def is_right(answer: str, question: Question) -> bool:
    return choice.find_choice(answer, question.choices) == question.answer


def partial_scores(answer: str, question: Question) -> dict[str, float]:
    return {}


def _leading(text: str, labels: list[str]) -> str:
    """Labels are words of a sentence: `not_entailment` may be written "not entailment", and any word may follow."""
    found = choice.leading_choice(text, labels, ends=_ENDS)
    if found:
        return found
    spoken = {label.replace("_", " ").replace("-", " "): label for label in labels}
    return spoken.get(choice.leading_choice(text.replace("-", " "), list(spoken), ends=_ENDS), "")
