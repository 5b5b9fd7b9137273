"""The weight of each component, and what would make a training pointless: UserError with the key to change."""

from collections.abc import Sequence

import torch

from tinyllm_ray.config import UserError
from tinyllm_ray.data.arrays import COMPONENT, Features
from tinyllm_ray.schema import LABEL, Experiment, Loss


def component_weights(loss: Loss, components: Sequence[str]) -> list[float]:
    """Weight of each component, in the order of `components`."""
    weights = dict.fromkeys(components, 0.0) | loss.rationale_weights | {LABEL: loss.label_weight}
    return [weights[component] for component in components]


def check_ranks(experiment: Experiment, ranks: int, *, rows: int) -> None:
    most = min(experiment.training.batch_size, rows)
    if ranks > most:
        raise UserError(
            f"{ranks} ranks were asked for, but a step has {most} rows (training.batch_size "
            f"{experiment.training.batch_size}, {rows} questions), so some would have nothing to do; lower "
            "pools.student.workers or raise training.batch_size"
        )


def check_weights(experiment: Experiment, features: Features) -> None:
    """Refuse a weight whose component has nothing to learn from."""
    weights = {LABEL: experiment.loss.label_weight, **experiment.loss.rationale_weights}
    for name, weight in weights.items():
        key = "loss.label_weight" if name == LABEL else f"loss.rationale_weights.{name}"
        if weight and name not in features.components:
            raise UserError(
                f"{key} is {weight}, but there is no rationale store of {name}; generate it first, or set {key} to 0"
            )
        if (
            weight
            and experiment.training.steps
            and not (features.examples[:, COMPONENT] == features.components.index(name)).any()
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
