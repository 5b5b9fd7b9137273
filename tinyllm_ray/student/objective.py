"""The objective: a packed batch in; the loss to differentiate and the sum of each term out.

    loss = sum over terms t of  weight_t / N_t x sum over t's target tokens of its token losses

N_t is the number of t's target tokens in the global batch, over all micro-batches, shards and ranks; weight_t is a
number that stays the same within a step (student/weighting.py). The label and each teacher's rationales are one term
each, with the cross-entropy as token losses. A teacher with soft targets has a second one, the divergence from its
distributions (student/soft_targets.py); `loss.custom` names further terms.
Legend: M target tokens, V vocabulary, T terms.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tinyllm_ray.data.arrays import COMPONENT, TARGET_LENGTH, Features
from tinyllm_ray.student.batches import Batch
from tinyllm_ray.student.packed import target_logits
from tinyllm_ray.student.soft_targets import SoftTargetLoss

if TYPE_CHECKING:  # a machine that only runs the step needs no Pydantic
    from tinyllm_ray.schema import Loss

TokenLosses = Callable[[torch.Tensor, Batch], torch.Tensor]  # logits [M, V] and the batch -> a loss for each token [M]


def cross_entropy(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """[M, V] -> [M], in float32."""
    return functional.cross_entropy(logits.float(), batch.labels, reduction="none")


@dataclass(frozen=True)
class Term:
    name: str  # `label`, a teacher, TEACHER/soft, or a name under loss.custom: in metrics `train/loss/<name>`
    weight: float  # as configured; 0: the term is not trained
    components: tuple[int, ...]  # whose target tokens it is taken over, as positions in `Features.components`
    token_losses: TokenLosses = cross_entropy


def objective(
    logits: torch.Tensor, batch: Batch, *, terms: Sequence[Term], weights: Sequence[float], counts: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """This batch's part of the loss (scalar) and the sum of each term's token losses [T].

    `weights`: of each term; `counts`: N_t of each term, which is 0 where the global batch has no token for it.
    """
    sums = term_sums(logits, batch, terms)
    scale = [weight / count if count else 0.0 for weight, count in zip(weights, counts, strict=True)]
    return (torch.tensor(scale, device=sums.device) * sums).sum(), sums.detach()


def term_sums(logits: torch.Tensor, batch: Batch, terms: Sequence[Term]) -> torch.Tensor:
    """[M, V] -> [T]; each kind of token loss is computed once, however many terms share it."""
    losses = {kind: kind(logits, batch) for kind in {term.token_losses: None for term in terms}}
    sums = [losses[term.token_losses].where(_tokens_of(term, batch), 0.0).sum() for term in terms]
    return torch.stack(sums)


def terms_of(loss: "Loss", components: Sequence[str], *, softened: Sequence[str] = ()) -> list[Term]:
    """The terms with a weight, and the label's in any case, since its loss is reported. `softened`: the components that
    have soft targets."""
    from tinyllm_ray.outside import load_outside

    weights = [loss.label_weight, *(loss.rationale_weights.get(name, 0.0) for name in components[1:])]
    terms, more = list[Term](), list[Term]()
    for i, (name, weight) in enumerate(zip(components, weights, strict=True)):
        share = loss.soft_target_weights.get(name, 0.0) if name in softened else 0.0
        terms.append(Term(name, weight * (1 - share), (i,)))
        more.append(Term(f"{name}/soft", weight * share, (i,), SoftTargetLoss(i, loss.soft_target_temperature)))
    trained = [name for name, weight in zip(components, weights, strict=True) if weight]
    for name, custom in loss.custom.items():
        named = custom.components or trained
        over = tuple(i for i, component in enumerate(components) if component in named)
        more.append(Term(name, custom.weight, over, load_outside(custom.path, key=f"loss.custom.{name}.path")))
    return [term for term in [*terms, *more] if term.weight or term.name == components[0]]


def used_components(terms: Sequence[Term]) -> list[int]:
    """Components that some term with a weight is taken over; only their examples are computed."""
    return sorted({component for term in terms if term.weight for component in term.components})


def token_counts(features: Features, indices: np.ndarray, terms: Sequence[Term]) -> list[int]:
    """Target tokens of each term among the given examples, without computing anything."""
    table = features.examples[indices]
    by_component = np.bincount(table[:, COMPONENT], weights=table[:, TARGET_LENGTH], minlength=len(features.components))
    return [int(by_component[list(term.components)].sum()) for term in terms]


class StudentLoss(nn.Module):
    """The module that DistributedDataParallel wraps: one forward pass is one micro-batch's part of the objective."""

    def __init__(self, model: nn.Module, terms: Sequence[Term]) -> None:
        super().__init__()
        self.model = model
        self.terms = terms

    def forward(
        self, batch: Batch, weights: Sequence[float], counts: Sequence[float]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return objective(target_logits(self.model, batch), batch, terms=self.terms, weights=weights, counts=counts)


def _tokens_of(term: Term, batch: Batch) -> torch.Tensor:
    """Which target tokens the term is taken over; bool [M]."""
    chosen = torch.zeros_like(batch.components, dtype=torch.bool)
    for component in term.components:
        chosen |= batch.components == component
    return chosen
