"""What the ways of teacher_ways.py share: prompts as `generate` writes them, teachers, an engine actor without Ray."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CORES = os.cpu_count() or 1
TOKENS = 64  # of a forced rationale
MAX_TOKENS = 128  # of one that stops by itself
SHORT, LONG = 23, 42  # mean tokens of those; FLAN-T5's published ones on OBQA have 23, LLaMA-2's far more
MEAN_TOKENS = {
    "stopping": SHORT,
    "stopping_long": LONG,
    "stopping_t5": SHORT,
    "stopping_long_t5": LONG,
    "spread_t5": SHORT,
}
PHASES = {"spread_t5": 5}  # lengths spread as FLAN-T5's published rationales on OBQA, by 0.4 of their mean


def run_through(engine: Any, files: list[str]) -> dict[str, float]:
    """All prompt files through an engine actor, two at once as under Ray, with an empty prefix cache."""
    engine._engine.reset_prefix_cache()
    began = time.perf_counter()
    with ThreadPoolExecutor(2) as threads:
        tables = list(threads.map(lambda file: engine(file_batch(file)), files))
    seconds = time.perf_counter() - began
    totals = {name: sum(sum(t[f"{name}_tokens"].to_pylist()) for t in tables) for name in ("output", "cached", "input")}
    return {"s": seconds, "tokens": totals["output"], "cached": totals["cached"], "input": totals["input"]}


def start_engine(teacher: Any, longest: int, *, shared_prefixes: bool = False) -> Any:
    from tinyllm_ray.teachers.engines.vllm import VllmActor

    kwargs = settings_of(teacher, longest, shared_prefixes=shared_prefixes)
    options = {"sampling": teacher.sampling, "top_k": None, "row_seeds": False, "adapter": None, "log_file": None}
    return VllmActor(engine_kwargs=kwargs, **options)


def settings_of(teacher: Any, longest: int, *, shared_prefixes: bool = False) -> dict[str, Any]:
    from tinyllm_ray.schema import InContext, Pool, Prompts
    from tinyllm_ray.teachers.engines.base import Setting
    from tinyllm_ray.teachers.engines.decoders import engine_arguments

    prompts = Prompts(in_context=InContext(pool=8 if shared_prefixes else None))
    setting = Setting(Pool(), prompts, output_dir="", log_file=None)
    return engine_arguments(teacher, {}, adapter=None, longest_prompt=longest, setting=setting)


def write_prompts(
    folder: str, name: str, rows: int, *, examples: int, pool: int | None = None
) -> tuple[list[str], int]:
    """Prompt files as `generate` writes them, and the longest prompt in tokens."""
    from tinyllm_ray.schema import Prompts
    from tinyllm_ray.teachers.engines.registry import make_engine
    from tinyllm_ray.teachers.pending import Target, read_candidates, write_pending

    questions, teacher = question_files(folder, rows), make_teacher(folder, name)
    experiment = make_experiment(teacher, examples=examples, pool=pool)
    prompts: Prompts = experiment.prompts
    out = f"{folder}/prompts-{name}-{examples}-{pool}-{os.getpid()}"
    pending = write_pending(
        [Target("train", out, False, "benchmark", True, questions["train"])],
        folder=f"{out}/pending",
        teacher=teacher,
        prompts=prompts,
        candidates=read_candidates(questions, examples=examples),
        engine=make_engine(teacher, pool=experiment.pools.teacher, prompts=prompts, output_dir=out),
    )
    assert pending.rows == rows, pending
    return pending.files, pending.longest_prompt


def make_experiment(
    teacher: Any, *, examples: int, pool: int | None = None, engines: int = 1, cores: int = CORES
) -> Any:
    """`cores` are shared out among one teacher's engines."""
    from tinyllm_ray.config import validate

    return validate(
        {
            "name": "throughput",
            "dataset": {"name": "questions"},
            "student": {"model": "none"},
            "prompts": {"in_context": {"examples": examples, "pool": pool}, "rationale_splits": ["train"]},
            "teachers": [teacher.model_dump()],
            "pools": {"teacher": {"workers": engines, "cpus_per_worker": cores // engines}},
        }
    )


def make_teacher(folder: str, name: str) -> Any:
    from tinyllm_ray.schema import Sampling, Teacher

    sampling = Sampling(max_tokens=TOKENS)
    if name in MEAN_TOKENS:
        sampling = Sampling(max_tokens=MAX_TOKENS, temperature=1.0)
    return Teacher(name=name, model=f"{folder}/{name}", sampling=sampling, max_failed_fraction=1)


def question_files(folder: str, rows: int) -> dict[str, Any]:
    import pyarrow.parquet as pq

    from tinyllm_ray.data.questions import QuestionFile

    path = Path(folder) / f"questions-{rows}.parquet"
    if not path.is_file():
        pq.write_table(pq.read_table(Path(folder) / "questions.parquet").slice(0, rows), path)
    return {"train": QuestionFile(path=str(path), rows=rows, rejected=0, rejected_path="", digest=path.name)}


def start_ray() -> None:
    import ray

    ray.init(
        "local", num_cpus=CORES + 4, resources={"teacher_pool": CORES}, include_dashboard=False, log_to_driver=False
    )


def file_batch(file: str) -> Any:
    import pyarrow as pa

    return pa.table({"file": [file]})


def read_column(file: str, name: str) -> list[Any]:
    import pyarrow.parquet as pq

    return pq.read_table(file, columns=[name])[name].to_pylist()
