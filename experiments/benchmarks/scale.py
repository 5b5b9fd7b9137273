"""How the driver's memory and time grow with the number of questions, at fixed hardware, with a free engine.

    python experiments/benchmarks/scale.py --json
    python experiments/benchmarks/scale.py --rows 1000 10000

The stages are the pipeline's own; only the engine is a stand-in, an actor that answers at once. Each size runs in a
process of its own. Seconds are per 100,000 rows; memory is the driver's peak resident size within each stage.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROWS = [1_000, 10_000, 100_000, 1_000_000]
STAGES = ["read", "prompt", "store", "resume", "join", "features"]
MEMORY_LIMIT_GIB, RESUME_LIMIT_S = 1.5, 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--json", action="store_true", help="only the result, as the last line")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    sizes = [_in_own_process(rows) for rows in arguments.rows]
    if not arguments.json:
        print("\n".join(_table(sizes)))
    largest = sizes[-1]
    within = {
        "driver_memory": max(size["peak_gib"] for size in sizes) < MEMORY_LIMIT_GIB,
        "resume": largest["seconds"]["resume"] < RESUME_LIMIT_S,
    }
    print(json.dumps({"machine": {"cpus": os.cpu_count()}, "sizes": sizes, "within": within}))


def measure(rows: int) -> dict[str, Any]:
    """Every stage once, for one size."""
    from tinyllm_ray.cluster import connect
    from tinyllm_ray.config import validate
    from tinyllm_ray.data.questions import prepare_questions
    from tinyllm_ray.teachers import pipeline as rationales

    seconds: dict[str, float] = {}
    memory: dict[str, float] = {}
    watch = functools.partial(_stage, seconds=seconds, memory=memory)
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        experiment = validate(_experiment(folder))
        _write_questions(Path(folder), rows)
        connect.connect(experiment.pools, log_dir=f"{folder}/logs")
        with watch("read"):
            questions = prepare_questions(experiment.dataset, output_dir=folder)
        prompting = rationales.write_pending
        with ExitStack() as storing:
            rationales.write_pending = functools.partial(_prompt_then_store, prompting, watch, storing)
            report = rationales.generate(experiment, output_dir=folder, questions=questions)["free"]
        assert (report.generated, report.found) == (rows, 0)
        rationales.write_pending = prompting
        with watch("resume"):
            again = rationales.generate(experiment, output_dir=folder, questions=questions)["free"]
        assert (again.generated, again.found) == (0, rows)
        _join(experiment, folder, questions, report.store, watch)
    per_100k = {name: round(seconds[name] * 100_000 / rows, 2) for name in STAGES}
    return {
        "rows": rows,
        "seconds": {name: round(seconds[name], 2) for name in STAGES},
        "seconds_per_100k": per_100k,
        "peak_gib_by_stage": {name: round(memory[name], 3) for name in STAGES},
        "peak_gib": round(max(memory.values()), 3),
    }


def _join(experiment: Any, folder: str, questions: dict[str, Any], store: str, watch: Callable) -> None:
    from tinyllm_ray import storage
    from tinyllm_ray.data.features import build_features
    from tinyllm_ray.data.join import join_targets
    from tinyllm_ray.data.store import StoreId
    from tinyllm_ray.student.model import prepare_tokenizer

    stores = {StoreId("free"): store}
    with watch("join"):
        ids = storage.read_table(questions["train"].path, ["question_id"])["question_id"].combine_chunks()
        counts = {name: Counter() for name in ("unknown", "store_rows", "masked")}
        targets = join_targets(store, "train", ids, "rationale", "free", [], counts)
    assert len(targets.rows) == len(ids) and not counts["unknown"]["free"]
    with watch("features"):
        tokenizer = prepare_tokenizer(experiment, questions=questions, stores=stores, output_dir=folder)
        files = {"questions": questions, "stores": stores, "output_dir": folder}
        build_features(experiment, tokenizer_folder=tokenizer, **files)


class FreeEngine:
    """An engine of this file's own whose actors write one sentence for every prompt at once."""

    greedy_repeats = True

    def __init__(self, teacher: Any, setting: Any) -> None:
        self.teacher = teacher
        self._pool = setting.pool

    def key(self) -> dict[str, Any]:
        return {"engine": "free"}

    def check(self) -> None:
        """It needs nothing."""

    def prompt_limit(self) -> int:
        return 4096

    def encode(self, prompts: list[str]) -> list[Any]:
        from tinyllm_ray.teachers.engines.base import Encoded

        return [Encoded([7] * (len(prompt) // 4)) for prompt in prompts]

    def show(self, prompt: str) -> str:
        return prompt

    def opens_thought(self) -> bool:
        return False

    def run(self, files: Any, *, longest_prompt: int) -> Any:
        from tinyllm_ray.cluster.pools import actor_options
        from tinyllm_ray.teachers.engines.base import run_actors

        options = actor_options(self._pool)
        return run_actors(files, FreeActor, arguments={}, options=options, workers=self._pool.workers)


class FreeActor:
    def __init__(self) -> None:
        from tinyllm_ray.teachers.engines.base import Stopwatch

        self._watch = Stopwatch()
        self._watch.ready()

    def __call__(self, files: Any) -> Any:
        from tinyllm_ray.teachers.engines.base import add_outcomes, outcome, read_prompts

        prompts = read_prompts(files)
        text = "Things of this kind are mostly so, as everyone who has seen one knows. Thus, the answer is (a)."
        answers = [outcome(text, "stop", input_tokens=100, output_tokens=20) for _ in range(len(prompts))]
        return add_outcomes(prompts, answers, watch=self._watch)


@contextmanager
def _stage(name: str, *, seconds: dict[str, float], memory: dict[str, float]) -> Iterator[None]:
    Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak so far
    began = time.monotonic()
    yield
    seconds[name] = time.monotonic() - began
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    memory[name] = int(status["VmHWM"].split()[0]) / 1024**2


def _prompt_then_store(prompting: Callable, watch: Callable, storing: ExitStack, *args: Any, **kwargs: Any) -> Any:
    """The prompts of all rows; what comes after them until the end of `generate` is the storing."""
    with watch("prompt"):
        pending = prompting(*args, **kwargs)
    storing.enter_context(watch("store"))
    return pending


def _experiment(folder: str) -> dict[str, Any]:
    return {
        "name": "scale",
        "dataset": {"name": "many", "format": "jsonl", "path": folder},
        "teachers": [{"name": "free", "engine": {"type": "custom", "path": "scale:FreeEngine"}}],
        "student": {"model": "tiny", "from_scratch": {"tiny": {"vocabulary_size": 512}}, "max_input_tokens": 512},
        "prompts": {"rationale_splits": ["train"]},
    }


def _write_questions(folder: Path, rows: int) -> None:
    with (folder / "train.jsonl").open("w") as file:
        for i in range(rows):
            choices = [f"thing number {(i * 7 + j) % 1000}" for j in range(4)]
            question = f"Which of these is of kind {i // 1000} and number {i % 1000}, when it is warm in the shade?"
            file.write(json.dumps({"question": question, "choices": choices, "answer": choices[i % 4]}) + "\n")


def _in_own_process(rows: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", str(rows)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def _table(sizes: list[dict[str, Any]]) -> list[str]:
    lines = ["| rows | " + " | ".join(f"{name}, s/100k" for name in STAGES) + " | driver peak, GiB | resume, s |"]
    lines.append("|" + "---|" * (len(STAGES) + 3))
    for size in sizes:
        cells = " | ".join(f"{size['seconds_per_100k'][name]:.1f}" for name in STAGES)
        lines.append(f"| {size['rows']:,} | {cells} | {size['peak_gib']:.2f} | {size['seconds']['resume']:.1f} |")
    return lines


if __name__ == "__main__":
    main()
