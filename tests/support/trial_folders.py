"""Ended trials as `student.train` leaves them, question files and rationale stores, for tests of what reads them.

A study: two teachers, six variants by seeds, a search of four trials; accuracies are drawn with a seed.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tinyllm_ray import storage
from tinyllm_ray.config import validate, with_overrides
from tinyllm_ray.data import store
from tinyllm_ray.data.store import StoreId
from tinyllm_ray.rows import Prediction, Question, Rationale, schema_of, to_table
from tinyllm_ray.schema import Experiment
from tinyllm_ray.tuning.methods import ablation

START_MS = 1_767_225_600_000
GAIN = {"label_only": 0.0, "only_llama": 0.10, "only_flan": 0.02, "all_teachers": 0.12, "shuffled_rationales": -0.01}


@dataclass(frozen=True)
class Ended:
    key: str
    folder: str
    variant: str
    seed: int
    config: Experiment
    tags: dict[str, str]


def make_experiment(output_dir: str, **overrides: Any) -> Experiment:
    raw = {
        "name": "study",
        "seeds": [0, 1],
        "dataset": {"name": "obqa", "format": "miniature"},
        "teachers": [
            {"name": name, "store": f"{output_dir}/given/{name}", "task_prefix": f"{name}: "}
            for name in ("llama", "flan")
        ],
        "student": {"model": "small", "from_scratch": {"small": {"width": 32}, "large": {"width": 64}}},
        "search": {
            "space": {
                "loss.label_weight": {"choice": [0.5, 1.0]},
                "loss.rationale_weights.llama": {"uniform": [0.1, 3]},
            }
        },
        "training": {"steps": 40, "eval_every_steps": 20},
        "output": {"dir": output_dir},
        "tracking": {"sync_every_s": 0.5, "flush_timeout_s": 60},
    }
    return with_overrides(validate(raw), overrides)


def make_questions(count: int = 40) -> list[Question]:
    colors = ["red", "green", "blue", "white"]
    return [Question(f"q{i}", f"What color is thing {i}?", colors, colors[i % 4]) for i in range(count)]


def write_questions(output_dir: str, name: str, questions: list[Question]) -> dict[str, tuple[str, str, int]]:
    """Split -> (path, digest, rows), as `Tracker.log_questions` takes it."""
    files = {}
    for split in ("train", "validation", "test"):
        path = Path(output_dir, "questions", name, f"{split}.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(to_table(questions, Question), path)
        files[split] = (str(path), f"digest-{split}", len(questions))
    return files


def write_store(folder: str, *, dataset: str, teacher: str, questions: list[Question]) -> None:
    manifest = {"dataset": dataset, "teacher": teacher, "revision": f"revision-of-{teacher}"}
    store.open_store(folder, manifest)
    rows = []
    for number, question in enumerate(questions):
        text = (
            f"{question.question} <b>Things</b> like this are {question.answer}. Thus the answer is {question.answer}."
        )
        flags = ["short", "cut_off"] if number % 5 == 0 else []
        rows.append(
            Rationale(
                f"{teacher}{number}", question.question_id, 0, text, question.answer, "stop", "", 0, 50, 20, flags
            )
        )
    store.append(folder, "train", rows)


def write_own_answers(output_dir: str, dataset: str, teacher: str) -> str:
    """Folder of a teacher's answers to the 40 training questions: llama knows all but blue, flan is always for red."""
    folder = f"{output_dir}/own/{teacher}"
    store.open_store(folder, {"dataset": dataset, "teacher": teacher})
    rows = []
    for number, question in enumerate(make_questions()):
        said = "red" if teacher == "flan" or question.answer == "blue" else question.answer
        text = f"The answer is {said}."
        rows.append(Rationale(f"own{number}", question.question_id, 0, text, said, "stop", "", 0, 50, 5, []))
    store.append(folder, "train", rows)
    return folder


