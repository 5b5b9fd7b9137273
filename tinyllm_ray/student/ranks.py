"""A trial on several ranks under Ray Train: a Trial in, its result out; the work of each rank is train.run_rank.

A mistake that a rank finds, such as a training that diverges, is one message of the driver's.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from tinyllm_ray import storage
from tinyllm_ray.cluster import pools
from tinyllm_ray.config import UserError, validate
from tinyllm_ray.patience import begin
from tinyllm_ray.schema import Experiment
from tinyllm_ray.student.checks import check_ranks, check_weights, with_shards
from tinyllm_ray.student.stream import open_training
from tinyllm_ray.student.train import Trial, read_result, run_rank

REFUSAL = "refused.json"  # in the trial's folder: what a rank said, for the driver to say


def run_trial_ddp(trial: Trial, *, ranks: int, report_callback: Any = None) -> dict[str, Any]:
    """Train, score and save. Within a search, `report_callback` carries the reports to Tune."""
    experiment = with_shards(validate(trial.experiment), ranks)
    source = open_training(trial.features, seed=trial.seed)
    check_ranks(experiment, ranks, rows=source.total)
    check_weights(experiment, source)  # here too, where the message reaches the user
    if read_result(trial.dir) is None:
        _fit(trial, experiment, ranks=ranks, report_callback=report_callback)
    done = read_result(trial.dir)
    assert done is not None
    return done


def _fit(trial: Trial, experiment: Experiment, *, ranks: int, report_callback: Any) -> None:
    from ray.train import FailureConfig, RunConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    refusal = storage.join(trial.dir, REFUSAL)
    storage.remove(refusal)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={**asdict(trial), "experiment": experiment.model_dump(mode="json")},
        scaling_config=pools.scaling_config(experiment.pools.student, ranks),
        run_config=RunConfig(
            name=f"{trial.key}-{time.time_ns()}",
            storage_path=storage.join(trial.dir, "ray_train"),
            failure_config=FailureConfig(max_failures=experiment.search.max_failures),
            callbacks=[report_callback] if report_callback else [],
        ),
    )
    try:
        _apart(trainer.fit)
    except TrainingFailedError:
        if storage.exists(refusal):  # one message in place of Ray's traceback
            raise UserError(storage.read_json(refusal)["message"]) from None
        raise


def _apart(fit: Callable[[], object]) -> None:
    """In a thread of its own: in the main one Ray Train answers Ctrl-C itself, with exit code 0."""
    if threading.current_thread() is not threading.main_thread():
        fit()
        return
    _, error = begin(fit, name="training").get()
    if error is not None:
        raise error


def _worker(config: dict[str, Any]) -> None:
    """What each rank of Ray Train runs; `ray.train.report` is a barrier, so every rank reports."""
    import ray.train
    import ray.train.torch

    trial, refusal = Trial(**config), storage.join(config["dir"], REFUSAL)
    if storage.exists(refusal):  # of the try before this one: it would come to the same
        raise UserError(storage.read_json(refusal)["message"])
    try:
        experiment = validate(trial.experiment)
        run_rank(trial, experiment, report=ray.train.report, device=ray.train.torch.get_device())
    except UserError as error:
        storage.write_json(refusal, {"message": str(error)})
        raise
