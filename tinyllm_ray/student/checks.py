"""What would make a training pointless or impossible: UserError with the key to change."""

from typing import TYPE_CHECKING

from tinyllm_ray.config import UserError, with_overrides
from tinyllm_ray.schema import LABEL, Experiment

if TYPE_CHECKING:  # the checks before a run load no torch
    import torch

    from tinyllm_ray.data.arrays import Features
    from tinyllm_ray.student.stream import Stream


def with_shards(experiment: Experiment, ranks: int) -> Experiment:
    """`training.shards: null` resolved: as many as the ranks that the training is declared with."""
    if experiment.training.shards is not None:
        return experiment
    return with_overrides(experiment, {"training.shards": ranks})


def check_ranks(experiment: Experiment, ranks: int, *, rows: int) -> None:
    """Every rank needs a shard, and every shard a row of each step."""
    shards = experiment.training.shards or ranks
    most = min(experiment.training.batch_size, rows)
    if ranks > shards:
        raise UserError(
            f"{ranks} ranks were asked for, but a step has {shards} shards, so some would have nothing to do; lower "
            "pools.student.workers, or raise training.shards (null: as many as ranks)"
        )
    if shards > most:
        what = f"{ranks} ranks" if experiment.training.shards is None else f"training.shards {shards}"
        raise UserError(
            f"{what}: a step has {most} rows (training.batch_size {experiment.training.batch_size}, {rows} questions), "
            "so some would have nothing to do; lower pools.student.workers or training.shards, or raise "
            "training.batch_size"
        )


def check_weights(experiment: Experiment, features: "Features | Stream") -> None:
    """Refuse a weight whose component has nothing to learn from."""
    loss = experiment.loss
    wanted = {"loss.label_weight": (loss.label_weight, [LABEL])}
    wanted |= {f"loss.rationale_weights.{name}": (weight, [name]) for name, weight in loss.rationale_weights.items()}
    wanted |= {f"loss.custom.{name}.weight": (term.weight, term.components or []) for name, term in loss.custom.items()}
    for key, (weight, names) in wanted.items():
        for name in names if weight else []:
            if name not in features.components:
                raise UserError(
                    f"{key} is {weight}, but there is no rationale store of {name}; generate it first, or set "
                    f"{key} to 0"
                )
            chosen = name != LABEL and experiment.rationales.select != "all"  # a teacher may be chosen for no question
            if experiment.training.steps and not chosen and features.components.index(name) not in features.trained:
                raise UserError(
                    f"{key} is {weight}, but {name} has no usable text for the train split; look at its store, "
                    f"or set {key} to 0"
                )


def check_dtype(dtype: str, device: "torch.device") -> None:
    import torch

    if dtype == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError(
            f"student.dtype bfloat16: {torch.cuda.get_device_name(device)} does not compute in it; use float32"
        )
