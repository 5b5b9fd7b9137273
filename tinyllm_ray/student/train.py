"""One training as a trial: features, questions, settings in; metrics, checkpoints, predictions, model and result out.

A trial's folder holds its state: a finished trial returns its result, an unfinished one continues from its checkpoint.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, public, validate
from tinyllm_ray.data.arrays import ROW, Features
from tinyllm_ray.data.features import open_features, read_meta
from tinyllm_ray.data.questions import read_questions
from tinyllm_ray.data.tokenizer import StudentTokenizer
from tinyllm_ray.rows import Prediction, Question
from tinyllm_ray.schema import Experiment
from tinyllm_ray.student import records
from tinyllm_ray.student.batches import shard_examples
from tinyllm_ray.student.checkpoint import load_newest, save_checkpoint, trained
from tinyllm_ray.student.checks import check_dtype, check_weights, with_shards
from tinyllm_ray.student.evaluate import evaluate, validation_losses
from tinyllm_ray.student.loop import Hooks, NotFinite, check_finite_weights, make_optimizer, train, trained_tokens
from tinyllm_ray.student.model import load_student, merge_lora, parameter_count
from tinyllm_ray.student.objective import Term, terms_of
from tinyllm_ray.student.predict import answering_of
from tinyllm_ray.student.shards import rank, world_size
from tinyllm_ray.student.stream import Stream, open_training
from tinyllm_ray.student.weighting import Weighting, weighting_of

Report = Callable[[dict[str, Any]], None]
SCORE_NAMES = {"validation": "eval", "test": "test"}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    key: str
    experiment: dict[str, Any]  # resolved; the variant's overrides are applied
    seed: int
    features: str  # folder
    tokenizer: str  # folder
    questions: dict[str, str]  # split -> parquet
    dir: str
    score_test: bool


@dataclass
class Run:
    """A trial under way on this rank."""

    trial: Trial
    experiment: Experiment
    model: nn.Module
    tokenizer: StudentTokenizer
    source: Features | Stream
    terms: list[Term]
    weighting: Weighting
    recorder: records.Recorder | None  # rank 0 only
    report: Report
    last: dict[str, Any] | None = None  # the latest evaluation
    scored: tuple[dict[str, float], list[Prediction]] | None = None  # the same, with its predictions
    scoring_s: float = 0.0


def run_trial(trial: Trial, *, report: Report) -> dict[str, Any]:
    """Train, score and save in this process. `report` gets every evaluation, those of an earlier try first; what it
    raises stops the trial, which a later call continues."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return run_rank(trial, with_shards(validate(trial.experiment), 1), report=report, device=device)


def run_rank(trial: Trial, experiment: Experiment, *, report: Report, device: torch.device) -> dict[str, Any]:
    """What each rank does, alone or in the process group that it is in; `experiment.training.shards` is resolved."""
    started = time.time()
    done = read_result(trial.dir)
    for row in records.read_evaluations(trial.dir) if done else []:
        report(row)
    if done:
        return done
    try:
        return _train(*_start(trial, experiment, report, device), started=started)
    except NotFinite as error:
        raise UserError(f"the training {trial.key} diverged: {error}") from None


def _train(run: Run, optimizer: torch.optim.Optimizer, first_step: int, *, started: float) -> dict[str, Any]:
    trial, experiment = run.trial, run.experiment
    training = experiment.training
    train_started = time.time()
    hooks = Hooks(
        on_log=lambda step, values: _log(run, step, values),
        on_step=lambda *args: _after_step(run, *args),
        on_rows=lambda *args: _record_rows(run, *args),
    )
    train(
        run.model,
        run.source,
        training=training,
        terms=run.terms,
        seed=trial.seed,
        optimizer=optimizer,
        first_step=first_step,
        dtype=experiment.student.dtype,
        hooks=hooks,
        weighting=run.weighting,
    )
    if training.steps == 0:
        _after_step(run, 0, optimizer)
    return _finish(run, train_s=round(time.time() - train_started, 3), started=started)


