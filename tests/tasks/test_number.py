import pytest

from tinyllm_ray.rows import Question
from tinyllm_ray.tasks import number

ASKED = Question("q", "How many points a round?", [], "( 84.0 / 2.0 )", task="number")


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("42", 42),
        ("-5", -5),
        ("−5", -5),
        (".5", 0.5),
        ("007", 7),
        ("1,234,567.5", 1234567.5),
        ("( 84.0 / 2.0 )", 42),
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("10 - 3 - 2", 5),
        ("16 / 4 / 2", 2),
        ("-2 ** 2", -4),
        ("2 ^ 3 ^ 2", 512),
        ("2 * -3", -6),
        ("3 × 4 ÷ 6", 2),
        ("3 x 4", 12),
        ("1e3", 1000),
        ("$1,200", 1200),
        ("50%", 50),
        (r"\frac{3}{4}", 0.75),
        (r"\dfrac{1}{2} \times 8", 4),
        ("((((3))))", 3),
    ],
)
def test_an_expression_has_its_value(expression: str, value: float) -> None:
    assert number.value(expression) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "four",
        "1 / 0",
        "2 +",
        "(2",
        "2)",
        "()",
        "2 3",
        "1.2.3",
        "12,34",
        "__import__('os')",
        "9**9**9",
        "10**400",
        "(-8) ** 0.5",
        "0 ** -1",
        "(" * 500 + "1" + ")" * 500,
        "1+" * 500 + "1",
        "nan",
        "1e999",
    ],
)
def test_what_is_no_finite_value_has_none(text: str) -> None:
    assert number.value(text) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("84 / 2 = 42. The answer is (84 / 2).\n\nQ: There are 120 students.\nA: The answer is (120 /", "(84 / 2)"),
        ("The answer is 41. No: the answer is 42.", "42"),
        ("The answer is ((14 - 2) - 10).", "((14 - 2) - 10)"),
        ("The answer is (16 * 17) * 4.", "(16 * 17) * 4"),
        ("So the answer is $1,234.50.", "1234.50"),
        ("The answer is: **42** apples.", "42"),
        ("The answer is 5 + 3 = 8.", "8"),
        (r"Thus \boxed{42}.", "42"),
        (r"Thus \boxed{\frac{84}{2}} points.", "((84)/(2))"),
        ("He adds them.\n#### 42", "42"),
        ("He scored 84 points in 2 rounds, so 42 points a round.", "42"),
        ("He had 17 - 5", "5"),
        ("It fell to -5", "-5"),
        ("42", "42"),
        ("( 84.0 / 2.0 )", "( 84.0 / 2.0 )"),
        ("The answer is (2 * x).", ""),
        ("The answer is (8 / 4) and (6 / 4).", ""),  # two answers are none
        ("The answer is 12 apples and 3 oranges.", ""),
        ("The answer is unclear.", ""),
        ("Nobody knows.", ""),
    ],
)
def test_the_stated_number_is_read(text: str, found: str) -> None:
    assert number.read(text, ASKED) == found


def test_numbers_are_equal_within_a_millionth_of_their_size() -> None:
    assert number.same("42", "( 84.0 / 2.0 )")
    assert number.same("1000000", "1000000.9")
    assert not number.same("1000000", "1000001.1")
    assert number.same("0.1 + 0.2", "0.3")
    assert not number.same("0", "0.000001")
    assert not number.same("", "")
    assert not number.same("many", "many")


def test_a_number_is_right_by_its_value() -> None:
    assert number.is_right("42.0", ASKED)
    assert not number.is_right("84", ASKED)
    assert number.show_answer(ASKED) == "( 84.0 / 2.0 )"
    assert number.student_text(ASKED) == "How many points a round?"


def test_an_answer_that_is_no_number_is_refused() -> None:
    assert "'many' is neither a number nor an arithmetic expression" in number.problem(
        Question("q", "How many?", [], "many", task="number")
    )
    assert number.problem(ASKED) == ""
