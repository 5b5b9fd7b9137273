"""Everything the page shows, read from MLflow and the rationale stores, so that it can be remade anywhere.

In: an experiment, its output folder and tracking URI. Out: ReportData; what cannot be read is named in `missing`.
"""

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.data import store
from tinyllm_ray.data.quality import agreement, statistics
from tinyllm_ray.data.questions import known_overlaps
from tinyllm_ray.data.timeline import Timeline, newest_timeline
from tinyllm_ray.redact import redact
from tinyllm_ray.report.conflicts import Contradiction, OwnAnswers, find_contradictions, read_own_answers
from tinyllm_ray.report.routers import RouterShown, read_router
from tinyllm_ray.rows import SPLITS, Question, from_values
from tinyllm_ray.schema import Experiment
from tinyllm_ray.schema.rationales import GROWN
from tinyllm_ray.tasks.registry import task_of
from tinyllm_ray.tracking.read import DatasetRecord, Record, Records

SAMPLES = 50  # questions whose rationales can be browsed
CURVE_SEEDS = 3  # runs per variant whose curves are read
NOT_METHODS = ("search", "final")


@dataclass(frozen=True)
class Trained:
    """One training as MLflow knows it."""

    run_id: str
    variant: str
    seed: int
    ended: str  # result, stopped, failure; empty while it runs
    start_ms: int
    metrics: dict[str, float]
    params: dict[str, str]
    differs: dict[str, str]  # what a search sampled, by dotted path
    correct: dict[str, bool] = field(default_factory=dict)  # test question -> right
    ranks: int = 1

    @property
    def device_s(self) -> float:
        return self.metrics["result/train_s"] * self.ranks if "result/train_s" in self.metrics else 0.0


@dataclass(frozen=True)
class TeacherText:
    """A teacher's rationales: what they are made with, how good they look, what making them took."""

    name: str
    store: str
    manifest: dict[str, Any]
    content: str  # digest
    rows: int
    input_tokens: int
    output_tokens: int
    quality: dict[str, Any]
    rationales: dict[str, dict[str, Any]] = field(repr=False)  # question id -> row; `content` stands for them


@dataclass(frozen=True)
class ReportData:
    experiment: Experiment
    parent: Record
    trials: list[Trained]
    grown: list[Trained]  # those that choose among the first one, two, ... teachers
    curves: dict[str, dict[str, list[tuple[int, float]]]]  # metric -> variant -> (step, mean over seeds)
    datasets: list[DatasetRecord]
    teachers: list[TeacherText]
    agreement: dict[str, float]  # "a & b" -> share
    generations: list[dict[str, Any]]  # by run that generated: teacher -> its report
    samples: list[dict[str, Any]]
    conflict: OwnAnswers | None
    missing: list[str]
    overlaps: list[str]  # what the splits have in common, in sentences
    chance: float | None = None  # test accuracy of a guess, from 0 to 1
    gold_share: dict[str, float] = field(default_factory=dict)  # teacher -> stated answers that are the gold one
    own_rationales: list[dict[str, Any]] = field(default_factory=list)  # test questions with the student's texts
    contradictions: list[Contradiction] = field(default_factory=list)
    router: RouterShown | None = None  # the newest one
    timeline: Timeline | None = None  # of both pools, where the student was trained while the teachers wrote

    @property
    def methods(self) -> dict[str, list[Trained]]:
        """Scored trainings by variant, without the search's."""
        found: dict[str, list[Trained]] = {}
        for trial in self.trials:
            if trial.variant not in NOT_METHODS and "test/accuracy" in trial.metrics:
                found.setdefault(trial.variant, []).append(trial)
        return found

    @property
    def scores(self) -> dict[str, dict[int, dict[str, bool]]]:
        return {
            name: {trial.seed: trial.correct for trial in trials if trial.correct}
            for name, trials in self.methods.items()
        }

    @property
    def grown_scores(self) -> dict[str, dict[int, dict[str, bool]]]:
        found: dict[str, dict[int, dict[str, bool]]] = {}
        for trial in self.grown:
            if trial.correct:
                found.setdefault(trial.variant, {})[trial.seed] = trial.correct
        return found

    def of(self, variant: str) -> list[Trained]:
        return [trial for trial in self.trials if trial.variant == variant]


