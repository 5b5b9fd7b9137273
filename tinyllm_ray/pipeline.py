"""The steps of the road, each callable alone, and `run`, which walks it whole.

In: an Experiment. Out: dicts that are JSON: what was made, and where.
"""

import functools
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from typing import Any

import yaml
from rich.console import Console

from tinyllm_ray import storage
from tinyllm_ray.cluster import connect
from tinyllm_ray.cluster.capacity import POOLS, check_capacity, watch_pending
from tinyllm_ray.config import UserError, digest, output_dir, public
from tinyllm_ray.data import store
from tinyllm_ray.data.questions import QuestionFile, describe, prepare_questions
from tinyllm_ray.schema import Experiment
from tinyllm_ray.tuning.methods import ablation, apply_method, comparison

console = Console(stderr=True, highlight=False)


class Pipeline:
    """One experiment and its output folder: joins Ray, reads the questions, holds what the steps share.

    `pools`: those that the steps to come work in; they are held against the cluster first.
    """

    def __init__(self, experiment: Experiment, *, pools: Collection[str] = POOLS):
        self.experiment = experiment
        self.dir = output_dir(experiment)
        connect.check_output(self.dir, given=experiment.output.dir)
        self.connection = connect.connect(experiment.pools, log_dir=storage.join(self.dir, "logs"))
        connect.check_visible(self.dir)
        for line in check_capacity(experiment, pools):
            console.print(line)
        watch_pending(experiment.pools, say=functools.partial(console.print, soft_wrap=True))
        config = yaml.safe_dump(public(experiment), sort_keys=False)
        storage.write_bytes(storage.join(self.dir, "config.yaml"), config.encode())
        self.started = time.time()
        self.questions = self._prepare_questions()
        self.generated: dict[str, Any] = {}

    def generate(self) -> dict[str, Any]:
        """Every teacher's rationales for what is not in its store yet; reports by teacher."""
        from tinyllm_ray.teachers.pipeline import generate

        reports = generate(self.experiment, output_dir=self.dir, questions=self.questions)
        self.generated = {name: asdict(report) for name, report in reports.items()}
        storage.write_json(storage.join(self.dir, "generation.json"), self.generated)
        if any(report.generated for report in reports.values()):
            name = f"{digest(self.generated)}.json"  # of every run that made rows, so that their cost is not forgotten
            storage.write_json(storage.join(self.dir, "generation", name), self.generated)
        return self.generated

    def compare(self) -> dict[str, Any]:
        return self._methods(comparison(self.experiment), title="methods")

    def ablate(self) -> dict[str, Any]:
        """All variants of the ablation, the paired effects, the sentence that the data supports, and the page."""
        methods = self._methods(ablation(self.experiment), title="ablation")
        page = make_page(self.experiment)
        return {"methods": methods, "conclusion": page["headline"]} | page

    def train(self) -> dict[str, Any]:
        """The experiment's own method, once per seed, on every rank of the student pool; test is scored."""
        from tinyllm_ray.tuning.trials import Planned, run_on_pool

        experiment = apply_method(self.experiment)
        variant = experiment.training.method.replace(":", "_")
        with self._tracker() as tracker:
            plans = [Planned(variant, experiment, seed, score_test=True) for seed in experiment.seeds]
            ends = [run_on_pool(plan, self.inputs(), tracker=tracker) for plan in plans]
        return {"trials": [end for _, end in ends], "models": [storage.join(trial.dir, "model") for trial, _ in ends]}

    def tune(self) -> dict[str, Any]:
        """Search on validation; train the winner again over search.final_seeds and score it once on test."""
        from tinyllm_ray.tuning.search import run_search

        with self._tracker() as tracker:
            ends = run_search(self.experiment, self.inputs(), tracker=tracker)
            if not ends:
                raise UserError("no trial of the search reached an evaluation; their tracebacks are in MLflow")
            final, champion = self._train_winner(ends[0], tracker)
        rows = {
            name: sum(len(store.read(folder, split, ["key"])) for split in self.questions)
            for name, folder in self._stores().items()
        }
        return {
            "trials": len(ends),
            "stopped_early": sum("eval/accuracy" in end and "wall_s" not in end for end in ends),
            "best": {"overrides": ends[0]["overrides"], "validation_accuracy": ends[0]["eval/accuracy"]},
            "final": final,
            "champion": champion,
            "teacher_rows_generated": 0,
            "teacher_rows_found": rows,
        }

    def run(self) -> dict[str, Any]:
        """Teachers, methods, search, report."""
        self.generate()
        methods = self.compare()
        result: dict[str, Any] = {
            "methods": methods,
            "search": self.tune() if self.experiment.search.space else None,
            "teacher_rows_generated": sum(report["generated"] for report in self.generated.values()),
        }
        return result | make_page(self.experiment) | {"wall_s": round(time.time() - self.started, 1)}

    def evaluate(self, model: str, split: str) -> dict[str, Any]:
        """Score a saved student on a split."""
        from tinyllm_ray.student.evaluate import evaluate_folder

        if split not in self.questions:
            raise UserError(f"the dataset has no split {split!r}; it has {list(self.questions)}")
        return evaluate_folder(model, self.experiment, questions=self.questions[split].path)

    def _prepare_questions(self) -> dict[str, QuestionFile]:
        if self.experiment.dataset.format == "miniature":
            from tinyllm_ray.miniature.models import prepare

            prepare(self.experiment, output_dir=self.dir)
        files = prepare_questions(self.experiment.dataset, output_dir=self.dir)
        for line in describe(files):
            console.print(line)
        return files

    def _stores(self) -> dict[str, str]:
        from tinyllm_ray.teachers.pipeline import rationale_store

        names = [teacher.name for teacher in self.experiment.teachers]
        stores = {name: rationale_store(self.experiment, name, output_dir=self.dir) for name in names}
        if self.experiment.prompts.answer_splits:
            stores |= {
                f"{n}:answers": rationale_store(self.experiment, n, output_dir=self.dir, answers=True) for n in names
            }
        missing = [name for name, folder in stores.items() if not storage.exists(storage.join(folder, "manifest.json"))]
        if missing:
            raise UserError(
                f"teacher {missing[0]} has no rationales yet; run `tinyllm-ray generate` first, or set its `store`"
            )
        return stores

    def inputs(self) -> Any:
        from tinyllm_ray.tuning.trials import Inputs

        for split in ("train", "validation"):
            if split not in self.questions:
                raise UserError(f"the dataset has no {split} split; training needs it: name its file in dataset.splits")
        return Inputs(self.dir, self.questions, self._stores())

    def _tracker(self) -> Any:
        from tinyllm_ray.tracking import Tracker

        stores = self._stores()
        lineage = {f"store.{n}": store.content_digest(folder, say=console.print) for n, folder in stores.items()}
        lineage |= {f"rationales.{name}": folder for name, folder in self._stores().items()}
        lineage |= {f"teacher.{t.name}.revision": self._revision(t.name) for t in self.experiment.teachers}
        tracker = Tracker(self.experiment, output_dir=self.dir, lineage=lineage)
        files = {split: (file.path, file.digest, file.rows) for split, file in self.questions.items()}
        tracker.log_questions(files, name=self.experiment.dataset.name)
        for uri in storage.list_files(storage.join(self.dir, "generation"), ".json"):
            tracker.log_generation(storage.read_json(uri))
        return tracker

    def _revision(self, teacher: str) -> str:
        manifest = store.read_manifest(self._stores()[teacher])
        return str(manifest["revision"]) if "revision" in manifest else "imported"

    def _methods(self, variants: dict[str, Experiment], *, title: str) -> dict[str, Any]:
        from tinyllm_ray.tuning.trials import Planned, run_planned

        seeds = self.experiment.seeds
        plans = [Planned(name, variant, seed, score_test=True) for name, variant in variants.items() for seed in seeds]
        with self._tracker() as tracker:
            results = run_planned(plans, self.inputs(), tracker=tracker, title=title)
            methods = self._scores(variants, results)
            tracker.summarize(
                {f"test/accuracy/{name}": scores["mean"] for name, scores in methods.items()}, tags={}, artifacts=[]
            )
        return methods

    def _scores(self, variants: Iterable[str], results: Mapping[tuple[str, int], dict[str, Any]]) -> dict[str, Any]:
        failed = {f"{name} seed {seed}": last_line(end) for (name, seed), end in results.items() if "traceback" in end}
        for training, reason in failed.items():
            console.print(f"failed: {training}: {reason}")
        methods: dict[str, Any] = {}
        for name in variants:
            ends = {seed: results[name, seed] for seed in self.experiment.seeds if (name, seed) in results}
            per_seed = {str(seed): end["test/accuracy"] for seed, end in ends.items() if "test/accuracy" in end}
            if per_seed:
                methods[name] = {"mean": sum(per_seed.values()) / len(per_seed), "per_seed": per_seed}
        if failed and not methods:
            raise UserError(f"no training came to its end; the first says: {next(iter(failed.values()))}")
        return methods

    def _train_winner(self, best: dict[str, Any], tracker: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        from tinyllm_ray.tracking.champion import log_champion
        from tinyllm_ray.tuning.search import apply_sample
        from tinyllm_ray.tuning.trials import Planned, run_on_pool

        winner = apply_sample(self.experiment, best["overrides"])
        seeds = self.experiment.search.final_seeds
        plans = [Planned("final", winner, seed, score_test=True) for seed in seeds]
        ends = [run_on_pool(plan, self.inputs(), tracker=tracker) for plan in plans]
        scores = {str(plan.seed): end["test/accuracy"] for plan, (_, end) in zip(plans, ends, strict=True)}
        trial, end = max(ends, key=lambda pair: pair[1]["eval/accuracy"])
        champion = {"model": storage.join(trial.dir, "model"), "key": trial.key}
        if self.experiment.tracking.register_champion:
            champion |= log_champion(trial, end, tracker=tracker, name=self.experiment.name, questions=self.questions)
        return {
            "mean": sum(scores.values()) / len(scores),
            "per_seed": scores,
            "ranks": winner.pools.student.workers,
        }, champion


def last_line(failure: dict[str, Any]) -> str:
    """What a failed trial's traceback ends with."""
    return failure["traceback"].strip().rpartition("\n")[2]


def make_page(experiment: Experiment) -> dict[str, Any]:
    """The report alone, which needs neither Ray nor an engine."""
    from tinyllm_ray.report.page import make_report
    from tinyllm_ray.tracking import tracking_uri

    folder = output_dir(experiment)
    uri = tracking_uri(experiment, output_dir=folder)
    return make_report(experiment, output_dir=folder, uri=uri) | {"tracking_uri": uri}
