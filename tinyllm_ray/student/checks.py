"""The weight of each task, and what would make a training pointless: UserError with the key to change."""

from collections.abc import Sequence

import torch

from tinyllm_ray.config import UserError
from tinyllm_ray.data.arrays import TASK, Features
from tinyllm_ray.schema import LABEL_TASK, Experiment, Loss


def task_weights(loss: Loss, tasks: Sequence[str]) -> list[float]:
    """Weight of each task, in the order of `tasks`."""
    weights = dict.fromkeys(tasks, 0.0) | loss.rationale_weights | {LABEL_TASK: loss.label_weight}
    return [weights[task] for task in tasks]


def check_ranks(experiment: Experiment, ranks: int, *, rows: int) -> None:
    most = min(experiment.training.batch_size, rows)
    if ranks > most:
        raise UserError(
            f"{ranks} ranks were asked for, but a step has {most} rows (training.batch_size "
            f"{experiment.training.batch_size}, {rows} questions), so some would have nothing to do; lower "
            "pools.student.workers or raise training.batch_size"
        )


def check_weights(experiment: Experiment, features: Features) -> None:
    """Refuse a weight whose task has nothing to learn from."""
    weights = {LABEL_TASK: experiment.loss.label_weight, **experiment.loss.rationale_weights}
    for name, weight in weights.items():
        key = "loss.label_weight" if name == LABEL_TASK else f"loss.rationale_weights.{name}"
        if weight and name not in features.tasks:
            raise UserError(
                f"{key} is {weight}, but there is no rationale store of {name}; generate it first, or set {key} to 0"
            )
        if (
            weight
            and experiment.training.steps
            and not (features.examples[:, TASK] == features.tasks.index(name)).any()
        ):
            raise UserError(
                f"{key} is {weight}, but {name} has no usable text for the train split; look at its store, "
                f"or set {key} to 0"
            )


def check_dtype(dtype: str, device: torch.device) -> None:
    if dtype == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError(
            f"student.dtype bfloat16: {torch.cuda.get_device_name(device)} does not compute in it; use float32"
        )
