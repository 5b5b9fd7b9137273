import pytest

from tinyllm_ray.rows import Question
from tinyllm_ray.tasks import label

LABELS = ["entailment", "neutral", "contradiction"]
ASKED = Question("q", "He rests.", LABELS, "neutral", context="He runs.", task="label")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("He may. So the answer is neutral.", "neutral"),
        (
            "so the answer is contradiction premise: He eats. hypothesis: He rests. So the answer is neutral",
            "contradiction",
        ),
        ("The answer is entailment.\n\nPremise: He eats.\nThe answer is neutral.", "entailment"),
        ("Some say the answer is entailment. But the answer is neutral.", "neutral"),
        ("Neutral", "neutral"),
        ("Contradiction, for nobody runs at rest.", "contradiction"),
        ("Label: neutral", "neutral"),
        ("Runners do not rest, so it is a contradiction.", "contradiction"),
        ("The answer is **entailment**", "entailment"),
        ("This is not entailment but hard to say", ""),
        ("It might be entailment or neutral or else", ""),
        ("", ""),
    ],
)
def test_the_stated_label_is_read(text: str, found: str) -> None:
    assert label.read(text, ASKED) == found


def test_a_label_is_read_as_it_is_spoken() -> None:
    asked = Question("q", "He rests.", ["entailment", "not_entailment"], "entailment", task="label")
    assert label.read("The answer is not entailment.", asked) == "not_entailment"
    assert label.read("The answer is entailment, since he rests.", asked) == "entailment"


def test_a_label_is_shown_by_name_and_the_student_sees_all_of_them() -> None:
    assert label.student_text(ASKED) == "He runs.\nHe rests.\nLabels: entailment, neutral, contradiction"
    assert label.show_choices(ASKED) == "entailment\nneutral\ncontradiction"
    assert label.show_answer(ASKED) == "neutral"


def test_a_label_is_right_whatever_its_case() -> None:
    assert label.is_right("Neutral.", ASKED)
    assert not label.is_right("entailment", ASKED)
    assert not label.is_right("", ASKED)


def test_a_label_that_is_not_in_the_list_is_refused() -> None:
    assert "'unknown' is not one of entailment" in label.problem(Question("q", "?", LABELS, "unknown", task="label"))
    assert label.problem(ASKED) == ""
