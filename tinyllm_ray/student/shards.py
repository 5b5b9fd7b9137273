"""Sums whose bits do not depend on the number of ranks: a step's batch is cut into shards, and what the shards give
is added along one fixed tree, whoever computed them.

Float addition is not associative, so (a + b) + c must stay (a + b) + c. The tree over five shards:

            0-4
           /   \\
        0-3     4        A node is (first shard, end); its left side is the largest power of two below its size.
       /   \\             A rank computes neighboring shards and adds what makes up whole nodes. The ranks then exchange
     0-1   2-3           these nodes piece by piece: each rank adds one piece of all of them, and all gather the sums.
     / \\   / \\
    0   1 2   3

The bits are equal on processors of one kind with the same number of threads.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

Node = tuple[int, int]  # first shard, end
Piece = tuple[int, int, list[torch.Tensor]]  # a node and its sum
Found = TypeVar("Found")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def shards_of(rank: int, *, ranks: int, shards: int) -> range:
    """The shards that a rank computes: neighbors; the first ranks have one more where it does not come out even."""
    each, more = divmod(shards, ranks)
    first = rank * each + min(rank, more)
    return range(first, first + each + (rank < more))


@lru_cache(maxsize=64)
def joints(shards: int, first: int = 0) -> frozenset[tuple[int, int, int]]:
    """(first, middle, end) of every node with two sides, for the tree over `shards` shards from `first` on."""
    if shards < 2:
        return frozenset()
    left = 1 << (shards - 1).bit_length() - 1
    return joints(left, first) | joints(shards - left, first + left) | {(first, first + left, first + shards)}


def push(pieces: list[Piece], piece: Piece, shards: int) -> None:
    """Append a piece and add up what makes up a node. Pieces come in the shards' order and may be changed."""
    pieces.append(piece)
    while len(pieces) > 1 and (pieces[-2][0], pieces[-1][0], pieces[-1][1]) in joints(shards):
        (first, _, left), (_, end, right) = pieces[-2:]
        torch._foreach_add_(left, right)
        pieces[-2:] = [(first, end, left)]


def nodes_of(own: range, shards: int) -> list[Node]:
    """The nodes that remain when a rank has added up what it can."""
    pieces: list[Piece] = []
    for shard in own:
        push(pieces, (shard, shard + 1, [torch.zeros(())]), shards)
    return [(first, end) for first, end, _ in pieces]


def tree_sum(rows: torch.Tensor) -> torch.Tensor:
    """Sum over the first axis, a row a shard, along the tree."""
    pieces: list[Piece] = []
    for shard, row in enumerate(rows):
        push(pieces, (shard, shard + 1, [row.clone()]), len(rows))
    return pieces[0][2][0]


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Rows that are zero where another rank fills them -> the same rows, filled, on every rank."""
    if world_size() > 1:
        dist.all_reduce(rows)  # exact, since all but one rank add zero
    return rows


class GradientSum:
    """The gradients of this rank's shards, and the exchange with the other ranks' at the end of a step."""

    def __init__(self, parameters: Sequence[nn.Parameter], *, shards: int) -> None:
        self.parameters = list(parameters)
        self.position = {id(parameter): i for i, parameter in enumerate(self.parameters)}
        self.shards = shards
        self.pieces: list[Piece] = []
        self.last_is_empty = False

    def put_aside(self, shard: int) -> None:
        """Take a finished shard's gradients out of the parameters, so that the next shard starts from nothing."""
        taken = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        push(self.pieces, (shard, shard + 1, taken), self.shards)

    def finish(self) -> None:
        """End a step: on one rank the sum over all shards becomes the gradient, on several the hook has seen to it."""
        if world_size() == 1:
            ((_, _, total),) = self.pieces
            for parameter, gradient in zip(self.parameters, total, strict=True):
                parameter.grad = gradient
        self.pieces = []

    def hook(self, _: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        """DistributedDataParallel calls this in the backward pass of a rank's last shard, for a bucket of parameters:
        this shard's gradients in, the sum over all shards of all ranks out."""
        buffer = bucket.buffer()
        if self.last_is_empty:
            buffer.zero_()
        own = shards_of(rank(), ranks=world_size(), shards=self.shards)
        positions = [self.position[id(parameter)] for parameter in bucket.parameters()]
        pieces = [
            (first, end, [torch.cat([tensors[i].flatten() for i in positions])]) for first, end, tensors in self.pieces
        ]
        push(pieces, (own[-1], own.stop, [buffer]), self.shards)
        done: torch.futures.Future[torch.Tensor]
        if world_size() == 2 and _one_node_each(self.shards, 2):  # a + b is b + a, so the usual sum has the same bits
            whole = pieces[0][2][0]
            return dist.all_reduce(whole, async_op=True).get_future().then(lambda future: future.value()[0])
        done = torch.futures.Future()
        done.set_result(exchange([tensors[0] for _, _, tensors in pieces], shards=self.shards))
        return done


def exchange(own: list[torch.Tensor], *, shards: int) -> torch.Tensor:
    """The sums of this rank's nodes (flat, one length) -> the sum of all nodes of all ranks, along the tree."""
    ranks, length = world_size(), len(own[0])
    nodes = [nodes_of(shards_of(other, ranks=ranks, shards=shards), shards) for other in range(ranks)]
    width = -(-length // ranks)  # of the piece that a rank adds up
    sent = own[0].new_zeros(len(own), ranks * width)
    sent[:, :length] = torch.stack(own)
    received = own[0].new_empty(sum(map(len, nodes)), width)
    dist.all_to_all_single(
        received.view(-1),
        sent.view(len(own), ranks, width).transpose(0, 1).reshape(-1),  # to each rank its piece of every node
        output_split_sizes=[len(theirs) * width for theirs in nodes],
        input_split_sizes=[len(own) * width] * ranks,
    )
    pieces: list[Piece] = []
    for (first, end), row in zip([node for theirs in nodes for node in theirs], received, strict=True):
        push(pieces, (first, end, [row]), shards)
    whole = own[0].new_empty(ranks, width)
    dist.all_gather(list(whole.unbind()), pieces[0][2][0])
    return whole.view(-1)[:length]


def gather_dict(own: dict[int, Found]) -> dict[int, Found]:
    """What the ranks found, each its own keys -> all of it, on every rank."""
    if world_size() == 1:
        return own
    parts: list[dict[int, Found]] = [{} for _ in range(world_size())]
    dist.all_gather_object(parts, own)
    return {key: value for part in parts for key, value in part.items()}


def share_between(sizes: Sequence[float], parts: int) -> np.ndarray:
    """The part of each item: dealt from the largest on, each to the part that has least so far; int64 [items]."""
    load, part_of = np.zeros(parts), np.zeros(len(sizes), dtype=np.int64)
    for item in np.argsort(-np.asarray(sizes), kind="stable"):
        part_of[item] = np.argmin(load)
        load[part_of[item]] += sizes[item]
    return part_of


def _one_node_each(shards: int, ranks: int) -> bool:
    return all(len(nodes_of(shards_of(i, ranks=ranks, shards=shards), shards)) == 1 for i in range(ranks))
