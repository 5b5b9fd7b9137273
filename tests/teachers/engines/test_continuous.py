"""Every text against `generate` on its prompt alone, in float64, where no two tokens are as likely as each other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_teachers import save_bart, save_stopping_t5
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from tinyllm_ray.schema import Sampling
from tinyllm_ray.teachers.engines.continuous import ContinuousBatch
from tinyllm_ray.teachers.engines.text_rows import Text
from tinyllm_ray.teachers.engines.token_choice import TokenChoice

TOKENS = 24
GENERATOR = torch.Generator().manual_seed(0)
PROMPTS = [torch.randint(3, 300, (5 + i % 9,), generator=GENERATOR).tolist() for i in range(24)]
GREEDY = Sampling(max_tokens=TOKENS, repetition_penalty=50.0)


class Encoder:
    """Counts the rows that are being written whenever others are encoded."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self.batch: ContinuousBatch | None = None
        self.beside: list[int] = []

    def __call__(self, prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.batch is not None
        assert [len(prompt) for prompt in prompts] == sorted(map(len, prompts), reverse=True)
        self.beside.append(len(self.batch._live()))
        inputs = self._tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
        return self._model.get_encoder()(**inputs).last_hidden_state, inputs["attention_mask"]


def load(folder: str) -> tuple[Any, Any]:
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float64).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def batch_of(folder: str, sampling: Sampling, *, batch_tokens: int) -> tuple[ContinuousBatch, Encoder, Any, Any]:
    model, tokenizer = load(folder)
    encoder, choice = Encoder(model, tokenizer), TokenChoice(model, tokenizer, sampling)
    batch = ContinuousBatch(
        model, choice, encode=encoder, max_tokens=sampling.max_tokens, batch_tokens=batch_tokens, top_k=None
    )
    encoder.batch = batch
    return batch, encoder, model, tokenizer


def alone(model: Any, prompt: list[int], *, penalty: float = 50.0, **arguments: Any) -> list[int]:
    source = torch.tensor([prompt])
    made = model.generate(
        input_ids=source,
        attention_mask=torch.ones_like(source),
        max_new_tokens=TOKENS,
        num_beams=1,
        do_sample=False,
        repetition_penalty=penalty,
        **arguments,
    )
    return made[0, 1:].tolist()


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_stopping_t5(tmp_path_factory.mktemp("t5") / "t5")


def test_rows_enter_while_others_are_being_written(t5: str) -> None:
    batch, encoder, model, _ = batch_of(t5, GREEDY, batch_tokens=65)
    texts = batch.write(PROMPTS, None)
    assert [text.tokens for text in texts] == [alone(model, prompt) for prompt in PROMPTS]
    assert [text.stopped for text in texts] == [1 in text.tokens for text in texts]
    assert encoder.beside[0] == 0 and sum(count > 0 for count in encoder.beside) >= 3


def test_processors_that_count_a_rows_tokens_see_those_of_that_row_alone(t5: str, tmp_path: Path) -> None:
    """Without an end in the first 12 tokens, and no pair of tokens twice; both look back to where a row began."""
    model, tokenizer = load(t5)
    model.generation_config.min_new_tokens = 12
    model.generation_config.no_repeat_ngram_size = 2
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    batch, encoder, model, _ = batch_of(str(tmp_path), GREEDY, batch_tokens=65)
    texts = batch.write(PROMPTS, None)
    assert [text.tokens for text in texts] == [alone(model, prompt) for prompt in PROMPTS]
    assert min(len(text.tokens) for text in texts) >= 12 and any(count > 0 for count in encoder.beside)


def test_a_stop_text_ends_its_row_alone(t5: str) -> None:
    sampling = GREEDY.model_copy(update={"stop": [" pl", "e"]})
    batch, _, model, tokenizer = batch_of(t5, sampling, batch_tokens=65)
    texts = batch.write(PROMPTS, None)
    expected = [alone(model, prompt, stop_strings=sampling.stop, tokenizer=tokenizer) for prompt in PROMPTS]
    assert [text.tokens for text in texts] == expected
    assert any(text.stopped and text.tokens[-1] != 1 for text in texts)


def test_rows_of_a_model_with_absolute_positions_enter_an_empty_batch(tmp_path: Path) -> None:
    batch, encoder, model, _ = batch_of(save_bart(tmp_path), Sampling(max_tokens=TOKENS), batch_tokens=65)
    texts = batch.write(PROMPTS, None)
    assert [text.tokens for text in texts] == [alone(model, prompt, penalty=1.0) for prompt in PROMPTS]
    assert all(text.tokens[0] == 2 for text in texts) and len({len(text.tokens) for text in texts}) > 2
    assert len(encoder.beside) >= 4 and not any(encoder.beside)


def test_a_drawn_text_depends_on_its_seed_and_not_on_the_rows_beside_it(t5: str) -> None:
    sampling = Sampling(max_tokens=TOKENS, temperature=2.0, top_p=0.9)

    def drawn(batch_tokens: int, seeds: list[int]) -> list[list[int]]:
        return [text.tokens for text in batch_of(t5, sampling, batch_tokens=batch_tokens)[0].write(PROMPTS, seeds)]

    seeds = list(range(len(PROMPTS)))
    together = drawn(10_000, seeds)
    assert drawn(13, seeds) == drawn(65, seeds) == together
    others = drawn(65, [seed + (seed == 3) * 100 for seed in seeds])
    assert [row for row in seeds if others[row] != together[row]] == [3]


def test_rows_that_an_engine_error_meets_fail_and_the_others_are_written(t5: str) -> None:
    batch, encoder, model, _ = batch_of(t5, GREEDY, batch_tokens=65)
    failing = PROMPTS[8]  # of the longest, so among the first to enter

    def encode(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        if failing in prompts:
            raise RuntimeError("out of memory")
        return encoder(prompts)

    batch._encode = encode
    texts = batch.write(PROMPTS, None)
    failed = [text for text in texts if text.failure]
    assert 1 <= len(failed) <= 65 // 13 and failing in [text.prompt for text in failed]
    assert {text.failure for text in failed} == {"engine error: out of memory"}
    whole: list[Text] = [text for text in texts if not text.failure]
    assert [text.tokens for text in whole] == [alone(model, text.prompt) for text in whole]
