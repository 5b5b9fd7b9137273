"""Which rows a step trains on, who computes which, and how they lie in memory: features in, packed batches out.

Packed means: all sequences of a micro-batch lie one after another in one flat axis, without padding. Only attention
sees single sequences: in groups of similar length, by the index tensors made here.
Legend: N flat source tokens, M flat target tokens, b sequences of a group, S / T their padded source / target length.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from tinyllm_ray.data.arrays import (
    COMPONENT,
    ROW,
    SOURCE_LENGTH,
    SOURCE_START,
    TARGET_LENGTH,
    TARGET_START,
    Features,
)
from tinyllm_ray.student.shards import share_between
from tinyllm_ray.student.soft_targets import SoftTargets, soft_targets_of


@dataclass(frozen=True)
class Group:
    """Sequences of similar length that attend together."""

    index: torch.Tensor  # int64 [b, L]: flat positions; padding repeats the sequence's last position
    select: torch.Tensor  # int64: positions of the real entries in [b * L], in flat order
    blocked: torch.Tensor | None  # bool [b, 1, 1, L], true at padding; None where there is none
    source_index: torch.Tensor | None = None  # int64 [b, S]: flat positions of the sources that cross-attention reads
    source_blocked: torch.Tensor | None = None  # bool [b, 1, 1, S]


@dataclass(frozen=True)
class Batch:
    """One packed micro-batch. Decoder-only students have their whole sequences in `source`."""

    source: torch.Tensor  # int64 [N]
    positions: torch.Tensor  # int64 [N]: position of each token in its own sequence
    source_groups: list[Group]
    decoder_input: torch.Tensor | None  # int64 [M]: labels shifted right; None for decoder-only students
    target_groups: list[Group]
    label_positions: torch.Tensor | None  # int64 [M]: where in N each label is predicted; decoder-only students
    labels: torch.Tensor  # int64 [M]
    components: torch.Tensor  # int64 [M]
    examples: torch.Tensor  # int64 [M]: position of the label's example in the list given to `collate`
    soft: SoftTargets | None = None  # None where the features hold none

    def to(self, device: torch.device) -> "Batch":
        return _to(self, device)


def batch_rows(step: int, *, rows: int, batch_size: int, seed: int) -> np.ndarray:
    """Rows of one optimizer step (from 0): each epoch is another permutation, a step may cross into the next."""
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    return np.array([epoch_order(seed, int(place // rows), rows)[place % rows] for place in places])


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, rows: int) -> np.ndarray:
    """The permutation of an epoch (from 0); int64 [rows]."""
    return np.random.default_rng((seed, epoch)).permutation(rows)


def active_examples(features: Features, rows: np.ndarray, active: Sequence[int]) -> np.ndarray:
    """Example indices of the rows, of the components in `active`."""
    indices = features.examples_of(rows)
    return indices[np.isin(features.examples[indices, COMPONENT], active)]


def shard_examples(features: Features, indices: np.ndarray, *, shards: int) -> list[np.ndarray]:
    """The examples of each shard; a row's examples stay together, since they share their source."""
    if shards == 1:
        return [indices]
    table = features.examples[indices]
    rows, inverse = np.unique(table[:, ROW], return_inverse=True)
    cost = np.bincount(inverse, weights=table[:, SOURCE_LENGTH] + table[:, TARGET_LENGTH], minlength=len(rows))
    shard = share_between(cost.tolist(), shards)[inverse]
    return [indices[shard == number] for number in range(shards)]


def micro_batches(features: Features, indices: np.ndarray, *, max_tokens: int, max_examples: int) -> list[np.ndarray]:
    """Split by tokens and sequences; examples that share a source stay neighbors, long ones come together."""
    table = features.examples[indices]
    order = np.lexsort((table[:, SOURCE_START], -table[:, SOURCE_LENGTH]))
    parts: list[list[int]] = [[]]
    tokens, last_source = 0, -1
    for place in order:
        _, _, source_start, source_length, _, target_length = table[place]
        cost = target_length + (0 if source_start == last_source else source_length)
        if parts[-1] and (tokens + cost > max_tokens or len(parts[-1]) == max_examples):
            parts.append([])
            tokens, cost = 0, target_length + source_length
        parts[-1].append(indices[place])
        tokens, last_source = tokens + cost, source_start
    return [np.array(part, dtype=np.int64) for part in parts if part]


def collate(features: Features, indices: np.ndarray, *, decoder_start: int | None) -> Batch:
    table = features.examples[indices]
    tokens = features.tokens
    targets = [tokens[start : start + length] for start, length in table[:, [TARGET_START, TARGET_LENGTH]]]
    starts, which = np.unique(table[:, SOURCE_START], return_inverse=True)
    lengths = dict(zip(table[:, SOURCE_START].tolist(), table[:, SOURCE_LENGTH].tolist(), strict=True))
    sources = [tokens[start : start + lengths[start]] for start in starts.tolist()]
    batch = pack(sources, which.tolist(), targets, table[:, COMPONENT].tolist(), decoder_start=decoder_start)
    if features.soft is None:
        return batch
    return replace(batch, soft=soft_targets_of(features.soft, indices, batch.examples.numpy()))


def pack(
    sources: Sequence[Any],
    which: Sequence[int],
    targets: Sequence[Any],
    components: Sequence[int],
    *,
    decoder_start: int | None,
) -> Batch:
    """Targets with their sources (`which`: target -> source) as one batch; without `decoder_start`: decoder-only."""
    if decoder_start is None:
        return _pack_prompts(sources, which, targets, components)
    return _pack_pairs(sources, which, targets, components, decoder_start)


