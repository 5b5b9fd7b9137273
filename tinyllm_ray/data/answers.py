"""How a file gives its answers: found once for all rows, never row by row. Pure.

In: answers such as "B", "2" or "cork" and their choices    Out: one reading: text, letter, label, index0 or index1
"""

import re
import string
from dataclasses import dataclass, field
from typing import Any

from tinyllm_ray.config import UserError
from tinyllm_ray.data.choices import Choices
from tinyllm_ray.data.fields import NO_ANSWER, BadRow, text_of
from tinyllm_ray.tasks.choice import find_choice

READINGS = ("text", "letter", "label", "index0", "index1")
CLEAR_SHARE = 0.01  # a reading that fits all rows but these is a possible one: some rows of a file may be broken
_MANY = 500  # rows
_MEANINGS = {
    "text": "the text of a choice",
    "letter": "the letter of a choice, counted from A",
    "label": "the label that the choices carry",
    "index0": "a position counted from 0",
    "index1": "a position counted from 1",
}
_LETTER = re.compile(r"[\[(]?([A-Za-z])[\]).]?")
_WHOLE = re.compile(r"[+-]?\d{1,9}(?:\.0+)?")
_WORDS = {"true": ("true", "yes"), "false": ("false", "no")}


def given(answer: Any) -> Any:
    """An answer as the file has it, out of a list of one. Raises BadRow where there is none."""
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if answer is None or answer == "" or answer == [] or (not isinstance(answer, bool) and answer in (-1, "-1")):
        raise BadRow(NO_ANSWER)
    return answer


def read_answer(answer: Any, choices: Choices, *, reading: str) -> str:
    """The text of the choice that the answer means. Raises BadRow."""
    found = _READ[reading](given(answer), choices)
    if found is None:
        raise BadRow(f"answer {repr(answer)[:80]} is not among the choices when it is read as {_MEANINGS[reading]}")
    return found


@dataclass
class Tally:
    """Which readings fit the rows seen so far, and where two of them name different choices."""

    rows: int = 0
    misfits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(READINGS, 0))
    differ: dict[tuple[str, str], str] = field(default_factory=dict)
    labeled: bool = True  # the choices of all rows carry labels

    def add(self, answer: Any, choices: Choices, *, where: str) -> None:
        self.rows += 1
        self.labeled = self.labeled and choices.labels is not None and not choices.labels_are_columns
        found = {reading: None if self._is_out(reading) else _READ[reading](answer, choices) for reading in READINGS}
        if isinstance(answer, bool) and found["text"] is not None:
            found |= dict.fromkeys(("index0", "index1"), None)
        for reading, text in found.items():
            self.misfits[reading] += text is None
        fitting = [reading for reading in READINGS if found[reading] is not None]
        for position, one in enumerate(fitting):
            for other in fitting[position + 1 :]:
                if found[one] != found[other] and (one, other) not in self.differ:
                    self.differ[one, other] = f"{where}: {answer!r} is {found[one]!r} or {found[other]!r}"

    def _is_out(self, reading: str) -> bool:
        """Whether so many rows speak against a reading already that it need not be tried on the others."""
        return self.misfits[reading] > _MANY and self.misfits[reading] > self.rows // 2

    def decide(self, *, dataset: str) -> str:
        """The one reading. Raises UserError where two fit and do not agree, naming both and the key to set."""
        fewest = min(self.misfits.values())
        possible = [name for name in READINGS if self.misfits[name] <= max(fewest, CLEAR_SHARE * self.rows)]
        if self.labeled and self.rows and "label" in possible:
            return "label"
        for (one, other), example in self.differ.items():
            if one in possible and other in possible:
                raise UserError(
                    f"the answers of {dataset} can be read as {one} ({_MEANINGS[one]}) and as {other} "
                    f"({_MEANINGS[other]}), which do not agree ({example}); set dataset.columns.answer_is to "
                    f"{one} or {other}"
                )
        return possible[0]


def _by_text(answer: Any, choices: Choices) -> str | None:
    """The choice that the text is; true and false may be called yes and no."""
    if isinstance(answer, list | dict):
        return None
    text = text_of(answer, "answer")
    found = find_choice(text, choices.used)
    if not found and (words := _WORDS.get(text.lower())):
        found = next((choice for choice in choices.used if choice.lower() in words), "")
    return found or None


def _by_letter(answer: Any, choices: Choices) -> str | None:
    match = _LETTER.fullmatch(answer.strip()) if isinstance(answer, str) else None
    return _at(string.ascii_lowercase.index(match[1].lower()), choices) if match else None


def _by_label(answer: Any, choices: Choices) -> str | None:
    if choices.labels is None or isinstance(answer, list | dict):
        return None
    text = text_of(answer, "answer")
    places = [place for place, label in enumerate(choices.labels) if label == text]
    bare = text.strip().strip("()[].").casefold()
    places = places or [place for place, label in enumerate(choices.labels) if label.casefold() == bare]
    return _at(places[0], choices) if len(places) == 1 else None


def _by_index0(answer: Any, choices: Choices) -> str | None:
    if isinstance(answer, list):  # a mark for each choice, one of them right
        marks = [place for place, mark in enumerate(answer) if mark in (1, True)]
        fits = len(answer) == len(choices.texts) and len(marks) == 1 and all(mark in (0, 1) for mark in answer)
        return _at(marks[0], choices) if fits else None
    place = _whole(answer)
    return None if place is None else _at(place, choices)


def _by_index1(answer: Any, choices: Choices) -> str | None:
    place = None if isinstance(answer, bool) else _whole(answer)
    return None if place is None else _at(place - 1, choices)


def _whole(answer: Any) -> int | None:
    if isinstance(answer, str):
        return int(float(answer)) if _WHOLE.fullmatch(answer.strip()) else None
    return int(answer) if isinstance(answer, int) or (isinstance(answer, float) and answer.is_integer()) else None


def _at(place: int, choices: Choices) -> str | None:
    return choices.texts[place] if 0 <= place < len(choices.texts) else None


_READ = {"text": _by_text, "letter": _by_letter, "label": _by_label, "index0": _by_index0, "index1": _by_index1}
