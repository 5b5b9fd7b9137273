"""The router's loss against values worked out by hand, and routers that learn who knows what."""

import math

import pytest
import torch

from tinyllm_ray.routing.contrastive import Router, contrastive_loss, fit
from tinyllm_ray.schema import Router as Settings


def test_each_good_teacher_is_set_against_the_bad_ones() -> None:
    cosines = torch.tensor([[0.5, 0.1, -0.2]])
    scores = torch.tensor([[1.0, 0.0, 0.4]])
    # best two: 1.0 against 0.0 and 0.4; 0.4 against 0.0 alone, which is worse than it
    first = math.log(math.exp(0.5) + math.exp(0.1) + math.exp(-0.2)) - 0.5
    second = math.log(math.exp(-0.2) + math.exp(0.1)) + 0.2
    assert contrastive_loss(cosines, scores, best=2, worst=2).item() == pytest.approx(first + second, abs=1e-6)


def test_a_score_above_one_half_is_no_negative_example_and_a_score_of_zero_no_positive_one() -> None:
    cosines = torch.tensor([[0.3, -0.3]])
    assert contrastive_loss(cosines, torch.tensor([[1.0, 0.6]]), best=2, worst=2).item() == 0
    assert contrastive_loss(cosines, torch.tensor([[0.0, 0.0]]), best=2, worst=2).item() == 0


def test_the_loss_is_the_mean_over_the_questions() -> None:
    cosines, scores = torch.tensor([[0.3, -0.3], [0.3, -0.3]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    one = math.log(1 + math.exp(-0.6))
    assert contrastive_loss(cosines, scores, best=1, worst=1).item() == pytest.approx(one / 2, abs=1e-6)


def test_probabilities_are_the_softmax_of_the_cosines() -> None:
    router = Router(torch.tensor([[1.0], [-1.0]]), 2, seed=0)
    router.keys.data = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])  # the vector 1 becomes (1, 1), with the constant
    near = math.e / (math.e + 1)  # cosines 1 and 0
    assert router.probabilities(torch.tensor([[1.0]])).tolist()[0] == pytest.approx([near, 1 - near], abs=1e-6)


def two_kinds(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Questions on two sides of a line in eight directions; teacher 0 knows the one side, 1 the other, 2 nothing."""
    vectors = torch.randn(count, 8, generator=torch.Generator().manual_seed(1))
    left = (vectors[:, 0] > 0).float()
    return vectors, torch.stack([left, 1 - left, torch.zeros(count)], dim=1)


def test_a_router_learns_who_knows_what() -> None:
    vectors, scores = two_kinds(400)
    settings = Settings(learning_rate=1e-2, steps=200)
    router = fit(vectors[:300], scores[:300], settings, seed=0)
    taken = router.probabilities(vectors[300:]).argmax(1)
    right = scores[300:][torch.arange(100), taken].mean().item()
    assert right > 0.9  # either teacher alone: one half


def test_a_router_takes_the_teacher_that_is_always_right() -> None:
    vectors, _ = two_kinds(100)
    scores = torch.tensor([[0.0, 1.0, 0.0]]).repeat(100, 1)
    router = fit(vectors, scores, Settings(learning_rate=1e-2, steps=100), seed=0)
    assert router.probabilities(vectors).argmax(1).tolist() == [1] * 100


def test_equal_seeds_give_equal_routers_and_other_seeds_other_ones() -> None:
    vectors, scores = two_kinds(50)
    one, same, other = (fit(vectors, scores, Settings(steps=20), seed=seed).keys for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
