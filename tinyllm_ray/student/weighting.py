"""The weight of each term of the loss in a step: as configured, learned with the student, or by its confidence.

    fixed        as configured
    uncertainty  exp(-s_t) / 2, where training minimizes  sum over terms t of  exp(-s_t) / 2 x L_t + s_t / 2
                 (arXiv 1705.07115); each s_t starts at 0 and rests where s_t = log L_t
    confidence   the teachers share the sum of their configured weights by a softmax over alpha x score_t

L_t and score_t are means over t's target tokens in the global batch, over all micro-batches, shards and ranks, so all
ranks have the same weights. Within a step they are constants; the gradient of s_t, (1 - exp(-s_t) L_t) / 2, is written
down after it.
Legend: M target tokens, V vocabulary, T terms.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from tinyllm_ray.student.batches import Batch
from tinyllm_ray.student.objective import Term, TokenLosses, cross_entropy

if TYPE_CHECKING:  # a machine that only runs the step needs no Pydantic
    from tinyllm_ray.schema import Loss

LOG_SCALES = "loss.log_scales"  # the name of s in checkpoints


@dataclass(frozen=True)
class Weighting:
    configured: tuple[float, ...]  # by term
    log_scales: nn.Parameter | None = None  # float32 [T]: s of each term, where the weights are learned
    teachers: tuple[int, ...] = ()  # the terms that share their weights by confidence
    alpha: float = 1.0
    score: TokenLosses | None = None  # of each token [M]; larger where the student is more confident

    @property
    def varies(self) -> bool:
        return self.log_scales is not None or self.score is not None

    def weights(self, scores: Sequence[float | None]) -> list[float]:
        """By term. `scores`: the mean score of each term; None where there is none or it has no token."""
        if self.log_scales is not None:
            learned = [math.exp(-s) / 2 for s in self.log_scales.tolist()]
            return [one if given else 0.0 for one, given in zip(learned, self.configured, strict=True)]
        found = {i: self.alpha * score for i in self.teachers if (score := scores[i]) is not None}
        total, shares = sum(self.configured[i] for i in self.teachers), _softmax(found)
        return [total * shares[i] if i in shares else given for i, given in enumerate(self.configured)]

    def set_gradient(self, losses: Sequence[float | None]) -> None:
        """The gradient of s from the mean token loss of each term in the step; a term without a token stays put."""
        if self.log_scales is None:
            return
        parts = zip(self.log_scales.tolist(), losses, self.configured, strict=True)
        gradient = [(1 - math.exp(-s) * loss) / 2 if given and loss is not None else 0.0 for s, loss, given in parts]
        self.log_scales.grad = torch.tensor(gradient, device=self.log_scales.device)

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained beside the student, by its name in checkpoints."""
        return {} if self.log_scales is None else {LOG_SCALES: self.log_scales}


def fixed(terms: Sequence[Term]) -> Weighting:
    return Weighting(tuple(term.weight for term in terms))


def weighting_of(loss: "Loss", terms: Sequence[Term], *, teachers: Sequence[str], device: torch.device) -> Weighting:
    """As `loss.weighting` says; a term without a configured weight has none in any case."""
    weighting = fixed(terms)
    match loss.weighting:
        case "uncertainty":
            return replace(weighting, log_scales=nn.Parameter(torch.zeros(len(terms), device=device)))
        case "confidence":
            of_teachers = tuple(i for i, term in enumerate(terms) if term.weight and term.name in teachers)
            score = SCORES[loss.confidence_score]
            return replace(weighting, teachers=of_teachers, alpha=loss.confidence_alpha, score=score)
    return weighting


def _less_cross_entropy(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    return -cross_entropy(logits, batch)


def _less_entropy(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    log_shares = logits.float().log_softmax(-1)
    return (log_shares.exp() * log_shares).sum(-1)


def _max_probability(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    return logits.float().softmax(-1).amax(-1)


SCORES = {"cross_entropy": _less_cross_entropy, "entropy": _less_entropy, "max_probability": _max_probability}


def _softmax(values: dict[int, float]) -> dict[int, float]:
    largest = max(values.values(), default=0.0)
    powers = {key: math.exp(value - largest) for key, value in values.items()}
    return {key: power / sum(powers.values()) for key, power in powers.items()}
