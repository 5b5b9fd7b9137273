"""The training loop in plain PyTorch: features, a student and the `training` section in, a trained student out.

A step is a pure function of (seed, step): its rows, and with them the token count of each component over all ranks,
follow from the memory-mapped features without communication. So neither micro-batches nor ranks change the gradient.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from tinyllm_ray.data.arrays import TARGET_LENGTH, Features
from tinyllm_ray.student.batches import (
    Batch,
    active_examples,
    batch_rows,
    collate,
    component_tokens,
    micro_batches,
    rank_share,
)
from tinyllm_ray.student.objective import StudentLoss
from tinyllm_ray.student.packed import compile_student, decoder_start

if TYPE_CHECKING:  # a machine that only runs the step needs no Pydantic
    from tinyllm_ray.schema import Training

BETAS = (0.9, 0.999)


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient is not a number; raised before the optimizer step, so the weights are still good."""


@dataclass
class Totals:
    """What is summed up between two log lines."""

    sums: torch.Tensor  # [C]
    tokens: np.ndarray  # [C]
    processed: int = 0
    real: int = 0
    steps: int = 0
    started: float = 0.0


@dataclass(frozen=True)
class Hooks:
    """Called on every rank, after the step with that number (from 1)."""

    on_log: Callable[[int, dict[str, float]], None]
    on_step: Callable[[int, torch.optim.Optimizer], None]


def make_optimizer(model: nn.Module, training: "Training") -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate, decay = training.learning_rate, training.weight_decay
    return torch.optim.AdamW(parameters, lr=rate, betas=BETAS, weight_decay=decay, fused=True)


def learning_rate(step: int, training: "Training") -> float:
    """Rate of one step (from 0): linear warm-up, then the schedule down to 0 at the end."""
    if step < training.warmup_steps:
        return training.learning_rate * (step + 1) / training.warmup_steps
    done = (step - training.warmup_steps) / max(1, training.steps - training.warmup_steps)
    factor = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
    return training.learning_rate * factor[training.schedule]


