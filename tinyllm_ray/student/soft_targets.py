"""Soft targets: logits and a teacher's top-k log-probabilities in, a divergence for each target token out.

    loss of a token = sum over the top k of  p log(p/q)  +  p_tail log(p_tail/q_tail)

p is the teacher's probability of a token, q the student's, and the tail is everything outside of the top k, as one
outcome; without it p would not sum to 1, and the sum could fall below 0. With k = V it is the Kullback-Leibler
divergence. A temperature t raises the k + 1 probabilities of both sides to 1/t, makes them sum to 1 again, and
multiplies the loss by t squared (Hinton et al., arXiv 1503.02531).
Legend: M target tokens, P of them with soft targets, K kept tokens, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tinyllm_ray.data.arrays import SoftArrays

WORKSPACE = 1 << 18  # logits that are copied at once: 1 MiB in float32, which a core's cache holds


@dataclass(frozen=True)
class SoftTargets:
    """The teachers' distributions in one packed batch."""

    positions: torch.Tensor  # int64 [P]: which of the M target tokens
    ids: torch.Tensor  # int64 [P, K]
    log_probabilities: torch.Tensor  # float32 [P, K]; -inf where fewer than K are kept

    def where(self, chosen: torch.Tensor) -> "SoftTargets":
        """Those that a mask [P] chooses."""
        return SoftTargets(self.positions[chosen], self.ids[chosen], self.log_probabilities[chosen])


def soft_targets_of(soft: SoftArrays, indices: np.ndarray, examples: np.ndarray) -> SoftTargets:
    """Those of the examples `indices` in their packed batch; `examples` [M]: which of them each target token is of."""
    numbers, begins = np.unique(examples, return_index=True)
    starts, firsts, lengths = soft.spans[indices[numbers]].T
    steps = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    positions, rows = (np.repeat(at, lengths) + steps for at in (begins + firsts, starts))
    return SoftTargets(
        torch.from_numpy(positions),
        torch.from_numpy(soft.ids[rows].astype(np.int64)),
        torch.from_numpy(soft.log_probabilities[rows].astype(np.float32)),
    )


@dataclass(frozen=True)
class SoftTargetLoss:
    """Token losses of one component: the divergence, or the cross-entropy where a token has no soft target."""

    component: int
    temperature: float

    def __call__(self, logits: torch.Tensor, batch: Any) -> torch.Tensor:
        """[M, V] and a Batch -> [M], in float32; 0 for tokens of other components."""
        mine = batch.components == self.component
        labels = batch.labels[:, None]
        soft = batch.soft or SoftTargets(labels.new_zeros(0), labels[:0], labels[:0].float())
        soft = soft.where(mine[soft.positions])
        rest = mine.index_fill(0, soft.positions, False).nonzero()[:, 0]
        certain = torch.full((len(rest), soft.ids.shape[1]), float("-inf"), device=logits.device)
        certain[:, 0] = 0.0  # all of p is the label's, so the divergence is the cross-entropy
        every = SoftTargets(
            torch.cat([soft.positions, rest]),
            torch.cat([soft.ids, labels[rest].expand(-1, soft.ids.shape[1])]),
            torch.cat([soft.log_probabilities, certain]),
        )
        temperatures = torch.ones(len(every.positions), 1, device=logits.device)
        temperatures[: len(soft.positions)] = self.temperature
        losses = logits.new_zeros(len(logits), dtype=torch.float32)
        return losses.index_put((every.positions,), divergence(logits, every, temperature=temperatures))


def divergence(logits: torch.Tensor, soft: SoftTargets, *, temperature: float | torch.Tensor = 1.0) -> torch.Tensor:
    """[M, V] -> [P]; a temperature for all or for each, [P, 1]. Beside the logits it holds [P, K + 1].

    Each outcome's share is p log(p/q) - p + q, which is never negative, not even when rounded; over all outcomes of two
    distributions the last two parts cancel.
    """
    teacher = soft.log_probabilities
    real = teacher.isfinite()
    student = _TopAndTail.apply(logits, soft.positions, torch.where(real, soft.ids, soft.ids[:, :1]), real)
    tail = (1 - teacher.exp().sum(1, keepdim=True)).clamp(min=0).log()  # float16 may have rounded the sum above 1
    outcomes = torch.cat([real, student[:, -1:].isfinite()], 1)  # [P, K + 1]
    log_p = _distribution(torch.cat([teacher, tail], 1), outcomes, temperature)
    log_q = _distribution(student, outcomes, temperature)
    return ((temperature**2) * _shares(log_p, log_q)).where(outcomes, 0.0).sum(1)


def _distribution(log_values: torch.Tensor, outcomes: torch.Tensor, temperature: float | torch.Tensor) -> torch.Tensor:
    """Log-probabilities over the outcomes that there are, tempered; finite numbers elsewhere. [P, K + 1]"""
    tempered = (log_values / temperature).where(outcomes, float("-inf"))
    return (tempered - tempered.logsumexp(1, keepdim=True)).where(outcomes, 0.0)


def _shares(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """p log(p/q) - p + q of each outcome. Where p and q are close, p (x + expm1(-x)) with x = log(p/q) is exact."""
    p, q = log_p.exp(), log_q.exp()
    x = log_p - log_q
    close = x > -1
    near = x.where(close, 0.0)
    far = torch.special.entr(p).neg() - p * (1 + log_q) + q
    return (p * (near + torch.expm1(-near))).where(close, far)


class _TopAndTail(torch.autograd.Function):
    """The student's log-probabilities of each row's tokens and, last, of all others together; [P, K + 1].

    The tail is summed itself: 1 less the top k would lose all its digits where the student is sure. Rows are worked at
    a few at a time, so that no copy of all logits is made.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, positions: torch.Tensor, ids: torch.Tensor, real: torch.Tensor
    ) -> torch.Tensor:
        top = logits[positions[:, None], ids].float()
        tail = top.new_empty(len(ids))  # log of the sum of the others' exponentials
        for rows in _pieces(len(ids), logits.shape[1]):
            copied = logits[positions[rows]].float().scatter_(1, ids[rows], float("-inf"))
            most = copied.amax(1, keepdim=True).clamp(min=-1e30)  # -inf where nothing is left
            tail[rows] = copied.sub_(most).exp_().sum(1).log_().add_(most[:, 0])
        whole = torch.cat([top.where(real, float("-inf")), tail[:, None]], 1)
        result = whole.log_softmax(1)
        ctx.save_for_backward(logits, positions, ids, real, tail, result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """With q = softmax(z), G the sum of the row's gradients g and g_t the tail's:
        g_i - q_i G for a kept token, (g_t - q_t G) q_j / q_t for one of the tail."""
        logits, positions, ids, real, tail, result = ctx.saved_tensors
        given = gradients[0].where(result.isfinite(), 0.0)
        reduced = given - result.exp() * given.sum(1, keepdim=True)  # [P, K + 1]
        gradient = torch.zeros_like(logits)
        for rows in _pieces(len(ids), logits.shape[1]):
            piece = logits[positions[rows]].float().sub_(tail[rows, None]).exp_().mul_(reduced[rows, -1:])
            piece.scatter_(1, ids[rows], 0.0)  # they are no part of the tail
            piece.scatter_add_(1, ids[rows], reduced[rows, :-1].where(real[rows], 0.0))
            gradient[positions[rows]] = piece.to(gradient.dtype)
        return gradient, None, None, None


def _pieces(rows: int, width: int) -> list[slice]:
    size = max(1, WORKSPACE // width)
    return [slice(first, min(first + size, rows)) for first in range(0, rows, size)]
