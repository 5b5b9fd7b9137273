"""The training loop in plain PyTorch: features, a student and the `training` section in, a trained student out.

A step is a function of (seed, step): its rows, their division into shards, and with them the token count of each term
follow from the memory-mapped features, or from a stream of their parts, without communication. Neither micro-batches
nor ranks change the gradient.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from tinyllm_ray.data.arrays import TARGET_LENGTH, Features
from tinyllm_ray.student.batches import (
    Batch,
    active_examples,
    batch_rows,
    collate,
    micro_batches,
    shard_examples,
)
from tinyllm_ray.student.objective import StudentLoss, Term, term_sums, token_counts, used_components
from tinyllm_ray.student.packed import compile_student, decoder_start, target_logits
from tinyllm_ray.student.shards import GradientSum, gather_rows, rank, shards_of, tree_sum, world_size
from tinyllm_ray.student.totals import Totals, means, metrics, new_totals
from tinyllm_ray.student.weighting import Weighting, fixed

if TYPE_CHECKING:  # a machine that only runs the step needs no Pydantic
    from transformers import PreTrainedModel

    from tinyllm_ray.schema import Training
    from tinyllm_ray.student.stream import Stream

BETAS = (0.9, 0.999)


class NotFinite(RuntimeError):
    """The loss, its gradient or the weights are not numbers any more; nothing of it has been saved."""


@dataclass(frozen=True)
class Replica:
    """The student on this rank, and how its gradients are added to the others'."""

    module: nn.Module  # a StudentLoss, in DistributedDataParallel where there are several ranks
    model: nn.Module
    terms: Sequence[Term]
    gradients: GradientSum
    weighting: Weighting


@dataclass(frozen=True)
class Hooks:
    """Called on every rank, after the step with that number (from 1)."""

    on_log: Callable[[int, dict[str, float]], None]
    on_step: Callable[[int, torch.optim.Optimizer], None]
    on_rows: Callable[[int, Features, np.ndarray], None] = lambda *_: None  # before it, with its examples


def make_optimizer(
    model: nn.Module, training: "Training", *, beside: Iterable[nn.Parameter] = (), rate_beside: float = 0.0
) -> torch.optim.Optimizer:
    """`beside`: what is trained beside the student, without decay and with a learning rate of its own."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate, decay = training.learning_rate, training.weight_decay
    groups: list[dict[str, Any]] = [{"params": parameters, "weight_decay": decay, "times": 1.0}]
    if others := list(beside):
        groups.append({"params": others, "weight_decay": 0.0, "times": rate_beside / rate})
    return torch.optim.AdamW(groups, lr=rate, betas=BETAS, fused=True)


def learning_rate(step: int, training: "Training") -> float:
    """Rate of one step (from 0): linear warm-up, then the schedule down to 0 at the end."""
    if step < training.warmup_steps:
        return training.learning_rate * (step + 1) / training.warmup_steps
    done = (step - training.warmup_steps) / max(1, training.steps - training.warmup_steps)
    factor = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
    return training.learning_rate * factor[training.schedule]


def train(
    model: "PreTrainedModel",
    source: "Features | Stream",
    *,
    training: "Training",
    terms: Sequence[Term],
    seed: int,
    optimizer: torch.optim.Optimizer,
    first_step: int,
    dtype: str,
    hooks: Hooks,
    weighting: Weighting | None = None,
) -> None:
    """Run steps `first_step` .. training.steps - 1; without `weighting` the terms have their configured weights.

    Raises NotFinite with the question ids of the batch.
    """
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if training.compile:
        compile_student(model)
    replica = make_replica(model, terms, shards=training.shards or world_size(), weighting=weighting)
    totals = new_totals(terms)
    for step in range(first_step, training.steps):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, training) * group["times"]
        features, indices = step_batch(source, step, training=training, terms=terms, seed=seed)
        hooks.on_rows(step + 1, features, indices)
        norm = step_gradients(
            replica, features, indices, training=training, dtype=dtype, seed=seed, step=step, totals=totals
        )
        _check_finite(norm, totals, features, indices, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if done % training.log_every_steps == 0 or done == training.steps:
            hooks.on_log(done, metrics(totals, replica.weighting, norm, learning_rate(step, training)))
            totals = new_totals(terms)
        hooks.on_step(done, optimizer)


def make_replica(
    model: nn.Module, terms: Sequence[Term], *, shards: int, weighting: Weighting | None = None
) -> Replica:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    module: nn.Module = StudentLoss(model, terms)
    gradients = GradientSum(trained, shards=shards)
    if world_size() > 1:
        module = nn.parallel.DistributedDataParallel(module, forward_sync_buffers=False, gradient_as_bucket_view=True)
        module.register_comm_hook(None, gradients.hook)  # adds up where DDP's own way would take the mean
    return Replica(module, model, terms, gradients, weighting or fixed(terms))


def step_examples(
    features: Features, step: int, *, training: "Training", terms: Sequence[Term], seed: int
) -> np.ndarray:
    """Examples of the global batch that some term is taken over."""
    rows = batch_rows(step, rows=len(features.question_ids), batch_size=training.batch_size, seed=seed)
    return active_examples(features, rows, used_components(terms))


def step_batch(
    source: "Features | Stream", step: int, *, training: "Training", terms: Sequence[Term], seed: int
) -> tuple[Features, np.ndarray]:
    """The same with the features that the examples are in; from a stream they hold the step's rows alone."""
    if isinstance(source, Features):
        return source, step_examples(source, step, training=training, terms=terms, seed=seed)
    features, rows = source.of_step(step, batch_size=training.batch_size)
    return features, active_examples(features, rows, used_components(terms))


