import pytest

from tinyllm_ray.rows import Question
from tinyllm_ray.tasks import text

ASKED = Question("q", "Which city?", [], "Rome", accepted=["the city of Rome", "Roma"], task="text")


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("The U.S.", "us"),
        ("  a  Rome!", "rome"),
        ("C++", "c++"),
        ("ＲＯＭＥ", "rome"),
        ("The", "the"),
        ("...", "..."),
        ("theatre", "theatre"),
        ("東京。", "東京"),
    ],
)
def test_normalize_takes_case_punctuation_and_articles_away(written: str, plain: str) -> None:
    assert text.normalize(written) == plain


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("It was built on seven hills. The answer is Rome.", "Rome"),
        ("The answer is Paris. No, the answer is Rome. It is old.", "Rome"),
        ("The answer is St. Louis. It is on a river.", "St. Louis"),
        ('The answer is "Rome".', "Rome"),
        ("Answer: Rome\n\nQuestion: Which river?\nAnswer: Tiber", "Rome"),
        (r"\boxed{Rome}", "Rome"),
        ("Rome", "Rome"),
        ("It was built on seven hills and burned in the year sixty four.", ""),
        ("", ""),
    ],
)
def test_the_stated_text_is_read(written: str, found: str) -> None:
    assert text.read(written, ASKED) == found


def test_any_accepted_answer_is_right() -> None:
    assert [text.is_right(answer, ASKED) for answer in ("rome.", "roma", "City of Rome", "Milan", "")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_the_words_of_answer_and_gold_are_compared() -> None:
    # two of three words given are right, two of two wanted were given: 2 * 2 / (3 + 2)
    assert text.token_f1("city in Rome", "the city Rome") == pytest.approx(0.8)
    assert text.token_f1("Milan", "Rome") == 0
    assert text.token_f1("東京都", "東京") == pytest.approx(0.8)  # characters, where words are not parted by spaces
    assert text.partial_scores("the city Roma", ASKED) == {
        "token_f1": pytest.approx(2 / 3)
    }  # best: Roma, 2 * 1 / (2 + 1)


def test_an_empty_answer_is_refused() -> None:
    assert text.problem(Question("q", "Which?", [], " ", task="text")) == "no answer: the text is empty"
    assert text.problem(ASKED) == ""
