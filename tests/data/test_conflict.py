"""The conflict between teachers on four questions, worked out by hand."""

import pytest

from tinyllm_ray.data.conflict import Pair, find_conflict, pass_at
from tinyllm_ray.rows import Question

QUESTIONS = [Question(f"q{i}", "What floats?", ["iron", "cork", "lead"], "cork") for i in range(4)]
ANSWERS = {
    "a": {"q0": ["cork"], "q1": ["cork"], "q2": ["iron"], "q3": ["iron"]},  # right twice
    "b": {"q0": ["cork"], "q1": ["iron"], "q2": ["iron"], "q3": [""]},  # right once, silent once
    "c": {"q0": ["lead"], "q2": ["cork"]},  # right once, two questions not asked
}


def test_accuracy_agreement_and_oracle_are_counted_by_question() -> None:
    found = find_conflict(QUESTIONS, ANSWERS)
    assert found.right == {"a": 2, "b": 1, "c": 1}
    assert found.stated == {"a": 4, "b": 3, "c": 2}
    assert found.accuracy == {"a": 0.5, "b": 0.25, "c": 0.25}
    assert found.pairs == [
        Pair("a", "b", 3, pytest.approx(2 / 3), 0.5),  # the same on q0, right, and on q2, wrong
        Pair("a", "c", 2, 0.0, 0.0),
        Pair("b", "c", 2, 0.0, 0.0),
    ]
    assert (found.oracle, found.nobody) == (0.75, 1)  # q3 is solved by nobody


def test_numbers_agree_by_their_value() -> None:
    asked = [Question("q", "How many?", [], "( 84 / 2 )", task="number")]
    found = find_conflict(asked, {"a": {"q": ["42"]}, "b": {"q": ["21 * 2"]}})
    assert found.pairs == [Pair("a", "b", 1, 1.0, 1.0)]


@pytest.mark.parametrize(
    ("k", "marks", "share"),
    [
        (1, [True, False, False, False], 0.25),
        (2, [True, False, False, False], 0.5),  # 1 - 3/6: of six pairs three are without the right one
        (2, [True, True, False, False], pytest.approx(5 / 6)),  # one of six pairs is all wrong
        (4, [True, False, False, False], 1.0),
        (4, [False] * 4, 0.0),
        (2, [True], 1.0),  # the missing sample is wrong, the other one right
        (1, [], 0.0),
    ],
)
def test_pass_at_k_counts_the_draws_with_a_right_sample(k: int, marks: list[bool], share: float) -> None:
    assert pass_at(k, marks) == share


def test_pass_at_k_is_given_for_powers_of_two_up_to_the_samples() -> None:
    own = {
        "q0": ["cork", "iron", "iron", "iron"],
        "q1": ["lead"] * 4,
        "q2": ["cork"] * 4,
        "q3": ["", "", "cork", "cork"],
    }
    found = find_conflict(QUESTIONS, {"a": own})
    # pass@1: (1/4 + 0 + 1 + 1/2) / 4; pass@2: (1/2 + 0 + 1 + 5/6) / 4; pass@4: 3/4
    assert found.passes["a"] == {1: pytest.approx(0.4375), 2: pytest.approx(7 / 12), 4: 0.75}
    assert found.nobody == 1
    assert find_conflict([], {"a": {}}).oracle == 0
