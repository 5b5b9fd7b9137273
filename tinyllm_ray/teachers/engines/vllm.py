"""Decoder-only teachers: one vLLM engine in each actor's own process.

In: files of prompt rows (base.py). Out: the same rows with outcomes.
"""

import logging
import os
import queue
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tinyllm_ray.cluster.pools import actor_options
from tinyllm_ray.redact import RedactingFilter
from tinyllm_ray.rows import Outcome
from tinyllm_ray.schema import Sampling, Teacher, VllmSettings
from tinyllm_ray.teachers.engines.base import (
    Encoded,
    Setting,
    Stopwatch,
    add_outcomes,
    failed,
    outcome,
    read_prompts,
    redirect_output,
    run_actors,
)
from tinyllm_ray.teachers.engines.decoders import (
    check_decoder,
    decoder_key,
    decoder_prompt_limit,
    engine_arguments,
    repetition_detection,
)
from tinyllm_ray.teachers.engines.encoding import PromptEncoder
from tinyllm_ray.teachers.engines.soft import check_soft_targets, with_soft_targets

if TYPE_CHECKING:
    import ray.data
    from vllm.outputs import RequestOutput

BATCHES_AT_ONCE = 2  # while one is finishing, the next one already fills the engine


class Vllm:
    """The engine `vllm`: one actor for each worker of the pool."""

    greedy_repeats = True

    def __init__(self, teacher: Teacher, setting: Setting) -> None:
        assert isinstance(teacher.engine, VllmSettings)
        self.teacher = teacher
        self._settings = teacher.engine
        self._setting = setting
        self._encoder = PromptEncoder(teacher, setting.prompts, keeps_end=False)

    def key(self) -> dict[str, Any]:
        return decoder_key(self.teacher, self._settings.engine_kwargs, adapter=self._settings.adapter)

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
        pool, adapter = self._setting.pool, self._settings.adapter
        return run_actors(
            files,
            VllmActor,
            arguments={
                "engine_kwargs": engine_arguments(
                    self.teacher,
                    self._settings.engine_kwargs,
                    adapter=adapter,
                    longest_prompt=longest_prompt,
                    setting=self._setting,
                ),
                "sampling": self.teacher.sampling,
                "top_k": self.teacher.soft_targets.top_k if self.teacher.soft_targets else None,
                "row_seeds": pool.gpus_per_worker > 0,  # vLLM's sampler on a CPU takes no generator of a row's own
                "adapter": adapter,
                "log_file": self._setting.log_file,
            },
            options=actor_options(pool),
            workers=pool.workers,
            batches_at_once=BATCHES_AT_ONCE,
            batches_queued=0,
            threads=True,
        )


