"""A small world of questions, stores and features that the student's tests train on."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tinyllm_ray import storage
from tinyllm_ray.config import validate
from tinyllm_ray.data import store
from tinyllm_ray.data.features import build_features
from tinyllm_ray.data.questions import QuestionFile
from tinyllm_ray.data.store import StoreId
from tinyllm_ray.rows import Question, Rationale, to_table
from tinyllm_ray.schema import Experiment
from tinyllm_ray.student.model import prepare_tokenizer
from tinyllm_ray.student.train import Trial

COLORS = ["red", "green", "blue", "grey"]
SIZES = {"train": 40, "validation": 12, "test": 8}


def questions_of(split: str, count: int) -> list[Question]:
    """Things numbered 0.. have colors in turn, and longer questions the higher the number."""
    return [
        Question(f"{split}-{i}", f"what color has thing {i % 8}{' indeed' * (i % 5)}", COLORS, COLORS[i % 4])
        for i in range(count)
    ]


def write_questions(folder: Path, split: str, questions: list[Question]) -> QuestionFile:
    path = str(folder / f"{split}.parquet")
    storage.write_table(path, to_table(questions, Question))
    return QuestionFile(path=path, rows=len(questions), rejected=0, rejected_path="", digest=f"{split}{len(questions)}")


def rationale(question_id: str, text: str, **changes: Any) -> Rationale:
    row = {"key": f"{question_id}/{text}", "question_id": question_id, "sample": 0, "rationale": text}
    row |= {"predicted_answer": "red", "finish_reason": "stop", "failure": "", "dropped_examples": 0}
    return Rationale(**{**row, "input_tokens": 1, "output_tokens": 1, "flags": [], **changes})


def write_store(folder: Path, name: str, rows: dict[str, list[Rationale]]) -> str:
    target = str(folder / "stores" / name)
    store.open_store(target, {"teacher": name, "dataset": "things"})
    for split, part in rows.items():
        store.append(target, split, part)
    return target


def make_experiment(**changes: Any) -> Experiment:
    raw = {
        "name": "things",
        "dataset": {"name": "things"},
        "teachers": [
            {"name": "long", "store": "unused", "task_prefix": "explain: "},
            {"name": "short", "store": "unused", "task_prefix": "rationale: "},
        ],
        "student": {
            "model": "tiny",
            "from_scratch": {
                "tiny": {"width": 32, "ff_width": 64, "vocabulary_size": 400, "dropout": 0.0},
                "decoder": {
                    "architecture": "llama",
                    "width": 32,
                    "ff_width": 64,
                    "vocabulary_size": 400,
                    "dropout": 0.0,
                },
            },
        },
        "loss": {"label_weight": 1.0, "rationale_weights": {"long": 0.5, "short": 2.0}},
        "training": {"steps": 6, "batch_size": 8, "learning_rate": 1e-2, "eval_every_steps": 3, "log_every_steps": 2}
        | {"keep_checkpoints": True}
        | {"keep_checkpoints": True},
    }
    for section, values in changes.items():
        raw[section] = {**raw[section], **values} if isinstance(values, dict) and section in raw else values
    return validate(raw)


class World:
    """Questions and stores in a folder, and trials made from them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked = {split: questions_of(split, count) for split, count in SIZES.items()}
        self.questions = {split: write_questions(folder, split, rows) for split, rows in self.asked.items()}
        both = {split: self.asked[split] for split in ("train", "validation")}
        long = {
            s: [
                rationale(q.question_id, f"things go round, {'so ' * (i * 3)}it is {q.answer}")
                for i, q in enumerate(qs)
            ]
            for s, qs in both.items()
        }
        short = {s: [rationale(q.question_id, f"it is {q.answer}") for q in qs] for s, qs in both.items()}
        self.stores = {
            StoreId("long"): write_store(folder, "long", long),
            StoreId("short"): write_store(folder, "short", short),
        }

    def trial(
        self,
        key: str = "trial",
        *,
        score_test: bool = False,
        seed: int = 0,
        router: str | None = None,
        judged: str | None = None,
        **changes: Any,
    ) -> Trial:
        experiment = make_experiment(**changes)
        files = {"questions": self.questions, "stores": self.stores, "output_dir": str(self.folder)}
        tokenizer = prepare_tokenizer(experiment, **files)
        features = build_features(experiment, tokenizer_folder=tokenizer, router=router, judged=judged, **files)
        return Trial(
            key=key,
            experiment=experiment.model_dump(mode="json"),
            seed=seed,
            features=features,
            tokenizer=tokenizer,
            questions={split: file.path for split, file in self.questions.items()},
            dir=str(self.folder / "trials" / key),
            score_test=score_test,
        )

    @staticmethod
    def as_dict(trial: Trial) -> dict[str, Any]:
        return asdict(trial)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def experiment() -> Experiment:
    return make_experiment()


@pytest.fixture(scope="session")
def make() -> Any:
    """The helpers of this file, for tests that cannot import it."""
    return sys.modules[__name__]
