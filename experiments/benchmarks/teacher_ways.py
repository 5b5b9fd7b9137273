"""The ways that teacher_throughput.py compares, one to a process: `teacher_ways.py WAY FOLDER ROWS REPEATS`.

Each prints one JSON object of lists, one value a repeat.
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CORES = os.cpu_count() or 1
TOKENS = 64  # of a forced rationale
MEAN_TOKENS, MAX_TOKENS = 40, 128  # of one that stops by itself


def models(folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """The question file and the three teachers of the other ways."""
    from throughput_models import make_models, make_questions

    texts = make_questions(folder, rows)
    return make_models(folder, texts, mean_tokens=MEAN_TOKENS)


def raw_vllm(folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """`vllm.LLM` with all prompts at once."""
    files, longest = _prompts(folder, "llama", rows, examples=0)
    ids = [row for file in files for row in _column(file, "prompt_ids")]
    from tinyllm_ray.teachers.vllm import engine_kwargs, sampling_params, set_environment

    set_environment()
    from vllm import LLM

    teacher = _teacher(folder, "llama")
    llm = LLM(**engine_kwargs(teacher, teacher.model, longest + TOKENS, gpu=False))
    params = sampling_params(teacher.sampling, None)
    speeds = []
    for repeat in range(repeats + 1):
        llm.reset_prefix_cache()
        began = time.perf_counter()
        outputs = llm.generate(
            [{"prompt_token_ids": i} for i in ids[: 64 if not repeat else None]], params, use_tqdm=False
        )
        tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        speeds.append(tokens / (time.perf_counter() - began))
    return {"tokens_per_second": speeds[1:], "warm_up": speeds[0]}


def ours(folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """`generate` of this package, questions to store."""
    from tinyllm_ray.teachers.rationales import generate

    _start_ray()
    results: dict[str, Any] = {"tokens_per_second": [], "job_s": [], "engine_start_s": []}
    for repeat in range(repeats):
        began = time.perf_counter()
        report = generate(
            _experiment(_teacher(folder, "llama"), examples=0),
            output_dir=f"{folder}/ours-{repeat}",
            questions=_questions(folder, rows),
        )["llama"]
        results["job_s"].append(time.perf_counter() - began)
        results["tokens_per_second"].append(report.tokens_per_second)
        results["engine_start_s"].append(report.engine_start_s)
        assert report.generated + sum(report.failed.values()) == rows, report
    return results


def ray_data_llm(folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """`ray.data.llm` with its default stages (no chat template: these models have none) and batch size."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    from tinyllm_ray.teachers.vllm import engine_kwargs, set_environment

    set_environment()
    os.environ.pop("VLLM_ENABLE_V1_MULTIPROCESSING")
    _start_ray()
    teacher = _teacher(folder, "llama")
    files, longest = _prompts(folder, "llama", rows, examples=0)
    kwargs = engine_kwargs(teacher, teacher.model, longest + TOKENS, gpu=False)
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
        processor(data).write_parquet(f"{folder}/ray-data-llm-{repeat}")
        times.append(time.perf_counter() - began)
    return {"job_s": times}