def _start(
    trial: Trial, experiment: Experiment, report: Report, device: torch.device
) -> tuple[Run, torch.optim.Optimizer, int]:
    check_dtype(experiment.student.dtype, device)
    for name, term in experiment.loss.custom.items():
        log.info("the loss has the term %s from outside this package: %s", name, term.path)
    torch.set_num_threads(max(1, int(experiment.pools.student.cpus_per_worker)))
    model, tokenizer = load_student(experiment.student, tokenizer_folder=trial.tokenizer, seed=trial.seed)
    model.to(device)
    shuffles = experiment.training.shuffle_rationales
    source = open_training(trial.features, seed=trial.seed, shuffle_rationales=shuffles)
    check_weights(experiment, source)
    loss = experiment.loss
    terms = terms_of(loss, source.components, softened=source.softened)
    weighting = weighting_of(loss, terms, teachers=source.components[1:], device=device)
    beside = weighting.parameters()
    optimizer = make_optimizer(
        model, experiment.training, beside=beside.values(), rate_beside=loss.uncertainty_learning_rate
    )
    checkpoints = storage.join(trial.dir, "checkpoints")
    first_step = load_newest(checkpoints, parameters=trained(model) | beside, optimizer=optimizer)
    recorder = None
    if rank() == 0:
        config = yaml.safe_dump(public(experiment), sort_keys=False)
        storage.write_bytes(storage.join(trial.dir, "config.yaml"), config.encode())
        recorder = records.Recorder(trial.dir, first_step=first_step)
    run = Run(trial, experiment, model, tokenizer, source, terms, weighting, recorder, report)
    for row in [row for row in records.read_evaluations(trial.dir) if row["step"] <= first_step]:
        report(row)
    return run, optimizer, first_step


def read_result(folder: str) -> dict[str, Any] | None:
    """A finished trial's result; None where it is damaged or the model that it is of is not there: both are then made
    again from the last checkpoint."""
    model = storage.join(folder, "model")
    if not storage.exists(storage.join(model, "config.json")) or not storage.list_files(model, ".safetensors"):
        return None
    return records.read_whole(storage.join(folder, "result.json"), dict)


def _log(run: Run, step: int, values: dict[str, float]) -> None:
    if run.recorder:
        waited = {"time/waited_s": run.source.waited_s} if isinstance(run.source, Stream) else {}
        run.recorder.metrics(step, values | waited)


def _record_rows(run: Run, step: int, features: Features, indices: np.ndarray) -> None:
    """Of a stream's first epoch: the questions of each shard, and how many parts were known."""
    batch_size, shards = run.experiment.training.batch_size, run.experiment.training.shards or world_size()
    if not run.recorder or isinstance(run.source, Features):
        return
    if run.source.in_first_epoch(step - 1, batch_size=batch_size):
        dealt = shard_examples(features, indices, shards=shards)
        questions = [features.question_ids[np.unique(features.examples[i, ROW])].tolist() for i in dealt]
        run.recorder.rows(step, parts=run.source.parts, waited_s=run.source.waited_s, shards=questions)


def _after_step(run: Run, step: int, optimizer: torch.optim.Optimizer) -> None:
    """Evaluate, then save, then report: whoever is stopped by the report has both on disk."""
    training = run.experiment.training
    last = step == training.steps
    evaluates = step % training.eval_every_steps == 0 or last
    saves = step % training.checkpoint_every_steps == 0 or last
    if evaluates or saves:
        check_finite_weights(run.model, step)
    if evaluates:
        _evaluate(run, step)
    if run.recorder and saves:
        run.recorder.flush()  # first, so that the metrics up to a checkpoint are there when it is
        parameters = trained(run.model) | run.weighting.parameters()
        save_checkpoint(storage.join(run.trial.dir, "checkpoints"), step, parameters=parameters, optimizer=optimizer)
    if evaluates:
        run.report(run.last or {"step": step})


def _questions(run: Run, split: str) -> list[Question]:
    return read_questions(run.trial.questions[split]) if split in run.trial.questions else []


