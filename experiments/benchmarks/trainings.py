"""Trainings of several variants side by side, without Ray: the other benchmarks' way to many small students.

A training's own folder is its record, so a benchmark that was stopped goes on where it was.
"""

import multiprocessing
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from tinyllm_ray import storage
from tinyllm_ray.schema import Experiment
from tinyllm_ray.session import Session
from tinyllm_ray.student.train import Trial, run_trial
from tinyllm_ray.tuning.training import Inputs, Training, TrainingSpec, resolve
from tinyllm_ray.tuning.trials import watch

Variant = tuple[Experiment, Inputs]
Scores = dict[str, dict[int, dict[str, bool]]]  # variant, seed, question


def train_all(
    session: Session, variants: Mapping[str, Variant], *, processes: int
) -> Iterator[dict[tuple[str, int], Training]]:
    """Train every variant with one seed of the experiment after another; after each, all that are done by then."""
    done: dict[tuple[str, int], Training] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        for seed in session.experiment.seeds:
            trainings = [
                resolve(TrainingSpec(name, experiment, seed, 1, True), inputs)
                for name, (experiment, inputs) in variants.items()
            ]
            for training in trainings:
                watch(training, session.tracker)
            list(pool.map(_train, [training.trial for training in trainings]))
            done |= {(training.spec.variant, seed): training for training in trainings}
            yield done


def test_scores(trainings: Mapping[tuple[str, int], Training]) -> Scores:
    """Who was right on which test question."""
    found: Scores = {}
    for (variant, seed), training in trainings.items():
        table = storage.read_table(storage.join(training.trial.dir, "predictions", "test.parquet"))
        right = dict(zip(table["question_id"].to_pylist(), table["correct"].to_pylist(), strict=True))
        found.setdefault(variant, {})[seed] = right
    return found


def seconds(trainings: Mapping[tuple[str, int], Training]) -> dict[str, float]:
    """Wall seconds inside the training loop by variant, summed over the seeds."""
    total: dict[str, float] = {}
    for (variant, _), training in trainings.items():
        end: dict[str, Any] = training.end() or {}
        total[variant] = total.get(variant, 0.0) + end["train_s"]
    return total


def _train(trial: Trial) -> None:
    run_trial(trial, report=lambda row: None)
