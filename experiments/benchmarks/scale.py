"""How the driver's memory and time grow with the number of questions, at fixed hardware, with a free engine.

    python experiments/benchmarks/scale.py
    python experiments/benchmarks/scale.py --rows 1000000  # about ten minutes

The stages are the pipeline's own; only the engine is a stand-in, an actor that answers at once. Each size is a part,
`rows_1000` and so on. Seconds are per 100,000 rows; memory is the driver's peak resident size within each stage.
"""

import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import measuring

ROWS = [1_000, 10_000, 100_000, 300_000]
STAGES = ["read", "prompt", "store", "resume", "join", "features"]


def main() -> None:
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    arguments = parser.parse_args()
    parts = {f"rows_{rows}": functools.partial(measure, rows) for rows in arguments.rows}
    arguments.rows = None  # a part is known by its name, whichever others are measured with it
    sys.exit(measuring.measure(parts, arguments))


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
    per_100k = {name: seconds[name] * 100_000 / rows for name in STAGES}
    figures = {f"{name}_s_per_100k": measuring.figure([value]) for name, value in per_100k.items() if name != "resume"}
    figures |= {
        "resume_s": measuring.figure([seconds["resume"]]),
        "driver_peak_gib": measuring.figure([max(memory.values())]),
    }
    return {"figures": figures, "rows": rows, "stage_s": seconds, "peak_gib_by_stage": memory}


def _join(experiment: Any, folder: str, questions: dict[str, Any], store: str, watch: Callable) -> None:
    from tinyllm_ray.data.features import build_features
    from tinyllm_ray.data.fit import new_counts
    from tinyllm_ray.data.join import Wanted, join_targets, read_asked
    from tinyllm_ray.data.store import StoreId
    from tinyllm_ray.student.model import prepare_tokenizer

    stores = {StoreId("free"): store}
    with watch("join"):
        asked, counts = read_asked(questions["train"].path, []), new_counts()
        targets = join_targets(store, "train", asked, column="rationale", name="free", wanted=Wanted(), counts=counts)
    assert len(targets.rows) == len(asked.ids) and not counts["unknown"]["free"]
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


if __name__ == "__main__":
    main()