def read_report(experiment: Experiment, *, output_dir: str, uri: str) -> ReportData:
    """Raises UserError where the store has no run of this experiment."""
    records = Records(uri, timeout_s=experiment.tracking.connect_timeout_s)
    parent = records.parent(experiment.tracking.experiment or experiment.name, output_dir=output_dir)
    missing: list[str] = []
    every = newest([_trained(record, records) for record in records.children(parent)])
    trials = [trial for trial in every if not trial.variant.startswith(GROWN)]
    datasets = records.datasets(parent.run_id)
    teachers = _teachers(experiment, parent, output_dir, missing)
    questions = {item.name.rpartition("-")[2]: _questions(item, missing) for item in datasets}
    asked = {split: [from_values(row, Question) for row in rows] for split, rows in questions.items()}
    stores = {teacher.name: teacher.store for teacher in teachers}
    conflict = read_own_answers(experiment, parent.tags, asked, stores, missing)
    texts = {teacher.name: teacher.rationales for teacher in teachers}
    return ReportData(
        experiment,
        parent,
        trials,
        [trial for trial in every if trial.variant.startswith(GROWN)],
        _curves(trials, records),
        datasets,
        teachers,
        agreement(
            {t.name: {q: row["predicted_answer"] for q, row in t.rationales.items()} for t in teachers},
            same=task_of(experiment.dataset.task).same,
        ),
        [json.loads(records.artifact(parent.run_id, path)) for path in records.files(parent.run_id, "generation")],
        _samples(teachers, questions),
        conflict,
        missing,
        known_overlaps(output_dir, experiment.dataset.name),
        chance(questions["test"]) if "test" in questions else None,
        {teacher.name: share for teacher in teachers if (share := gold_share(teacher, questions)) is not None},
        _own_rationales(trials, records, teachers, questions),
        find_contradictions(conflict, texts) if conflict else [],
        read_router(output_dir, experiment, asked["train"]) if "train" in asked else None,
        newest_timeline(output_dir),
    )


def newest(trials: Sequence[Trained]) -> list[Trained]:
    """The newest of each variant and seed, where a method was repeated; all trials of a search."""
    kept: dict[Any, Trained] = {}
    for trial in sorted(trials, key=lambda trial: trial.start_ms):
        kept[trial.run_id if trial.variant == "search" else (trial.variant, trial.seed)] = trial
    return list(kept.values())


def _trained(record: Record, records: Records) -> Trained:
    differs = {key.removeprefix("differs."): value for key, value in record.tags.items() if key.startswith("differs.")}
    correct: dict[str, bool] = {}
    if "test/accuracy" in record.metrics and "predictions/test.parquet" in records.files(record.run_id, "predictions"):
        data = io.BytesIO(records.artifact(record.run_id, "predictions/test.parquet"))
        table = pq.read_table(data, columns=["question_id", "correct"], page_checksum_verification=True)
        correct = dict(zip(table["question_id"].to_pylist(), table["correct"].to_pylist(), strict=True))
    return Trained(
        record.run_id,
        record.tags["variant"],
        int(record.tags["seed"]),
        record.tags.get("ended") or "",
        record.start_ms,
        record.metrics,
        record.params,
        differs,
        correct,
        int(record.tags["ranks"]),
    )


