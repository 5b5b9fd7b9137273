"""The divergence against torch's own, by hand, and at its edges."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from tinyllm_ray.student import soft_targets
from tinyllm_ray.student.soft_targets import SoftTargetLoss, SoftTargets, divergence


def top(logits, k):
    """The soft targets of a teacher with these logits, for tokens 0, 1, ..."""
    values, ids = logits.log_softmax(1).topk(k)
    return SoftTargets(torch.arange(len(logits)), ids, values)


def draw(seed, *shape, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_gradient(function, logits):
    logits = logits.clone().requires_grad_()
    values = function(logits)
    values.sum().backward()
    return values.detach(), logits.grad


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_whole_vocabulary_kept_is_the_divergence_of_torch(temperature):
    teacher, student = draw(0, 64, 50), draw(1, 64, 50)
    soft = top(teacher, 50)
    ours, our_gradient = with_gradient(lambda z: divergence(z, soft, temperature=temperature), student)
    p = (teacher / temperature).softmax(1)

    def plain(z):
        q = (z / temperature).log_softmax(1)
        return temperature**2 * functional.kl_div(q, p, reduction="none").sum(1)

    theirs, their_gradient = with_gradient(plain, student)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-5, atol=1e-6)


def test_by_hand_the_tail_is_one_outcome():
    """p = (1/2, 1/4 | 1/8, 1/8), q = (1/4, 1/4 | 1/4, 1/4): 1/2 ln 2 + 1/4 ln 1 + 1/4 ln (1/4 / 1/2) = 1/4 ln 2."""
    teacher = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    assert divergence(torch.zeros(1, 4), top(teacher, 2)).item() == pytest.approx(math.log(2) / 4, abs=1e-7)


def test_by_hand_a_temperature_works_on_the_outcomes():
    """p = (4/5 | 1/5) at temperature 2 is (2/3 | 1/3), q = (1/2 | 1/2) stays: 4 x (2/3 ln 4/3 + 1/3 ln 2/3)."""
    teacher = torch.tensor([[0.8, 0.1, 0.1]]).log()
    student = torch.tensor([[0.5, 0.25, 0.25]]).log()
    wanted = 4 * (2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3))
    assert divergence(student, top(teacher, 1), temperature=2.0).item() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("k", [1, 5, 20, 300])
def test_a_student_that_is_its_teacher_loses_nothing_and_learns_nothing(k):
    logits = draw(0, 200, 300)
    values, gradient = with_gradient(lambda z: divergence(z, top(logits, k)), logits)
    assert values.max() < 1e-9
    assert gradient.abs().max() < 1e-6


def test_it_is_never_negative_on_a_thousand_draws():
    """Near and far from the teacher, sure and unsure, in what a store keeps of float16."""
    lowest = []
    for seed in range(1000):
        teacher = draw(seed, 8, 40, scale=10 ** ((seed % 7) - 3))
        student = teacher + draw(seed + 5000, 8, 40, scale=10.0 ** -(seed % 9))
        soft = top(teacher, 1 + seed % 40)
        stored = SoftTargets(soft.positions, soft.ids, soft.log_probabilities.half().float())
        for given in (soft, stored):
            lowest.append(divergence(student, given, temperature=(1.0, 3.0)[seed % 2]).min().item())
    assert len(lowest) == 2000
    assert min(lowest) >= 0
    assert max(lowest) > 0


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_gradient_is_the_one_of_the_plain_formula(k, temperature):
    """In float64, the tail as a sum over the others' probabilities; P, Q over k + 1 outcomes. The teacher is unsure, so
    that its tail, 1 less the sum in float32, has its digits."""
    teacher, student = draw(0, 30, 12, scale=1.0), draw(1, 30, 12)
    soft = top(teacher, k)

    def outcomes(log_probabilities, ids):
        inside = log_probabilities.gather(1, ids)
        tail = log_probabilities.scatter(1, ids, float("-inf")).logsumexp(1, keepdim=True)
        return (torch.cat([inside, tail], 1) / temperature).log_softmax(1)

    p = outcomes(teacher.double().log_softmax(1), soft.ids)

    def plain(z):
        q = outcomes(z.double().log_softmax(1), soft.ids)
        return temperature**2 * (p.exp() * (p - q)).sum(1)

    theirs, their_gradient = with_gradient(plain, student)
    ours, our_gradient = with_gradient(lambda z: divergence(z, soft, temperature=temperature), student)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-4, atol=1e-6)


def test_a_sure_student_has_a_finite_loss_and_gradient():
    """Its tail is e^-60, which 1 less its sum of float32 probabilities would call 0."""
    student = torch.tensor([[60.0, 0.0, 0.0, 0.0]])
    teacher = torch.tensor([[0.5, 0.3, 0.1, 0.1]]).log()
    values, gradient = with_gradient(lambda z: divergence(z, top(teacher, 1)), student)
    assert values.item() == pytest.approx(0.5 * math.log(0.5) + 0.5 * (math.log(0.5) + 60 - math.log(3)), rel=1e-5)
    assert gradient.tolist()[0] == pytest.approx([0.5, -1 / 6, -1 / 6, -1 / 6], abs=1e-6)  # q - p


def test_what_is_not_kept_belongs_to_the_tail():
    """Two tokens of three that could be kept: the third's place says -inf, whatever its id."""
    teacher, student = draw(0, 6, 9), draw(1, 6, 9)
    two = top(teacher, 2)
    padded = SoftTargets(
        two.positions, functional.pad(two.ids, (0, 1)), functional.pad(two.log_probabilities, (0, 1), value=-math.inf)
    )
    one, its_gradient = with_gradient(lambda z: divergence(z, two), student)
    other, other_gradient = with_gradient(lambda z: divergence(z, padded), student)
    assert torch.equal(one, other)
    assert torch.equal(its_gradient, other_gradient)


