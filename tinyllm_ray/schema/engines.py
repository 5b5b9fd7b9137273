"""`teachers[].engine`: what runs a teacher's model. Each engine has its own keys; those of another one are refused.

A new engine is a module in `teachers/engines/`, and here its keys with the class that they are for, and its place in
`EngineSettings`.
"""

import re
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator

from tinyllm_ray.schema.base import OUTSIDE_PATTERN, Section

_ELSEWHERE = {
    "model": "teachers[].model",
    "revision": "teachers[].revision",
    "code_revision": "teachers[].revision",
    "trust_remote_code": "teachers[].trust_remote_code",
    "load_format": "safetensors, the only weights that are read",
    "use_safetensors": "safetensors, the only weights that are read",
}


def _check_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """What decides which weights and whose code are loaded has keys of its own, at any depth."""
    for name, value in arguments.items():
        known = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).replace("-", "_").lower()
        if known in _ELSEWHERE:
            raise ValueError(f"{name} cannot be set here; use {_ELSEWHERE[known]}")
        if _names_remote_code(value):
            raise ValueError(f"{name} cannot switch on remote code; use {_ELSEWHERE['trust_remote_code']}")
    return arguments


def _names_remote_code(value: Any) -> bool:
    """At any depth and in any spelling, and in a text that holds JSON or options."""
    if isinstance(value, dict):
        return any(_names_remote_code(key) or _names_remote_code(inner) for key, inner in value.items())
    if isinstance(value, list):
        return any(_names_remote_code(item) for item in value)
    return isinstance(value, str) and "trustremotecode" in re.sub(r"[^a-z]", "", value.lower())


Arguments = Annotated[dict[str, Any], AfterValidator(_check_arguments)]


_ENGINES = "tinyllm_ray.teachers.engines"


class EngineSection(Section):
    """The keys of one engine. `engine_class` is the module and the class that they are for."""

    engine_class: ClassVar[str]


class AutoSettings(EngineSection):
    type: Literal["auto"] = Field(
        "auto",
        description="vllm where the teacher pool has no GPU or the teacher has soft_targets, else ray_data_llm; "
        "seq2seq for encoder-decoders",
    )


class VllmSettings(EngineSection):
    engine_class = f"{_ENGINES}.vllm:Vllm"
    type: Literal["vllm"] = Field(description="decoder-only models: one vLLM engine inside each actor")
    adapter: str | None = Field(None, description="folder of a LoRA adapter of the model; null uses the model alone")
    engine_kwargs: Arguments = Field(
        default_factory=dict, description="arguments of vLLM's engine, passed as they are, such as max_model_len"
    )


class RayDataLlmSettings(EngineSection):
    engine_class = f"{_ENGINES}.ray_data_llm:RayDataLlm"
    type: Literal["ray_data_llm"] = Field(description="decoder-only models: vLLM through ray.data.llm, best on GPUs")
    engine_kwargs: Arguments = Field(
        default_factory=dict, description="arguments of vLLM's engine, passed as they are, such as tensor_parallel_size"
    )


class Seq2SeqSettings(EngineSection):
    engine_class = f"{_ENGINES}.seq2seq:Seq2Seq"
    type: Literal["seq2seq"] = Field(description="encoder-decoder models (T5, BART): transformers in each actor")
    adapter: str | None = Field(None, description="folder of a LoRA adapter of the model; null uses the model alone")
    batch_tokens: int = Field(
        16384, ge=1, description="tokens of one batch's padded prompts; at least 1. A longer prompt runs alone"
    )
    max_prompt_tokens: int | None = Field(
        None, ge=1, description="tokens a prompt may have, at least 1; null: what the model's config says"
    )
    model_kwargs: Arguments = Field(
        default_factory=dict, description="arguments of transformers' from_pretrained, passed as they are"
    )


class EndpointSettings(EngineSection):
    engine_class = f"{_ENGINES}.endpoint:Endpoint"
    type: Literal["endpoint"] = Field(description="a server that speaks OpenAI's API, such as `vllm serve`")
    url: str = Field(description="base address of the server, such as http://127.0.0.1:8000/v1; http or https")
    api_key_env: str | None = Field(
        None, description="environment variable that holds the key, which is never written; null sends none"
    )
    tokenizer: str | None = Field(
        None,
        description="folder or hub id of the served model's tokenizer, whose vocabulary soft_targets compare with the "
        "student's; null: what teachers[].model names",
    )
    concurrency: int = Field(16, ge=1, description="requests under way at once, at least 1")
    timeout_s: float = Field(120, gt=0, description="seconds that one answer may take in all, above 0")
    max_retries: int = Field(5, ge=0, description="tries after the first, with growing pauses; 0 or more")
    max_answer_mib: float = Field(8, gt=0, description="MiB that one answer may have, unpacked; above 0")

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is no address; it starts with http:// or https://")
        return url


class CustomSettings(EngineSection):
    type: Literal["custom"] = Field(description="an engine of your own, from outside this package")
    path: str = Field(
        pattern=OUTSIDE_PATTERN,
        description="module and class of the engine, such as my_package.module:Engine; see teachers/engines/base.py",
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="the engine's own settings; they count in the store's key"
    )


def _type_of(given: Any) -> Any:
    return given.get("type") if isinstance(given, dict) else getattr(given, "type", None)


_AnyEngine = (
    Annotated[AutoSettings, Tag("auto")]
    | Annotated[VllmSettings, Tag("vllm")]
    | Annotated[RayDataLlmSettings, Tag("ray_data_llm")]
    | Annotated[Seq2SeqSettings, Tag("seq2seq")]
    | Annotated[EndpointSettings, Tag("endpoint")]
    | Annotated[CustomSettings, Tag("custom")]
)
# `Section` checks every field before its type is known, which the plain form of a discriminator does not allow; the
# schema for editors is given the same words.
EngineSettings = Annotated[
    _AnyEngine,
    Discriminator(_type_of),
    Field(
        json_schema_extra={
            "discriminator": {
                "propertyName": "type",
                "mapping": {
                    kind.__metadata__[0].tag: f"#/$defs/{kind.__origin__.__name__}" for kind in get_args(_AnyEngine)
                },
            }
        }
    ),
]
