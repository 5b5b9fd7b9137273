"""The rows that pass between the stages, one dataclass each, and the Arrow schemas that follow from their fields.

Question -> PromptRow -> (a teacher's engine) -> Outcome -> Rationale -> (the student) -> Prediction

A plain `int` is an int64 and a plain `float` a float64; `Int32`, `Float32` and `Float16` are the smaller ones.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import pyarrow as pa

from tinyllm_ray.schema.base import TaskName

Int32 = Annotated[int, pa.int32()]
Float32 = Annotated[float, pa.float32()]
Float16 = Annotated[float, pa.float16()]
Row = TypeVar("Row")

SPLITS = ("train", "validation", "test")
_ARROW = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}


@dataclass(frozen=True)
class Question:
    """One question of any kind of task; the kinds are in `tasks/`. With choices, `answer` is the text of one of them.

    Question("7-980", "The sun is responsible for", ["puppies learning", "plants sprouting"], "plants sprouting")
    """

    question_id: str
    question: str
    choices: list[str]  # of the task `label` the labels; empty where the answer is free
    answer: str
    context: str = ""  # a passage that the question is about
    accepted: list[str] = field(default_factory=list)  # further right answers of the task `text`
    task: TaskName = "choice"


@dataclass(frozen=True)
class Rejected:
    """A row of a question file that could not be used."""

    line: int  # from 1; the position in the array where the file is one JSON array
    reason: str
    text: str  # the start of the row as read


@dataclass(frozen=True)
class PromptRow:
    """One prompt that an engine is to answer."""

    key: str  # of the rationale to be made
    target: Int32  # which store and split it belongs to
    sample: Int32  # 0 .. samples_per_question - 1
    question: Question
    dropped_examples: Int32  # in-context examples left out so that the prompt fits
    seed: int
    prompt: str
    prompt_ids: list[Int32]  # empty where the engine tokenizes (endpoints)


@dataclass(frozen=True)
class Outcome:
    """What became of one prompt; `failure` is empty where there is a text."""

    text: str
    finish_reason: str  # stop, length, repetition (ended as a loop), or failed
    failure: str
    input_tokens: Int32
    output_tokens: Int32
    cached_tokens: Int32 = 0  # of the input, taken from the prefix cache
    saved_tokens: Int32 = 0  # that a stop text left unwritten, of those allowed
    # With soft targets, of the tokens that write the text and the end token that follows it; else empty.
    token_ids: list[Int32] = field(default_factory=list)  # [n]
    token_ends: list[Int32] = field(default_factory=list)  # [n]: characters of the text up to there (token_spans.py)
    top_ids: list[Int32] = field(default_factory=list)  # [n x k], likeliest first
    top_logprobs: list[Float16] = field(default_factory=list)  # [n x k]


@dataclass(frozen=True)
class Rationale:
    """One teacher's text for one question and sample."""

    key: str  # what made it: question content and the store's settings
    question_id: str
    sample: Int32  # 0 .. samples_per_question - 1
    rationale: str
    predicted_answer: str  # the answer that the text states; empty where none can be read
    finish_reason: str  # stop, length, repetition (ended as a loop), or failed
    failure: str  # why there is no rationale; empty where there is one
    dropped_examples: Int32  # in-context examples left out so that the prompt fits
    input_tokens: Int32
    output_tokens: Int32
    flags: list[str] = field(default_factory=list)  # see data/quality.py
    # With soft targets, of the tokens that write `rationale` (white space around it may be in them) and the end token
    # that follows it; else empty. The lists of an Outcome and a Rationale may be numpy arrays.
    token_ids: list[Int32] = field(default_factory=list)  # [n]
    top_ids: list[Int32] = field(default_factory=list)  # [n x k], likeliest first
    top_logprobs: list[Float16] = field(default_factory=list)  # [n x k]: of the model, before temperature and penalties


@dataclass(frozen=True)
class Selection:
    """Which teacher's rationale a training question is learned from."""

    question_id: str
    teacher: str  # empty where the question keeps its label alone
    by: str  # rationales.select
    score: float  # what speaks for the teacher: share of the teachers that qualify or agree, its accuracy, or, by the
    # router, the probability


@dataclass(frozen=True)
class Judged:
    """What a judge thinks of one rationale."""

    teacher: str
    key: str  # of the rationale
    score: Int32  # 1 to 5; 0 where it wrote none


@dataclass(frozen=True)
class Routed:
    """What a router makes of one training question."""

    question_id: str
    probabilities: list[Float32]  # of the teachers, in the order of the experiment


@dataclass(frozen=True)
class Prediction:
    """A student's answer to one question."""

    question_id: str
    question: str
    answer: str
    predicted: str  # by what `evaluation.by` names
    correct: bool
    choice_scores: list[Float32]  # mean token log-likelihood of each choice, in their order; empty if not ranked
    generated: str  # the label component's generated text; empty if not generated
    rationales: dict[str, str] = field(default_factory=dict)  # the student's own, by teacher name


SOFT_COLUMNS = (
    "token_ids",
    "top_ids",
    "top_logprobs",
)  # of a Rationale; large, so they are read only where they are named


def schema_of(row_type: type) -> pa.Schema:
    """The Arrow schema of a row dataclass: a column for each field, in their order."""
    return pa.schema(_columns(row_type))


def to_table(rows: Iterable[Row], row_type: type[Row]) -> pa.Table:
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema_of(row_type))  # type: ignore[call-overload]


def from_table(table: pa.Table, row_type: type[Row]) -> list[Row]:
    """The rows of a table whose columns are fields of the type; a field without a column takes its default."""
    return [from_values(values, row_type) for values in table.to_pylist(maps_as_pydicts="strict")]


def from_values(values: Mapping[str, Any], row_type: type[Row]) -> Row:
    """One row from a dictionary of its fields, where a row inside it is a dictionary too."""
    hints = get_type_hints(row_type)
    inner = {
        name: from_values(value, hints[name]) for name, value in values.items() if dataclasses.is_dataclass(hints[name])
    }
    return row_type(**{**values, **inner})


def _columns(row_type: type) -> list[pa.Field]:
    hints = get_type_hints(row_type, include_extras=True)
    return [pa.field(item.name, _arrow_type(hints[item.name])) for item in dataclasses.fields(row_type)]


def _arrow_type(hint: Any) -> pa.DataType:
    """str -> string, list[Int32] -> list<int32>, dict[str, str] -> map<string, string>, a dataclass -> a struct."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return pa.struct(_columns(hint))
    if get_origin(hint) is Annotated:
        return hint.__metadata__[0]
    if get_origin(hint) is Literal:
        return pa.string()
    inner = [_arrow_type(argument) for argument in get_args(hint)]
    if get_origin(hint) is list:
        return pa.list_(*inner)
    if get_origin(hint) is dict:
        return pa.map_(*inner)
    return _ARROW[hint]
