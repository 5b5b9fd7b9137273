"""What choosing is worth as teachers are added, by hand: two seeds, four questions."""

from matplotlib.figure import Figure

from tinyllm_ray.report.growth import draw_growth, grown
from tinyllm_ray.terminal.texts import text_of_growth


def right(*answers: int) -> dict[str, bool]:
    return {f"q{number}": bool(answer) for number, answer in enumerate(answers)}


SCORES = {
    "all_teachers": {0: right(1, 1, 1, 1)},  # no part of it
    "first_1_all": {0: right(1, 1, 1, 0), 1: right(1, 1, 0, 0)},
    "first_2_all": {0: right(1, 1, 0, 0), 1: right(1, 1, 0, 0)},
    "first_2_best_teacher": {0: right(1, 1, 1, 0), 1: right(1, 1, 0, 0)},
    "first_2_correct": {0: right(1, 1, 1, 0), 1: right(1, 1, 1, 0)},
    "first_3_all": {0: right(1, 0, 0, 0), 1: right(0, 0, 0, 0)},
    "first_3_best_teacher": {0: right(1, 1, 0, 0), 1: right(1, 1, 0, 0)},
    "first_3_correct": {0: right(1, 1, 1, 1), 1: right(1, 1, 1, 0)},
}


def test_accuracy_falls_or_rises_with_the_number_of_teachers():
    rows = {row.mode: row for row in grown(SCORES)}
    assert list(rows) == ["all", "best_teacher", "correct"]
    assert rows["all"].accuracy == {1: 62.5, 2: 50.0, 3: 12.5}
    assert rows["all"].last_over_first.points == -50.0
    assert rows["correct"].last_over_first.points == 25.0
    assert rows["correct"].accuracy == {2: 75.0, 3: 87.5}


def test_the_gain_over_all_is_paired_and_its_mean_begins_at_two_teachers():
    rows = {row.mode: row for row in grown(SCORES)}
    assert {count: effect.points for count, effect in rows["correct"].over_all.items()} == {2: 25.0, 3: 75.0}
    assert rows["correct"].cmv == 50.0
    assert rows["correct"].cmv_low < 50.0 < rows["correct"].cmv_high
    assert rows["all"].cmv is None and rows["all"].over_all == {}
    assert rows["correct"].over_best.points == 37.5
    assert rows["best_teacher"].over_best is None


def test_what_was_not_trained_leaves_a_gap():
    (row,) = grown({"first_2_correct": SCORES["first_2_correct"]})
    assert (row.over_all, row.over_best, row.last_over_first, row.cmv) == ({}, None, None, None)
    assert grown({"all_teachers": SCORES["all_teachers"]}) == []


def test_a_line_is_drawn_and_written_for_each_way():
    rows, axes = grown(SCORES), Figure().subplots()
    draw_growth(rows, axes)
    assert [line.get_ydata().tolist() for line in axes.get_lines()] == [[62.5, 50, 12.5], [62.5, 50], [75, 87.5]]
    said = text_of_growth([{**vars(row), "over_best": row.over_best and vars(row.over_best)} for row in rows])
    first = "all            accuracy by number of teachers 1: 62.5, 2: 50.0, 3: 12.5; over best_teacher -37.5"
    assert said.startswith(first)
    assert "correct        accuracy by number of teachers 2: 75.0, 3: 87.5; CMV +50.0 (" in said
    assert "; over best_teacher +37.5 (" in said