def write_trial(folder: str, *, key: str, seed: int, accuracy: float, test: bool = True, steps: int = 40) -> None:
    """Metrics in two parts, predictions that are right for `accuracy` of the questions, a card and the result."""
    for part in range(2):
        first = part * steps // 2
        lines = []
        for step in range(first + 5, first + steps // 2 + 1, 5):
            row = {"step": step, "time": START_MS + step * 1000, "train/loss": 3.0 - step / steps}
            row |= {"train/loss/label": 1.5 - step / steps, "train/loss/llama": 2 - step / steps, "time/step_ms": 12.5}
            lines.append(row | ({"eval/accuracy": accuracy - 0.1 + 0.1 * step / steps} if step % 20 == 0 else {}))
        text = "".join(json.dumps(line) + "\n" for line in lines)
        storage.write_bytes(storage.join(folder, "metrics", f"part-{first + 5:09d}.jsonl"), text.encode())
    result = {"key": key, "seed": seed, "method": "tinyllm", "steps": steps, "eval/accuracy": accuracy}
    for split in ("validation", "test") if test else ("validation",):
        rows = predictions(accuracy, seed)
        result |= {"test/accuracy": sum(row["correct"] for row in rows) / len(rows)} if split == "test" else {}
        storage.write_table(
            storage.join(folder, "predictions", f"{split}.parquet"), pa.Table.from_pylist(rows, schema_of(Prediction))
        )
    result |= {"parameters": 50_000, "device": "cpu", "train_s": 12.0, "wall_s": 15.0, "trained_tokens": 81_000}
    storage.write_bytes(storage.join(folder, "model", "README.md"), b"# a student\n")
    storage.write_json(storage.join(folder, "result.json"), result | {"eval/latency_ms": 3.5})


def predictions(accuracy: float, seed: int, count: int = 200) -> list[dict[str, Any]]:
    """Question i is as hard for every student: what one of accuracy 0.4 gets right, one of 0.5 mostly does too."""
    hardness, noise = random.Random(7), random.Random(seed)
    rows = []
    for number in range(count):
        correct = hardness.random() < accuracy if noise.random() < 0.8 else noise.random() < accuracy
        own = [("llama", f"It is red, <i>I</i> think ({number}).")] if number < 3 else []
        row = {"question_id": f"q{number}", "question": "?", "answer": "red", "predicted": "red", "correct": correct}
        rows.append(row | {"choice_scores": [0.0, -1.0, -2.0, -3.0], "generated": "", "rationales": own})
    return rows


def write_study(experiment: Experiment) -> list[Ended]:
    output = experiment.output.dir
    assert output is not None
    questions = make_questions()
    for teacher in experiment.teachers:
        write_store(str(teacher.store), dataset=experiment.dataset.name, teacher=teacher.name, questions=questions)
    trials = []
    for variant, config in ablation(experiment).items():
        for seed in experiment.seeds:
            key = f"{variant}-seed{seed}-0"
            folder = storage.join(output, "trials", key)
            write_trial(folder, key=key, seed=seed, accuracy=0.42 + GAIN[variant] + 0.01 * seed)
            followed = {"arrivals": "/data/arrivals/a1"} if variant == "all_teachers" else {}
            trials.append(Ended(key, folder, variant, seed, config, {"variant": variant, "ranks": "1", **followed}))
    for number, (label, llama) in enumerate([(0.5, 0.3), (1.0, 2.5), (0.5, 1.1), (1.0, 0.7)]):
        sampled = {"loss.label_weight": label, "loss.rationale_weights.llama": llama}
        key = f"search-seed0-{number}"
        folder = storage.join(output, "trials", key)
        write_trial(folder, key=key, seed=0, accuracy=0.4 + 0.05 * number, test=False)
        tags = {"variant": "search", "ranks": "1"} | {f"differs.{path}": str(value) for path, value in sampled.items()}
        trials.append(Ended(key, folder, "search", 0, with_overrides(experiment, sampled), tags))
    return trials


def track_study(experiment: Experiment, trials: list[Ended]) -> str:
    """Uploads a study through the real Tracker; returns the tracking URI."""
    from tinyllm_ray.tracking.tracker import Tracker

    output = str(experiment.output.dir)
    files = write_questions(output, experiment.dataset.name, make_questions())
    lineage = {f"store.{teacher.name}": f"digest-of-{teacher.name}" for teacher in experiment.teachers}
    lineage |= {
        f"rationales.{StoreId(name, answers=True)}": write_own_answers(output, experiment.dataset.name, name)
        for name in ("llama", "flan")
    }
    lineage |= {f"rationales.{teacher.name}": str(teacher.store) for teacher in experiment.teachers}
    with Tracker(experiment, output_dir=output, lineage=lineage) as tracker:
        tracker.log_questions(files, name=experiment.dataset.name)
        tracker.log_generation({teacher.name: generation(teacher.name) for teacher in experiment.teachers})
        for trial in trials:
            tracker.watch(
                trial.key,
                folder=trial.folder,
                name=f"{trial.variant} seed {trial.seed}",
                config=trial.config,
                seed=trial.seed,
                tags=trial.tags,
            )
    return tracker.uri


def generation(teacher: str) -> dict[str, Any]:
    return {
        "teacher": teacher,
        "wanted": 40,
        "found": 0,
        "generated": 40,
        "failed": {},
        "input_tokens": 2000,
        "output_tokens": 800,
        "tokens_per_second": 400.0,
        "engine_start_s": 6.0,
        "wall_s": 8.0,
        "accuracy": {"test": 0.55},
    }
