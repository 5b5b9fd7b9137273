"""Free text: the answer is a short text, right where it equals one of the accepted answers after normalization. Pure.

read("It was built in Rome. The answer is Rome.", question) == "Rome"
"""

import re
import unicodedata
from collections import Counter

from tinyllm_ray.rows import Question
from tinyllm_ray.tasks.statements import before_new_question, statements
from tinyllm_ray.tasks.words import words

SCORINGS: tuple[str, ...] = ("generation",)
SHORT_WORDS = 8  # a text of one line with at most so many words is an answer without a statement around it
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_SENTENCE = re.compile(r"(?<!\b[A-Z])(?<!\b[A-Z][a-z])(?<!\b[A-Z][a-z][a-z])[.!?](?=\s|$)|\n")  # "St. Louis" goes on


def problem(question: Question) -> str:
    if question.choices:
        return "a free text has no choices; set dataset.task to choice"
    return "" if question.answer.strip() else "no answer: the text is empty"


def show_choices(question: Question) -> str:
    return ""


def show_answer(question: Question) -> str:
    return question.answer


def student_text(question: Question) -> str:
    return f"{question.context}\n{question.question}" if question.context else question.question


def read(text: str, question: Question) -> str:
    """What the last statement says up to the end of its sentence, else a text that is nothing but a short answer."""
    text = before_new_question(text)
    for rest in statements(text):
        found = _first_sentence(rest)
        if found:
            return found
    return _first_sentence(text) if len(words(text)) <= SHORT_WORDS and "\n" not in text else ""


def same(one: str, other: str) -> bool:
    return normalize(one) == normalize(other)


def is_right(answer: str, question: Question) -> bool:
    return any(same(answer, accepted) for accepted in (question.answer, *question.accepted))


def partial_scores(answer: str, question: Question) -> dict[str, float]:
    return {"token_f1": max(token_f1(answer, accepted) for accepted in (question.answer, *question.accepted))}


def normalize(text: str) -> str:
    """No case, punctuation or articles, one space; a text of nothing but these stays what it is.

    "The U.S." -> "us"
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    bare = "".join(character for character in plain if not unicodedata.category(character).startswith("P"))
    return " ".join(_ARTICLES.sub(" ", bare).split()) or plain


def token_f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall over the words of both, as in SQuAD."""
    given, wanted = Counter(words(normalize(answer))), Counter(words(normalize(gold)))
    shared = (given & wanted).total()
    return 2 * shared / (given.total() + wanted.total()) if shared else 0.0


def _first_sentence(text: str) -> str:
    match = _SENTENCE.search(text)
    return (text[: match.start()] if match else text).strip().strip("\"'“”‘’").strip()
