import pytest

from tinyllm_ray.rows import Question
from tinyllm_ray.tasks import choice
from tinyllm_ray.tasks.choice import find_choice, letter, normalize, read

ASKED = Question("q", "What floats?", ["iron", "cork", "a stone", "cork (dry)"], "cork")


def test_letters_count_from_a() -> None:
    assert [letter(index) for index in (0, 1, 25)] == ["a", "b", "z"]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("  The  Sun. ", "sun"),
        ('"A tree"', "tree"),
        ("an Apple!", "apple"),
        ("-5", "-5"),
        (".5", ".5"),
        ("a", "a"),
        ("...", "..."),
        ("", ""),
        ("ﬁve\tfish", "five fish"),
        ("vitamin A", "vitamin a"),
    ],
)
def test_normalize_keeps_what_distinguishes_answers(text: str, plain: str) -> None:
    assert normalize(text) == plain


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Wood floats. Thus, the answer is (b) cork", "cork"),
        ("Thus, the answer is (d) cork (dr", "cork (dry)"),
        ("Some say the answer is (a). They are wrong: the answer is (b).", "cork"),
        ("So the answer is b.\nMore text", "cork"),
        ("The correct answer is option (c).", "a stone"),
        ("Answer: B", "cork"),
        ("Answer: cork", "cork"),
        ("the answer is a stone", "a stone"),
        ("the answer is cork (dry).", "cork (dry)"),
        ("So, option (b) is correct.", "cork"),
        ("(b) is the right one", "cork"),
        ("(c) a stone", "a stone"),
        ("b", "cork"),
        ("B.", "cork"),
        ("b) cork", "cork"),
        ("Cork.", "cork"),
        ("Iron, because it is heavy", "iron"),
        ("Iron is heavy.\nAnswer: (b)\n\nQuestion: What burns?\nAnswer: (a)", "cork"),
    ],
)
def test_the_stated_choice_is_read(text: str, answer: str) -> None:
    assert read(text, ASKED) == answer


@pytest.mark.parametrize(
    "text",
    ["", "nan", "Iron sinks and cork floats", "the answer is (z)", "the answer is unclear", "A stone sinks in water"],
)
def test_no_choice_is_read_where_none_is_stated(text: str) -> None:
    assert read(text, ASKED) == ""


@pytest.mark.parametrize(
    ("text", "choices", "found"),
    [
        ("(1, 2]", ["[1, 2)", "(1, 2]"], "(1, 2]"),
        ("MB", ["Mb", "MB"], "MB"),
        ("mb", ["Mb", "MB"], ""),  # either could be meant
        ("mb", ["Mb", "GB"], "Mb"),
        ("x2", ["x²", "x2"], "x2"),
        ("x²", ["x2", "x²"], "x²"),
        ("x²", ["x2", "y2"], "x2"),
        ('"Mb".', ["Mb", "MB"], "Mb"),
        ("The cork", ["iron", "cork"], "cork"),
        ("wood", ["iron", "cork"], ""),
        ("", ["iron", "cork"], ""),
    ],
)
def test_a_choice_is_found_exactly_first_and_loosely_where_one_alone_fits(
    text: str, choices: list[str], found: str
) -> None:
    assert find_choice(text, choices) == found


@pytest.mark.parametrize(
    ("text", "choices", "answer"),
    [
        ("So the answer is MB.", ["Mb", "MB"], "MB"),
        ("So the answer is mb.", ["Mb", "MB"], ""),
        ("The answer is (1, 2].", ["[1, 2)", "(1, 2]"], "(1, 2]"),
        ("The answer is x².", ["x2", "x²"], "x²"),
        ("The answer is B.", ["A", "AB", "B", "O"], "B"),  # a blood group, not the second choice
        ("The answer is (B).", ["A", "AB", "B", "O"], "AB"),
        ("The answer is (b) AB.", ["A", "AB", "B", "O"], "AB"),
        ("It clots. The answer is (a) Question: Why? The answer is (b).", ["iron", "cork"], "iron"),
    ],
)
def test_a_stated_choice_is_read_exactly_first(text: str, choices: list[str], answer: str) -> None:
    assert read(text, Question("q", "Which?", choices, choices[0])) == answer


@pytest.mark.parametrize(
    ("choices", "answer", "reason"),
    [
        (["red", "red"], "red", "two choices are 'red'"),
        (["red", "blue", "red "], "blue", "two choices are 'red'"),
        (["red"], "red", "1 choice; a question needs 2 to 26"),
        (["red", "blue"], "green", "'green' is not among the choices"),
    ],
)
def test_a_question_without_different_choices_or_their_answer_is_refused(
    choices: list[str], answer: str, reason: str
) -> None:
    assert reason in choice.problem(Question("q", "Which?", choices, answer))


def test_choices_that_differ_in_case_alone_are_different() -> None:
    assert choice.problem(Question("q", "Which?", ["Mb", "MB"], "MB")) == ""


def test_a_passage_stands_above_the_question() -> None:
    asked = Question("q", "Who ate?", ["cat", "dog"], "dog", context="A dog ate.")
    assert choice.student_text(asked) == "A dog ate.\nWho ate?\nAnswer Choices:\n(a) cat\n(b) dog"
    assert choice.show_answer(asked) == "(b)"
