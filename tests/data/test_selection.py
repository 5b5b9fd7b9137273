"""Which teacher a question is learned from, worked out by hand for three teachers."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from tinyllm_ray.data.join import Asked
from tinyllm_ray.data.selection import Choice, choose, choose_all, most_right
from tinyllm_ray.rows import Question, to_table

ASKED = Question("q", "What floats?", ["iron", "cork", "lead"], "cork")
ALL = [0, 1, 2]


def pick(mode: str, answers: list[str], *, having: list[int] = ALL, best: tuple[int, float] = (0, 0.0)) -> Choice:
    return choose(mode, ASKED, having=having, answers=answers, best=best, routed=(), seed=0)


def test_the_best_teacher_is_taken_where_it_has_a_rationale() -> None:
    assert pick("best_teacher", ["", "", ""], best=(2, 0.75)) == (2, 0.75)
    assert pick("best_teacher", ["", "", ""], best=(2, 0.75), having=[0, 1]) == (None, 0.0)


def test_correct_takes_a_teacher_whose_own_answer_is_right() -> None:
    assert pick("correct", ["iron", "cork", "lead"]) == (1, pytest.approx(1 / 3))
    assert pick("correct", ["iron", "cork", "lead"], having=[0, 2]).teacher is None
    assert pick("correct", ["iron", "", "lead"]).teacher is None


def test_majority_takes_a_teacher_with_the_answer_of_most() -> None:
    assert pick("majority", ["iron", "cork", "iron"], having=[1, 2]) == (2, pytest.approx(2 / 3))
    assert pick("majority", ["iron", "cork", "iron"], having=[1]).teacher is None
    assert pick("majority", ["", "cork", ""]) == (1, pytest.approx(1 / 3))
    assert pick("majority", ["", "", ""]).teacher is None


def test_agree_takes_a_teacher_only_where_all_answer_the_same() -> None:
    assert pick("agree", ["iron", "iron", "iron"], having=[1]) == (1, 1.0)
    assert pick("agree", ["iron", "iron", "cork"]).teacher is None
    assert pick("agree", ["iron", "iron", ""]).teacher is None
    assert (
        choose("agree", ASKED, having=[0], answers=["cork"], best=(0, 1.0), routed=(), seed=0).teacher is None
    )  # nobody to agree


def test_numbers_agree_by_their_value() -> None:
    asked = Question("q", "How many?", [], "( 84 / 2 )", task="number")
    choice = choose("agree", asked, having=[1], answers=["42", "42.0", "21 * 2"], best=(0, 0.0), routed=(), seed=0)
    assert choice == (1, 1.0)


def test_random_one_is_drawn_evenly_by_question_and_seed_from_those_that_have_a_rationale() -> None:
    def drawn(seed: int) -> list[int | None]:
        asked = [Question(f"q{i}", "?", ["a", "b"], "a") for i in range(900)]
        return [
            choose("random_one", q, having=[0, 2], answers=["", "", ""], best=(0, 0.0), routed=(), seed=seed).teacher
            for q in asked
        ]

    counts = Counter(drawn(0))
    assert set(counts) == {0, 2}
    assert abs(counts[0] - 450) < 4 * 15  # four standard deviations of a fair coin: sqrt(900 / 4) = 15
    assert drawn(0) == drawn(0) != drawn(1)
    assert pick("random_one", ["", "", ""], having=[]).teacher is None
    assert pick("random_one", ["", "", ""], having=[1]) == (1, 1.0)


def test_the_router_takes_the_likeliest_of_those_that_have_a_rationale() -> None:
    def routed(having: list[int]) -> Choice:
        return choose(
            "router", ASKED, having=having, answers=["", "", ""], best=(0, 0.0), routed=[0.2, 0.5, 0.3], seed=0
        )

    assert routed(ALL) == (1, 0.5)
    assert routed([0, 2]) == (2, 0.3)
    assert routed([]) == (None, 0.0)


QUESTIONS = [Question(f"q{i}", "What floats?", ["iron", "cork"], "cork") for i in range(4)]
OWN = [
    {"q0": "cork", "q1": "iron", "q2": "iron"},  # right once
    {"q0": "cork", "q1": "cork", "q2": "iron", "q3": "cork"},  # right three times
    {"q1": "cork", "q2": "cork", "q3": "cork"},  # right three times, and second of equals
]


def test_the_teacher_that_is_right_most_often_is_the_best_and_the_first_of_equals() -> None:
    assert most_right(QUESTIONS, OWN) == (1, 0.75)


@pytest.mark.parametrize(
    ("mode", "teachers"),
    [
        ("best_teacher", [1, 1, 1, None]),
        ("correct", [0, 2, 2, 2]),  # q1: teachers 1 and 2 are right, but only 0 and 2 have a rationale among them
        ("majority", [0, 2, 0, 2]),
        ("agree", [None, None, None, None]),
    ],
)
def test_a_split_is_chosen_question_by_question(mode: str, teachers: list[int | None]) -> None:
    having = np.array([[1, 1, 1, 0], [0, 0, 0, 0], [0, 1, 1, 1]], dtype=bool)
    if mode == "best_teacher":
        having[1] = [1, 1, 1, 0]
    table = to_table(QUESTIONS, Question).drop_columns(["question", "context"])
    chosen = choose_all(mode, Asked(table, pa.array([], pa.string())), having=list(having), own=OWN, routed={}, seed=0)
    assert [choice.teacher for choice in chosen] == teachers
