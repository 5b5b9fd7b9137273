"""Decoder-only teachers through `ray.data.llm`, which keeps a GPU's engine full across batches.

In: files of prompt rows (base.py). Out: the same rows with outcomes.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tinyllm_ray.rows import Outcome
from tinyllm_ray.schema import Pool, RayDataLlmSettings, Sampling, Teacher
from tinyllm_ray.teachers.engines.base import (
    Encoded,
    Setting,
    Stopwatch,
    add_outcomes,
    failed,
    outcome,
    read_prompts,
)
from tinyllm_ray.teachers.engines.decoders import (
    REPETITION,
    check_decoder,
    decoder_key,
    decoder_prompt_limit,
    ends_in_repeats,
    engine_arguments,
    repetition_detection,
)
from tinyllm_ray.teachers.engines.encoding import PromptEncoder
from tinyllm_ray.teachers.engines.soft import check_soft_targets, likeliest, teacher_tokenizer, with_soft_targets

if TYPE_CHECKING:
    import ray.data
    from ray.data.llm import vLLMEngineProcessorConfig

MAX_BATCH = 64  # Ray overlaps several batches in an engine, so small ones lose nothing
_ENVIRONMENT = {  # of the engine's processes; on a GPU only the last two mean something
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_READ = ["__inference_error__", "generated_text", "generated_tokens", "num_input_tokens"]
_SMALL = 0.25  # CPUs of each of Ray's own stages beside the engine


class RayDataLlm:
    """The engine `ray_data_llm`: a processor with one vLLM engine for each worker of the pool."""

    greedy_repeats = True

    def __init__(self, teacher: Teacher, setting: Setting) -> None:
        assert isinstance(teacher.engine, RayDataLlmSettings)
        self.teacher = teacher
        self._settings = teacher.engine
        self._setting = setting
        self._encoder = PromptEncoder(teacher, setting.prompts, keeps_end=False)

    def key(self) -> dict[str, Any]:
        return decoder_key(self.teacher, self._settings.engine_kwargs, adapter=None)

    def check(self) -> None:
        check_decoder(self.teacher, self._settings.engine_kwargs)
        self._encoder.check()
        check_soft_targets(self.teacher)

    def prompt_limit(self) -> int:
        return decoder_prompt_limit(self.teacher, self._settings.engine_kwargs)

    def encode(self, prompts: list[str]) -> list[Encoded]:
        return self._encoder.encode(prompts)

    def show(self, prompt: str) -> str:
        return self._encoder.show(prompt)

    def opens_thought(self) -> bool:
        return self._encoder.opens_thought()

    def run(self, files: "ray.data.Dataset", *, longest_prompt: int) -> "ray.data.Dataset":
        from ray.data.llm import build_processor

        sampling, gpu = self.teacher.sampling, self._setting.pool.gpus_per_worker > 0
        soft = self.teacher.soft_targets
        tokenizer = teacher_tokenizer(self.teacher) if soft else None

        def before(row: dict[str, Any]) -> dict[str, Any]:
            fields = sampling.model_dump(exclude={"seed", "stop_at_repeats"})
            # Ray does not say why a text ended; its stop text, kept for `_outcome`, does.
            fields |= {"repetition_detection": repetition_detection(sampling), "include_stop_str_in_output": True}
            if soft:
                fields["logprobs"] = soft.top_k
            if sampling.temperature and gpu:  # not taken on a CPU
                fields["seed"] = int(row["seed"])
            return {"tokenized_prompt": list(row["prompt_ids"]), "sampling_params": fields}

        def after(table: pa.Table) -> pa.Table:
            rows = table.select([*_READ, "logprobs"] if soft else _READ).to_pylist()
            made = [_outcome(row, sampling) for row in rows]
            if soft:
                pairs = zip(made, rows, strict=True)
                made = [_soft(one, row, tokenizer=tokenizer, top_k=soft.top_k) for one, row in pairs]
            return add_outcomes(table, made, watch=Stopwatch())

        processor = build_processor(
            self._config(longest_prompt), preprocess=before, preprocess_map_kwargs={"num_cpus": _SMALL}
        )
        prompts = files.map_batches(read_prompts, batch_size=1, batch_format="pyarrow", num_cpus=_SMALL)
        return processor(prompts).map_batches(after, batch_size=None, batch_format="pyarrow", num_cpus=_SMALL)

    def _config(self, longest_prompt: int) -> "vLLMEngineProcessorConfig":
        """The processor's own tokenize and detokenize stages are off: the prompts come as token ids."""
        from ray.data.llm import vLLMEngineProcessorConfig

        pool = self._setting.pool
        kwargs = engine_arguments(
            self.teacher,
            self._settings.engine_kwargs,
            adapter=None,
            longest_prompt=longest_prompt,
            setting=self._setting,
        )
        return vLLMEngineProcessorConfig(
            model_source=kwargs.pop("model"),
            engine_kwargs=kwargs,
            concurrency=(pool.workers, pool.workers),
            batch_size=min(self.teacher.batch_size, MAX_BATCH),
            should_continue_on_error=True,
            log_engine_metrics=False,
            placement_group_config={"bundles": _bundles(pool, kwargs)},
            runtime_env={"env_vars": _ENVIRONMENT},
            chat_template_stage=False,
            tokenize_stage=False,
            detokenize_stage=False,
            prepare_multimodal_stage=False,
        )


def _bundles(pool: Pool, kwargs: dict[str, Any]) -> list[dict[str, float]]:
    """What one engine reserves: a bundle for each of its devices, the pool's mark on the first."""
    sizes = [kwargs[name] for name in ("tensor_parallel_size", "pipeline_parallel_size") if name in kwargs]
    devices = math.prod(sizes)
    bundle = {"CPU": pool.cpus_per_worker} | ({"GPU": pool.gpus_per_worker / devices} if pool.gpus_per_worker else {})
    bundles = [dict(bundle) for _ in range(devices)]
    if pool.resource:
        bundles[0][pool.resource] = 1
    return bundles


def _outcome(row: dict[str, Any], sampling: Sampling) -> Outcome:
    """Ray gives no finish reason: it follows from the tokens, their number and what the text ends with."""
    if row["__inference_error__"]:
        return failed(f"engine error: {row['__inference_error__']}")
    text, tokens = row["generated_text"], list(row["generated_tokens"])
    stop = next((stop for stop in sampling.stop or [] if text.endswith(stop)), "")
    reason = "length" if len(tokens) >= sampling.max_tokens else "stop"
    if reason == "stop" and not stop and ends_in_repeats(tokens, sampling):
        reason = REPETITION
    return outcome(
        text.removesuffix(stop),
        reason,
        input_tokens=int(row["num_input_tokens"]),
        output_tokens=len(tokens),
        saved_tokens=sampling.max_tokens - len(tokens) if stop or reason == REPETITION else 0,
    )


def _soft(made: Outcome, row: dict[str, Any], *, tokenizer: Any, top_k: int) -> Outcome:
    """Ray hands log-probabilities on as vLLM's dictionaries, one for each token: id -> {"logprob": number, ...}."""
    if made.failure:
        return made
    places = [
        likeliest(((number, one["logprob"]) for number, one in place.items()), top_k) for place in row["logprobs"]
    ]
    ids, values = (np.array([place[i] for place in places]) for i in (0, 1))
    return with_soft_targets(made, tokenizer, list(row["generated_tokens"]), top_ids=ids, top_logprobs=values)
