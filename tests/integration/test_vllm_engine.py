"""The vLLM actor by itself: adapters, and what becomes of rows when the engine breaks."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from support.tiny_teachers import experiment, question_files, save_llama
from transformers import AutoModelForCausalLM, AutoTokenizer

from tinyllm_ray import storage
from tinyllm_ray.schema import Teacher
from tinyllm_ray.teachers.engines.base import Setting
from tinyllm_ray.teachers.engines.decoders import engine_arguments
from tinyllm_ray.teachers.engines.registry import make_engine
from tinyllm_ray.teachers.engines.vllm import VllmActor
from tinyllm_ray.teachers.pending import Target, read_candidates, write_pending

pytestmark = pytest.mark.engine
TOKENS = 12


def save_adapter(model: str, folder: Path) -> str:
    """An adapter with weights large enough to change every text."""
    torch.manual_seed(1)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=8, target_modules=["q_proj", "v_proj"])
    )
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Teacher, list[str], VllmActor]:
    """A teacher with an adapter, two prompt files and its engine."""
    folder = tmp_path_factory.mktemp("adapter")
    model = save_llama(folder / "model")
    adapter = save_adapter(model, folder / "lora")
    spec = experiment(
        {
            "name": "t",
            "model": model,
            "engine": {"type": "vllm", "adapter": adapter},
            "batch_size": 6,
            "sampling": {"max_tokens": TOKENS},
        }
    )
    teacher, questions = spec.teachers[0], question_files(folder, train=12)
    pending = write_pending(
        [Target("train", str(folder / "store"), False, "s", True, questions["train"])],
        folder=str(folder / "pending"),
        teacher=teacher,
        prompts=spec.prompts,
        candidates=read_candidates(questions, examples=2),
        engine=make_engine(teacher, pool=spec.pools.teacher, prompts=spec.prompts, output_dir=str(folder)),
    )
    kwargs = engine_arguments(
        teacher,
        {},
        adapter=adapter,
        longest_prompt=pending.longest_prompt,
        setting=Setting(spec.pools.teacher, spec.prompts, str(folder), None),
    )
    options = {"sampling": teacher.sampling, "top_k": None, "row_seeds": False, "adapter": adapter, "log_file": None}
    actor = VllmActor(engine_kwargs=kwargs, **options)
    return teacher, pending.files, actor


def plain_texts(teacher: Teacher, file: str, *, adapter: bool) -> list[str]:
    """Greedy texts by transformers, one prompt at a time."""
    tokenizer = AutoTokenizer.from_pretrained(teacher.model)
    model = AutoModelForCausalLM.from_pretrained(teacher.model)
    if adapter:
        model = PeftModel.from_pretrained(model, teacher.engine.adapter)
    texts = []
    for ids in storage.read_table(file)["prompt_ids"].to_pylist():
        prompt = torch.tensor([ids])
        with torch.inference_mode():
            made = model.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=TOKENS, do_sample=False
            )
        texts.append(tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True))
    return texts


def whole(texts: list[str]) -> list[str]:
    """Without the half of a character that a text may end in, which the two show differently."""
    return [text.rstrip("\ufffd") for text in texts]


def test_an_adapter_is_applied(world: tuple[Teacher, list[str], VllmActor]) -> None:
    teacher, files, engine = world
    texts = engine(pa.table({"file": [files[0]]}))["text"].to_pylist()
    assert whole(texts) == whole(plain_texts(teacher, files[0], adapter=True))
    assert whole(texts) != whole(plain_texts(teacher, files[0], adapter=False))


def test_rows_under_way_fail_with_the_engines_error_and_the_next_ones_run(
    world: tuple[Teacher, list[str], VllmActor], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, files, engine = world
    first = engine._engine

    def broken() -> list:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(first, "step", broken)
    failed = engine(pa.table({"file": [files[0]]})).to_pylist()
    assert {row["failure"] for row in failed} == {"engine error: RuntimeError: out of memory"}
    again = engine(pa.table({"file": [files[1]]})).to_pylist()
    assert {row["failure"] for row in again} == {""}


def test_soft_targets_are_the_models_log_probabilities_of_the_tokens_that_write_the_text(tmp_path: Path) -> None:
    """Against one forward pass of transformers a row. Two float32 engines add up in other orders: logits of a few units
    differ by about 1e-5, and float16 keeps 2^-11 of a number."""
    k = 5
    model = save_llama(tmp_path / "model")
    sampling = {"max_tokens": TOKENS, "repetition_penalty": 1.3, "stop": ["ain"]}
    given = {"name": "t", "model": model, "engine": {"type": "vllm"}, "sampling": sampling, "batch_size": 8}
    spec = experiment(given | {"soft_targets": {"top_k": k}})
    teacher, questions = spec.teachers[0], question_files(tmp_path, train=8)
    engine = make_engine(teacher, pool=spec.pools.teacher, prompts=spec.prompts, output_dir=str(tmp_path))
    engine.check()
    pending = write_pending(
        [Target("train", str(tmp_path / "store"), False, "s", True, questions["train"])],
        folder=str(tmp_path / "pending"),
        teacher=teacher,
        prompts=spec.prompts,
        candidates=read_candidates(questions, examples=2),
        engine=engine,
    )
    setting = Setting(spec.pools.teacher, spec.prompts, str(tmp_path), None)
    kwargs = engine_arguments(teacher, {}, adapter=None, longest_prompt=pending.longest_prompt, setting=setting)
    options = {"sampling": teacher.sampling, "top_k": k, "row_seeds": False, "adapter": None, "log_file": None}
    rows = VllmActor(engine_kwargs=kwargs, **options)(pa.table({"file": pending.files})).to_pylist()
    alone, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    prompts = storage.read_table(pending.files[0])["prompt_ids"].to_pylist()
    soft = [(row, prompt) for row, prompt in zip(rows, prompts, strict=True) if row["token_ids"]]
    assert len(soft) >= 2
    for row, prompt in soft:
        ids = row["token_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == row["text"]
        with torch.inference_mode():
            logits = alone(input_ids=torch.tensor([[*prompt, *ids[:-1]]])).logits[0, len(prompt) - 1 :]
        values, top = logits.log_softmax(-1).topk(k)
        torch.testing.assert_close(torch.tensor(row["top_logprobs"]), values.flatten(), rtol=2**-11, atol=1e-3)
        assert np.mean(np.array(row["top_ids"]) == top.flatten().numpy()) > 0.9  # near ties may change places