def _evaluate(run: Run, step: int) -> None:
    """Score the validation questions, each rank its share, and keep the row."""
    experiment = run.experiment
    most = experiment.evaluation.max_questions
    questions = _questions(run, "validation")[:most]
    values: dict[str, Any] = {"parameters": parameter_count(run.model)}
    if questions:
        began = time.time()
        run.scored = evaluate(
            run.model,
            run.tokenizer,
            questions=questions,
            student=experiment.student,
            evaluation=experiment.evaluation,
        )
        losses = validation_losses(
            run.model,
            open_features(run.trial.features, "validation"),
            terms=run.terms,
            training=experiment.training,
            dtype=experiment.student.dtype,
            max_rows=most,
        )
        values |= run.scored[0] | losses
        run.scoring_s += time.time() - began
    if run.recorder:
        run.recorder.evaluation(step, values)
    run.last = {"step": step, **values}


def _finish(run: Run, *, train_s: float, started: float) -> dict[str, Any]:
    """Score validation and test on all ranks; on the first, write predictions, the model and, last, the result."""
    trial, experiment = run.trial, run.experiment
    training, steps = experiment.training, experiment.training.steps
    if experiment.student.lora:
        merge_lora(run.model)
    result: dict[str, Any] = {"key": trial.key, "seed": trial.seed, "method": training.method, "steps": steps}
    result |= {"parameters": parameter_count(run.model), "device": _device_name(run.model)}
    result["trained_tokens"] = trained_tokens(run.source, training, run.terms, seed=trial.seed)
    meta = read_meta(trial.features)
    counts = meta["splits"]["train"]
    if isinstance(run.source, Stream):
        counts = run.source.counts(steps, batch_size=training.batch_size)
    for name in ("truncated", "unknown_tokens"):
        result |= {f"{name}/{kind}": _share(counts, name, kind) for kind in ["input", *meta["plan"]["components"]]}
    for split in ("validation", "test"):
        if split == "validation" or trial.score_test:
            result |= _score(run, split)
    result |= {"train_s": train_s, "wall_s": round(time.time() - started, 3), "scoring_s": round(run.scoring_s, 3)}
    if run.recorder:
        new = {
            name: value for name, value in result.items() if name.startswith(("truncated/", "unknown_tokens/", "test/"))
        }
        run.recorder.metrics(steps, new)
        run.recorder.flush()
        card = records.model_card(experiment, seed=trial.seed, made_from=meta["plan"], result=result)
        answering = answering_of(experiment)
        records.write_model(trial.dir, run.model, tokenizer_folder=trial.tokenizer, card=card, answering=answering)
        storage.write_json(storage.join(trial.dir, "result.json"), result)
        if not training.keep_checkpoints:
            storage.remove_folder(storage.join(trial.dir, "checkpoints"))
    return result


def _score(run: Run, split: str) -> dict[str, float]:
    """`eval/...` or `test/...` over all questions of a split; predictions to disk, some with own rationales."""
    questions = _questions(run, split)
    if not questions:
        return {}
    experiment = run.experiment
    prefixes = {
        teacher.name: teacher.task_prefix
        for teacher in experiment.teachers
        if experiment.loss.rationale_weights.get(teacher.name)
    }
    if split == "validation" and run.scored and experiment.evaluation.max_questions is None:
        scores, predictions = run.scored  # of the last step, just now
    else:
        began = time.time()
        scores, predictions = evaluate(
            run.model,
            run.tokenizer,
            questions=questions,
            student=experiment.student,
            evaluation=experiment.evaluation,
            rationale_prefixes=prefixes,
            rationale_questions=experiment.evaluation.student_rationales if split == "test" else 0,
        )
        run.scoring_s += time.time() - began
    if run.recorder:
        records.write_predictions(run.trial.dir, split, predictions)
    return {name.replace("eval/", f"{SCORE_NAMES[split]}/"): value for name, value in scores.items()}


def _share(counts: dict[str, Any], name: str, kind: str) -> float:
    """Of the training texts of one kind, those that were cut or hold unknown tokens."""
    total = counts["total"].get(kind, 0)
    return counts[name].get(kind, 0) / total if total else 0.0


def _device_name(model: nn.Module) -> str:
    device = next(model.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