def set_environment() -> None:
    """vLLM reads these at import. One process starts in a third of the time of two."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # the cores are shared with Ray
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


class VllmActor:
    """Several batches are under way at once, so that the engine never waits for a batch's last row.

    The engine is made and stepped by one thread. OpenMP keeps a team of threads for every thread that has called it,
    and two teams are more threads than cores: they then sleep between any two kernels instead of spinning, which cost
    a quarter of the speed on two cores.
    """

    def __init__(
        self,
        *,
        engine_kwargs: dict[str, Any],
        sampling: Sampling,
        top_k: int | None,
        row_seeds: bool,
        adapter: str | None,
        log_file: str | None,
    ) -> None:
        redirect_output(log_file)
        watch = Stopwatch()
        set_environment()
        self._kwargs = engine_kwargs
        self._sampling = sampling
        self._top_k = top_k
        self._adapter = adapter
        self._row_seeds = row_seeds
        self._inbox: queue.SimpleQueue[_Batch] = queue.SimpleQueue()
        self._waiting: dict[str, tuple[_Batch, int]] = {}  # request -> its batch and its position there
        self._numbers = 0
        started: Future[Any] = Future()
        threading.Thread(target=self._serve, args=(started,), daemon=True).start()
        self._engine = started.result()
        watch.ready()
        self._watch = watch

    def __call__(self, files: pa.Table) -> pa.Table:
        prompts = read_prompts(files)
        batch = _Batch(prompts["prompt_ids"].to_pylist(), prompts["seed"].to_pylist())
        self._inbox.put(batch)
        return add_outcomes(prompts, batch.done.result(), watch=self._watch)

    def _start(self) -> Any:
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        for handler in logging.getLogger("vllm").handlers:
            handler.addFilter(RedactingFilter())  # it logs the arguments that it was given
        return LLMEngine.from_engine_args(EngineArgs(disable_log_stats=True, **self._kwargs))

    def _serve(self, started: "Future[Any]") -> None:
        """The engine's own thread: take in what has come, step, hand out what has finished."""
        try:
            started.set_result(self._start())
        except Exception as error:  # noqa: BLE001 - the actor's constructor raises it
            started.set_exception(error)
            return
        while True:
            while not self._waiting or not self._inbox.empty():
                self._admit(self._inbox.get())
            try:
                outputs = self._engine.step()
            except (RuntimeError, ValueError, MemoryError, OSError) as error:
                self._fail_waiting(f"engine error: {type(error).__name__}: {error}")
                self._engine = self._start()
                continue
            for output in outputs:
                if output.finished:
                    batch, position = self._waiting.pop(output.request_id)
                    batch.set(position, self._outcome(output))

    def _admit(self, batch: "_Batch") -> None:
        for position, (prompt_ids, seed) in enumerate(zip(batch.prompt_ids, batch.seeds, strict=True)):
            self._numbers += 1
            name = str(self._numbers)
            try:
                self._engine.add_request(
                    name,
                    {"prompt_token_ids": prompt_ids},
                    sampling_params(self._sampling, seed if self._row_seeds else None, top_k=self._top_k),
                    lora_request=self._lora_request(),
                )
            except ValueError as error:  # vLLM refuses this one prompt
                batch.set(position, failed(f"engine error: {error}"))
                continue
            self._waiting[name] = batch, position

    def _outcome(self, output: "RequestOutput") -> Outcome:
        made, completion = _outcome(output, self._sampling), output.outputs[0]
        if self._top_k is None:
            return made
        ids, values = _top(completion.logprobs, self._top_k)
        tokens = list(completion.token_ids)
        return with_soft_targets(made, self._engine.get_tokenizer(), tokens, top_ids=ids, top_logprobs=values)

    def _lora_request(self) -> Any:
        if self._adapter is None:
            return None
        from vllm.lora.request import LoRARequest

        return LoRARequest("adapter", 1, self._adapter)

    def _fail_waiting(self, reason: str) -> None:
        waiting, self._waiting = self._waiting, {}
        for batch, position in waiting.values():
            batch.set(position, failed(reason))


class _Batch:
    """Prompts that came together; `done` has their outcomes when the last one is there."""

    def __init__(self, prompt_ids: list[list[int]], seeds: list[int]) -> None:
        self.prompt_ids = prompt_ids
        self.seeds = seeds
        self.done: Future[list[Outcome]] = Future()
        self._outcomes: dict[int, Outcome] = {}

    def set(self, position: int, outcome: Outcome) -> None:
        self._outcomes[position] = outcome
        if len(self._outcomes) == len(self.seeds):
            self.done.set_result([self._outcomes[i] for i in range(len(self.seeds))])


def sampling_params(sampling: Sampling, seed: int | None, *, top_k: int | None = None) -> Any:
    """`seed` is of one row; None leaves a row to the engine's own seed. `top_k`: log-probabilities that are wanted."""
    from vllm import SamplingParams
    from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind

    loops = repetition_detection(sampling)
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        repetition_penalty=sampling.repetition_penalty,
        stop=sampling.stop,
        repetition_detection=RepetitionDetectionParams(**loops) if loops else None,
        seed=seed if sampling.temperature else None,
        output_kind=RequestOutputKind.FINAL_ONLY,
        logprobs=top_k,
        flat_logprobs=top_k is not None,
    )


def _top(flat: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and log-probabilities [n, k] of vLLM's FlatLogprobs, which hold the token itself, then the likeliest."""
    counts = np.subtract(flat.end_indices, flat.start_indices)
    assert (counts == k + 1).all(), (
        f"{k + 1} log-probabilities a token were asked for, vLLM gave {set(counts.tolist())}"
    )
    ids, values = (np.array(given).reshape(-1, k + 1)[:, 1:] for given in (flat.token_ids, flat.logprobs))
    return ids, values


def _outcome(output: "RequestOutput", sampling: Sampling) -> Outcome:
    completion = output.outputs[0]
    tokens = len(completion.token_ids)
    stopped = isinstance(completion.stop_reason, str)  # by a stop text or as a loop; by a token of its own it is None
    return outcome(
        completion.text,
        completion.finish_reason or "stop",
        input_tokens=len(output.prompt_token_ids or []),
        output_tokens=tokens,
        cached_tokens=output.num_cached_tokens or 0,
        saved_tokens=sampling.max_tokens - tokens if stopped else 0,
    )
