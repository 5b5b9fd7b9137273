"""A router beside the stores: made once, from the teachers' own answers, and again where what made it changes."""

from pathlib import Path

import numpy as np
import pytest

from tinyllm_ray import storage
from tinyllm_ray.config import validate
from tinyllm_ray.data import store
from tinyllm_ray.data.questions import QuestionFile
from tinyllm_ray.data.selection import read_routed
from tinyllm_ray.data.store import StoreId
from tinyllm_ray.routing.prepare import measure_held_out, own_scores, prepare_router
from tinyllm_ray.rows import Question, Rationale, to_table
from tinyllm_ray.schema import Router as Settings

THINGS = ["iron", "cork", "lead", "straw"]
ASKED = [Question(f"q{i}", f"Does {THINGS[i % 4]} float?", ["yes", "no"], ["no", "yes"][i % 2]) for i in range(40)]


def answer(question: Question, said: str, sample: int = 0) -> Rationale:
    return Rationale(f"{question.question_id}/{sample}", question.question_id, sample, "so", said, "stop", "", 0, 1, 1)


def write_answers(folder: Path, name: str, said: list[str]) -> str:
    target = str(folder / name)
    store.open_store(target, {"teacher": name, "dataset": "things"})
    store.append(target, "train", [answer(question, text) for question, text in zip(ASKED, said, strict=True)])
    return target


class Made:
    """Two teachers, of whom one knows iron and cork, the other lead and straw."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = str(folder / "train.parquet")
        storage.write_table(path, to_table(ASKED, Question))
        self.questions = {"train": QuestionFile(path, len(ASKED), 0, "", "digest")}
        wrong = {"yes": "no", "no": "yes"}
        metal = [q.answer if i % 4 < 2 else wrong[q.answer] for i, q in enumerate(ASKED)]
        plant = [q.answer if i % 4 >= 2 else wrong[q.answer] for i, q in enumerate(ASKED)]
        self.stores = {
            StoreId("a", answers=True): write_answers(folder, "a", metal),
            StoreId("b", answers=True): write_answers(folder, "b", plant),
        }

    def router(self, **rationales) -> str | None:
        settings = {"learning_rate": 1e-3, "steps": 60}
        experiment = validate(
            {
                "name": "x",
                "dataset": {"name": "things", "path": "data"},
                "prompts": {"answer_splits": ["train"]},
                "teachers": [{"name": name, "model": "m"} for name in ("a", "b")],
                "student": {"model": "tiny", "from_scratch": {"tiny": {}}},
                "rationales": {"select": "router", "router": settings, **rationales},
            }
        )
        inputs = {"questions": self.questions, "stores": self.stores}
        return prepare_router(experiment, tokenizer_folder="t", output_dir=str(self.folder / "out"), **inputs)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def test_every_training_question_is_routed_to_the_teacher_that_knows_its_words(made: Made) -> None:
    routed = read_routed(made.router())
    assert [int(np.argmax(routed[f"q{i}"])) for i in range(40)] == [0, 0, 1, 1] * 10
    assert all(sum(row) == pytest.approx(1, abs=1e-5) for row in routed.values())


def test_the_router_says_how_it_does_on_questions_that_it_has_not_seen(made: Made) -> None:
    said = storage.read_json(f"{made.router()}/router.json")["held_out"]
    assert said["questions"] == 8 and said["router"] == said["oracle"] == 1.0
    assert said["best_teacher"] < 1 and said["best_teacher_name"] in ("a", "b")


def test_a_router_is_made_once_and_again_where_what_made_it_changes(made: Made) -> None:
    folder = made.router()
    stamp = storage.stamp(f"{folder}/router.json")
    assert made.router() == folder and storage.stamp(f"{folder}/router.json") == stamp
    assert made.router(seed=1) != folder
    assert made.router(router={"steps": 1}) != folder
    made.stores[StoreId("b", answers=True)] = write_answers(made.folder, "c", ["yes"] * 40)
    assert made.router() != folder
    assert len(list(Path(folder).parent.glob("vectors-*.npy"))) == 1  # the questions are read once for all of them


def test_a_router_knows_the_teachers_of_the_experiment_alone_in_their_order(made: Made) -> None:
    folder = made.router()
    others = {StoreId("z", answers=True): write_answers(made.folder, "z", ["yes"] * 40)}
    made.stores = others | dict(reversed(made.stores.items()))
    assert made.router() == folder
    assert list(storage.read_json(f"{folder}/router.json")["made_from"]["answers"]) == ["a", "b"]


def test_a_router_that_was_stopped_is_made_again(made: Made) -> None:
    folder = made.router()
    before = read_routed(folder)
    Path(folder, "router.json").unlink()
    assert made.router() == folder and read_routed(folder) == before


def test_other_modes_need_no_router(made: Made) -> None:
    assert made.router(select="correct") is None


def test_a_teachers_score_is_the_share_of_its_samples_that_are_right() -> None:
    asked = [Question("q0", "?", ["yes", "no"], "yes"), Question("q1", "?", ["yes", "no"], "no")]
    answers = {"a": {"q0": ["yes", "no"], "q1": ["no"]}, "b": {"q1": ["no"]}}
    assert own_scores(asked, answers).tolist() == [[0.5, 0.0], [0.5, 1.0]]


def test_too_few_questions_are_not_measured() -> None:
    vectors, scores = np.ones((4, 2), np.float32), np.ones((4, 2), np.float32)
    assert measure_held_out(vectors, scores, ["a", "b"], settings=Settings(steps=1), seed=0) == {}