def vllm_natural(folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """Our vLLM actor on prompts with two in-context examples, each stopping by itself."""
    rows //= 4
    teacher = _teacher(folder, "stopping")
    files, longest = _prompts(folder, "stopping", rows, examples=2)
    engine = _vllm_engine(teacher, longest)
    runs = [_through(engine, files) for _ in range(repeats + 1)][1:]
    return {"tokens_per_second": [run["tokens"] / run["s"] for run in runs], "tokens": [run["tokens"] for run in runs]}


def transformers(folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """transformers' `generate` on the same prompts, sorted by length, at its best batch size."""
    import torch
    from transformers import AutoModelForCausalLM

    rows //= 4
    files, _ = _prompts(folder, "stopping", rows, examples=2)
    ids = sorted((row for file in files for row in _column(file, "prompt_ids")), key=len)
    model = AutoModelForCausalLM.from_pretrained(_teacher(folder, "stopping").model, dtype=torch.float32).eval()

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
    by_size = {size: run(size, ids) for size in (16, 32, 64, 128, 256) if size <= rows}
    best = max(by_size, key=lambda size: by_size[size])
    return {"tokens_per_second": [run(best, ids) for _ in range(repeats)], "batch_size": best, "by_batch_size": by_size}


def prefix(folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """Our vLLM actor: two in-context examples from eight shared sets, against drawn for each question."""
    rows //= 4
    teacher = _teacher(folder, "stopping")
    drawn, longest = _prompts(folder, "stopping", rows, examples=2)
    shared, longest_shared = _prompts(folder, "stopping", rows, examples=2, pool=8)
    engine = _vllm_engine(teacher, max(longest, longest_shared))
    _through(engine, drawn[:1])
    results: dict[str, Any] = {"computed_share": [], "pool_prompts_per_second": [], "drawn_prompts_per_second": []}
    for _ in range(repeats):
        for name, files in (("drawn", drawn), ("pool", shared)):
            run = _through(engine, files)
            results[f"{name}_prompts_per_second"].append(rows / run["s"])
        results["computed_share"].append(1 - run["cached"] / run["input"])
    return results


def seq2seq(folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """Our encoder-decoder actor against batches of 8 rows in file order, padded to the longest of the batch."""
    import torch

    from tinyllm_ray.teachers.seq2seq import Seq2SeqEngine

    rows //= 4
    teacher = _teacher(folder, "t5")
    files, _ = _prompts(folder, "t5", rows, examples=2)
    engine = Seq2SeqEngine(teacher=teacher, model_path=teacher.model, gpu=False, log_file=None)
    ids = [row for file in files for row in _column(file, "prompt_ids")]
    results: dict[str, Any] = {"ours_rows_per_second": [], "fixed_rows_per_second": []}
    for _ in range(repeats):
        began = time.perf_counter()
        for file in files:
            engine(_batch(file))
        results["ours_rows_per_second"].append(rows / (time.perf_counter() - began))
        began = time.perf_counter()
        for start in range(0, rows, 8):
            inputs = engine._tokenizer.pad({"input_ids": ids[start : start + 8]}, return_tensors="pt")
            with torch.inference_mode():
                engine._model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        results["fixed_rows_per_second"].append(rows / (time.perf_counter() - began))
    return results


def _through(engine: Any, files: list[str]) -> dict[str, float]:
    """All prompt files through an engine actor, two at once as under Ray, with an empty prefix cache."""
    engine._engine.reset_prefix_cache()
    began = time.perf_counter()
    with ThreadPoolExecutor(2) as threads:
        tables = list(threads.map(lambda file: engine(_batch(file)), files))
    seconds = time.perf_counter() - began
    totals = {name: sum(sum(t[f"{name}_tokens"].to_pylist()) for t in tables) for name in ("output", "cached", "input")}
    return {"s": seconds, "tokens": totals["output"], "cached": totals["cached"], "input": totals["input"]}


def _vllm_engine(teacher: Any, longest: int) -> Any:
    from tinyllm_ray.teachers.vllm import VllmEngine, engine_kwargs

    kwargs = engine_kwargs(teacher, teacher.model, longest + teacher.sampling.max_tokens, gpu=False)
    return VllmEngine(engine_kwargs=kwargs, sampling=teacher.sampling, row_seeds=False, adapter=None, log_file=None)


def _prompts(folder: str, name: str, rows: int, *, examples: int, pool: int | None = None) -> tuple[list[str], int]:
    """Prompt files as `generate` writes them, and the longest prompt in tokens."""
    from tinyllm_ray.schema import Prompts
    from tinyllm_ray.teachers.engines import choose_engine
    from tinyllm_ray.teachers.pending import Target, read_candidates, write_pending

    questions, teacher = _questions(folder, rows), _teacher(folder, name)
    experiment = _experiment(teacher, examples=examples, pool=pool)
    prompts: Prompts = experiment.prompts
    out = f"{folder}/prompts-{name}-{examples}-{pool}-{os.getpid()}"
    pending = write_pending(
        [Target("train", out, False, "benchmark", True, questions["train"])],
        folder=f"{out}/pending",
        teacher=teacher,
        prompts=prompts,
        candidates=read_candidates(questions, examples=examples),
        engine=choose_engine(teacher, pool=experiment.pools.teacher, prompts=prompts, output_dir=out),
    )
    assert pending.rows == rows, pending
    return pending.files, pending.longest_prompt


def _experiment(teacher: Any, *, examples: int, pool: int | None = None) -> Any:
    from tinyllm_ray.config import validate

    return validate(
        {
            "name": "throughput",
            "dataset": {"name": "questions"},
            "student": {"model": "none"},
            "prompts": {"in_context": {"examples": examples, "pool": pool}, "rationale_splits": ["train"]},
            "teachers": [teacher.model_dump()],
            "pools": {"teacher": {"cpus_per_worker": CORES}},
        }
    )


def _teacher(folder: str, name: str) -> Any:
    from tinyllm_ray.schema import Sampling, Teacher

    sampling = Sampling(max_tokens=TOKENS)
    if name == "stopping":
        sampling = Sampling(max_tokens=MAX_TOKENS, temperature=1.0)
    return Teacher(name=name, model=f"{folder}/{name}", sampling=sampling, max_failed_fraction=1)


def _questions(folder: str, rows: int) -> dict[str, Any]:
    import pyarrow.parquet as pq

    from tinyllm_ray.data.questions import QuestionFile

    path = Path(folder) / f"questions-{rows}.parquet"
    if not path.is_file():
        pq.write_table(pq.read_table(Path(folder) / "questions.parquet").slice(0, rows), path)
    return {"train": QuestionFile(path=str(path), rows=rows, rejected=0, rejected_path="", digest=path.name)}


def _start_ray() -> None:
    import ray

    ray.init("local", num_cpus=CORES + 4, resources={"teacher_pool": 1}, include_dashboard=False, log_to_driver=False)


def _batch(file: str) -> Any:
    import pyarrow as pa

    return pa.table({"file": [file]})


def _column(file: str, name: str) -> list[Any]:
    import pyarrow.parquet as pq

    return pq.read_table(file, columns=[name])[name].to_pylist()


WAYS = {
    way.__name__: way for way in (models, raw_vllm, ours, ray_data_llm, vllm_natural, transformers, prefix, seq2seq)
}

if __name__ == "__main__":
    result = WAYS[sys.argv[1]](sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    sys.stdout.flush()
    print("\n" + json.dumps(result), flush=True)
    os._exit(0)  # an engine in this process need not be taken down in order
