from typing import Any

import pytest

from tinyllm_ray.data.fields import BadRow, find, has, need, text_of
from tinyllm_ray.data.readers import Unreadable

ROW = {
    "question": {"stem": "Why?"},
    "snippets": [{"text": "a"}, {"text": "b"}],
    "a.b": 1,
    "a": {"b": 2, "c": None},
    "nan": float("nan"),
    "bad": Unreadable("not UTF-8"),
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("question.stem", "Why?"),
        ("snippets.text", ["a", "b"]),
        ("snippets.1.text", "b"),
        ("snippets.9.text", None),
        ("a.b", 1),
        ("a.c", None),
        ("nan", None),
        ("other", None),
        ("question.other", None),
        ("question.stem.more", None),
        ("stem | question.stem | a.b", "Why?"),
    ],
)
def test_a_path_goes_into_columns_and_lists(path: str, value: Any) -> None:
    assert find(ROW, path) == value


def test_a_null_is_there_and_a_missing_field_is_not() -> None:
    assert [has(ROW, path) for path in ("nan", "a.b", "question.stem", "question.other", "x | a")] == [
        True,
        True,
        True,
        False,
        True,
    ]
    with pytest.raises(BadRow, match="no other; the row has question, snippets"):
        need(ROW, "other")
    with pytest.raises(BadRow, match="bad is unreadable: not UTF-8"):
        find(ROW, "bad")


def test_numbers_are_written_as_they_are_meant() -> None:
    assert [text_of(value, "x") for value in ("a", 7, 7.0, 2.5, True)] == ["a", "7", "7", "2.5", "true"]
    for value in (None, [], float("inf")):
        with pytest.raises(BadRow, match=r"x is (null|of type)"):
            text_of(value, "x")
