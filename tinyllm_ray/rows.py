"""Typed row contracts between the stages; column names live only here.

Question -> (teacher) -> Rationale -> (student) -> Prediction
"""

from dataclasses import asdict, dataclass, field
from typing import Any

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Question:
    """One multiple-choice question. `answer` is the text of one of `choices`.

    Question("7-980", "The sun is responsible for", ["puppies learning", "plants sprouting"], "plants sprouting")
    """

    question_id: str
    question: str
    choices: list[str]
    answer: str

    def row(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Rejected:
    """A row of a question file that could not be used."""

    line: int  # from 1; the position in the array where the file is one JSON array
    reason: str
    text: str  # the start of the row as read


@dataclass(frozen=True)
class Rationale:
    """One teacher's text for one question and sample."""

    key: str  # what made it: question content and the store's settings
    question_id: str
    sample: int  # 0 .. samples_per_question - 1
    rationale: str
    predicted_answer: str  # the choice the text states; empty where none can be read
    finish_reason: str  # stop, length, or failed
    failure: str  # why there is no rationale; empty where there is one
    dropped_examples: int  # in-context examples left out so that the prompt fits
    input_tokens: int
    output_tokens: int
    flags: list[str] = field(default_factory=list)  # see data/quality.py

    def row(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Prediction:
    """A student's answer to one question."""

    question_id: str
    question: str
    answer: str
    predicted: str  # by what `evaluation.by` names
    correct: bool
    choice_scores: list[
        float
    ]  # mean token log-likelihood of each choice, in the order of `choices`; empty if not ranked
    generated: str  # the label task's generated text; empty if not generated
    rationales: dict[str, str] = field(default_factory=dict)  # the student's own, by teacher name

    def row(self) -> dict[str, Any]:
        return asdict(self)
