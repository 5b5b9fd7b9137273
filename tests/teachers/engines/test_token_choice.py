from pathlib import Path

import torch
from support.tiny_teachers import save_t5
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from tinyllm_ray.schema import Sampling
from tinyllm_ray.teachers.engines.token_choice import TokenChoice


def choice(folder: Path, **sampling: float) -> TokenChoice:
    path = save_t5(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(path)
    return TokenChoice(model, AutoTokenizer.from_pretrained(path), Sampling(max_tokens=4, **sampling))


def test_a_number_above_0_and_up_to_1_draws_a_token_by_its_share(tmp_path: Path) -> None:
    """Shares of 0, 1/2, 0, 1/4 and 1/4: their sums are 0, 1/2, 1/2, 3/4 and 1."""
    drawn = choice(tmp_path, temperature=1.0)
    shares = torch.tensor([[0.0, 0.5, 0.0, 0.25, 0.25]]).expand(6, -1)
    tokens = drawn.choose(shares.log(), torch.zeros(6, 1, dtype=torch.long), [1] * 6, [1e-9, 0.25, 0.5, 0.6, 0.8, 1.0])
    assert tokens.tolist() == [1, 1, 1, 3, 4, 4]


def test_top_p_keeps_the_likeliest_tokens_of_that_total(tmp_path: Path) -> None:
    """0.6 of 0.5, 0.3 and 0.2 keeps the first two, whose shares become 5/8 and 3/8."""
    drawn = choice(tmp_path, temperature=1.0, top_p=0.6)
    shares = torch.tensor([[0.5, 0.3, 0.2]]).expand(3, -1)
    tokens = drawn.choose(shares.log(), torch.zeros(3, 1, dtype=torch.long), [1] * 3, [0.62, 0.63, 1.0])
    assert tokens.tolist() == [0, 1, 1]


def test_the_decoder_reads_the_models_start_token_and_the_end_token_ends_a_text(tmp_path: Path) -> None:
    greedy = choice(tmp_path)
    assert greedy.start == [0]
    assert greedy.ended(torch.tensor([[0, 1, 5], [0, 5, 1]])) == [False, True]
    assert greedy.choose(torch.tensor([[0.0, 3.0, 2.0]]), torch.tensor([[0]]), [1], None).tolist() == [1]
