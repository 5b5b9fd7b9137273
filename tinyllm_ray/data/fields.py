"""Values of a source row by dotted path: a row and "question.stem" in, the value out, or BadRow. Pure."""

import math
from collections.abc import Mapping
from typing import Any

from tinyllm_ray.data.readers import Unreadable

OR = " | "
NO_ANSWER = "no answer"


class BadRow(ValueError):
    """Why a row cannot be used."""


class OtherKind(Exception):
    """A good row of a kind that the dataset does not ask here, such as BioASQ's list questions; skipped."""


def find(row: Any, path: str) -> Any:
    """None where there is nothing. A column whose own name has dots goes first; a path goes through lists too.

    find({"snippets": [{"text": "a"}, {"text": "b"}]}, "snippets.text") == ["a", "b"]
    find({"question": "Why?"}, "question.stem | question") == "Why?", the first path that the row has
    """
    if isinstance(row, dict) and path in row:
        value = row[path]
    else:
        value = _find(row, next((one for one in path.split(OR) if has(row, one)), path))
    if isinstance(value, Unreadable):
        raise BadRow(f"{path} is unreadable: {value.reason}")
    return None if isinstance(value, float) and math.isnan(value) else value


def has(row: Any, path: str) -> bool:
    """Whether the row names the field, be it null."""
    if not isinstance(row, Mapping):
        return False
    return path in row or any(one in row or _find(row, one) is not None for one in path.split(OR))


def need(row: Any, path: str) -> Any:
    value = find(row, path)
    if value is None:
        fields = ", ".join(map(str, list(row)[:12])) if isinstance(row, Mapping) else ""
        raise BadRow(f"no {path}; the row has {fields or 'no fields'}")
    return value


def text_of(value: Any, named: str) -> str:
    """Text, or a number as it is written; 2.0 is "2", for tables without a type for whole numbers hold such."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)
    raise BadRow(f"{named} is {kind(value)}, not text")


def kind(value: Any) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"


def _find(row: Any, path: str) -> Any:
    if isinstance(row, Mapping):
        if path in row:
            return row[path]
        head, dot, rest = path.partition(".")
        return _find(row[head], rest) if dot and head in row else None
    if isinstance(row, list):
        head, dot, rest = path.partition(".")
        if head.isdigit():
            item = row[int(head)] if int(head) < len(row) else None
            return _find(item, rest) if dot else item
        return [_find(item, path) for item in row]
    return None
