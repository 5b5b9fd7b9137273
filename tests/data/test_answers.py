from typing import Any

import pytest

from tinyllm_ray.config import UserError
from tinyllm_ray.data.answers import Tally, read_answer
from tinyllm_ray.data.choices import Choices
from tinyllm_ray.data.fields import BadRow

FOUR = Choices(["iron", "cork", "lead", "wood"])
LABELED = Choices(["iron", "cork", "lead", "wood"], ["1", "2", "3", "4"])
BLOOD = Choices(["A", "AB", "B", "O"])
YES_NO = Choices(["yes", "no"])


def decide(*rows: tuple[Any, Choices]) -> str:
    tally = Tally()
    for number, (answer, choices) in enumerate(rows, start=1):
        tally.add(answer, choices, where=f"row {number} of train")
    return tally.decide(dataset="mine")


@pytest.mark.parametrize(
    ("reading", "answer", "choices", "expected"),
    [
        ("text", "cork", FOUR, "cork"),
        ("text", " Cork.", FOUR, "cork"),
        ("text", True, YES_NO, "yes"),
        ("text", "False", YES_NO, "no"),
        ("text", 2, Choices(["1", "2"]), "2"),
        ("text", 2.0, Choices(["1", "2"]), "2"),
        ("text", ["cork"], FOUR, "cork"),
        ("letter", "B", FOUR, "cork"),
        ("letter", "(b)", FOUR, "cork"),
        ("letter", "b.", FOUR, "cork"),
        ("label", "2", LABELED, "cork"),
        ("label", 2, LABELED, "cork"),
        ("label", "b", Choices(["iron", "cork"], ["A", "B"]), "cork"),
        ("label", "opb", Choices(["iron", "cork"], ["opa", "opb"], labels_are_columns=True), "cork"),
        ("index0", 1, FOUR, "cork"),
        ("index0", "1", FOUR, "cork"),
        ("index0", 1.0, FOUR, "cork"),
        ("index0", "1.0", FOUR, "cork"),
        ("index0", True, Choices(["no", "yes"]), "yes"),
        ("index0", [0, 1, 0, 0], FOUR, "cork"),
        ("index1", "2", FOUR, "cork"),
        ("index1", 2, Choices([None, "cork"]), "cork"),
    ],
)
def test_each_reading_finds_its_answer(reading: str, answer: Any, choices: Choices, expected: str) -> None:
    assert read_answer(answer, choices, reading=reading) == expected


@pytest.mark.parametrize(
    ("reading", "answer", "choices"),
    [
        ("text", "B", FOUR),
        ("text", "mb", Choices(["Mb", "MB"])),
        ("letter", "cork", FOUR),
        ("letter", "E", FOUR),
        ("letter", 1, FOUR),
        ("label", "0", LABELED),
        ("label", "2", FOUR),
        ("index0", 4, FOUR),
        ("index0", "B", FOUR),
        ("index0", 1.5, FOUR),
        ("index0", float("inf"), FOUR),
        ("index0", [1, 1, 0, 0], FOUR),
        ("index0", [1, 0], FOUR),
        ("index1", 0, FOUR),
        ("index1", 1, Choices([None, "cork"])),
        ("index1", True, FOUR),
    ],
)
def test_no_reading_takes_what_is_not_its_own(reading: str, answer: Any, choices: Choices) -> None:
    with pytest.raises(BadRow, match="is not among the choices when it is read as"):
        read_answer(answer, choices, reading=reading)


@pytest.mark.parametrize("answer", [None, "", [], -1, "-1"])
def test_a_row_without_an_answer_says_so(answer: Any) -> None:
    with pytest.raises(BadRow, match=r"^no answer$"):
        read_answer(answer, FOUR, reading="text")


def test_one_reading_is_found_for_all_rows() -> None:
    assert decide(("cork", FOUR), ("wood", FOUR)) == "text"
    assert decide(("A", FOUR), ("D", FOUR)) == "letter"
    assert decide((0, FOUR), (3, FOUR)) == "index0"
    assert decide(("1", FOUR), ("4", FOUR)) == "index1"
    assert decide((True, YES_NO), (False, YES_NO)) == "text"
    assert decide(("A", BLOOD), ("AB", BLOOD), ("O", BLOOD)) == "text"
    assert decide(([0, 1, 0, 0], FOUR)) == "index0"


def test_labels_of_the_choices_go_before_positions() -> None:
    assert decide(("1", LABELED), ("3", LABELED)) == "label"
    letters = Choices(["B", "A"], ["A", "B"])
    assert decide(("A", letters), ("B", letters)) == "label"
    assert decide(("cork", LABELED), ("wood", LABELED)) == "text"


@pytest.mark.parametrize(
    ("rows", "one", "other"),
    [
        ([("A", BLOOD), ("B", BLOOD)], "text", "letter"),
        ([(1, FOUR), (2, FOUR), (3, FOUR)], "index0", "index1"),
        ([("1", Choices(["1", "0"])), ("0", Choices(["1", "0"]))], "text", "index0"),
        ([("2", Choices(["1", "2", "3"])), ("1", Choices(["3", "2", "1"]))], "text", "index0"),
    ],
)
def test_two_readings_that_differ_are_refused_by_their_names(rows: Any, one: str, other: str) -> None:
    message = (
        rf"as {one} \(.*\) and as {other} \(.*row \d of train.*set dataset\.columns\.answer_is to {one} or {other}"
    )
    with pytest.raises(UserError, match=message):
        decide(*rows)


def test_one_broken_row_does_not_make_another_reading_the_only_one() -> None:
    counted_from_one = [(1 + number % 3, FOUR) for number in range(200)]
    with pytest.raises(UserError, match=r"index0 .* index1"):
        decide(*counted_from_one, (0, FOUR))
    assert decide(*counted_from_one, *[(4, FOUR)] * 20, ("broken", FOUR)) == "index1"


def test_two_readings_that_agree_are_no_question() -> None:
    same = Choices(["A", "B"])
    assert decide(("A", same), ("B", same)) == "text"