def train(
    model: nn.Module,
    features: Features,
    *,
    training: "Training",
    weights: list[float],  # by component
    seed: int,
    optimizer: torch.optim.Optimizer,
    first_step: int,
    dtype: str,
    hooks: Hooks,
) -> None:
    """Run steps `first_step` .. training.steps - 1. Raises NonFiniteLoss with the question ids of the batch."""
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if training.compile:
        compile_student(model)
    device = next(model.parameters()).device
    module: nn.Module = StudentLoss(model)
    if world_size() > 1:
        module = nn.parallel.DistributedDataParallel(module, forward_sync_buffers=False, gradient_as_bucket_view=True)
    totals = new_totals(features, device)
    for step in range(first_step, training.steps):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, training)
        seed_generators(seed, step)
        indices = step_examples(features, step, training=training, weights=weights, seed=seed)
        norm = step_gradients(module, features, indices, training=training, weights=weights, dtype=dtype, totals=totals)
        _check_finite(norm, totals, features, indices, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if done % training.log_every_steps == 0 or done == training.steps:
            hooks.on_log(done, _metrics(totals, features, weights, norm, learning_rate(step, training)))
            totals = new_totals(features, device)
        hooks.on_step(done, optimizer)


def step_examples(
    features: Features, step: int, *, training: "Training", weights: list[float], seed: int
) -> np.ndarray:
    """Examples of the global batch whose component has a weight."""
    rows = batch_rows(step, rows=len(features.question_ids), batch_size=training.batch_size, seed=seed)
    return active_examples(features, rows, [component for component, weight in enumerate(weights) if weight])


def trained_tokens(features: Features, training: "Training", weights: list[float], *, seed: int) -> int:
    """Target tokens of the whole training; like a step, a function of the seed alone."""
    steps = (step_examples(features, i, training=training, weights=weights, seed=seed) for i in range(training.steps))
    return int(sum(features.examples[indices, TARGET_LENGTH].sum() for indices in steps))


def step_gradients(
    module: nn.Module,
    features: Features,
    indices: np.ndarray,
    *,
    training: "Training",
    weights: list[float],
    dtype: str,
    totals: Totals,
) -> torch.Tensor:
    """Leave the gradient of the global batch in the parameters, clipped; returns its norm before that."""
    model = (module.module if world_size() > 1 else module).model
    device = totals.sums.device
    tokens = component_tokens(features, indices, len(weights))
    # DistributedDataParallel averages over the ranks, but the token counts are already those of all ranks.
    scale = [world_size() * weight / count if count else 0.0 for weight, count in zip(weights, tokens, strict=True)]
    token_weights = torch.tensor(scale, device=device)
    share = rank_share(features, indices, rank=rank(), ranks=world_size())
    limits = {"max_tokens": training.micro_batch_tokens, "max_examples": training.micro_batch_examples}
    parts = micro_batches(features, share, **limits)
    if not parts:  # nothing to learn from here, but the other ranks wait for this rank's gradients
        parts, token_weights = [np.zeros(1, np.int64)], torch.zeros_like(token_weights)
    sums = torch.zeros_like(totals.sums)
    for number, part in enumerate(parts):
        batch = collate(features, part, decoder_start=decoder_start(model)).to(device)
        if isinstance(module, nn.parallel.DistributedDataParallel):
            module.require_backward_grad_sync = number == len(parts) - 1
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            loss, part_sums = module(batch, token_weights)
        loss.backward()
        sums += part_sums * (token_weights > 0)
        _count(totals, batch)
    if world_size() > 1:
        dist.all_reduce(sums)
    totals.sums += sums
    totals.tokens += tokens
    totals.steps += 1
    limit = training.max_gradient_norm
    return nn.utils.clip_grad_norm_(module.parameters(), math.inf if limit is None else limit)


def seed_generators(seed: int, step: int) -> None:
    """Dropout depends on (seed, step, rank) alone, so a resumed run goes on exactly as the first would have."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank())).generate_state(1, np.uint64)[0] >> 1))


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def new_totals(features: Features, device: torch.device) -> Totals:
    count = len(features.components)
    return Totals(torch.zeros(count, device=device), np.zeros(count), started=time.perf_counter())


def _count(totals: Totals, batch: Batch) -> None:
    """Positions that attention computes, real and with its groups' padding; all else runs on real tokens only."""
    totals.real += len(batch.source) + (0 if batch.decoder_input is None else len(batch.decoder_input))
    totals.processed += sum(group.index.numel() for group in [*batch.source_groups, *batch.target_groups])


def _check_finite(norm: torch.Tensor, totals: Totals, features: Features, indices: np.ndarray, step: int) -> None:
    if torch.isfinite(norm) and torch.isfinite(totals.sums).all():
        return
    rows = np.unique(features.examples[indices][:, 0])
    raise NonFiniteLoss(
        f"step {step + 1}: the loss or its gradient is not finite (gradient norm {norm.item()}); questions of the "
        f"batch: {', '.join(features.question_ids[rows].tolist())}. Lower training.learning_rate or use student.dtype "
        "float32"
    )


def _metrics(
    totals: Totals, features: Features, weights: list[float], norm: torch.Tensor, rate: float
) -> dict[str, float]:
    """Means over the steps since the last log line."""
    sums = totals.sums.tolist()
    means = {
        component: sums[i] / totals.tokens[i] for i, component in enumerate(features.components) if totals.tokens[i]
    }
    losses: dict[str, Any] = {f"train/loss/{component}": mean for component, mean in means.items()}
    total = sum(weights[i] * means[component] for i, component in enumerate(features.components) if component in means)
    return {
        "train/loss": total,
        **losses,
        "train/learning_rate": rate,
        "train/gradient_norm": norm.item(),
        "time/step_ms": 1000 * (time.perf_counter() - totals.started) / totals.steps,
        "tokens/real_share": totals.real / totals.processed,
        "tokens/trained": float(totals.tokens.sum()),
    }
