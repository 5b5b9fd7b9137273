from pathlib import Path

import pyarrow as pa
import pytest
import torch
from support.tiny_teachers import save_stopping_t5
from transformers import T5ForConditionalGeneration

from tinyllm_ray import storage
from tinyllm_ray.cluster import arithmetic
from tinyllm_ray.rows import PromptRow, Question, to_table
from tinyllm_ray.schema import Sampling, Seq2SeqSettings, Teacher
from tinyllm_ray.teachers.engines.base import cut_at_stop
from tinyllm_ray.teachers.engines.seq2seq import Seq2SeqActor, batches_by_tokens

PAD, END, TOKENS, ROWS = 0, 1, 24, 40
DTYPES = torch.float32, torch.float64
EXACT = {"dtype": "float64"}  # no two tokens are as likely as each other


def test_batches_hold_rows_of_like_length_within_the_budget() -> None:
    assert batches_by_tokens([3, 9, 4], 10) == [[1], [2, 0]]  # 9; then 2 x 4 = 8
    assert batches_by_tokens([5, 5, 5, 5], 10) == [[0, 1], [2, 3]]


def test_a_row_over_the_budget_runs_alone() -> None:
    assert batches_by_tokens([50, 1, 1], 10) == [[0], [1, 2]]
    assert batches_by_tokens([], 10) == []


def test_a_text_ends_before_the_first_stop_text() -> None:
    sampling = Sampling(stop=["\n\n", "Question:"])
    assert cut_at_stop("So it is. Question: why\n\nthen", sampling) == "So it is. "
    assert cut_at_stop("So it is.", sampling) == "So it is."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_stopping_t5(tmp_path_factory.mktemp("t5") / "t5")


def prompts(folder: Path) -> tuple[pa.Table, list[list[int]]]:
    """A batch that names one prompt file, and the token ids in it."""
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(3, 300, (5 + i % 9,), generator=generator).tolist() for i in range(ROWS)]
    rows = [
        PromptRow(
            f"k{i}", 0, 0, Question(f"q{i}", "q", ["a"], "a"), dropped_examples=0, seed=i, prompt="", prompt_ids=p
        )
        for i, p in enumerate(ids)
    ]
    uri = str(folder / "prompts.parquet")
    storage.write_table(uri, to_table(rows, PromptRow))
    return pa.table({"file": [uri]}), ids


@pytest.mark.parametrize("batch_tokens", [13, 130, 10_000])
def test_a_text_is_the_same_whatever_rows_share_its_batch_and_leave_it(
    model: str, batch_tokens: int, tmp_path: Path
) -> None:
    sampling = Sampling(max_tokens=TOKENS, repetition_penalty=50.0)
    settings = Seq2SeqSettings(type="seq2seq", batch_tokens=batch_tokens, model_kwargs=EXACT)
    teacher = Teacher(name="t", model=model, sampling=sampling, engine=settings)
    engine = Seq2SeqActor(teacher=teacher, settings=settings, gpu=False, log_file=None)
    files, ids = prompts(tmp_path)
    rows = engine(files).to_pylist()

    alone = T5ForConditionalGeneration.from_pretrained(model, **EXACT).eval()
    lengths = []
    for row, tokens in zip(rows, ids, strict=True):
        source = torch.tensor([tokens])
        expected = alone.generate(
            input_ids=source,
            attention_mask=torch.ones_like(source),
            max_new_tokens=TOKENS,
            do_sample=False,
            repetition_penalty=50.0,
        )[0, 1:].tolist()
        text = engine._tokenizer.decode(expected, skip_special_tokens=True)
        lengths.append(len(expected))
        assert row["input_tokens"] == len(tokens)
        if text.strip():
            assert (row["text"], row["output_tokens"]) == (text, len(expected) - expected.count(PAD))
            assert row["finish_reason"] == ("stop" if END in expected else "length")
        else:
            assert row["failure"] == "empty output"
    assert len(set(lengths)) > 5 and sum(length < TOKENS for length in lengths) >= 3 * ROWS // 4


@pytest.mark.parametrize("stop", [[], [" pl"]])
def test_soft_targets_are_the_models_own_log_probabilities_of_the_tokens_that_write_the_text(
    model: str, tmp_path: Path, stop: list[str]
) -> None:
    """Against one forward pass a row, to what float16 keeps, whatever the penalty does to the choice of tokens."""
    k = 6
    sampling = Sampling(max_tokens=TOKENS, repetition_penalty=50.0, stop=stop)
    settings = Seq2SeqSettings(type="seq2seq", batch_tokens=130, model_kwargs=EXACT)
    teacher = Teacher(name="t", model=model, sampling=sampling, engine=settings, soft_targets={"top_k": k})
    engine = Seq2SeqActor(teacher=teacher, settings=settings, gpu=False, log_file=None)
    files, prompt_ids = prompts(tmp_path)
    rows = engine(files).to_pylist()

    alone = T5ForConditionalGeneration.from_pretrained(model, **EXACT).eval()
    soft = [(row, source) for row, source in zip(rows, prompt_ids, strict=True) if row["token_ids"]]
    assert len(soft) >= ROWS // 3  # the others are empty, or end within a character
    for row, source in soft:
        ids = row["token_ids"]
        assert engine._tokenizer.decode(ids, skip_special_tokens=True) == row["text"]
        assert row["token_ends"][-1] == len(row["text"])
        with torch.inference_mode():
            logits = alone(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[PAD, *ids[:-1]]])).logits
        values, top = logits[0].log_softmax(-1).topk(k)
        assert row["top_ids"] == top.flatten().tolist()
        torch.testing.assert_close(torch.tensor(row["top_logprobs"]), values.flatten().float(), rtol=2**-11, atol=1e-6)
    assert any(row["token_ids"][-1] == END for row, _ in soft)


def test_float32_weights_in_onednns_order_are_as_exact_as_in_pytorchs(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are rounded, each in its own order of sums; neither is four times as far from float64 as the other."""
    monkeypatch.setattr(arithmetic, "LARGE_MATRIX", 1)
    settings = Seq2SeqSettings(type="seq2seq")
    teacher = Teacher(name="t", model=model, engine=settings)
    laid_out = Seq2SeqActor(teacher=teacher, settings=settings, gpu=False, log_file=None)._model
    ids = torch.randint(3, 300, (8, 9), generator=torch.Generator().manual_seed(0))
    plain, exact = (T5ForConditionalGeneration.from_pretrained(model, dtype=dtype).eval() for dtype in DTYPES)
    with torch.inference_mode():
        mine, theirs, truth = (it(input_ids=ids, decoder_input_ids=ids).logits for it in (laid_out, plain, exact))
    error, plain_error = (mine - truth).abs().max(), (theirs - truth).abs().max()
    assert plain_error / 4 < error < 4 * plain_error
    if torch.backends.mkldnn.is_available():
        assert not isinstance(laid_out.lm_head, torch.nn.Linear)
