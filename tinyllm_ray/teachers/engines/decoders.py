"""What the two engines that run vLLM share: the store's key, checks and limits of a decoder-only model, the arguments
of vLLM's engine, and when a text that loops is ended."""

from collections.abc import Sequence
from typing import Any

from tinyllm_ray.config import UserError
from tinyllm_ray.data.model_digest import folder_digest
from tinyllm_ray.schema import Sampling, Teacher
from tinyllm_ray.teachers.engines.base import Setting
from tinyllm_ray.teachers.engines.models import (
    check_model,
    model_key,
    model_path,
    position_limit,
    read_config,
)

# Arguments of vLLM that change how fast a text is made, not the text.
_SPEED = {
    "block_size",
    "data_parallel_size",
    "disable_custom_all_reduce",
    "enable_chunked_prefill",
    "enable_prefix_caching",
    "enforce_eager",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "max_num_batched_tokens",
    "max_num_seqs",
    "max_parallel_loading_workers",
    "pipeline_parallel_size",
    "swap_space",
    "tensor_parallel_size",
}

# Tokens of a run whose repetition is a loop. Fewer may be digits, a ruling or a sum, and vLLM looks for every length
# between these two after every token.
SHORTEST_RUN, LONGEST_RUN = 8, 40
REPETITION = "repetition"  # vLLM's finish reason


def decoder_key(teacher: Teacher, engine_kwargs: dict[str, Any], *, adapter: str | None) -> dict[str, Any]:
    """Both engines write the same text, so they share a store."""
    return {
        "engine": "vllm",
        **model_key(teacher),
        "adapter": folder_digest(adapter) if adapter else None,
        "engine_kwargs": {name: value for name, value in engine_kwargs.items() if name not in _SPEED},
    }


def check_decoder(teacher: Teacher, engine_kwargs: dict[str, Any]) -> None:
    check_model(teacher, wanted="decoder")
    decoder_prompt_limit(teacher, engine_kwargs)
    if teacher.soft_targets and engine_kwargs.get("logprobs_mode", "raw_logprobs") != "raw_logprobs":
        raise UserError(
            f"teachers.{teacher.name}.engine.engine_kwargs: logprobs_mode {engine_kwargs['logprobs_mode']!r} gives "
            "other numbers than the model's log-probabilities, which soft_targets keep; leave it out"
        )


def decoder_prompt_limit(teacher: Teacher, engine_kwargs: dict[str, Any]) -> int:
    """A prompt and its rationale share the model's length."""
    key = f"teachers.{teacher.name}"
    limit = engine_kwargs.get("max_model_len") or position_limit(read_config(teacher))
    if not isinstance(limit, int):
        raise UserError(
            f"{key}: {teacher.model} does not say how many tokens it takes; set {key}.engine to one with a type and "
            "engine_kwargs: {max_model_len: TOKENS}"
        )
    if teacher.sampling.max_tokens >= limit:
        raise UserError(
            f"{key}.sampling.max_tokens={teacher.sampling.max_tokens} leaves no room for a prompt: the model takes "
            f"{limit} tokens in all; set it lower"
        )
    return limit - teacher.sampling.max_tokens


def repetition_detection(sampling: Sampling) -> dict[str, int] | None:
    """Fields of vLLM's RepetitionDetectionParams."""
    if sampling.stop_at_repeats is None:
        return None
    return {
        "min_pattern_size": SHORTEST_RUN,
        "max_pattern_size": LONGEST_RUN,
        "min_count": sampling.stop_at_repeats,
    }


def ends_in_repeats(tokens: Sequence[int], sampling: Sampling) -> bool:
    """Whether vLLM has ended a text of these tokens as a loop."""
    count = sampling.stop_at_repeats
    if count is None:
        return False
    return any(
        len(tokens) >= count * run and tokens[-run * (count - 1) :] == tokens[-run * count : -run]
        for run in range(SHORTEST_RUN, LONGEST_RUN + 1)
    )


def engine_arguments(
    teacher: Teacher, engine_kwargs: dict[str, Any], *, adapter: str | None, longest_prompt: int, setting: Setting
) -> dict[str, Any]:
    """What vLLM's engine gets: our choices for the device, then the user's own, which win.

    The engine reserves memory for the longest sequence there can be, so it is told the longest there is.
    """
    ours: dict[str, Any] = {
        "model": model_path(teacher),
        "revision": teacher.revision,
        "max_model_len": longest_prompt + teacher.sampling.max_tokens,
        "trust_remote_code": teacher.trust_remote_code,
        "load_format": "safetensors",
        "enable_prefix_caching": True,
        "seed": teacher.sampling.seed,
    }
    if adapter:
        ours["enable_lora"] = True
    if teacher.soft_targets:
        ours["max_logprobs"] = teacher.soft_targets.top_k
    if not setting.pool.gpus_per_worker:
        ours |= {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 256}
        if setting.prompts.in_context.pool is not None:
            # A prefix is shared in whole blocks; vLLM's 128 on a CPU are 7% faster where none is shared.
            ours["block_size"] = 32
    return ours | engine_kwargs
