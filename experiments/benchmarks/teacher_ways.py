"""The ways that teacher_throughput.py compares, one to a process: `teacher_ways.py WAY FOLDER ROWS REPEATS`.

Each prints one JSON object of lists, one value a repeat.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from encoder_decoder import seq2seq, seq2seq_many
from teacher_parts import (
    CORES,
    MAX_TOKENS,
    MEAN_TOKENS,
    PHASES,
    TOKENS,
    make_experiment,
    make_teacher,
    question_files,
    read_column,
    run_through,
    settings_of,
    start_engine,
    start_ray,
    write_prompts,
)

MANY = 2  # the steady rate is that of the second `rows` of twice as many


def models(folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """The question file and the teachers of the other ways."""
    from throughput_models import make_models, make_questions

    texts = make_questions(folder, MANY * rows)
    return make_models(folder, texts, mean_tokens=MEAN_TOKENS, phases=PHASES)


def raw_vllm(folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """`vllm.LLM` with all prompts at once; the first pass only warms up."""
    files, longest = write_prompts(folder, "llama", MANY * rows, examples=0)
    ids = [row for file in files for row in read_column(file, "prompt_ids")]
    from tinyllm_ray.teachers.engines.vllm import sampling_params, set_environment

    set_environment()
    from vllm import LLM

    teacher = make_teacher(folder, "llama")
    llm = LLM(**settings_of(teacher, longest))
    params = sampling_params(teacher.sampling, None)

    def seconds(count: int) -> float:
        llm.reset_prefix_cache()
        began = time.perf_counter()
        outputs = llm.generate([{"prompt_token_ids": row} for row in ids[:count]], params, use_tqdm=False)
        assert sum(len(output.outputs[0].token_ids) for output in outputs) == count * TOKENS
        return time.perf_counter() - began

    seconds(rows)
    return _steady([(seconds(rows), seconds(MANY * rows)) for _ in range(repeats)], rows=rows)


def ours(folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """`generate` of this package, questions to store, with an engine on each core."""
    return _generate(folder, rows, repeats, engines=CORES)


def ours_one_engine(folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """The same with one engine on all cores, as `raw_vllm` has it."""
    return _generate(folder, rows, repeats, engines=1)


def raw_vllm_one_core(folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """`raw_vllm`, with the one thread that its environment says."""
    return raw_vllm(folder, rows, repeats)


def ours_one_core(folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """One engine of one thread; where there is another core, Ray's own processes have it."""
    return _generate(folder, rows, repeats, engines=1, cores=1)


