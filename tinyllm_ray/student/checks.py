"""What would make a training pointless or impossible: UserError with the key to change."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tinyllm_ray.config import UserError, with_overrides
from tinyllm_ray.data.gguf import is_gguf, unpack
from tinyllm_ray.schema import LABEL, Experiment, Student

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


def check_student(student: Student, *, output_dir: str) -> str:
    """What kind of student it is. Raises UserError where it cannot be found; only a .gguf file's weights are read."""
    if student.model in student.from_scratch:
        made = student.from_scratch[student.model]
        if made.width % made.heads:
            raise UserError(
                f"student.from_scratch.{student.model}: width {made.width} cannot be shared by {made.heads} heads; "
                "make it a multiple"
            )
        return f"{student.model}, made from scratch"
    if is_gguf(student.model):
        return f"{student.model}, unpacked to {unpack(student.model, key='student.model', output_dir=output_dir)}"
    made_here = f", nor a name under student.from_scratch ({', '.join(sorted(student.from_scratch)) or 'none'})"
    return check_model("student.model", student.model, revision=student.revision, nor=made_here)


def check_model(key: str, model: str, *, revision: str | None = None, nor: str = "") -> str:
    """A folder, or a model of the hub. `nor`: what else it might have been."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        _check_model_folder(key, folder)
        return str(folder)
    if model.startswith(("/", ".", "~")) or model.count("/") > 1:
        raise UserError(f"{key}: there is no folder {folder}")
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        from huggingface_hub import try_to_load_from_cache

        if not isinstance(try_to_load_from_cache(model, "config.json", revision=revision), str):
            raise UserError(
                f"{key} {model!r} is neither a folder{nor}, nor a model in the hub's cache (HF_HUB_OFFLINE is 1, so "
                "the hub is not asked)"
            )
    return f"{model} of the hub"


def _check_model_folder(key: str, folder: Path) -> None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{key}: {folder} holds no readable config.json: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{key}: {folder / 'config.json'} holds no JSON object")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{key}: {folder} holds no weights (*.safetensors)")
