import numpy as np
import pytest

from tinyllm_ray.report.effects import Effect, compare, conclude, interval, paired_difference, teacher_effects


def right(*answers: int) -> dict[str, bool]:
    return {f"q{number}": bool(answer) for number, answer in enumerate(answers)}


def effect(about: str, kind: str, points: float, low: float, high: float) -> Effect:
    return Effect(about, kind, "all_teachers", "label_only", points, low, high, seeds=3, questions=200)


def test_a_difference_is_paired_by_question_and_seed():
    scores = {
        "all_teachers": {0: right(1, 1, 0, 1), 1: right(1, 0, 0, 0)},
        "label_only": {1: right(0, 0, 1, 0), 2: right(1)},
    }
    assert paired_difference(scores, "all_teachers", "label_only").tolist() == [[1.0, 0.0, -1.0, 0.0]]


def test_questions_that_one_side_lacks_are_left_out():
    scores = {"a": {0: {"x": True, "y": True}}, "b": {0: {"y": False, "z": True}}}
    assert paired_difference(scores, "a", "b").tolist() == [[1.0]]


def test_points_are_the_mean_difference_in_percent():
    scores = {"a": {0: right(1, 1, 1, 0)}, "b": {0: right(1, 0, 0, 0)}}
    found = compare(scores, "a", "b", about="a", kind="alone")
    assert (found.points, found.seeds, found.questions) == (50.0, 1, 4)
    assert found.low < 50.0 < found.high


def test_a_difference_that_never_varies_has_an_interval_of_no_width():
    assert interval(np.ones((2, 5))) == (1.0, 1.0)


def test_the_interval_grows_with_the_seeds_disagreement():
    agree, disagree = np.full((4, 100), 0.5), np.repeat([[0.0], [1.0], [0.0], [1.0]], 100, axis=1)
    low, high = interval(disagree)
    assert interval(agree) == (0.5, 0.5)
    assert low < 0.25 and high > 0.75


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Differences of five seeds on 60 questions around 0.1, with noise of the seed and of the question."""
    generator, covered = np.random.default_rng(0), 0
    for _ in range(200):
        seeds, questions = generator.normal(0, 0.05, (5, 1)), generator.normal(0, 0.4, (1, 60))
        low, high = interval(0.1 + seeds + questions + generator.normal(0, 0.3, (5, 60)), draws=500)
        covered += low <= 0.1 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_without_a_common_question_there_is_no_effect():
    assert compare({"a": {0: right(1)}, "b": {1: right(1)}}, "a", "b", about="a", kind="alone") is None
    assert compare({"a": {0: right(1)}}, "a", "b", about="a", kind="alone") is None


def test_of_two_teachers_one_is_added_to_the_other_alone():
    scores = {name: {0: right(1, 0)} for name in ("label_only", "only_llama", "only_flan", "all_teachers")}
    found = [(row.about, row.kind, row.better, row.worse) for row in teacher_effects(scores, ["llama", "flan"])]
    assert found == [
        ("all", "together", "all_teachers", "label_only"),
        ("llama", "added", "all_teachers", "only_flan"),
        ("flan", "added", "all_teachers", "only_llama"),
        ("llama", "alone", "only_llama", "label_only"),
        ("flan", "alone", "only_flan", "label_only"),
    ]


def test_of_three_teachers_each_is_added_to_all_the_others():
    names = ["label_only", "without_a", "without_b", "without_c", "all_teachers", "shuffled_rationales"]
    rows = teacher_effects({name: {0: right(1, 0)} for name in names}, ["a", "b", "c"])
    assert [row.worse for row in rows if row.kind == "added"] == ["without_a", "without_b", "without_c"]
    assert [row.worse for row in rows if row.kind == "content"] == ["shuffled_rationales"]


def test_one_teacher_is_all_teachers():
    rows = teacher_effects({name: {0: right(1, 0)} for name in ("label_only", "all_teachers")}, ["llama"])
    assert [(row.about, row.kind) for row in rows] == [("all", "together")]


def test_the_sentence_says_what_the_data_supports():
    rows = [
        effect("all", "together", 4.14, 1.0, 7.2),
        effect("llama", "added", 3.1, 1.2, 5.0),
        effect("flan", "added", 0.9, -0.4, 2.3),
        effect("shuffled", "content", 5.0, 2.0, 8.0),
    ]
    assert conclude(rows) == (
        "All teachers together add 4.1 points to label only, interval 1.0 to 7.2; "
        "teacher llama adds 3.1 points, interval 1.2 to 5.0; flan's effect cannot be told from zero (-0.4 to 2.3); "
        "the rationales' content matters: shuffled ones are 5.0 points worse; "
        "measured with 3 seeds on 200 test questions."
    )


def test_the_sentence_does_not_hide_a_teacher_that_hurts_or_a_control_that_does_as_well():
    rows = [
        effect("all", "together", -2.0, -3.0, -1.0),
        effect("flan", "added", -2.5, -4.0, -1.0),
        effect("shuffled", "content", 0.2, -1.0, 1.4),
    ]
    assert conclude(rows) == (
        "All teachers together cost 2.0 points against label only, interval -3.0 to -1.0; "
        "teacher flan costs 2.5 points, interval -4.0 to -1.0; "
        "that the rationales' content matters is not shown, as shuffled ones cannot be told apart (-1.0 to 1.4); "
        "measured with 3 seeds on 200 test questions."
    )


def test_before_all_teachers_have_run_the_sentence_speaks_of_each_alone():
    rows = [effect("flan", "alone", 1.0, -1.0, 3.0), effect("llama", "alone", 6.6, 1.6, 11.6)]
    assert conclude(rows) == (
        "Teacher flan's effect alone cannot be told from zero (-1.0 to 3.0); "
        "teacher llama alone adds 6.6 points, interval 1.6 to 11.6; "
        "measured with 3 seeds on 200 test questions."
    )


@pytest.mark.parametrize(("low", "high", "sign"), [(0.1, 2, 1), (-2, -0.1, -1), (-1, 1, 0), (0.0, 1, 0)])
def test_zero_inside_the_interval_means_not_told_apart(low, high, sign):
    assert effect("llama", "added", (low + high) / 2, low, high).sign == sign


def test_without_scores_the_sentence_says_so():
    assert conclude([]).startswith("No two methods have been scored on the same test questions yet")


def test_ways_to_choose_a_teacher_are_compared_with_all_teachers():
    scores = {
        "all_teachers": {0: right(1, 0, 0, 0)},
        "select_correct": {0: right(1, 1, 1, 0)},
        "select_random_one": {0: right(0, 0, 0, 0)},
    }
    found = {effect.about: effect for effect in teacher_effects(scores, ["a", "b"])}
    assert {name: effect.points for name, effect in found.items()} == {"random_one": -25.0, "correct": 50.0}
    assert {effect.kind for effect in found.values()} == {"chosen"}


def test_the_best_way_to_choose_is_named_only_where_it_is_shown_to_be_better():
    weak, strong = effect("majority", "chosen", 1.0, -0.5, 2.5), effect("correct", "chosen", 3.0, 1.0, 5.0)
    together = effect("all", "together", 4.0, 2.0, 6.0)
    assert "of 2 ways to choose one teacher for each question correct is best, 3.0 points over all" in conclude(
        [together, weak, strong]
    )
    text = conclude([together, weak, effect("agree", "chosen", 0.5, -1.0, 2.0)])
    assert "of 2 ways to choose one teacher for each question none is shown to be better than all" in text
