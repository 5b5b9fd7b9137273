"""Which engine a teacher gets, and the Ray Data pass through it: prompt files in, batches with outcomes out."""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray.data

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.schema import Pool, Prompts, Teacher
from tinyllm_ray.teachers.engines import endpoint, ray_data_llm, seq2seq, vllm
from tinyllm_ray.teachers.engines.models import context_limit, find_kind, model_path, read_config

Encode = Callable[[list[str]], list[list[int]]]


@dataclass(frozen=True)
class Engine:
    """How one teacher's prompts are encoded, checked and run."""

    teacher: Teacher
    kind: str  # vllm, seq2seq or endpoint
    encode: Encode | None  # None: the server tokenizes
    prompt_limit: int  # tokens
    start: Callable[[ray.data.Dataset, int], ray.data.Dataset]
    decode: Callable[[list[int]], str] | None = None  # special tokens included

    def check(self) -> None:
        """Raise UserError where the teacher cannot be reached; called before its engine starts."""
        if self.kind == "endpoint":
            endpoint.check(self.teacher)

    def run(self, files: Sequence[str], *, longest_prompt: int) -> Iterator[pa.Table]:
        """Batches with outcomes, as they come."""
        names = ray.data.from_items([{"file": uri} for uri in files], override_num_blocks=len(files))
        dataset = self.start(names, longest_prompt)
        _quiet(dataset)
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _quiet(dataset: ray.data.Dataset) -> None:
    """The driver has bars of its own; Ray's are off, and so is Ray's remark that they are off."""
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


def choose_engine(teacher: Teacher, *, pool: Pool, prompts: Prompts, output_dir: str) -> Engine:
    """Nothing heavy happens here: the tokenizer is loaded with the first prompt, the model in the actors."""
    kind = find_kind(teacher)
    log_file = None
    if storage.is_local(output_dir):
        log_file = str(storage.local_path(output_dir) / "logs" / f"{teacher.name}.log")
    if kind == "endpoint":
        run = functools.partial(endpoint.run, teacher=teacher, chat_template=prompts.chat_template, log_file=log_file)
        return Engine(teacher, kind, None, 0, lambda names, longest: run(names))
    path, limit = model_path(teacher), context_limit(teacher, read_config(teacher), kind=kind)
    tokenizer = _Tokenizer(teacher, path, prompts.chat_template)
    if kind == "seq2seq":
        run = functools.partial(seq2seq.run, teacher=teacher, pool=pool, model_path=path, log_file=log_file)
        return Engine(teacher, kind, tokenizer.encode, limit, lambda names, longest: run(names), tokenizer.decode)
    new_tokens = teacher.sampling.max_tokens
    if new_tokens >= limit:
        raise UserError(
            f"teachers.{teacher.name}.sampling.max_tokens={new_tokens} leaves no room for a prompt: the model takes "
            f"{limit} tokens in all; set it lower"
        )
    if teacher.adapter and teacher.engine == "ray_data_llm":
        raise UserError(
            f"teachers.{teacher.name}.adapter: the engine ray_data_llm takes none; set engine to in_process"
        )
    on_gpu = pool.gpus_per_worker > 0 and not teacher.adapter
    in_process = teacher.engine == "in_process" or (teacher.engine == "auto" and not on_gpu)
    shared = prompts.in_context.pool is not None
    run = functools.partial(ray_data_llm.run, teacher=teacher, pool=pool, model_path=path, shared_prefixes=shared)
    if in_process:
        run = functools.partial(
            vllm.run, teacher=teacher, pool=pool, model_path=path, shared_prefixes=shared, log_file=log_file
        )
    # The engine reserves memory for the longest sequence there can be, so it is told the longest there is.
    return Engine(
        teacher,
        kind,
        tokenizer.encode,
        limit - new_tokens,
        lambda names, longest: run(names, max_model_len=longest + new_tokens),
        tokenizer.decode,
    )


class _Tokenizer:
    """A teacher's tokenizer, loaded with the first prompt."""

    def __init__(self, teacher: Teacher, path: str, chat_template: str) -> None:
        self._teacher, self._path, self._chat_template = teacher, path, chat_template

    @functools.cached_property
    def _loaded(self) -> Any:
        from transformers import AutoTokenizer

        teacher = self._teacher
        loaded = AutoTokenizer.from_pretrained(
            self._path, revision=teacher.revision, trust_remote_code=teacher.trust_remote_code
        )
        if self._chat_template == "always" and not loaded.chat_template:
            raise UserError(
                f"prompts.chat_template is always, but teacher {teacher.name}'s tokenizer has none; set it to auto "
                "or never"
            )
        return loaded

    def encode(self, texts: list[str]) -> list[list[int]]:
        if self._chat_template == "never" or not self._loaded.chat_template:
            return self._loaded(texts)["input_ids"]
        messages = [[{"role": "user", "content": text}] for text in texts]
        wrapped = self._loaded.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return self._loaded(wrapped, add_special_tokens=False)["input_ids"]

    def decode(self, ids: list[int]) -> str:
        return self._loaded.decode(ids, clean_up_tokenization_spaces=False)
