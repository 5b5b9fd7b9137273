import pytest

from tinyllm_ray.tasks.choice import extract_answer, letter, normalize

CHOICES = ["iron", "cork", "a stone", "cork (dry)"]


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
    assert extract_answer(text, CHOICES) == answer


@pytest.mark.parametrize(
    "text",
    ["", "nan", "Iron sinks and cork floats", "the answer is (z)", "the answer is unclear", "A stone sinks in water"],
)
def test_no_choice_is_read_where_none_is_stated(text: str) -> None:
    assert extract_answer(text, CHOICES) == ""