def _curves(trials: Sequence[Trained], records: Records) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Losses, weights that vary and validation accuracy by variant: the mean of the seeds that have a step."""
    points: dict[str, dict[str, dict[int, list[float]]]] = {}
    for trial in trials:
        if trial.variant == "search" or trial.seed not in _first_seeds(trials, trial.variant):
            continue
        for name in trial.metrics:
            if name.startswith(("train/loss", "train/weight/")) or name == "eval/accuracy":
                for step, value in records.curve(trial.run_id, name):
                    points.setdefault(name, {}).setdefault(trial.variant, {}).setdefault(step, []).append(value)
    return {
        name: {
            variant: [(step, sum(values) / len(values)) for step, values in sorted(steps.items())]
            for variant, steps in variants.items()
        }
        for name, variants in points.items()
    }


def _first_seeds(trials: Sequence[Trained], variant: str) -> list[int]:
    return sorted({trial.seed for trial in trials if trial.variant == variant})[:CURVE_SEEDS]


def _teachers(experiment: Experiment, parent: Record, output_dir: str, missing: list[str]) -> list[TeacherText]:
    """From the stores that the runs read, else from those that the experiment names today."""
    from tinyllm_ray.teachers.manifest import rationale_store

    teachers = []
    for teacher in experiment.teachers:
        used = parent.tags.get(f"rationales.{teacher.name}")
        try:
            folder = used or rationale_store(experiment, teacher.name, output_dir=output_dir)
            teachers.append(read_teacher(teacher.name, folder))
        except (UserError, OSError) as error:
            missing.append(f"the rationales of {teacher.name}: {error}")
    return teachers


def read_teacher(name: str, folder: str) -> TeacherText:
    """Raises UserError or OSError where the store is not to be read from here."""
    manifest = redact(store.read_manifest(folder))
    rows = [row for split in SPLITS for row in store.read(folder, split, failures=True).to_pylist()]
    good = {row["question_id"]: row for row in rows if not row["failure"] and not row["sample"]}
    sums: Counter[str] = Counter()
    for row in rows:
        sums.update(input=row["input_tokens"] or 0, output=row["output_tokens"] or 0)
    content = store.content_digest(folder)
    return TeacherText(
        name, folder, manifest, content, len(rows), sums["input"], sums["output"], statistics(rows), good
    )


def _questions(dataset: DatasetRecord, missing: list[str]) -> list[dict[str, Any]]:
    try:
        return storage.read_table(dataset.uri).to_pylist()
    except OSError as error:
        missing.append(f"the questions {dataset.name}: {error}")
        return []


def chance(questions: Sequence[Mapping[str, Any]]) -> float | None:
    """What a guess among each question's choices scores; None where some question has none."""
    counts = [len(question["choices"]) for question in questions]
    return sum(1 / count for count in counts) / len(counts) if counts and all(counts) else None


def gold_share(teacher: TeacherText, questions: Mapping[str, Sequence[dict[str, Any]]]) -> float | None:
    """Of the answers that a teacher's texts state, the share that is right; None where none is stated."""
    asked = {row["question_id"]: from_values(row, Question) for rows in questions.values() for row in rows}
    stated = [
        task_of(asked[name].task).is_right(row["predicted_answer"], asked[name])
        for name, row in teacher.rationales.items()
        if row["predicted_answer"] and name in asked
    ]
    return sum(stated) / len(stated) if stated else None


def _own_rationales(
    trials: Sequence[Trained],
    records: Records,
    teachers: Sequence[TeacherText],
    questions: Mapping[str, Sequence[dict[str, Any]]],
) -> list[dict[str, Any]]:
    """Test questions for which the winner, else the student of all teachers, wrote rationales of its own."""
    scored = [
        trial for name in ("final", "all_teachers") for trial in trials if trial.variant == name and trial.correct
    ]
    if not scored or "test" not in questions:
        return []
    data = io.BytesIO(records.artifact(scored[0].run_id, "predictions/test.parquet"))
    table = pq.read_table(data, page_checksum_verification=True)
    if "rationales" not in table.column_names:
        return []
    asked = {row["question_id"]: row for row in questions["test"]}
    return [
        _sample(asked[row["question_id"]], teachers)
        | {"own": dict(row["rationales"]), "predicted": row["predicted"], "by": scored[0].variant}
        for row in table.to_pylist()
        if row["rationales"] and row["question_id"] in asked
    ]


def _samples(
    teachers: Sequence[TeacherText], questions: Mapping[str, Sequence[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Questions with every teacher's text: evenly spread over the training split, so that nobody has chosen them."""
    asked = questions["train"] if "train" in questions and teachers else []
    known = [row for row in asked if any(row["question_id"] in teacher.rationales for teacher in teachers)]
    count = min(SAMPLES, len(known))
    return [_sample(known[i * len(known) // count], teachers) for i in range(count)]


def _sample(question: Mapping[str, Any], teachers: Sequence[TeacherText]) -> dict[str, Any]:
    texts = []
    for teacher in teachers:
        row = teacher.rationales.get(question["question_id"])
        texts.append(
            {"teacher": teacher.name, "text": row["rationale"] if row else "", "flags": row["flags"] if row else []}
        )
    return {**question, "texts": texts}
