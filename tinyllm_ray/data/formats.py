"""Source rows of any layout: a row and the `dataset` section in, a Question out, or BadRow with the reason. Pure.

In: {"id": "T_1", "question": "What floats?", "choices": {"text": ["iron", "cork"], "label": ["A", "B"]}, "answer": "B"}
Out: Question("T_1", "What floats?", ["iron", "cork"], "cork")
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tinyllm_ray.data.answers import given, read_answer
from tinyllm_ray.data.choices import Choices, read_choices, with_distractors
from tinyllm_ray.data.fields import OR, BadRow, OtherKind, find, has, kind, need, text_of
from tinyllm_ray.rows import Question
from tinyllm_ray.schema import Columns, Dataset
from tinyllm_ray.tasks.registry import task_of


@dataclass(frozen=True)
class Parts:
    """A row taken apart, its answer as the file has it."""

    position: int  # line, or place from 1
    question_id: str
    question: str
    context: str
    choices: Choices
    answer: Any
    accepted: list[Any]


def read_parts(row: Any, *, dataset: Dataset, default_id: str, position: int = 0) -> Parts:
    """Raises BadRow, or OtherKind for a row to skip."""
    if not isinstance(row, Mapping):
        raise BadRow(f"the row is {kind(row)}, not an object with named fields")
    columns = dataset.columns
    for path, wanted in dataset.where.items():
        if text_of(need(row, path), path) not in {text_of(one, path) for one in _list(wanted)}:
            raise OtherKind
    name, context = _id(row, columns.id, default_id), _context(row, columns.context)
    question = need(row, columns.question)
    if not isinstance(question, str):
        raise BadRow(f"{columns.question} is {kind(question)}, not text")
    if not question.strip():
        raise BadRow("no question: the text is empty")
    answer = _answer(row, columns, free=dataset.has_free_answers)
    if dataset.labels:
        choices = Choices(list(dataset.labels))
    elif columns.distractors:
        choices = with_distractors(row, columns.distractors, answer=text_of(answer, columns.answer), question=question)
    elif columns.choices and not dataset.has_free_answers:
        choices = read_choices(row, columns.choices)
    else:
        choices = Choices([])
    accepted = _list(find(row, columns.accepted)) if columns.accepted else []
    return Parts(position, name, question, context, choices, answer, accepted)


def to_question(parts: Parts, *, dataset: Dataset, reading: str) -> Question:
    """Raises BadRow."""
    accepted: list[str] = []
    if dataset.has_free_answers:
        every = [text_of(answer, "answer") for answer in _list(parts.answer) + parts.accepted if answer is not None]
        answer, *accepted = list(dict.fromkeys(every))
    else:
        if not parts.choices.used:
            raise BadRow("there are no choices")
        answer = read_answer(parts.answer, parts.choices, reading=reading)
    if not all(choice.strip() for choice in parts.choices.used):
        raise BadRow("a choice is empty")
    question = Question(
        parts.question_id, parts.question, parts.choices.used, answer, parts.context, accepted, dataset.task
    )
    _check_characters(question)
    problem = task_of(dataset.task).problem(question)
    if problem:
        raise BadRow(problem)
    return question


def columns_read(dataset: Dataset) -> list[str]:
    """The top-level columns that rows are read from; of a table the others need not be read."""
    paths = [one for path in paths_read(dataset) for one in path.split(OR)]
    return list(dict.fromkeys(path.partition(".")[0] for path in paths))


def paths_read(dataset: Dataset) -> Iterator[str]:
    columns = dataset.columns
    yield from dataset.where
    yield columns.question
    yield columns.answer
    yield from [path for path in (columns.id, columns.accepted) if path]
    several = [columns.context, columns.distractors]
    if not (dataset.labels or columns.distractors or dataset.has_free_answers):
        several.append(columns.choices)
    for paths in several:
        yield from [paths] if isinstance(paths, str) else paths or []


def _id(row: Mapping[str, Any], path: str | None, default_id: str) -> str:
    value = need(row, path) if path else find(row, "id")
    if value is None:
        return default_id
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRow(f"{path or 'id'} is {kind(value)}, which is no id")
    name = text_of(value, path or "id")
    if not name.strip():
        raise BadRow(f"{path or 'id'} is empty")
    return name


def _context(row: Mapping[str, Any], paths: str | list[str] | None) -> str:
    if paths is None:
        passages = _list(find(row, "context"))
        return _joined(passages) if all(isinstance(passage, str) for passage in passages) else ""
    texts: list[str] = []
    for path in [paths] if isinstance(paths, str) else paths:
        if not has(row, path):
            need(row, path)
        value = find(row, path)
        passages = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(passage, str) for passage in passages):
            raise BadRow(f"{path} is {kind(value)}, which is neither a text nor a list of texts")
        texts += passages
    return _joined(texts)


def _joined(texts: list[str]) -> str:
    return "\n".join(text for text in texts if text.strip())


def _answer(row: Mapping[str, Any], columns: Columns, *, free: bool) -> Any:
    if not has(row, columns.answer):
        need(row, columns.answer)
    value = find(row, columns.answer)
    if columns.answer_after and isinstance(value, str):
        value = after_mark(value, columns.answer_after)
        if value is None:
            raise BadRow(f"{columns.answer} does not hold {columns.answer_after!r}")
    return value if free and value in (-1, "-1") else given(value)


def after_mark(text: str, mark: str) -> str | None:
    """What stands after the last mark, or None where there is none; of a mark that opens a brace what is inside."""
    _, found, rest = text.rpartition(mark)
    if not found:
        return None
    depth = 1
    for place, letter in enumerate(rest if mark.endswith("{") else ""):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if not depth:
            return rest[:place].strip()
    return rest.strip()


def _list(answer: Any) -> list[Any]:
    return answer if isinstance(answer, list) else [answer]


def _check_characters(question: Question) -> None:
    try:
        "\n".join(
            (question.question_id, question.question, question.context, *question.choices, question.answer)
        ).encode("utf-8")
    except UnicodeEncodeError:
        raise BadRow("broken UTF-8: the text holds bytes that are no characters") from None