def ours_job(folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """`ours` without the further rows: what a whole job takes."""
    return _generate(folder, rows, repeats, engines=CORES, counts=(1,))


def _generate(
    folder: str, rows: int, repeats: int, *, engines: int, cores: int = CORES, counts: tuple[int, ...] = (1, MANY)
) -> dict[str, Any]:
    """Jobs of `counts` times the rows; seconds of `_steady` count from the first engine's readiness on."""
    from tinyllm_ray.teachers.pipeline import generate

    os.environ.pop("OMP_NUM_THREADS")  # Ray gives an actor as many threads as it asks for CPUs
    start_ray()
    results: dict[str, Any] = {"job_s": [], "engine_start_s": [], "reported_tokens_per_second": []}
    seconds = []
    for repeat in range(repeats):
        working = []
        for count in (rows * times for times in counts):
            began = time.perf_counter()
            report = generate(
                make_experiment(make_teacher(folder, "llama"), examples=0, engines=engines, cores=cores),
                output_dir=f"{folder}/ours-{os.getpid()}-{repeat}-{count}",
                questions=question_files(folder, count),
            )["llama"]
            job_s = time.perf_counter() - began
            assert report.generated + sum(report.failed.values()) == count, report
            working.append(report.output_tokens / report.tokens_per_second)
            if count == rows:
                results["job_s"].append(job_s)
                results["engine_start_s"].append(report.engine_start_s)
                results["reported_tokens_per_second"].append(report.tokens_per_second)
        seconds.append(tuple(working))
    return results | (_steady(seconds, rows=rows) if len(counts) > 1 else {})


def _steady(seconds: Sequence[Sequence[float]], *, rows: int) -> dict[str, Any]:
    """Tokens per second of the second `rows`: what starts, warms and drains the engine falls out."""
    return {
        "seconds_rows_and_many": seconds,
        "steady_tokens_per_second": [(MANY - 1) * rows * TOKENS / (many - less) for less, many in seconds],
    }


def ray_data_llm(folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """`ray.data.llm` with its default stages (no chat template: these models have none) and batch size."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    from tinyllm_ray.teachers.engines.vllm import set_environment

    set_environment()
    os.environ.pop("VLLM_ENABLE_V1_MULTIPROCESSING")
    start_ray()
    teacher = make_teacher(folder, "llama")
    files, longest = write_prompts(folder, "llama", rows, examples=0)
    kwargs = settings_of(teacher, longest)
    kwargs.pop("model")
    times = []
    for repeat in range(repeats):
        began = time.perf_counter()
        config = vLLMEngineProcessorConfig(
            model_source=teacher.model,
            engine_kwargs=kwargs,
            concurrency=1,
            batch_size=32,
            log_engine_metrics=False,
            placement_group_config={"bundles": [{"CPU": CORES}]},
            chat_template_stage=False,
        )
        processor = build_processor(
            config,
            preprocess=lambda row: {
                "prompt": row["prompt"],
                "sampling_params": {"temperature": 0.0, "max_tokens": TOKENS},
            },
            postprocess=lambda row: {"key": row["key"], "text": row["generated_text"]},
        )
        data = ray.data.read_parquet(files).select_columns(["key", "prompt"])
        processor(data).write_parquet(f"{folder}/ray-data-llm-{os.getpid()}-{repeat}")
        times.append(time.perf_counter() - began)
    return {"job_s": times}


def vllm_natural(folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """Our vLLM actor on prompts with two in-context examples, each stopping by itself."""
    teacher = make_teacher(folder, "stopping")
    files, longest = write_prompts(folder, "stopping", rows, examples=2)
    engine = start_engine(teacher, longest)
    runs = [run_through(engine, files) for _ in range(repeats + 1)][1:]
    return {"tokens_per_second": [run["tokens"] / run["s"] for run in runs], "tokens": [run["tokens"] for run in runs]}


def transformers(folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """transformers' `generate` on the same prompts, sorted by length, at its best batch size."""
    import torch
    from transformers import AutoModelForCausalLM

    files, _ = write_prompts(folder, "stopping", rows, examples=2)
    ids = sorted((row for file in files for row in read_column(file, "prompt_ids")), key=len)
    model = AutoModelForCausalLM.from_pretrained(make_teacher(folder, "stopping").model, dtype=torch.float32).eval()

    def run(batch_size: int, prompts: list[list[int]]) -> float:
        began, tokens = time.perf_counter(), 0
        for start in range(0, len(prompts), batch_size):
            batch = prompts[start : start + batch_size]
            width = max(map(len, batch))
            padded = torch.tensor([[0] * (width - len(row)) + row for row in batch])  # [B, S]
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])  # [B, S]
            with torch.inference_mode():
                made = model.generate(
                    input_ids=padded,
                    attention_mask=mask,
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    max_new_tokens=MAX_TOKENS,
                )[:, width:]  # [B, T]
            tokens += int((made != 0).sum())
        return tokens / (time.perf_counter() - began)

    run(8, ids[:8])
    by_size = {size: run(size, ids) for size in (8, 16, 32, 64, 128) if size <= rows}
    best = max(by_size, key=lambda size: by_size[size])
    return {"tokens_per_second": [run(best, ids) for _ in range(repeats)], "batch_size": best, "by_batch_size": by_size}


def prefix(folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """Our vLLM actor on one core, as where each core has its engine: two in-context examples from eight shared sets,
    against drawn for each question.

    Rationales stop by themselves, after 23 tokens in the mean and, for `long`, after 42.
    """
    drawn, longest = write_prompts(folder, "stopping", rows, examples=2)
    shared, longest_shared = write_prompts(folder, "stopping", rows, examples=2, pool=8)
    results: dict[str, list[float]] = {}
    for kind, name in (("", "stopping"), ("long_", "stopping_long")):
        teacher = make_teacher(folder, name)
        engine = start_engine(teacher, max(longest, longest_shared), shared_prefixes=True)
        run_through(engine, drawn)
        for _ in range(repeats):
            for way, files in (("drawn", drawn), ("pool", shared)):
                run = run_through(engine, files)
                results.setdefault(f"{kind}{way}_prompts_per_second", []).append(rows / run["s"])
                results.setdefault(f"{kind}{way}_mean_tokens", []).append(run["tokens"] / rows)
            results.setdefault(f"{kind}computed_share", []).append(1 - run["cached"] / run["input"])
    return results


WAYS = {
    way.__name__: way
    for way in (
        models,
        raw_vllm,
        raw_vllm_one_core,
        ours,
        ours_one_engine,
        ours_one_core,
        ours_job,
        ray_data_llm,
        vllm_natural,
        transformers,
        prefix,
        seq2seq,
        seq2seq_many,
    )
}

if __name__ == "__main__":
    result = WAYS[sys.argv[1]](sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    sys.stdout.flush()
    print("\n" + json.dumps(result), flush=True)
    os._exit(0)  # an engine in this process need not be taken down in order
