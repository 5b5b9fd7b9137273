"""Rows of the six datasets as their publishers have them: one source row in, a Question out, or BadRow with the reason.

Each function's docstring holds one example row. Pure.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tinyllm_ray.rows import Question
from tinyllm_ray.schema import Columns, TaskName
from tinyllm_ray.tasks.choice import MAX_CHOICES, find_choice, letter
from tinyllm_ray.tasks.registry import task_of

Row = Mapping[str, Any]
_LETTER = re.compile(r"\(?([A-Za-z])[).]?")


class BadRow(ValueError):
    """Why a row cannot be used."""


class OtherKind(Exception):
    """A good row of a kind that the dataset does not ask here, such as BioASQ's list questions; skipped."""


def plain(row: Row, default_id: str, columns: Columns) -> Question:
    """{"id": "7", "question": "What floats?", "choices": ["iron", "cork"], "answer": "cork"}

    The answer may also be a letter ("b") or a position from 0; `choices` may hold {"text": [...]}.
    """
    name = _id(row, columns.id) if columns.id else _id_or(row, "id", default_id)
    choices = _need(row, columns.choices, list | dict)
    texts = _need(choices, "text", list) if isinstance(choices, dict) else choices
    return _question(name, _need(row, columns.question, str), texts, _need(row, columns.answer, str | int))


def obqa(row: Row, default_id: str, columns: Columns) -> Question:
    """OpenBookQA: {"id": "8-1", "question_stem": "Which thing floats?",
    "choices": {"text": ["iron", "cork"], "label": ["A", "B"]}, "answerKey": "B"}"""
    if "question_stem" not in row:
        return labeled(row, default_id, columns)
    return _labeled(_id_or(row, "id", default_id), _need(row, "question_stem", str), _need(row, "choices", dict), row)


def labeled(row: Row, default_id: str, columns: Columns) -> Question:
    """ARC and RiddleSense: {"id": "T_1", "question": "What has keys but no locks?",
    "choices": {"text": ["a piano", "a door"], "label": ["A", "B"]}, "answerKey": "A"}

    Their own JSON lines nest: {"question": {"stem": "...", "choices": [{"label": "A", "text": "a piano"}, ...]}}.
    """
    question = _need(row, "question", str | dict)
    name = _id_or(row, "id", default_id)
    if isinstance(question, str):
        return _labeled(name, question, _need(row, "choices", dict | list), row)
    return _labeled(name, _need(question, "stem", str), _need(question, "choices", dict | list), row)


def piqa(row: Row, default_id: str, columns: Columns) -> Question:
    """PIQA: {"goal": "To dry wet shoes,", "sol1": "use paper.", "sol2": "use water.", "label": 0}"""
    label = str(_need(row, "label", int | str))
    if label not in ("0", "1"):
        raise BadRow(
            f"label is {label[:20]}, but the two solutions are 0 and 1 (the published test split hides it as -1)"
        )
    choices = [_need(row, "sol1", str), _need(row, "sol2", str)]
    return _question(_id_or(row, "id", default_id), _need(row, "goal", str), choices, choices[int(label)])


def pubmedqa(row: Row, default_id: str, columns: Columns) -> Question:
    """PubMedQA: {"pubid": 17, "question": "Does tea help?", "context": {"contexts": ["We gave tea.", "They slept."]},
    "long_answer": "It may.", "final_decision": "maybe"}: the question text is the context, then the question."""
    contexts = _need(_need(row, "context", dict), "contexts", list)
    text = _with_context(contexts, _need(row, "question", str))
    return _question(_id_or(row, "pubid", default_id), text, ["yes", "no", "maybe"], _need(row, "final_decision", str))


def bioasq(row: Row, default_id: str, columns: Columns) -> Question:
    """BioASQ task B: {"id": "5a", "type": "yesno", "body": "Is iron a metal?",
    "snippets": [{"text": "Iron is a metal."}], "exact_answer": "yes"}; other types of question are skipped."""
    if "type" in row and row["type"] != "yesno":
        raise OtherKind
    answer = _need(row, "exact_answer", str | list)
    snippets = [snippet["text"] for snippet in _need(row, "snippets", list) if isinstance(snippet, dict)]
    text = _with_context(snippets, _need(row, "body", str))
    answer = answer[0] if isinstance(answer, list) and answer else answer
    return _question(_id_or(row, "id", default_id), text, ["yes", "no"], answer)


FORMATS: dict[str, Callable[[Row, str, Columns], Question]] = {
    "reference": plain,
    "jsonl": plain,
    "json": plain,
    "parquet": plain,
    "miniature": plain,
    "obqa": obqa,
    "arc": labeled,
    "riddle": labeled,
    "piqa": piqa,
    "pubmedqa": pubmedqa,
    "bioasq": bioasq,
}


def to_question(
    row: Any, *, form: str, default_id: str, columns: Columns, task: TaskName = "choice", labels: Sequence[str] = ()
) -> Question:
    """One source row as a Question. Raises BadRow, or OtherKind for a row to skip."""
    if not isinstance(row, dict):
        raise BadRow(f"the row is {_type(row)}, not an object with named fields")
    if FORMATS[form] is not plain or task == "choice":
        question = replace(FORMATS[form](row, default_id, columns), task=task)
    elif task == "label":
        question = _with_label(row, default_id, columns, list(labels))
    else:
        question = _with_free_answer(row, default_id, columns, task)
    question = replace(question, context=_context(row, columns)) if FORMATS[form] is plain else question
    problem = task_of(task).problem(question)
    if problem:
        raise BadRow(problem)
    return question


