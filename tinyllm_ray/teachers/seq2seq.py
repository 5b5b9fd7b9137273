"""Encoder-decoder teachers (T5, BART ...), which vLLM does not run: a transformers model in each actor.

In: files of prompt rows (teachers/batches.py). Out: the same rows with outcomes. Rows are sorted by length and run
in batches of about equal padded size, so little is spent on padding.
Shapes: B batch, S source tokens, T generated tokens.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import ray.data

from tinyllm_ray.cluster import actor_options
from tinyllm_ray.schema import Pool, Teacher
from tinyllm_ray.teachers.batches import (
    Outcome,
    Stopwatch,
    add_outcomes,
    cut_at_stop,
    failed,
    outcome,
    read_prompts,
    redirect_output,
)


def run(
    files: ray.data.Dataset, *, teacher: Teacher, pool: Pool, model_path: str, log_file: str | None
) -> ray.data.Dataset:
    """One actor for each worker of the pool; Ray starts a killed one again and repeats its batches."""
    return files.map_batches(
        Seq2SeqEngine,
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=pool.workers),
        fn_constructor_kwargs={
            "teacher": teacher,
            "model_path": model_path,
            "gpu": pool.gpus_per_worker > 0,
            "log_file": log_file,
        },
        **actor_options(pool),
    )


def batches_by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Positions grouped by length, longest first, so that rows x longest row stays within the budget.

    [3, 9, 4], budget 10 -> [[1], [2, 0]]
    """
    batches: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches


class Seq2SeqEngine:
    """A transformers encoder-decoder model; bfloat16 on a GPU, since float16 overflows in T5."""

    def __init__(self, *, teacher: Teacher, model_path: str, gpu: bool, log_file: str | None) -> None:
        redirect_output(log_file)
        watch = Stopwatch()
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        shared = {"revision": teacher.revision, "trust_remote_code": teacher.trust_remote_code}
        kwargs = {"dtype": torch.bfloat16 if gpu else torch.float32} | {
            name: value for name, value in teacher.engine_kwargs.items() if name != "max_model_len"
        }
        self._device = "cuda" if gpu else "cpu"
        self._tokenizer = AutoTokenizer.from_pretrained(model_path, **shared)
        model = AutoModelForSeq2SeqLM.from_pretrained(model_path, use_safetensors=True, **shared, **kwargs)
        if not gpu and "attn_implementation" not in teacher.engine_kwargs:
            # A decoder's step is one query a row: on a CPU, two batched products beat the fused kernel by a third.
            model.get_decoder().set_attn_implementation("eager")
        if teacher.adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, teacher.adapter)
        self._model = model.to(self._device).eval()
        self._teacher = teacher
        watch.ready()
        self._watch = watch

    def __call__(self, files: pa.Table) -> pa.Table:
        table = read_prompts(files)
        prompts, seeds = table["prompt_ids"].to_pylist(), table["seed"].to_pylist()
        outcomes: list[Outcome | None] = [None] * len(prompts)
        for positions in batches_by_tokens([len(ids) for ids in prompts], self._teacher.batch_tokens):
            done = self._generate([prompts[i] for i in positions], seed=seeds[positions[0]])
            for position, result in zip(positions, done, strict=True):
                outcomes[position] = result
        return add_outcomes(
            table, outcomes, engine_start_s=self._watch.engine_start_s, engine_ready_at=self._watch.engine_ready_at
        )

    def _generate(self, prompts: list[list[int]], *, seed: int) -> list[Outcome]:
        import torch

        sampling = self._teacher.sampling
        inputs = self._tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self._device)  # [B, S]
        torch.manual_seed(seed)
        try:
            with torch.inference_mode():
                output = self._model.generate(
                    input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], **self._arguments()
                )  # [B, T]
        except RuntimeError as error:  # out of memory, mostly
            return [failed(f"engine error: {error}", input_tokens=len(ids)) for ids in prompts]
        texts = self._tokenizer.batch_decode(output, skip_special_tokens=True)
        pad = self._model.config.pad_token_id
        made = output[:, 1:]  # [B, T]; the first is the decoder's start token
        counts = (made != pad).sum(1).tolist()
        ended = (made == self._model.config.eos_token_id).any(1).tolist()
        return [
            outcome(
                cut_at_stop(text, sampling),
                "stop" if end or cut_at_stop(text, sampling) != text else "length",
                input_tokens=len(ids),
                output_tokens=count,
            )
            for ids, text, count, end in zip(prompts, texts, counts, ended, strict=True)
        ]

    def _arguments(self) -> dict[str, Any]:
        sampling = self._teacher.sampling
        arguments: dict[str, Any] = {
            "max_new_tokens": sampling.max_tokens,
            "do_sample": sampling.temperature > 0,
            "num_beams": 1,
            "repetition_penalty": sampling.repetition_penalty,
        }
        if sampling.temperature:
            arguments |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        if sampling.stop:
            arguments |= {"stop_strings": list(sampling.stop), "tokenizer": self._tokenizer}
        return arguments
