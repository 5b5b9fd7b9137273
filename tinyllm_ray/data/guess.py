"""Which `dataset` section reads some rows: known layouts first, else columns by their usual names.

In: the first rows of a file    Out: {"format": "arc"}, or {"format": "columns", "columns": {"question": "q", ...}}
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tinyllm_ray.config import UserError
from tinyllm_ray.data.answers import Tally
from tinyllm_ray.data.choices import read_choices
from tinyllm_ray.data.fields import BadRow, OtherKind, find, has
from tinyllm_ray.data.formats import Parts, after_mark, paths_read, read_parts, to_question
from tinyllm_ray.schema import LAYOUTS, Dataset
from tinyllm_ray.tasks import number

_SURE = 0.75  # how much of a layout's columns a file has to have, and of a file's columns the layout
_MANY_FIELDS = 6  # so many names do not come together by chance
_MOST_LABELS = 20
_MARKS = ("####", "\\boxed{")  # before the final answer of a worked solution


def _words(names: str) -> list[str]:
    return names.split()


_QUESTIONS = _words(
    "question question_text question.stem query stem problem prompt instruction hypothesis goal sentence sentence2 "
    "body ctx input text"
)
_CHOICES = _words("choices options question.choices candidates answers endings alternatives answer_choices opts")
_ANSWERS = _words(
    "answerkey answer_key answer_idx answer_index correct_option correct_answer answers.text answer.text answer.value "
    "answer label gold gold_label correct target cop solution output final_decision"
)
_CONTEXTS = _words("context passage premise article support background story document paragraph sentence1 input")
_IDS = _words("uid qid question_id _id example_id idx guid pubid")
_ONE_OF_SEVERAL = re.compile(r"(?i)(op|opt|option|choice|answer|ending|sol|solution|candidate)?[ _-]?([a-j]|\d{1,2})")
_RIGHT = ("correct", "is_correct", "isCorrect", "is_right", "right")  # marks of a choice
_WRONG = re.compile(r"(?i)(distractors?|(incorrect|wrong)[ _]?(answer|option|choice)s?)[ _-]?(\d*|[a-j])")


def guess(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A part of the section, without name, path and splits. Raises UserError where no question can be found."""
    return _known_layout(rows) or _by_names(rows)