def _with_label(row: Row, default_id: str, columns: Columns, labels: list[str]) -> Question:
    """{"premise": "He sleeps.", "hypothesis": "He rests.", "label": 0}: a label by its name or its number from 0."""
    name = _id(row, columns.id) if columns.id else _id_or(row, "id", default_id)
    answer = _need(row, columns.answer, str | int)
    if str(answer) in labels or not re.fullmatch(r"\d+", str(answer)):
        return Question(name, _need(row, columns.question, str), labels, str(answer), task="label")
    if int(answer) >= len(labels):
        raise BadRow(f"label {answer} is not one of the numbers 0 to {len(labels) - 1} of {', '.join(labels)}")
    return Question(name, _need(row, columns.question, str), labels, labels[int(answer)], task="label")


def _with_free_answer(row: Row, default_id: str, columns: Columns, task: TaskName) -> Question:
    """{"question": "How many?", "answer": "( 84.0 / 2.0 )"}; of a list of answers the first, and the others count."""
    name = _id(row, columns.id) if columns.id else _id_or(row, "id", default_id)
    answers = _need(row, columns.answer, str | int | float | list)
    texts = [str(answer) for answer in (answers if isinstance(answers, list) else [answers])]
    if not texts:
        raise BadRow(f"{columns.answer} is empty")
    return Question(name, _need(row, columns.question, str), [], texts[0], accepted=texts[1:], task=task)


def _context(row: Row, columns: Columns) -> str:
    if columns.context:
        return _need(row, columns.context, str)
    return row["context"] if isinstance(row.get("context"), str) else ""


def _labeled(name: str, text: str, choices: Any, row: Row) -> Question:
    if isinstance(choices, dict):
        texts, labels = _need(choices, "text", list), _need(choices, "label", list)
    else:
        texts, labels = [_need(c, "text", str) for c in choices], [_need(c, "label", str) for c in choices]
    key = _need(row, "answerKey", str)
    if key not in labels or len(labels) != len(texts):
        raise BadRow(f"answerKey {key!r} is not one of the labels {labels}")
    return _question(name, text, texts, labels.index(key))


def _question(name: str, text: str, choices: list[Any], answer: Any) -> Question:
    wrong = [choice for choice in choices if not isinstance(choice, str)]
    if wrong:
        raise BadRow(f"a choice is {_type(wrong[0])}, not text")
    if not text.strip():
        raise BadRow("no question: the text is empty")
    if not 2 <= len(choices) <= MAX_CHOICES:
        raise BadRow(f"{len(choices)} choices; a question needs 2 to {MAX_CHOICES}")
    if not all(choice.strip() for choice in choices):
        raise BadRow("a choice is empty")
    question = Question(name, text, choices, _answer(answer, choices))
    try:
        "\n".join((name, text, *choices)).encode("utf-8")
    except UnicodeEncodeError:
        raise BadRow("broken UTF-8: the text holds bytes that are no characters") from None
    return question


def _answer(answer: Any, choices: list[str]) -> str:
    """The answer as the text of a choice: given as that text, as a letter or as a position from 0."""
    if isinstance(answer, bool) or not isinstance(answer, str | int):
        raise BadRow(f"answer is {_type(answer)}, not text, a letter or a position")
    if isinstance(answer, int):
        if not 0 <= answer < len(choices):
            raise BadRow(f"answer is a position outside of the {len(choices)} choices, which count from 0")
        return choices[answer]
    found = find_choice(answer, choices)
    if found:
        return found
    match = _LETTER.fullmatch(answer.strip())
    letters = [letter(index) for index in range(len(choices))]
    if match and match[1].lower() in letters:
        return choices[letters.index(match[1].lower())]
    positions = [str(index) for index in range(len(choices))]
    if answer.strip() in positions:
        return choices[positions.index(answer.strip())]
    raise BadRow(f"answer {answer[:80]!r} is not among the choices")


def _with_context(contexts: list[Any], question: str) -> str:
    """Context first, question last, parted as in the reference's files."""
    if not all(isinstance(context, str) for context in contexts):
        raise BadRow("the context is not a list of texts")
    if not question.strip():
        raise BadRow("no question: the text is empty")
    return " \n ".join([*contexts, question])


def _need(row: Any, field: str, kind: Any) -> Any:
    if not isinstance(row, Mapping):
        raise BadRow(f"{_type(row)} where an object with {field!r} is expected")
    if field not in row or row[field] is None:
        raise BadRow(f"no {field}; the row has {', '.join(map(str, list(row)[:12])) or 'no fields'}")
    if isinstance(row[field], bool) or not isinstance(row[field], kind):
        raise BadRow(f"{field} is {_type(row[field])}, which is the wrong type")
    return row[field]


def _id(row: Row, field: str) -> str:
    name = str(_need(row, field, str | int))
    if not name.strip():
        raise BadRow(f"{field} is empty")
    return name


def _id_or(row: Row, field: str, default_id: str) -> str:
    return _id(row, field) if field in row and row[field] is not None else default_id


def _type(value: Any) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"
