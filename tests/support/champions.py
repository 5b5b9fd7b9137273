"""A student with random weights, registered as the champion of a study by the real tracker; questions to ask it."""

from dataclasses import dataclass
from typing import Any

from support.tiny_students import save_model
from support.trial_folders import make_experiment, make_questions, write_questions, write_trial

from tinyllm_ray import storage
from tinyllm_ray.data.questions import QuestionFile
from tinyllm_ray.rows import Question
from tinyllm_ray.student.predict import answering_of
from tinyllm_ray.tracking.champion import log_champion
from tinyllm_ray.tracking.tracker import Tracker


@dataclass
class Won:
    key: str
    dir: str
    experiment: dict[str, Any]


PREFIX = "predict : "


def questions_asked() -> list[Question]:
    """Of two to four choices, so that a batch holds several lengths."""
    colors = ["red", "green", "thing red", "color"]
    return [Question(str(i), f"What color is thing {i}?", colors[: 2 + i % 3], colors[i % 2]) for i in range(12)]


def register(output: str, shape: str) -> tuple[dict[str, str], str]:
    """What was registered and its model folder; `output` is where a repeated run finds the same again."""
    settings = {"student.label_prefix": PREFIX, "student.max_rationale_tokens": 6}
    weights = {"loss.rationale_weights.llama": 1.0, "loss.rationale_weights.flan": 0.0}
    experiment = make_experiment(output, name=f"study-{shape}", **settings, **weights)
    folder = f"{output}/trials/won"
    write_trial(folder, key="won", seed=0, accuracy=0.6)
    save_model(f"{folder}/model", shape)
    storage.write_json(f"{folder}/model/student.json", answering_of(experiment))
    path, digest, rows = write_questions(output, "obqa", make_questions(3))["validation"]
    questions = {"validation": QuestionFile(path=path, rows=rows, rejected=0, rejected_path="", digest=digest)}
    trial, end = Won("won", folder, experiment.model_dump(mode="json")), {"eval/accuracy": 0.6}
    with Tracker(experiment, output_dir=output, lineage={}) as tracker:
        tracker.watch("won", folder=folder, name="final", config=experiment, seed=0, tags={"variant": "final"})
        made = log_champion(trial, end, tracker=tracker, name=experiment.name, questions=questions)
    return made | {"tracking_uri": tracker.uri, "parent_id": tracker.parent_id}, f"{folder}/model"
