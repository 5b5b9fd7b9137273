import pytest

from tinyllm_ray.data.quality import FLAGS, agreement, find_flags, repeated_share, statistics
from tinyllm_ray.rows import Question
from tinyllm_ray.tasks import choice


def flags(
    text: str, *, answer: str = "ice", predicted: str = "", finish_reason: str = "stop", asked: str = "What is it?"
) -> list[str]:
    question = Question("q", asked, ["ice", "steam"], answer)
    return find_flags(text, question, predicted=predicted, finish_reason=finish_reason)


def test_a_whole_sentence_has_no_flag() -> None:
    assert flags("Water freezes below zero degrees, so it turns into ice.", predicted="ice") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["empty"]),
        (" \n", ["empty"]),
        ("nan", ["nan"]),
        ("NaN ", ["nan"]),
        ("It freezes.", ["short"]),
        ("Water freezes below zero degrees. So it turns", ["cut_off"]),
        ("the lake is cold and the lake is cold and the lake is cold and the lake is cold.", ["looping"]),
        ("Thus, the answer is (b) a block of ice.", ["answer_leaked"]),
        ("Water freezes below zero degrees.\n\nQuestion: what melts ice?", ["new_question"]),
        ("Water freezes below zero. Q: What melts in the sun at noon?", ["new_question"]),
        ("Weiter: 水 freezes below zero degrees in winter.", ["foreign_debris"]),
        ("Water \ufffd freezes below zero degrees in winter.", ["foreign_debris"]),
    ],
)
def test_each_fault_has_its_flag(text: str, expected: list[str]) -> None:
    assert flags(text) == expected


def test_units_accents_and_typographic_quotes_are_no_debris() -> None:
    assert flags("“Fürth” is 5 °C – about 41 °F, so water there stays liquid.") == []


def test_a_text_without_any_punctuation_that_stopped_by_itself_is_whole() -> None:
    assert flags("water freezes below zero so it turns into ice") == []


def test_a_text_at_the_limit_of_tokens_is_cut_off_even_when_it_ends_in_a_full_stop() -> None:
    assert flags("Water freezes below zero degrees in winter.", finish_reason="length") == ["cut_off"]


def test_a_text_that_was_ended_as_a_loop_loops_whatever_share_of_it_that_was() -> None:
    assert flags("Water freezes below zero degrees, so it turns into ice.", finish_reason="repetition") == ["looping"]


def test_a_stated_choice_other_than_the_gold_answer_contradicts_it() -> None:
    text = "It is warm in summer, so the answer is steam."
    assert flags(text, answer="ice", predicted="steam") == ["answer_contradicted"]
    assert flags(text, answer="steam", predicted="steam") == []
    assert flags(text, answer="ice", predicted="") == []


@pytest.mark.parametrize(
    "text",
    [
        "The answer is (b). The answer is (b). The answer is (b).",
        "The answer is (b) a block of frozen ice\nThe answer is (b) a block of frozen ice",
        "Thus, the correct answer is 3.5 degrees. So the answer is 3.5 degrees.",
        "Steam. The right answer is steam, so the answer is steam.",
    ],
)
def test_an_answer_said_twice_is_still_nothing_but_an_answer(text: str) -> None:
    assert "answer_leaked" in flags(text)
    assert "answer_leaked" not in flags(f"Water freezes below zero degrees. {text}")


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("因为水在零度以下会结冰，所以答案是冰。", "水在冬天会变成什么？"),
        ("Вода замерзает при нуле, поэтому это лёд.", "Что это такое?"),
        ("水は零度で凍るので氷になります。", "これは何ですか？"),
        ("Das sind 5 €, also weniger als “fünf” Pfund.", "Wie viel?"),
        ("น้ำจะแข็งตัวที่อุณหภูมิต่ำกว่าศูนย์องศา", "น้ำกลายเป็นอะไร"),
    ],
)
def test_the_script_of_the_question_is_no_debris_and_its_words_are_counted(text: str, asked: str) -> None:
    assert flags(text, asked=asked) == []
    if asked != "Wie viel?":
        assert "foreign_debris" in flags(text)


def test_a_text_without_spaces_is_short_loops_and_is_cut_off_as_others_are() -> None:
    asked = "水在冬天会变成什么？"
    assert flags("会结冰。", asked=asked) == ["short"]
    assert flags("水会结冰水会结冰水会结冰水会结冰。", asked=asked) == ["looping"]
    assert flags("水在零度以下会结冰。所以它会", asked=asked) == ["cut_off"]


def test_a_number_contradicts_by_its_value() -> None:
    asked = Question("q", "How many?", [], "( 84.0 / 2.0 )", task="number")
    text = "He scored 84 points in 2 rounds, so the answer is 42."
    assert find_flags(text, asked, predicted="42", finish_reason="stop") == []
    assert find_flags(text, asked, predicted="41", finish_reason="stop") == ["answer_contradicted"]


def test_repeated_share_counts_runs_of_four_words() -> None:
    assert repeated_share("a b c d a b c d") == pytest.approx(1 / 5)  # abcd bcda cdab dabc abcd
    assert repeated_share("a a a a a a") == pytest.approx(2 / 3)  # three runs, one of them new
    assert repeated_share("a b c") == 0


def row(question_id: str, text: str, *, flags: list[str], predicted: str = "", failure: str = "") -> dict:
    return {
        "question_id": question_id,
        "rationale": text,
        "predicted_answer": predicted,
        "failure": failure,
        "output_tokens": 10 * len(text.split()),
        "flags": flags,
    }


def test_statistics_of_one_teacher() -> None:
    table = statistics(
        [
            row("1", "one two three", flags=[], predicted="x"),
            row("2", "one two three", flags=["short"]),
            row("3", "one", flags=["short", "cut_off"]),
            row("4", "", flags=[], failure="empty output"),
        ]
    )
    assert (table["rows"], table["failed"], table["words_median"]) == (4, 1, 3)
    assert table["clean_share"] == pytest.approx(1 / 3)
    assert table["flag_share"]["short"] == pytest.approx(2 / 3)
    assert table["flag_share"]["cut_off"] == pytest.approx(1 / 3)
    assert set(table["flag_share"]) == set(FLAGS)
    assert table["output_tokens_mean"] == pytest.approx(70 / 3)
    assert table["answer_stated_share"] == pytest.approx(1 / 3)
    assert table["distinct_share"] == pytest.approx(2 / 3)


def test_statistics_of_nothing_are_zero() -> None:
    assert statistics([])["clean_share"] == 0


def test_agreement_is_over_the_questions_that_both_teachers_answer() -> None:
    shares = agreement(
        {"a": {"1": "x", "2": "y", "3": ""}, "b": {"1": "x", "2": "z", "3": "x"}, "c": {"9": "x"}},
        same=choice.same,
    )
    assert shares == {"a & b": 0.5}