def trained_tokens(source: "Features | Stream", training: "Training", terms: Sequence[Term], *, seed: int) -> int:
    """Target tokens of the whole training; like a step, a function of the rows and the seed alone."""
    steps = (step_batch(source, i, training=training, terms=terms, seed=seed) for i in range(training.steps))
    return int(sum(features.examples[indices, TARGET_LENGTH].sum() for features, indices in steps))


def step_gradients(
    replica: Replica,
    features: Features,
    indices: np.ndarray,
    *,
    training: "Training",
    dtype: str,
    seed: int,
    step: int,
    totals: Totals,
) -> torch.Tensor:
    """Leave the gradient of the global batch in the parameters, the student's clipped; returns its norm before that."""
    shards = replica.gradients.shards
    counts = token_counts(features, indices, replica.terms)
    parts = _my_parts(features, indices, training=training, shards=shards)
    weights = replica.weighting.weights(
        _mean_scores(replica, features, parts, counts=counts, dtype=dtype, seed=seed, step=step)
    )
    rows = _rows(replica, columns=len(counts) + 2)
    for shard in parts:
        seed_generators(seed, step, shard)
        exchange = shard == max(parts) and world_size() > 1
        rows[shard] = _backward(
            replica, features, parts[shard], weights=weights, counts=counts, exchange=exchange, dtype=dtype
        )
        if not exchange:
            replica.gradients.put_aside(shard)
    replica.gradients.finish()
    *sums, real, processed = tree_sum(gather_rows(rows)).tolist()
    replica.weighting.set_gradient(means(sums, counts))
    totals.sums += torch.tensor(sums, dtype=torch.float64)
    totals.tokens += counts
    totals.weights += weights
    totals.trained += int(features.examples[indices, TARGET_LENGTH].sum())
    totals.real += int(real)
    totals.processed += int(processed)
    totals.steps += 1
    limit = training.max_gradient_norm
    return nn.utils.clip_grad_norm_(replica.gradients.parameters, math.inf if limit is None else limit)


def _my_parts(
    features: Features, indices: np.ndarray, *, training: "Training", shards: int
) -> dict[int, list[np.ndarray]]:
    """The micro-batches of each shard that this rank computes, in the shards' order."""
    examples = shard_examples(features, indices, shards=shards)
    tokens, sequences = training.micro_batch_tokens, training.micro_batch_examples
    return {
        shard: micro_batches(features, examples[shard], max_tokens=tokens, max_examples=sequences)
        for shard in shards_of(rank(), ranks=world_size(), shards=shards)
    }


