"""The router of RouterDC (arXiv 2409.19886): vectors of questions and scores of teachers in, a fitted Router out.

The probability of teacher t for question q is softmax over t of cosine(W E(q), k_t). Pure, in float32 on the CPU.
B questions of a batch, Q questions, T teachers, D width of the encoder's vectors.
"""

import torch
from torch import nn
from torch.nn.functional import normalize

from tinyllm_ray.schema import Router as Settings

GOOD = 0.5  # a teacher whose score is above it is no negative example
KEY_DEVIATION = 0.02  # of the keys at the start
WEIGHT_DECAY = 0.01


class Router(nn.Module):
    """The projection W and one key k_t for each teacher. A constant beside the vector lets the keys hold a teacher's
    general strength; the vectors are standardized, since those of language models have a large common part."""

    center: torch.Tensor  # [D]
    scale: torch.Tensor  # [D]

    def __init__(self, vectors: torch.Tensor, teachers: int, *, seed: int) -> None:
        """`vectors`: [Q, D] of the training questions; Q is at least 1."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        width = vectors.shape[1] + 1
        self.register_buffer("center", vectors.mean(0))
        self.register_buffer("scale", vectors.std(0, correction=0).clamp_min(1e-6))
        self.projection = nn.Parameter(torch.eye(width))
        self.keys = nn.Parameter(KEY_DEVIATION * torch.randn(teachers, width, generator=generator))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Cosines with the teachers' keys. [B, D] -> [B, T]"""
        standard = normalize((vectors - self.center) / self.scale, dim=-1)
        extended = torch.cat([standard, torch.ones(len(standard), 1)], dim=-1)  # [B, D + 1]
        return normalize(extended @ self.projection, dim=-1) @ normalize(self.keys, dim=-1).T

    @torch.no_grad()
    def probabilities(self, vectors: torch.Tensor) -> torch.Tensor:
        """[B, D] -> [B, T]"""
        return self(vectors).softmax(dim=-1)


def contrastive_loss(cosines: torch.Tensor, scores: torch.Tensor, *, best: int, worst: int) -> torch.Tensor:
    """Mean over the questions of the sample-teacher loss of RouterDC, equation 4. Both [B, T]; scores from 0 to 1.

    Each of the `best` teachers with a score above 0 is set against the `worst` ones, but for those above GOOD and those
    that are no worse than itself.
    """
    teachers = scores.shape[1]
    high, best_places = scores.topk(min(best, teachers))
    low, worst_places = scores.topk(min(worst, teachers), largest=False)
    positives, negatives = cosines.gather(1, best_places), cosines.gather(1, worst_places)
    masked = (low > GOOD)[:, None, :] | (low[:, None, :] >= high[:, :, None])  # [B, best, worst]
    rivals = negatives[:, None, :].expand_as(masked).masked_fill(masked, -torch.inf)
    losses = torch.logsumexp(torch.cat([positives[:, :, None], rivals], dim=-1), dim=-1) - positives  # [B, best]
    return (losses * (high > 0)).sum(1).mean()


def fit(vectors: torch.Tensor, scores: torch.Tensor, settings: Settings, *, seed: int) -> Router:
    """A router for vectors [Q, D] and the teachers' scores [Q, T]. Equal arguments give an equal router."""
    router = Router(vectors, scores.shape[1], seed=seed)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(router.parameters(), lr=settings.learning_rate, weight_decay=WEIGHT_DECAY)
    for _ in range(settings.steps):
        batch = torch.randint(len(vectors), (min(settings.batch_size, len(vectors)),), generator=generator)
        loss = contrastive_loss(router(vectors[batch]), scores[batch], best=settings.best, worst=settings.worst)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return router
