"""What `rationales.keep: correct` is worth when a part of the rationales is wrong.

    python experiments/benchmarks/corrupted.py --json [--output FOLDER] [--shares 0 0.2 0.4]

Two teachers of experiments/conflict.yaml, who admit what they do not know. A share of each one's rationales is replaced
by the reasoning of an animal of another kind, which leads to another answer. After each seed all figures so far are
written to <output>/corrupted.json. A run that was stopped goes on from its output folder.
"""

import argparse
import json
import random
import sys
from dataclasses import asdict, replace
from typing import Any

import conflict
import trainings

from tinyllm_ray import stages, storage
from tinyllm_ray.config import with_overrides
from tinyllm_ray.data import store
from tinyllm_ray.data.questions import read_questions
from tinyllm_ray.data.store import StoreId
from tinyllm_ray.miniature.world import ATTRIBUTES, World, explain_kind, make_world
from tinyllm_ray.report.effects import compare
from tinyllm_ray.rows import Question, Rationale, from_table
from tinyllm_ray.schema import Experiment
from tinyllm_ray.session import Session
from tinyllm_ray.tasks.registry import task_of

TEACHERS = ("north_llama", "south_t5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", default="experiments/conflict.yaml")
    parser.add_argument("--output", default=None, help="folder to start from or to go on in; default: a new one")
    parser.add_argument("--seeds", type=int, nargs="+", default=None)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.2, 0.4])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    experiment = conflict.benchmark_experiment(arguments)
    result: dict[str, Any] = {}
    with Session(experiment, say=lambda line: print(line, file=sys.stderr)) as session:
        stages.generate(session)
        found = {share: corrupted_stores(session, share) for share in arguments.shares}
        variants = {
            f"{keep}_{share:g}": variant(session, stores, keep)
            for share, stores in found.items()
            for keep in ("all", "correct")
        }
        for done in trainings.train_all(session, variants, processes=arguments.processes):
            result = figures(done, arguments.shares)
            storage.write_json(storage.join(session.dir, "corrupted.json"), result)
    print(json.dumps(result))


def corrupted_stores(session: Session, share: float) -> dict[StoreId, str]:
    """Copies of the two teachers' stores, a share of whose training rows is wrong."""
    world = make_world(session.experiment.dataset.miniature)
    asked = {question.question_id: question for question in read_questions(session.questions["train"].path)}
    folders = {}
    for name in TEACHERS:
        source = session.stores[StoreId(name)]
        folder = folders[StoreId(name)] = storage.join(session.dir, "corrupted", f"{name}-{share:g}")
        store.open_store(folder, {**store.read_manifest(source), "corrupted": share})
        rows = sorted(from_table(store.read(source, "train"), Rationale), key=lambda row: row.question_id)
        rng = random.Random(f"{name} {share}")
        for i in rng.sample(range(len(rows)), round(share * len(rows))):
            rows[i] = corrupt(rows[i], asked[rows[i].question_id], world, rng)
        store.append(folder, "train", rows)
    return folders


def corrupt(row: Rationale, question: Question, world: World, rng: random.Random) -> Rationale:
    attribute = next(a for a, (form, *_) in ATTRIBUTES.items() if question.question.startswith(form.split("{")[0]))
    kinds = [k for (k, of), value in world.habit_of.items() if of == attribute and value != question.answer]
    text = explain_kind(world, rng.choice(kinds), attribute)
    return replace(row, rationale=text, predicted_answer=task_of(question.task).read(text, question))


def variant(session: Session, stores: dict[StoreId, str], keep: str) -> trainings.Variant:
    """Trained on the two teachers alone, with their corrupted rationales."""
    kept = with_overrides(two_teachers(session.experiment), {"rationales.keep": keep})
    return kept, replace(session.inputs, stores={**session.stores, **stores})


def two_teachers(experiment: Experiment) -> Experiment:
    others = [teacher.name for teacher in experiment.teachers if teacher.name not in TEACHERS]
    weights = dict.fromkeys(TEACHERS, 1.0) | dict.fromkeys(others, 0.0)
    return with_overrides(experiment, {f"loss.rationale_weights.{name}": weight for name, weight in weights.items()})


def figures(done: dict[Any, Any], shares: list[float]) -> dict[str, Any]:
    scores = trainings.test_scores(done)
    gains = {f"{s:g}": compare(scores, f"correct_{s:g}", f"all_{s:g}", about=f"{s:g}", kind="kept") for s in shares}
    return {
        "seeds": sorted({seed for _, seed in done}),
        "per_seed": {name: [sum(r.values()) / len(r) for r in by.values()] for name, by in scores.items()},
        "correct_over_all": {share: asdict(gain) for share, gain in gains.items() if gain},
    }


if __name__ == "__main__":
    main()
