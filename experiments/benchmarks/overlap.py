"""Training while the teachers write, against writing first: on a cluster of two raylets, one core each.

    python experiments/benchmarks/overlap.py --json
    python experiments/benchmarks/overlap.py --parts slow_student slow_teacher --seconds 60

`real`: vLLM and the transformers engine on a larger miniature, one epoch of a student that takes about as long as the
writing, once each way. `accuracy`: the miniature as it is, `--seeds` trainings each way. `slow_teacher` and
`slow_student`: an engine and a loss that sleep, so that one side takes a quarter of the other, which takes `--seconds`.
The miniature's own teachers are trained before anything is timed.
"""

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from tinyllm_ray import stages, storage
from tinyllm_ray.config import load_experiment, with_overrides
from tinyllm_ray.data.timeline import covered_s, newest_timeline
from tinyllm_ray.schema import Experiment
from tinyllm_ray.session import Session

PARTS = ("real", "accuracy", "slow_teacher", "slow_student")
QUANTILE = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}  # Student's t, 97.5%, by trainings
ENGINE, LOSS = "slow_sides:Engine", "slow_sides:slow_loss"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--experiment", default="experiments/miniature.yaml")
    parser.add_argument("--questions", type=int, default=14_000, help="of the real part, at most 15,350")
    parser.add_argument("--samples", type=int, default=6, help="rationales per question and teacher of the real part")
    parser.add_argument("--width", type=int, default=96, help="of the real part's student: both sides equally long")
    parser.add_argument("--seeds", type=int, default=5, help="trainings each way of the part accuracy")
    parser.add_argument("--seconds", type=float, default=600, help="of the longer side of the simulated parts")
    parser.add_argument("--output", default=None, help="folder to work in; default: a new one")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = Path(arguments.output or tempfile.mkdtemp(prefix="overlap-"))
    os.environ["PYTHONPATH"] = f"{Path(__file__).parent}:{Path.cwd()}:{os.environ.get('PYTHONPATH', '')}"
    sys.path.insert(0, str(Path(__file__).parent))
    result: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "versions": {name: version(name) for name in ("ray", "torch", "transformers")},
    }
    base = benchmark_experiment(arguments.experiment, folder)
    if "real" in arguments.parts:
        student = {"width": arguments.width, "layers": 2, "heads": 4, "ff_width": 2 * arguments.width, "dropout": 0.0}
        sizes = {"questions": arguments.questions, "samples": arguments.samples}
        result["real"] = real(base, folder / "real", **sizes, student=student)
    if "accuracy" in arguments.parts:
        result["accuracy"] = accuracy(base, folder / "accuracy", seeds=list(range(arguments.seeds)))
    for part, (teacher_s, student_s) in {"slow_teacher": (1.0, 0.25), "slow_student": (0.25, 1.0)}.items():
        if part in arguments.parts:
            sides = teacher_s * arguments.seconds, student_s * arguments.seconds
            result[part] = simulated(base, folder / part, *sides)
    print(json.dumps(result))


def prepare(base: Experiment, folder: Path) -> Experiment:
    """The miniature with its teachers made; each measured way copies them."""
    from tinyllm_ray.generation import prepare_miniature

    experiment = moved_to(base, folder / "made")
    with Session(experiment, say=say) as session:
        assert session.questions
        prepare_miniature(session)
    return experiment


def benchmark_experiment(path: str, folder: Path) -> Experiment:
    """Of every part: two engines share the teachers' core, one rank has the student's."""
    changes = {
        "output.dir": str(folder / "base"),
        "training.log_every_steps": 1,
        "training.eval_every_steps": 10_000,
        "training.checkpoint_every_steps": 10_000,
        "evaluation.student_rationales": 0,
        "prompts.rationale_splits": ["train"],
        "tracking.register_champion": False,
        "search.space": {},
        "pools.teacher.workers": 2,
        "pools.teacher.cpus_per_worker": 0.4,
        "pools.student.workers": 1,
        "seeds": [0],
    }
    return load_experiment(path, [f"{key}={json.dumps(value)}" for key, value in changes.items()])


def real(base: Experiment, folder: Path, *, questions: int, samples: int, student: dict[str, Any]) -> dict[str, Any]:
    """One epoch over a world so large that engines and ranks start in a small share of the time."""
    sizes = base.dataset.miniature
    entities = math.ceil((questions + sizes.validation + sizes.test) / sizes.attributes)
    changes = {
        "dataset.miniature": {**sizes.model_dump(), "entities": entities, "train": questions},
        "student": {**base.student.model_dump(), "model": "balanced", "from_scratch": {"balanced": student}},
        "training.steps": math.ceil(questions / base.training.batch_size),
    }
    several = {"samples_per_question": samples, "sampling.temperature": 0.7, "batch_size": 64}
    larger = with_overrides(base, changes | {f"teachers.{key}": value for key, value in several.items()})
    made = prepare(larger, folder)
    sequential = measure(made, folder / "sequential", schedule="parallel")
    overlap = measure(made, folder / "overlap", schedule="overlap")
    return compare(sequential, overlap) | {"steps": larger.training.steps}


def accuracy(base: Experiment, folder: Path, *, seeds: list[int]) -> dict[str, Any]:
    """The miniature as it is, so that the student learns it; rows arrive in windows of 32."""
    made = prepare(with_overrides(base, {"seeds": seeds, "pools.overlap.window_rows": 32}), folder)
    scores = [
        train_seeds(made, folder / way, schedule=schedule)
        for way, schedule in (("sequential", "parallel"), ("overlap", "overlap"))
    ]
    return paired(*scores)