def _mean_scores(
    replica: Replica,
    features: Features,
    parts: Mapping[int, Sequence[np.ndarray]],
    *,
    counts: Sequence[int],
    dtype: str,
    seed: int,
    step: int,
) -> list[float | None]:
    """The mean score of each term's tokens in the global batch, by a forward pass of its own with the dropout of the
    one that follows; none where the weights need no scores."""
    score = replica.weighting.score
    if score is None:
        return [None] * len(counts)
    terms = [replace(term, token_losses=score) for term in replica.terms]
    rows = _rows(replica, columns=len(terms))
    with torch.no_grad(), torch.autocast(rows.device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
        for shard, its_parts in parts.items():
            seed_generators(seed, step, shard)
            for part in its_parts:
                batch = collate(features, part, decoder_start=decoder_start(replica.model)).to(rows.device)
                rows[shard] += term_sums(target_logits(replica.model, batch), batch, terms)
    return means(tree_sum(gather_rows(rows)).tolist(), counts)


def _rows(replica: Replica, *, columns: int) -> torch.Tensor:
    """What each shard's sums are written to; float64 [shards, columns]."""
    device = next(replica.model.parameters()).device
    return torch.zeros(replica.gradients.shards, columns, dtype=torch.float64, device=device)


def _backward(
    replica: Replica,
    features: Features,
    parts: Sequence[np.ndarray],
    *,
    weights: list[float],
    counts: list[int],
    exchange: bool,
    dtype: str,
) -> torch.Tensor:
    """One shard's backward passes. Returns each term's sum, then the real and the computed positions; [T + 2].

    With `exchange` the last of them adds up the gradients of all ranks; a shard without examples then computes one
    for the others' sake and counts for nothing.
    """
    device = next(replica.model.parameters()).device
    result = torch.zeros(len(replica.terms) + 2, dtype=torch.float64, device=device)
    replica.gradients.last_is_empty = not parts
    for number, part in enumerate(parts or ([np.zeros(1, np.int64)] if exchange else [])):
        batch = collate(features, part, decoder_start=decoder_start(replica.model)).to(device)
        if isinstance(replica.module, nn.parallel.DistributedDataParallel):
            replica.module.require_backward_grad_sync = exchange and number >= len(parts) - 1
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            loss, sums = replica.module(batch, weights, counts if parts else [0] * len(counts))
        loss.backward()
        if parts:
            result += torch.cat([sums.double(), torch.tensor(_positions(batch), dtype=torch.float64, device=device)])
    return result


def seed_generators(seed: int, step: int, shard: int) -> None:
    """Dropout depends on (seed, step, shard) alone: neither a restart nor the number of ranks changes it."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, shard)).generate_state(1, np.uint64)[0] >> 1))


def _positions(batch: Batch) -> tuple[int, int]:
    """Real positions, and those that attention computes with its groups' padding; all else runs on real ones only."""
    real = len(batch.source) + (0 if batch.decoder_input is None else len(batch.decoder_input))
    return real, sum(group.index.numel() for group in [*batch.source_groups, *batch.target_groups])


def check_finite_weights(model: nn.Module, step: int) -> None:
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise NotFinite(
            f"after step {step} there are weights that are not finite; lower training.learning_rate, or raise "
            "training.warmup_steps"
        )


def _check_finite(norm: torch.Tensor, totals: Totals, features: Features, indices: np.ndarray, step: int) -> None:
    if torch.isfinite(norm) and torch.isfinite(totals.sums).all():
        return
    rows = np.unique(features.examples[indices][:, 0])
    raise NotFinite(
        f"step {step + 1}: the loss or its gradient is not finite (gradient norm {norm.item()}); questions of the "
        f"batch: {', '.join(features.question_ids[rows].tolist())}. Lower training.learning_rate or use student.dtype "
        "float32"
    )
