import json
from typing import Any

import pytest

from tinyllm_ray.data.choices import Choices, read_choices, with_distractors
from tinyllm_ray.data.fields import BadRow

BOTH = ["iron", "cork"]
LABELED = Choices(BOTH, ["A", "B"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (BOTH, Choices(BOTH)),
        ({"text": BOTH, "label": ["A", "B"]}, LABELED),
        ({"label": [1, 2], "text": BOTH}, Choices(BOTH, ["1", "2"])),
        ({"text": BOTH}, Choices(BOTH)),
        ([{"label": "A", "text": "iron"}, {"label": "B", "text": "cork"}], LABELED),
        ([{"key": "A", "value": "iron"}, {"key": "B", "value": "cork"}], LABELED),
        ([{"text": "iron", "right": False}, {"text": "cork", "right": True}], Choices(BOTH)),
        ({"A": "iron", "B": "cork"}, LABELED),
        ({"A": "iron", "B": "cork", "C": None}, Choices([*BOTH, None], ["A", "B", "C"])),
        ([3, 2.5, 2.0, True], Choices(["3", "2.5", "2", "true"])),
        (["iron", None, "cork", None], Choices(["iron", None, "cork", None])),
        (["iron", "cork", float("nan")], Choices([*BOTH, None])),
        (json.dumps(BOTH), Choices(BOTH)),
        (json.dumps({"A": "iron", "B": "cork"}), LABELED),
        ("['iron', 'cork']", Choices(BOTH)),
    ],
)
def test_choices_are_read_in_every_form(value: Any, expected: Choices) -> None:
    assert read_choices({"choices": value}, "choices") == expected


def test_several_columns_hold_a_choice_each_and_may_be_empty() -> None:
    row = {"opa": "iron", "opb": "cork", "opc": None}
    found = read_choices(row, ["opa", "opb", "opc", "opd"])
    assert found == Choices([*BOTH, None, None], ["opa", "opb", "opc", "opd"], labels_are_columns=True)
    assert found.used == BOTH


def test_the_right_answer_stands_at_places_that_follow_from_the_texts_alone() -> None:
    places = []
    for number in range(40):
        row = {"wrong1": "iron", "wrong2": "lead", "wrong3": None}
        found = with_distractors(row, ["wrong1", "wrong2", "wrong3"], answer="cork", question=f"Question {number}?")
        assert sorted(found.used) == ["cork", "iron", "lead"]
        again = {"wrong1": "lead", "wrong2": "iron"}
        assert with_distractors(again, ["wrong1", "wrong2"], answer="cork", question=f"Question {number}?") == found
        places.append(found.used.index("cork"))
    assert min(places.count(place) for place in range(3)) >= 5
    assert with_distractors({"wrong": ["iron"]}, "wrong", answer="cork", question="?").used in (BOTH, BOTH[::-1])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("ab", "choices is of type str, and no list"),
        ("['a' +", "choices is of type str, and no list"),
        (None, "no choices; the row has choices"),
        (7, "choices is of type int"),
        ([["a"], ["b"]], "a choice is of type list"),
        ([{"label": "A"}], "a choice of choices has label, but none of text"),
        ([{"text": "a", "label": "A"}, {"text": "b"}], "a choice of choices has text, but none of label"),
        ({"text": BOTH, "label": ["A"]}, "2 texts, but its labels are not as many"),
    ],
)
def test_what_holds_no_choices_says_why(value: Any, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        read_choices({"choices": value}, "choices")
    with pytest.raises(BadRow, match="no opa; the row has question"):
        read_choices({"question": "?"}, ["opa", "opb"])