def simulated(base: Experiment, folder: Path, teacher_s: float, student_s: float) -> dict[str, Any]:
    """Two sides that sleep; `wall_share` is of the longer one's own seconds."""
    rows, steps = 300, 300
    engine = {"type": "custom", "path": ENGINE, "settings": {"seconds": teacher_s / rows}}
    teacher = {"name": "slow", "model": "none", "engine": engine, "batch_size": 4}
    raw = base.model_dump(mode="json")
    raw |= {"teachers": [teacher], "search": {}, "seeds": [0]}
    raw["loss"] = {"custom": {"sleep": {"path": LOSS, "weight": 1e-6}}}
    raw["pools"] |= {"overlap": {"window_rows": 16}, "teacher": {"workers": 1, "cpus_per_worker": 0.4}}
    os.environ["SLOW_STEP_S"] = str(student_s / steps)
    one_row_a_step = {"training.steps": steps, "training.batch_size": 1}
    experiment = prepare(with_overrides(type(base).model_validate(raw), one_row_a_step), folder)
    overlap = measure(experiment, folder, schedule="overlap")
    longer = max(overlap["writing_s"], overlap["training_s"])
    return {"wall_share": overlap["wall_s"] / longer, "longer_side_s": longer, **overlap}


def measure(experiment: Experiment, folder: Path, *, schedule: str) -> dict[str, Any]:
    """One way from no rationale to a trained student: seconds in all, of each side, and to the first step."""
    with at_work(experiment, folder, schedule) as session:
        began = time.time()
        generated = {} if schedule == "overlap" else stages.generate(session)
        written = time.time()
        done = stages.train(session)
        ended = time.time()
    end = done["trials"][0]
    times = first_times(folder)
    found = {"wall_s": ended - began, "first_step_s": min(times) - began, "training_s": end["train_s"]}
    found["teacher_rows_generated"] = done.get(
        "teacher_rows_generated", sum(r["generated"] for r in generated.values())
    )
    found |= {"accuracy": end["test/accuracy"], "writing_s": written - began}
    timeline = newest_timeline(str(folder))
    if schedule == "overlap" and timeline:
        found |= {"writing_s": covered_s(timeline.teachers), "training_s": covered_s(timeline.students)}
        found["idle_share"] = {
            "teacher": timeline.idle_share(timeline.teachers),
            "student": timeline.idle_share(timeline.students),
        }
    return found


def train_seeds(experiment: Experiment, folder: Path, *, schedule: str) -> list[float]:
    """Test accuracies of all seeds; in an overlap those after the first read the order of arrival that there is."""
    with at_work(experiment, folder, schedule) as session:
        if schedule != "overlap":
            stages.generate(session)
        return [end["test/accuracy"] for end in stages.train(session)["trials"]]


def moved_to(experiment: Experiment, folder: Path) -> Experiment:
    """The same experiment with everything of it in another folder."""
    return type(experiment).model_validate_json(
        experiment.model_dump_json().replace(str(experiment.output.dir), str(folder))
    )


@contextmanager
def at_work(made: Experiment, folder: Path, schedule: str) -> Iterator[Session]:
    """A session of its own on two raylets, with a copy of the miniature's teachers."""
    shutil.copytree(f"{made.output.dir}/miniature", folder / "miniature", dirs_exist_ok=True)
    with two_raylets() as address:
        pools = {"pools.address": address, "pools.schedule": schedule}
        with Session(with_overrides(moved_to(made, folder), pools), say=say) as session:
            assert session.questions
            yield session


def compare(sequential: dict[str, Any], overlap: dict[str, Any]) -> dict[str, Any]:
    return {
        "first_step_share": overlap["first_step_s"] / sequential["first_step_s"],
        "wall_share": overlap["wall_s"] / sequential["wall_s"],
        "idle_share": overlap["idle_share"],
        "sequential": sequential,
        "overlap": overlap,
    }


def paired(sequential: list[float], overlap: list[float]) -> dict[str, Any]:
    """Points of accuracy that overlap gains, with the 95% interval over the seeds."""
    gains = [100 * (after - before) for before, after in zip(sequential, overlap, strict=True)]
    found = {"accuracies": {"sequential": sequential, "overlap": overlap}, "gain_points": statistics.mean(gains)}
    if len(gains) > 1:
        half = QUANTILE[len(gains)] * statistics.stdev(gains) / math.sqrt(len(gains))
        found["gain_interval"] = [found["gain_points"] - half, found["gain_points"] + half]
    return found


def first_times(folder: Path) -> list[float]:
    """When each training logged or began its first step, in seconds since 1970."""
    times = []
    for trial in folder.glob("trials/*"):
        lines = storage.list_files(f"{trial}/first_epoch", ".jsonl") or storage.list_files(f"{trial}/metrics", ".jsonl")
        times.append(json.loads(storage.read_bytes(lines[0]).splitlines()[0])["time"] / 1000)
    return times


@contextmanager
def two_raylets() -> Iterator[str]:
    """A head without CPUs, a teacher node and a student node, each of these two on a core of its own."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    memory = 200 * 1024**2
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": memory})
    cores = sorted(os.sched_getaffinity(0))
    try:
        for number, (pool, workers) in enumerate({"teacher_pool": 2, "student_pool": 1}.items()):
            node = cluster.add_node(num_cpus=2, resources={pool: workers}, object_store_memory=memory)
            psutil.Process(node.all_processes["raylet"][0].process.pid).cpu_affinity([cores[number % len(cores)]])
        cluster.wait_for_nodes(timeout=120)
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
