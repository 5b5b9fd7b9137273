"""The loss of all components: a batch in, each component's sum and token count and the weighted loss out.

loss = label_weight x mean token cross-entropy of the label component
     + sum over teachers of weight x mean token cross-entropy of that teacher's component
Each mean is over the tokens of the global batch, on all ranks and micro-batches. Legend: M target tokens, C components.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tinyllm_ray.student.batches import Batch
from tinyllm_ray.student.packed import target_logits


def token_losses(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Cross-entropy of every target token, in float32; [M]"""
    return cross_entropy(target_logits(model, batch).float(), batch.labels, reduction="none")


def component_sums(losses: torch.Tensor, components: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the token losses and number of tokens of each component; [C], [C]"""
    sums = torch.zeros(count, dtype=losses.dtype, device=losses.device).index_add(0, components, losses)
    return sums, torch.bincount(components, minlength=count)


class StudentLoss(nn.Module):
    """The module that DistributedDataParallel wraps: one forward pass is one micro-batch's part of the loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, token_weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`token_weights` [C]: weight / global token count. Returns the loss (scalar) and each component's sum [C]."""
        sums, _ = component_sums(token_losses(self.model, batch), batch.components, len(token_weights))
        return (sums * token_weights).sum(), sums.detach()
