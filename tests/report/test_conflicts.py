"""What the teachers answer by themselves as the page shows it, and what the published rationales state."""

from pathlib import Path

import pytest
from support.trial_folders import make_experiment, make_questions, write_own_answers

from tinyllm_ray.config import validate
from tinyllm_ray.data.published import import_published
from tinyllm_ray.data.questions import read_questions
from tinyllm_ray.report.conflicts import find_contradictions, read_own_answers


@pytest.fixture
def own(tmp_path: Path):
    """llama knows all but blue, where it says red; flan is always for red. Forty questions on four colors in turn."""
    folders = {name: write_own_answers(str(tmp_path), "obqa", name) for name in ("llama", "flan")}
    tags = {f"rationales.{name} answers": folder for name, folder in folders.items()}
    return read_own_answers(make_experiment(str(tmp_path)), tags, {"train": make_questions()}, {}, [])


def test_own_answers_come_before_what_the_rationales_state(own):
    assert (own.split, own.forced) == ("train", False)
    assert own.found.stated == {"llama": 40, "flan": 40} and own.found.right == {"llama": 30, "flan": 10}


def test_questions_are_shown_on_which_the_teachers_contradict_each_other(own):
    rationales = {"llama": {"q1": {"rationale": "Grass is green."}}, "flan": {}}
    found = find_contradictions(own, rationales)
    # both say red on red and blue, so q1 (green), q3 (white), q5, ... q39 are disputed, and every second one is shown
    assert [shown.question.question_id for shown in found] == [f"q{i}" for i in range(1, 40, 4)]
    assert found[0].said == [
        {"teacher": "llama", "answer": "green", "right": True, "text": "Grass is green."},
        {"teacher": "flan", "answer": "red", "right": False, "text": ""},
    ]


def test_without_own_answers_the_rationales_are_read_and_said_to_be_forced(tmp_path: Path):
    stores = {name: write_own_answers(str(tmp_path), "obqa", name) for name in ("llama", "flan")}
    experiment, missing = make_experiment(str(tmp_path)), []
    found = read_own_answers(experiment, {}, {"train": make_questions()}, stores, missing)
    assert found.forced and found.found.right == {"llama": 30, "flan": 10}
    assert read_own_answers(experiment, {}, {"train": make_questions()}, {"llama": stores["llama"]}, missing) is None
    assert missing == []


@pytest.mark.parametrize(
    ("name", "stated", "contradict"),
    [("obqa", 929, 184), ("arc", 239, 34)],  # of LLaMA-2
)
def test_the_published_rationales_state_what_they_were_shown(
    reference_data: Path, tmp_path: Path, name: str, stated: int, contradict: int
):
    import_published(str(reference_data), dataset=name, out=str(tmp_path), layout="tinyllm")
    stores = {teacher: f"{tmp_path}/{name}/{teacher}" for teacher in ("flan_t5", "llama2")}
    teachers = [{"name": teacher, "store": folder, "task_prefix": teacher} for teacher, folder in stores.items()]
    experiment = validate({"name": "x", "dataset": {"name": name}, "student": {"model": "m"}, "teachers": teachers})
    asked = read_questions(f"{tmp_path}/{name}/questions/train.parquet")
    own = read_own_answers(experiment, {}, {"train": asked}, stores, [])
    assert own.forced
    assert own.found.stated["llama2"] == stated and stated - own.found.right["llama2"] == contradict
    assert own.found.stated["flan_t5"] == own.found.right["flan_t5"]  # it always states the gold answer
