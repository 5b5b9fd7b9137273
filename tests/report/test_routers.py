"""What the page says of a router, worked out by hand."""

from pathlib import Path

import pytest
from support.trial_folders import make_experiment

from tinyllm_ray import storage
from tinyllm_ray.report.routers import explain, read_router
from tinyllm_ray.rows import Question, Routed, to_table

ASKED = [
    *[Question(f"m{i}", f"Does iron sink, {i}?", ["yes", "no"], "yes") for i in range(4)],
    *[Question(f"p{i}", f"Does cork float, {i}?", ["yes", "no"], "yes") for i in range(4)],
]
ROUTED = {f"m{i}": [0.6 + i / 100, 0.4 - i / 100] for i in range(4)} | {f"p{i}": [0.3, 0.7] for i in range(4)}


def test_each_teacher_has_its_share_its_words_and_its_surest_questions() -> None:
    metal, plant = explain(["metal", "plant"], ASKED, ROUTED)
    assert (metal.share, plant.share) == (0.5, 0.5)
    assert metal.words == ["iron", "sink"] and plant.words == ["cork", "float"]  # "does" is as common in both
    assert metal.examples[0] == ("Does iron sink, 3?", pytest.approx(0.63))
    assert len(metal.examples) == 3


def test_a_teacher_that_gets_no_question_is_shown_with_nothing() -> None:
    routed = {question.question_id: [1.0, 0.0] for question in ASKED}
    assert [(row.share, row.words, row.examples) for row in explain(["a", "b"], ASKED, routed)][1] == (0, [], [])


def test_the_newest_router_is_read_and_none_where_there_is_none(tmp_path: Path) -> None:
    experiment = make_experiment(str(tmp_path))
    assert read_router(str(tmp_path), experiment, ASKED) is None
    for name, share in (("old", 0.4), ("new", 0.6)):
        folder = f"{tmp_path}/routers/obqa/{name}"
        rows = [Routed(question.question_id, [share, 1 - share]) for question in ASKED]
        storage.write_table(f"{folder}/routed.parquet", to_table(rows, Routed))
        storage.write_json(f"{folder}/router.json", {"made_from": {"answers": {"a": "", "b": ""}}, "held_out": {}})
    found = read_router(str(tmp_path), experiment, ASKED)
    assert [row.share for row in found.teachers] == [1.0, 0.0]
    assert read_router(str(tmp_path), experiment, [Question("x", "?", [], "a")]) is None