def _pack_pairs(
    sources: Sequence[Any], which: Sequence[int], targets: Sequence[Any], components: Sequence[int], decoder_start: int
) -> Batch:
    """Encoder-decoder: each source lies in the batch once, however many targets read it."""
    source_order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))
    source_lengths = [len(sources[i]) for i in source_order]
    source_start = dict(zip(source_order, _starts(source_lengths), strict=True))
    order = sorted(range(len(targets)), key=lambda i: (-len(targets[i]), -len(sources[which[i]])))
    lengths = [len(targets[i]) for i in order]
    target_groups, first = [], 0
    for group in groups_of(lengths):
        members = [which[i] for i in order[first : first + len(group.index)]]
        index, _, blocked = _index([source_start[i] for i in members], [len(sources[i]) for i in members])
        target_groups.append(replace(group, source_index=index, source_blocked=blocked))
        first += len(members)
    ordered = [np.asarray(targets[i]) for i in order]
    shifted = [np.concatenate([[decoder_start], target[:-1]]) for target in ordered]
    return Batch(
        source=_flat([sources[i] for i in source_order]),
        positions=_flat([np.arange(length) for length in source_lengths]),
        source_groups=groups_of(source_lengths),
        decoder_input=_flat(shifted),
        target_groups=target_groups,
        label_positions=None,
        labels=_flat(ordered),
        components=_repeat([components[i] for i in order], lengths),
        examples=_repeat(order, lengths),
    )


def _pack_prompts(
    sources: Sequence[Any], which: Sequence[int], targets: Sequence[Any], components: Sequence[int]
) -> Batch:
    """Decoder-only: prompt and target in one sequence; a token is predicted from the one before, prompts are masked.

    Prompt p0 p1 and target t0 t1:   source           p0 p1 t0      (the last target token predicts nothing)
                                     label_positions      1  2
                                     labels              t0 t1
    """
    order = sorted(range(len(targets)), key=lambda i: -len(sources[which[i]]) - len(targets[i]))
    whole = [np.concatenate([sources[which[i]], targets[i][:-1]]) for i in order]
    lengths, targets_of = [len(ids) for ids in whole], [len(targets[i]) for i in order]
    ends = np.cumsum(lengths)
    return Batch(
        source=_flat(whole),
        positions=_flat([np.arange(length) for length in lengths]),
        source_groups=groups_of(lengths),
        decoder_input=None,
        target_groups=[],
        label_positions=_flat([np.arange(end - count, end) for end, count in zip(ends, targets_of, strict=True)]),
        labels=_flat([targets[i] for i in order]),
        components=_repeat([components[i] for i in order], targets_of),
        examples=_repeat(order, targets_of),
    )


def groups_of(lengths: Sequence[int]) -> list[Group]:
    """Neighboring sequences whose lengths differ little; `lengths` must fall.

    Lengths [3, 2, 1] lie on the flat axis as  a0 a1 a2 b0 b1 c0  and make two groups:
        a, b   index  0 1 2   select  0 1 2 3 4     and, since c is much shorter,     c   index  5   select  0
                      3 4 4   (position 5 of the six is padding: it repeats b's end and is not selected)
    """
    groups, first, starts = [], 0, _starts(lengths)
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or lengths[end] < 0.9 * lengths[first] - 1:
            groups.append(Group(*_index(starts[first:end], lengths[first:end])))
            first = end
    return groups


def shuffled_rationales(features: Features, *, seed: int) -> Features:
    """The control: each teacher's targets are moved to other questions of that teacher, so that none keeps its own."""
    examples = np.array(features.examples)
    soft = None if features.soft is None else replace(features.soft, spans=np.array(features.soft.spans))
    for component in range(1, len(features.components)):
        places = np.flatnonzero(examples[:, COMPONENT] == component)
        cycle = np.random.default_rng((seed, component)).permutation(places)
        examples[cycle, TARGET_START:] = examples[np.roll(cycle, 1), TARGET_START:]
        if soft:
            soft.spans[cycle] = soft.spans[np.roll(cycle, 1)]
    return replace(features, examples=examples, soft=soft)


def _index(starts: Sequence[int], lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The first three fields of a Group."""
    length = np.array(lengths)
    columns = np.arange(max(lengths))
    index = np.array(starts)[:, None] + np.minimum(columns[None, :], length[:, None] - 1)
    real = columns[None, :] < length[:, None]
    blocked = None if real.all() else torch.from_numpy(~real)[:, None, None, :]
    return torch.from_numpy(index), torch.from_numpy(np.flatnonzero(real)), blocked


def _starts(lengths: Sequence[int]) -> list[int]:
    return [0, *np.cumsum(lengths[:-1]).tolist()] if len(lengths) else []


def _flat(parts: Sequence[Any]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([np.asarray(part, dtype=np.int64) for part in parts]))


def _repeat(values: Sequence[int], counts: Sequence[int]) -> torch.Tensor:
    return torch.from_numpy(np.repeat(np.array(values, dtype=np.int64), counts))


def _to(value: Any, device: torch.device) -> Any:
    """Move all tensors of nested dataclasses and lists."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, list):
        return [_to(item, device) for item in value]
    if isinstance(value, Batch | Group | SoftTargets):
        return replace(value, **{item.name: _to(getattr(value, item.name), device) for item in fields(value)})
    return value
