"""Encoder-decoder teachers (T5, BART ...), which vLLM does not run: a transformers model in each actor.

In: files of prompt rows (base.py). Out: the same rows with outcomes. Rows enter by length, the longest first, so little
is spent on padding; rows whose text has ended leave the batch, and others enter it (continuous.py).
Shapes: B batch, S source tokens, M width of the model.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tinyllm_ray.cluster.arithmetic import lay_out_for_onednn
from tinyllm_ray.cluster.pools import actor_options
from tinyllm_ray.data.model_digest import folder_digest
from tinyllm_ray.rows import Outcome
from tinyllm_ray.schema import Seq2SeqSettings, Teacher
from tinyllm_ray.teachers.engines.base import (
    Encoded,
    Setting,
    Stopwatch,
    add_outcomes,
    cut_at_stop,
    failed,
    outcome,
    read_prompts,
    redirect_output,
    run_actors,
)
from tinyllm_ray.teachers.engines.encoding import PromptEncoder
from tinyllm_ray.teachers.engines.models import (
    RELATIVE_POSITIONS_LIMIT,
    check_model,
    model_key,
    model_path,
    position_limit,
    read_config,
)
from tinyllm_ray.teachers.engines.soft import check_soft_targets, with_soft_targets

if TYPE_CHECKING:
    import ray.data
    import torch

    from tinyllm_ray.teachers.engines.text_rows import Text

CPU_ENCODER_TOKENS = 2048  # padded source tokens that the encoder takes at once: what a CPU's cache can hold


class Seq2Seq:
    """The engine `seq2seq`: one actor for each worker of the pool."""

    greedy_repeats = True

    def __init__(self, teacher: Teacher, setting: Setting) -> None:
        assert isinstance(teacher.engine, Seq2SeqSettings)
        self.teacher = teacher
        self._settings = teacher.engine
        self._setting = setting
        self._encoder = PromptEncoder(teacher, setting.prompts, keeps_end=True)

    def key(self) -> dict[str, Any]:
        adapter = self._settings.adapter
        return {
            "engine": "seq2seq",
            **model_key(self.teacher),
            "adapter": folder_digest(adapter) if adapter else None,
            "model_kwargs": self._settings.model_kwargs,
        }

    def check(self) -> None:
        check_model(self.teacher, wanted="encoder_decoder")
        self._encoder.check()
        check_soft_targets(self.teacher)

    def prompt_limit(self) -> int:
        given = self._settings.max_prompt_tokens
        return given or position_limit(read_config(self.teacher)) or RELATIVE_POSITIONS_LIMIT

    def encode(self, prompts: list[str]) -> list[Encoded]:
        return self._encoder.encode(prompts)

    def show(self, prompt: str) -> str:
        return self._encoder.show(prompt)

    def opens_thought(self) -> bool:
        return self._encoder.opens_thought()

    def run(self, files: "ray.data.Dataset", *, longest_prompt: int) -> "ray.data.Dataset":
        pool = self._setting.pool
        return run_actors(
            files,
            Seq2SeqActor,
            arguments={
                "teacher": self.teacher,
                "settings": self._settings,
                "gpu": pool.gpus_per_worker > 0,
                "log_file": self._setting.log_file,
            },
            options=actor_options(pool),
            workers=pool.workers,
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


class Seq2SeqActor:
    """A transformers encoder-decoder model; bfloat16 on a GPU, since float16 overflows in T5."""

    def __init__(self, *, teacher: Teacher, settings: Seq2SeqSettings, gpu: bool, log_file: str | None) -> None:
        redirect_output(log_file)
        watch = Stopwatch()
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        from tinyllm_ray.teachers.engines.continuous import ContinuousBatch
        from tinyllm_ray.teachers.engines.token_choice import TokenChoice

        path, code = model_path(teacher), {"revision": teacher.revision, "trust_remote_code": teacher.trust_remote_code}
        kwargs = {"dtype": torch.bfloat16 if gpu else torch.float32} | settings.model_kwargs
        self._device = "cuda" if gpu else "cpu"
        self._encoder_tokens = settings.batch_tokens if gpu else CPU_ENCODER_TOKENS
        self._tokenizer = AutoTokenizer.from_pretrained(path, padding_side="right", **code)
        model = AutoModelForSeq2SeqLM.from_pretrained(path, use_safetensors=True, **code, **kwargs)
        if not gpu and "attn_implementation" not in settings.model_kwargs:
            # A decoder's step is one query a row: on a CPU, two batched products beat the fused kernel by a third.
            model.get_decoder().set_attn_implementation("eager")
        if settings.adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, settings.adapter)
        self._model = model.to(self._device).eval()
        if not settings.adapter:
            lay_out_for_onednn(self._model)
        self._teacher = teacher
        self._batch = ContinuousBatch(
            self._model,
            TokenChoice(self._model, self._tokenizer, teacher.sampling),
            encode=self._encode,
            max_tokens=teacher.sampling.max_tokens,
            batch_tokens=settings.batch_tokens,
            top_k=teacher.soft_targets.top_k if teacher.soft_targets else None,
        )
        watch.ready()
        self._watch = watch

    def __call__(self, files: pa.Table) -> pa.Table:
        table = read_prompts(files)
        seeds = table["seed"].to_pylist() if self._teacher.sampling.temperature else None
        texts = self._batch.write(table["prompt_ids"].to_pylist(), seeds)
        return add_outcomes(table, [self._outcome(text) for text in texts], watch=self._watch)

    def _outcome(self, text: "Text") -> Outcome:
        if text.failure:
            return failed(text.failure, input_tokens=len(text.prompt))
        whole = self._tokenizer.decode(text.tokens, skip_special_tokens=True)
        made = outcome(
            cut_at_stop(whole, self._teacher.sampling),
            "stop" if text.stopped else "length",
            input_tokens=len(text.prompt),
            output_tokens=len(text.tokens) - text.tokens.count(self._model.config.pad_token_id),
        )
        if not self._teacher.soft_targets:
            return made
        top_ids, top_logprobs = np.stack(text.top_ids), np.stack(text.top_logprobs)  # [T, k]
        return with_soft_targets(made, self._tokenizer, text.tokens, top_ids=top_ids, top_logprobs=top_logprobs)

    def _encode(self, prompts: list[list[int]]) -> "tuple[torch.Tensor, torch.Tensor]":
        """Hidden states [B, S, M] and mask [B, S] of prompts that come longest first; the encoder takes a few at a
        time."""
        import torch

        inputs = self._tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self._device)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]  # [B, S]
        encoder, parts = self._model.get_encoder(), []
        for rows in batches_by_tokens([len(prompt) for prompt in prompts], self._encoder_tokens):
            width = len(prompts[rows[0]])
            hidden = encoder(input_ids=ids[rows, :width], attention_mask=mask[rows, :width]).last_hidden_state
            parts.append(torch.nn.functional.pad(hidden, (0, 0, 0, ids.shape[1] - width)))
        return torch.cat(parts), mask