def test_rows_worked_at_a_few_at_a_time_give_the_same(monkeypatch):
    teacher, student = draw(0, 11, 40), draw(1, 11, 40)
    whole = with_gradient(lambda z: divergence(z, top(teacher, 3)), student)
    monkeypatch.setattr(soft_targets, "WORKSPACE", 120)
    pieces = with_gradient(lambda z: divergence(z, top(teacher, 3)), student)
    torch.testing.assert_close(whole, pieces)


def test_a_token_without_a_soft_target_has_its_cross_entropy_and_other_components_nothing():
    teacher, student = draw(0, 4, 9), draw(1, 4, 9)
    soft = top(teacher, 3)
    given = SoftTargets(torch.tensor([0, 2]), soft.ids[[0, 2]], soft.log_probabilities[[0, 2]])
    batch = SimpleNamespace(soft=given, components=torch.tensor([1, 1, 2, 0]), labels=torch.tensor([3, 4, 5, 6]))
    plain = functional.cross_entropy(student, batch.labels, reduction="none")
    both = divergence(student, soft)
    wanted = [both[0].item(), plain[1].item(), 0.0, 0.0]
    assert SoftTargetLoss(1, 1.0)(student, batch).tolist() == pytest.approx(wanted, rel=1e-6)
    assert SoftTargetLoss(2, 1.0)(student, batch).tolist() == pytest.approx([0, 0, both[2].item(), 0], rel=1e-6)
    batch.soft = None
    assert SoftTargetLoss(0, 2.0)(student, batch).tolist() == pytest.approx([0, 0, 0, plain[3].item()], rel=1e-6)


def test_beside_the_logits_no_other_tensor_of_their_size_is_kept():
    """What the backward pass is left with: the logits themselves, and at most k + 1 numbers a token of each kind."""
    tokens, vocabulary, k = 64, 5000, 4
    logits = draw(0, tokens, vocabulary).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        divergence(logits, top(draw(1, tokens, vocabulary), k))
    others = [tensor for tensor in kept if tensor.data_ptr() != logits.data_ptr()]
    assert max(tensor.numel() for tensor in others) == tokens * (k + 1)
