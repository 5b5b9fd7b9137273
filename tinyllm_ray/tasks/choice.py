"""Multiple choice: the answer is the text of one of the question's own choices. Pure.

read("Wood floats. Thus, the answer is (b) cork", Question("1", "What floats?", ["iron", "cork"], "cork")) == "cork"
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable

from tinyllm_ray.rows import Question
from tinyllm_ray.schema.base import counted
from tinyllm_ray.tasks.statements import MOST, REST, SAYS, after, before_new_question

SCORINGS: tuple[str, ...] = ("ranking", "generation", "both")
MAX_CHOICES = len(string.ascii_lowercase)
_LETTER = (
    r"(?:(?:option|choice|answer|letter)\s+)?(?P<open>[\[(\"'*]*)(?P<letter>[A-Za-z])"
    r"(?:[\])\"'*]|[.,:;](?=\s|$)|\s*$|\s*\n)"
)
_STATED_LETTER = re.compile(SAYS + _LETTER, re.IGNORECASE)
_STATED_TEXT = re.compile(SAYS, re.IGNORECASE)
_IS_CORRECT = re.compile(
    r"(?:\(([a-z])\)|\b(?:option|choice|answer)\s+\(?([a-z])\)?)\s+(?:is|are)\s+(?:therefore\s+)?"
    r"(?:the\s+)?(?:correct|right|best|answer)",
    re.IGNORECASE,
)
_STARTS_WITH_LETTER = re.compile(r"\(([A-Za-z])\)|([A-Za-z])(?:\)|[.:](?=\s|$)|$)")
_ENDS = re.compile(r"[\"')\]”’]*\s*[.,;:!?](?!\d)")
_ARTICLE = re.compile(r"^(?:a|an|the)\s+")
_QUOTES_BEFORE, _QUOTES_AFTER, _MARKS = "\"'“‘*", "\"'”’*", ".,;:!?"


def problem(question: Question) -> str:
    if not 2 <= len(question.choices) <= MAX_CHOICES:
        return f"{counted(len(question.choices), 'choice')}; a question needs 2 to {MAX_CHOICES}"
    repeated = equal_choice(question.choices)
    if repeated:
        return f"two choices are {repeated[:60]!r}; each must be another text"
    if question.answer not in question.choices:
        return f"answer {question.answer[:80]!r} is not among the choices"
    return ""


def show_choices(question: Question) -> str:
    """["x", "y"] -> "(a) x\\n(b) y"."""
    return "\n".join(f"({letter(index)}) {choice}" for index, choice in enumerate(question.choices))


def show_answer(question: Question) -> str:
    return f"({letter(question.choices.index(question.answer))})"


def student_text(question: Question) -> str:
    context = f"{question.context}\n" if question.context else ""
    return f"{context}{question.question}\nAnswer Choices:\n{show_choices(question)}"


def read(text: str, question: Question) -> str:
    """The choice that the last plain statement names ("the answer is (b)", "option b is correct"), else the choice or
    the letter that the text starts with; a new question that follows is not read."""
    choices, text = question.choices, before_new_question(text)
    readers = ((_STATED_LETTER, _by_stated_letter), (_STATED_TEXT, _by_stated_text), (_IS_CORRECT, _by_named_letter))
    matches = [(match, reader) for pattern, reader in readers for match in pattern.finditer(text)]
    last = sorted(matches, key=lambda item: -item[0].start())[
        :MOST
    ]  # where a letter and a text start, the letter first
    stated = next((found for match, reader in last if (found := reader(match, choices))), "")
    if stated:
        return stated
    by_text = leading_choice(text[:REST], choices)
    if by_text:
        return by_text
    first = _STARTS_WITH_LETTER.match(text)
    return _by_letter(first[1] or first[2], choices) if first else ""


def same(one: str, other: str) -> bool:
    return one == other


def is_right(answer: str, question: Question) -> bool:
    return find_choice(answer, question.choices) == question.answer


def partial_scores(answer: str, question: Question) -> dict[str, float]:
    return {}


def letter(index: int) -> str:
    """0 -> "a"."""
    return string.ascii_lowercase[index]


def normalize(text: str) -> str:
    """No case, one space, no leading article, no punctuation, brackets or quotes at the ends."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    bare = plain.lstrip("\"'“‘([").rstrip("\"'”’)].,;:!?")
    bare = _ARTICLE.sub("", bare).strip()
    return bare or plain


def find_choice(text: str, choices: list[str]) -> str:
    """The choice that a bare text is, or "".

    A looser form of the text is looked at only where a stricter one fits no choice, and counts only where one choice
    alone has it: "mb" is the choice "Mb" unless "MB" is a choice too.
    """
    for form in (str, _trimmed, normalize):
        found = _unique(choices, form).get(form(text))
        if found is not None:
            return found
    return ""


def equal_choice(choices: list[str]) -> str:
    """A choice that is there twice, whatever the spaces in it; "" where there is none."""
    counts = Counter(" ".join(choice.split()) for choice in choices)
    return next((choice for choice, count in counts.items() if count > 1), "")


def leading_choice(text: str, choices: list[str], *, ends: re.Pattern[str] = _ENDS) -> str:
    """The longest choice that a text starts with, followed by punctuation, a line's end or nothing."""
    for form in (_trimmed, normalize):
        head, first_line = form(text), form(text.partition("\n")[0])
        names = _unique(choices, form)
        for name in sorted(names, key=len, reverse=True):
            if name in (head, first_line) or (head.startswith(name) and ends.match(head, len(name))):
                return names[name]
    return ""


def _trimmed(text: str) -> str:
    """One space, no quotes around and no punctuation after it."""
    plain = " ".join(text.split())
    return plain.lstrip(_QUOTES_BEFORE).rstrip(_QUOTES_AFTER + _MARKS) or plain


def _unique(choices: list[str], form: Callable[[str], str]) -> dict[str, str]:
    """Form -> choice, without the forms that several choices share."""
    counts = Counter(form(choice) for choice in choices)
    return {form(choice): choice for choice in choices if counts[form(choice)] == 1}


def _by_stated_letter(match: re.Match[str], choices: list[str]) -> str:
    """A bare letter that is itself a choice, such as a blood group, is that choice; one in brackets is a letter."""
    if match["letter"] in choices and not set(match["open"]) & set("(["):
        return match["letter"]
    return _by_letter(match["letter"], choices)


def _by_stated_text(match: re.Match[str], choices: list[str]) -> str:
    return leading_choice(after(match), choices)


def _by_named_letter(match: re.Match[str], choices: list[str]) -> str:
    return _by_letter(match[1] or match[2], choices)


def _by_letter(name: str, choices: list[str]) -> str:
    index = string.ascii_lowercase.index(name.lower())
    return choices[index] if index < len(choices) else ""
