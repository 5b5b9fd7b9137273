"""A question's choices, in whatever form a file has them: the value of the column in, texts and their labels out. Pure.

["iron", "cork"] · {"text": [..], "label": ["A", "B"]} · [{"label": "A", "text": "iron"}, ..] · {"A": "iron", ..} ·
several columns · the right answer and its distractors · any of these as a JSON string · null where a choice is not used
"""

import ast
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinyllm_ray.data.fields import BadRow, find, has, kind, need, text_of

_TEXT_KEYS = ("text", "value", "content", "option", "choice", "answer")
_LABEL_KEYS = ("label", "key", "id", "letter")
_LONGEST_LITERAL = 100_000


@dataclass(frozen=True)
class Choices:
    """Texts in the file's order, None where a place is empty, so that positions and letters keep their meaning."""

    texts: list[str | None]
    labels: list[str] | None = None
    labels_are_columns: bool = False

    @property
    def used(self) -> list[str]:
        return [text for text in self.texts if text is not None]


def read_choices(row: Mapping[str, Any], columns: str | list[str]) -> Choices:
    """Raises BadRow where the columns hold no choices."""
    if isinstance(columns, str):
        return _from_value(need(row, columns), columns)
    if not any(has(row, column) for column in columns):
        need(row, columns[0])
    values = [find(row, column) for column in columns]
    texts = [None if value is None else text_of(value, column) for column, value in zip(columns, values, strict=True)]
    return Choices(texts, list(columns), labels_are_columns=True)


def with_distractors(row: Mapping[str, Any], columns: str | list[str], *, answer: str, question: str) -> Choices:
    """The answer among the wrong ones, at a place that follows from the texts alone."""
    values = [find(row, column) for column in ([columns] if isinstance(columns, str) else columns)]
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    wrong = [text_of(value, "a distractor") for value in flat if value is not None]
    if not wrong:
        need(row, columns if isinstance(columns, str) else columns[0])
    texts: list[str | None] = []
    texts += sorted(
        [answer, *wrong], key=lambda text: hashlib.blake2b(f"{question}\n{text}".encode(errors="replace")).digest()
    )
    return Choices(texts)


def _from_value(value: Any, column: str) -> Choices:
    if isinstance(value, str):
        value = _literal(value, column)
    if isinstance(value, Mapping):
        return _from_mapping(value, column)
    if not isinstance(value, list):
        raise BadRow(f"{column} is {kind(value)}, not a list of choices")
    items = [item for item in value if not _is_gap(item)]
    if items and all(isinstance(item, Mapping) for item in items):
        texts = [_text(_first(item, _TEXT_KEYS, column)) for item in items]
        if not any(key in item for item in items for key in _LABEL_KEYS):
            return Choices(list(texts))
        return Choices(list(texts), [text_of(_first(item, _LABEL_KEYS, column), "a choice's label") for item in items])
    return Choices([None if _is_gap(item) else _text(item) for item in value])


def _from_mapping(value: Mapping[str, Any], column: str) -> Choices:
    if isinstance(value.get("text"), list):
        texts = [None if _is_gap(item) else _text(item) for item in value["text"]]
        labels = value.get("label", value.get("labels"))
        if labels is None:
            return Choices(texts)
        if not isinstance(labels, list) or len(labels) != len(texts):
            raise BadRow(f"{column} has {len(texts)} texts, but its labels are not as many")
        return Choices(texts, [text_of(label, "a choice's label") for label in labels])
    return Choices([None if _is_gap(item) else _text(item) for item in value.values()], [str(key) for key in value])


def _literal(value: str, column: str) -> Any:
    """What a text such as '["iron", "cork"]' or "['iron', 'cork']" holds."""
    if value.lstrip()[:1] in ("[", "{") and len(value) < _LONGEST_LITERAL:
        for parse in (json.loads, ast.literal_eval):
            try:
                return parse(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    raise BadRow(f"{column} is of type str, and no list of choices can be read in it")


def _first(item: Mapping[str, Any], keys: tuple[str, ...], column: str) -> Any:
    for key in keys:
        if item.get(key) is not None:
            return item[key]
    raise BadRow(f"a choice of {column} has {', '.join(map(str, item)) or 'nothing'}, but none of {', '.join(keys)}")


def _text(value: Any) -> str:
    return text_of(value, "a choice")


def _is_gap(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
