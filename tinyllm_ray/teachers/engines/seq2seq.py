"""Encoder-decoder teachers (T5, BART ...), which vLLM does not run: a transformers model in each actor.

In: files of prompt rows (base.py). Out: the same rows with outcomes. Rows are sorted by length and run
in batches of about equal padded size, so little is spent on padding; rows whose text has ended leave their batch.
Shapes: B batch, S source tokens, T generated tokens, D width.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray.data

from tinyllm_ray.cluster.pools import actor_options
from tinyllm_ray.rows import Outcome
from tinyllm_ray.schema import Pool, Teacher
from tinyllm_ray.teachers.engines.base import (
    Stopwatch,
    add_outcomes,
    cut_at_stop,
    failed,
    outcome,
    read_prompts,
    redirect_output,
)

if TYPE_CHECKING:
    import torch

CPU_ENCODER_TOKENS = 2048  # padded source tokens that the encoder takes at once: what a CPU's cache can hold
MIN_BATCH = 8  # a batch this small runs to its end


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
        self._encoder_tokens = teacher.batch_tokens if gpu else CPU_ENCODER_TOKENS
        self._tokenizer = AutoTokenizer.from_pretrained(model_path, padding_side="right", **shared)
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
        """Outcomes of prompts that come longest first."""
        import torch

        torch.manual_seed(seed)
        try:
            with torch.inference_mode():
                made = self._write(*self._encode(prompts))
        except RuntimeError as error:  # out of memory, mostly
            return [failed(f"engine error: {error}", input_tokens=len(ids)) for ids in prompts]
        texts = self._tokenizer.batch_decode(made, skip_special_tokens=True)
        return [self._outcome(text, tokens, len(ids)) for text, tokens, ids in zip(texts, made, prompts, strict=True)]

    def _outcome(self, text: str, tokens: list[int], input_tokens: int) -> Outcome:
        sampling, config = self._teacher.sampling, self._model.config
        cut = cut_at_stop(text, sampling)
        return outcome(
            cut,
            "stop" if config.eos_token_id in tokens or cut != text else "length",
            input_tokens=input_tokens,
            output_tokens=len(tokens) - tokens.count(config.pad_token_id),
        )

    def _encode(self, prompts: list[list[int]]) -> "tuple[torch.Tensor, torch.Tensor]":
        """Hidden states [B, S, D] and mask [B, S]; the encoder takes a few rows at a time."""
        import torch

        inputs = self._tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self._device)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]  # [B, S]
        encoder, parts = self._model.get_encoder(), []
        for rows in batches_by_tokens([len(prompt) for prompt in prompts], self._encoder_tokens):
            width = len(prompts[rows[0]])
            hidden = encoder(input_ids=ids[rows, :width], attention_mask=mask[rows, :width]).last_hidden_state
            parts.append(torch.nn.functional.pad(hidden, (0, 0, 0, ids.shape[1] - width)))
        return torch.cat(parts), mask

    def _write(self, hidden: "torch.Tensor", mask: "torch.Tensor") -> list[list[int]]:
        """Generated tokens of each row. Whenever half of the rows have ended, the others go on without them."""
        import torch
        from transformers.cache_utils import DynamicCache, EncoderDecoderCache
        from transformers.modeling_outputs import BaseModelOutput

        made: list[list[int]] = [[] for _ in hidden]
        waiting, cache = list(range(len(hidden))), EncoderDecoderCache(DynamicCache(), DynamicCache())
        begun: dict[str, Any] = {}
        left = self._teacher.sampling.max_tokens
        while waiting:
            output = self._model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
                attention_mask=mask,
                past_key_values=cache,
                max_new_tokens=left,
                stopping_criteria=[self._half_ended],
                **begun,
                **self._arguments,
            )  # [B, 1 + T]; the first is the decoder's start token
            left = self._teacher.sampling.max_tokens + 1 - output.shape[1]
            ended = self._ended(output) if left else torch.ones(len(output), dtype=torch.bool)  # [B]
            for row in ended.nonzero()[:, 0].tolist():
                made[waiting[row]] = output[row, 1:].tolist()
            stay = (~ended).nonzero()[:, 0]
            waiting = [waiting[row] for row in stay.tolist()]
            hidden, mask, output = hidden[stay], mask[stay], output[stay]
            # With a mask `generate` sees that the cache holds all of these tokens but the last.
            begun = {"decoder_input_ids": output, "decoder_attention_mask": torch.ones_like(output)}
            cache.batch_select_indices(stay)
        return made

    def _ended(self, output: "torch.Tensor") -> "torch.Tensor":
        """Rows [B] of [B, 1 + T] whose text is over."""
        config, made = self._model.config, output[:, 1:]
        ended = (made == config.eos_token_id).any(1)
        if self._teacher.sampling.stop:  # `generate` pads a row that one of these has ended
            ended |= made[:, -1] == config.pad_token_id
        return ended

    def _half_ended(self, output: "torch.Tensor", scores: Any, **_: Any) -> "torch.Tensor":
        """The criterion of `generate` that lets it return; all of [B] or none."""
        ended = self._ended(output)
        return (2 * ended.sum() >= len(ended)).expand(len(ended)) & (len(ended) > MIN_BATCH)

    @functools.cached_property
    def _arguments(self) -> dict[str, Any]:
        sampling = self._teacher.sampling
        arguments: dict[str, Any] = {
            "do_sample": sampling.temperature > 0,
            "num_beams": 1,
            "repetition_penalty": sampling.repetition_penalty,
        }
        if sampling.temperature:
            arguments |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        if sampling.stop:
            arguments |= {"stop_strings": list(sampling.stop), "tokenizer": self._tokenizer}
        return arguments