def _known_layout(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    columns = {column for row in rows for column in row}
    scores = {
        name: max(_likeness(columns, set(form)) for form in layout["fields"])
        for name, layout in LAYOUTS.items()
        if _reads(rows, {"format": name})
    }
    best = max(scores, key=lambda name: scores[name], default="")
    return {"format": best} if best and scores[best] >= _SURE else {}


def _likeness(columns: set[str], fields: set[str]) -> float:
    """1 where the columns are the layout's; nearly so where they are many others too, but all of many of the layout."""
    if len(fields) >= _MANY_FIELDS and fields <= columns:
        return max(_SURE, len(fields) / len(columns))
    return 2 * len(columns & fields) / (len(columns) + len(fields))


def _reads(rows: Sequence[dict[str, Any]], section: dict[str, Any]) -> bool:
    """Whether the section makes questions of the rows, but for those without an answer."""
    dataset = Dataset(name="guess", **section)
    if not all(any(has(row, path) for row in rows) for path in paths_read(dataset)):
        return False
    parts = [part for row in rows if (part := _parts(row, dataset))]
    try:
        reading = dataset.columns.answer_is or _tally(parts).decide(dataset="")
        for part in parts:
            to_question(part, dataset=dataset, reading=reading)
    except UserError:
        return bool(parts)  # two readings fit; the user is asked for one
    except BadRow:
        return False
    return bool(parts)


def _parts(row: dict[str, Any], dataset: Dataset) -> Parts | None:
    try:
        return read_parts(row, dataset=dataset, default_id="")
    except (BadRow, OtherKind):
        return None


def _tally(parts: Sequence[Parts]) -> Tally:
    tally = Tally()
    for part in parts:
        tally.add(part.answer, part.choices, where="a row")
    return tally


def _by_names(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    question = _named(rows, _QUESTIONS, str)
    if not question:
        raise UserError(
            f"no column looks like a question's text; the columns are {', '.join(_columns(rows))}; write the section "
            "by hand: dataset.columns.question, choices and answer (docs/datasets.md)"
        )
    context = next((name for name in _all_named(rows, _CONTEXTS) if name != question and _holds_text(rows, name)), "")
    wrong = sorted(name for name in _columns(rows) if _WRONG.fullmatch(name))
    choices: str | list[str] | None = _one_column(rows) or _several_columns(rows)
    taken = {question, context, *wrong, *([choices] if isinstance(choices, str) else choices or [])}
    answer = next((name for name in _all_named(rows, _ANSWERS) if name.partition(".")[0] not in taken), "")
    answer = answer or (_marks(rows, choices) if isinstance(choices, str) else "") or _right_answer(rows, taken)
    if not answer:
        raise UserError(
            f"no column looks like the answer; the columns are {', '.join(_columns(rows))}; write the section by hand: "
            "dataset.columns.answer (docs/datasets.md)"
        )
    if wrong:
        found["distractors"] = wrong[0] if len(wrong) == 1 else wrong
        choices = None
    defaults = {"question": question, "context": context, "choices": choices, "answer": answer}
    if not any(row.get("id") is not None for row in rows):
        defaults["id"] = _named(rows, _IDS, str | int)
    usual = {"question": "question", "choices": "choices", "answer": "answer", "context": "context"}
    found |= {key: name for key, name in defaults.items() if name and name != usual.get(key)}
    section: dict[str, Any] = {"format": "columns"}
    if not choices and not wrong:
        answers = [find(row, answer) for row in rows]
        mark = next((mark for mark in _MARKS if _all_hold(answers, mark)), None)
        found |= {"answer_after": mark} if mark else {}
        section |= _free_task([after_mark(text, mark) for text in answers] if mark else answers)
    return section | ({"columns": found} if found else {})


def _all_hold(answers: Sequence[Any], mark: str) -> bool:
    return all(isinstance(answer, str) and mark in answer for answer in answers)


def _free_task(answers: Sequence[Any]) -> dict[str, Any]:
    """Labels where few answers are repeated over many rows, numbers, else text."""
    there = [answer for answer in answers if answer not in (None, "")]
    if there and all(isinstance(answer, bool) for answer in there):
        return {"task": "label", "labels": ["yes", "no"]}
    texts = Counter(str(answer) for answer in there if isinstance(answer, str | int))
    if sum(texts.values()) == len(there) and 2 <= len(texts) <= min(_MOST_LABELS, len(there) // 2):
        return {"task": "label", "labels": sorted(texts)}
    numeric = there and all(number.value(str(answer)) is not None for answer in there)
    return {"task": "number" if numeric else "text"}


def _one_column(rows: Sequence[dict[str, Any]]) -> str:
    for name in _all_named(rows, _CHOICES):
        try:
            if all(len(read_choices(row, name).used) >= 2 for row in rows[:20]):
                return name
        except BadRow:
            continue
    return ""


def _several_columns(rows: Sequence[dict[str, Any]]) -> list[str] | None:
    """opa, opb, ..; option1, option2, ..; A, B, ..: the largest family of names that differ in their last mark."""
    families: dict[str, list[str]] = {}
    for name in _columns(rows):
        match = _ONE_OF_SEVERAL.fullmatch(name)
        if match:
            families.setdefault(f"{(match[1] or '').lower()}{match[2].isdigit()}", []).append(name)
    largest = max(families.values(), key=len, default=[])
    return sorted(largest) if len(largest) >= 2 else None


def _marks(rows: Sequence[dict[str, Any]], choices: str) -> str:
    """answers.correct of [{"text": "cork", "correct": true}, ...]: a mark for each choice, one of them true."""
    for mark in _RIGHT:
        found = [find(row, f"{choices}.{mark}") for row in rows]
        if all(isinstance(marks, list) and sum(one is True for one in marks) == 1 for marks in found):
            return f"{choices}.{mark}"
    return ""


def _right_answer(rows: Sequence[dict[str, Any]], taken: set[str]) -> str:
    names = [name for name in _columns(rows) if name not in taken and re.search(r"(?i)answer|correct|label", name)]
    return names[0] if names else ""


def _named(rows: Sequence[dict[str, Any]], names: Sequence[str], kind: Any) -> str:
    return next((name for name in _all_named(rows, names) if _holds(rows, name, kind)), "")


def _all_named(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """The columns that go by these names in any case, in the order of the names."""
    by_lower = {re.sub(r"[ -]", "_", name.lower()): name for name in _columns(rows)}
    plain = [by_lower.get(name.lower(), name if "." in name else "") for name in names]
    return [name for name in plain if name and any(has(row, name) for row in rows)]


def _holds_text(rows: Sequence[dict[str, Any]], name: str) -> bool:
    return _holds(rows, name, str | list)


def _holds(rows: Sequence[dict[str, Any]], name: str, kind: Any) -> bool:
    values = [row[name] if name in row else find(row, name) for row in rows]
    return all(isinstance(value, kind) for value in values if value is not None) and any(v is not None for v in values)


def _columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))
