"""Encoder-decoder teachers (T5, BART ...), which vLLM does not run: a transformers model in each actor.

In: files of prompt rows (base.py). Out: the same rows with outcomes. Rows are sorted by length and run
in batches of about equal padded size, so little is spent on padding; rows whose text has ended leave their batch.
Shapes: B batch, S source tokens, T generated tokens, D width.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

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

CPU_ENCODER_TOKENS = 2048  # padded source tokens that the encoder takes at once: what a CPU's cache can hold
SCORED_TOKENS = 1024  # padded target tokens whose logits are held at once
MIN_BATCH = 8  # a batch this small runs to its end


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

        path, code = model_path(teacher), {"revision": teacher.revision, "trust_remote_code": teacher.trust_remote_code}
        kwargs = {"dtype": torch.bfloat16 if gpu else torch.float32} | settings.model_kwargs
        self._device = "cuda" if gpu else "cpu"
        self._batch_tokens = settings.batch_tokens
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
        self._teacher = teacher
        watch.ready()
        self._watch = watch

    def __call__(self, files: pa.Table) -> pa.Table:
        table = read_prompts(files)
        prompts, seeds = table["prompt_ids"].to_pylist(), table["seed"].to_pylist()
        outcomes: dict[int, Outcome] = {}
        for positions in batches_by_tokens([len(ids) for ids in prompts], self._batch_tokens):
            done = self._generate([prompts[i] for i in positions], seed=seeds[positions[0]])
            outcomes |= zip(positions, done, strict=True)
        return add_outcomes(table, [outcomes[i] for i in range(len(prompts))], watch=self._watch)

    def _generate(self, prompts: list[list[int]], *, seed: int) -> list[Outcome]:
        """Outcomes of prompts that come longest first."""
        import torch

        torch.manual_seed(seed)
        try:
            with torch.inference_mode():
                hidden, mask = self._encode(prompts)
                made = self._write(hidden, mask)
                texts = self._tokenizer.batch_decode(made, skip_special_tokens=True)
                rows = zip(texts, made, prompts, strict=True)
                outcomes = [self._outcome(text, tokens, len(ids)) for text, tokens, ids in rows]
                soft = self._teacher.soft_targets
                return self._with_top(outcomes, made, hidden, mask, k=soft.top_k) if soft else outcomes
        except RuntimeError as error:  # out of memory, mostly
            return [failed(f"engine error: {error}", input_tokens=len(ids)) for ids in prompts]

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

    def _with_top(
        self, outcomes: list[Outcome], made: list[list[int]], hidden: "torch.Tensor", mask: "torch.Tensor", *, k: int
    ) -> list[Outcome]:
        """With each token's k likeliest, by one more pass of the decoder, over all tokens of a text at once. What
        `generate` gives are scores after temperature and penalties."""
        import torch
        from transformers.modeling_outputs import BaseModelOutput

        start, result = self._model.config.decoder_start_token_id, list(outcomes)
        written = [self._written(tokens) for tokens in made]
        for rows in batches_by_tokens([len(tokens) for tokens in written], SCORED_TOKENS):
            begun = [[start, *written[row][:-1]] for row in rows]
            width = len(begun[0])
            ids = torch.tensor([[*tokens, *[start] * (width - len(tokens))] for tokens in begun], device=self._device)
            encoded = BaseModelOutput(last_hidden_state=hidden[rows])
            logits = self._model(encoder_outputs=encoded, attention_mask=mask[rows], decoder_input_ids=ids).logits
            values, top = logits.float().log_softmax(-1).topk(k)  # [b, T, k]
            for row, its_ids, its_values in zip(rows, top.cpu().numpy(), values.cpu().numpy(), strict=True):
                result[row] = with_soft_targets(
                    outcomes[row], self._tokenizer, written[row], top_ids=its_ids, top_logprobs=its_values
                )
        return result

    def _written(self, tokens: list[int]) -> list[int]:
        """Without the padding behind a text."""
        config, end = self._model.config, len(tokens)
        if config.eos_token_id in tokens:
            return tokens[: tokens.index(config.eos_token_id) + 1]
        while end > 1 and tokens[end - 1] == config.pad_token_id:
            end -= 1
        return tokens[:end]

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
            arguments |= {"stop_strings": sampling.stop, "tokenizer": self._tokenizer}
        return arguments
