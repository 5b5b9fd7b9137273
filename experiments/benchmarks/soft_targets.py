"""A student with its teacher's soft targets against the same student on the teacher's text alone.

    python experiments/benchmarks/soft_targets.py --part miniature --out outputs/soft_targets --json
    python experiments/benchmarks/soft_targets.py --part real --model FOLDER --out outputs/soft_targets --json
    python experiments/benchmarks/soft_targets.py --part step --json

miniature: a teacher of the whole miniature world whose tokenizer the student shares; loss on held-out rationales and
test accuracy over seeds. real: a decoder-only model's folder, such as SmolLM2-135M-Instruct's, as teacher of a
four-layer student from scratch with its tokenizer, on OBQA (TINYLLM_REFERENCE_DATA). step: seconds of a training step
with and without, by turns. Started again with the same --out, it goes on where it was, with the stores and finished
trainings that are there.
"""

import argparse
import json
import os
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tinyllm_ray.config import validate, with_overrides  # noqa: E402
from tinyllm_ray.schema import Experiment  # noqa: E402

TOP_K = 20
TEACHER_STEPS = 1000  # of the miniature's teacher
TEACHER = "teacher"
ARMS = {"text": 0.0, "soft": 0.9}
T_975 = {2: 4.303, 4: 2.776}  # Student's t at 97.5% by degrees of freedom


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="only the result, as the last line")
    parser.add_argument("--part", choices=["miniature", "real", "step"], required=True)
    parser.add_argument("--out", default="outputs/soft_targets", help="folder of everything that is made")
    parser.add_argument("--model", help="the real teacher's folder")
    parser.add_argument("--seeds", type=int, help="trainings of each kind; 5 in the miniature, 3 of the real one")
    parser.add_argument("--steps", type=int, help="of a training; 480 in the miniature, 200 of the real one")
    parser.add_argument("--repeats", type=int, default=7, help="pairs of steps that are timed")
    arguments = parser.parse_args()
    if arguments.part == "step":
        result: dict[str, Any] = step_time(arguments.repeats)
    elif arguments.part == "miniature":
        result = compare(miniature(Path(arguments.out) / "miniature", arguments))
    else:
        result = compare(real(Path(arguments.out) / "real", arguments))
    print(json.dumps(result, indent=None if arguments.json else 2))


def compare(experiment: Experiment) -> dict[str, Any]:
    """Generate, then train every seed in both ways on the same features."""
    from tinyllm_ray.session import Session
    from tinyllm_ray.stages import generate
    from tinyllm_ray.student.train import run_trial
    from tinyllm_ray.tuning.methods import apply_method
    from tinyllm_ray.tuning.training import TrainingSpec, resolve

    with Session(experiment, say=lambda line: print(line, file=sys.stderr)) as session:
        report = generate(session)[TEACHER]
        ends: dict[str, dict[int, Any]] = {name: {} for name in ARMS}
        for seed in experiment.seeds:
            for name, share in ARMS.items():
                arm = with_overrides(experiment, {f"loss.soft_target_weights.{TEACHER}": share})
                spec = TrainingSpec(name, apply_method(arm), seed=seed, ranks=1, score_test=True)
                rows: list[dict[str, Any]] = []
                end = run_trial(resolve(spec, session.inputs).trial, report=rows.append)
                ends[name][seed] = {"curve": {row["step"]: row for row in rows}, "end": end}
                print(f"{name} seed {seed}: {rows[-1]}", file=sys.stderr)
    store = {name: report[name] for name in ("soft_rows", "soft_bytes_per_token")}
    stated = {"seeds": len(experiment.seeds), "steps": experiment.training.steps, "top_k": TOP_K, "store": store}
    return stated | {"load": os.getloadavg()[0]} | differences(ends)


def differences(ends: dict[str, dict[int, Any]]) -> dict[str, Any]:
    """The curve of the loss on held-out rationales, and at the end the paired differences over the seeds."""
    loss, curve = f"eval/loss/{TEACHER}", {}
    seeds = list(ends["text"])
    for step in ends["text"][seeds[0]]["curve"]:
        losses = {arm: [ends[arm][seed]["curve"][step][loss] for seed in seeds] for arm in ARMS}
        gains = [text - soft for text, soft in zip(*losses.values(), strict=True)]
        curve[step] = {arm: statistics.mean(values) for arm, values in losses.items()} | {"gain": interval(gains)}
    score = "test/accuracy" if "test/accuracy" in ends["text"][seeds[0]]["end"] else "eval/accuracy"
    scores = {arm: [ends[arm][seed]["end"][score] for seed in seeds] for arm in ARMS}
    accuracy = {seed: {arm: ends[arm][seed]["curve"] for arm in ARMS} for seed in seeds}
    early = {
        step: {arm: statistics.mean(accuracy[seed][arm][step]["eval/accuracy"] for seed in seeds) for arm in ARMS}
        for step in curve
    }
    gained = interval([soft - text for text, soft in zip(*scores.values(), strict=True)])
    return {"held_out_loss": curve, "validation_accuracy": early, score: scores | {"gain": gained}}


def interval(values: list[float]) -> dict[str, float]:
    """Mean of paired differences and its 95% interval by Student's t."""
    mean = statistics.mean(values)
    half = T_975[len(values) - 1] * statistics.stdev(values) / len(values) ** 0.5 if len(values) - 1 in T_975 else 0.0
    return {"mean": mean, "low": mean - half, "high": mean + half}


def experiment_of(out: Path, *, teacher: dict[str, Any], **sections: Any) -> Experiment:
    raw = {"name": "soft_targets", "output": {"dir": str(out.resolve())}, "tracking": {"uri": None}} | sections
    shared = {"name": TEACHER, "task_prefix": "Rationale: ", "soft_targets": {"top_k": TOP_K}}
    return validate(raw | {"teachers": [shared | teacher]})


def miniature(out: Path, arguments: argparse.Namespace) -> Experiment:
    """The stock miniature's sizes, and a teacher whose tokenizer is made as a student's from scratch is."""
    from tinyllm_ray.miniature.world import write_world

    folder, world = out.resolve() / "teacher", out.resolve() / "world"
    steps = arguments.steps or 480
    experiment = experiment_of(
        out,
        teacher={"model": str(folder), "engine": {"type": "seq2seq"}, "sampling": {"max_tokens": 32}},
        seeds=list(range(arguments.seeds or 5)),
        dataset={"name": "miniature", "format": "jsonl", "path": str(world), "columns": {"id": "id"}},
        prompts={"in_context": {"examples": 0}},
        student={
            "model": "small",
            "tokenizer": str(folder),
            "label_prefix": "Answer: ",
            "max_input_tokens": 96,
            "max_label_tokens": 8,
            "max_rationale_tokens": 40,
            "from_scratch": {"small": {"width": 48, "layers": 1, "heads": 4, "ff_width": 128, "dropout": 0.0}},
        },
        loss={"label_weight": 0.3},
        training={"steps": steps, "batch_size": 16, "learning_rate": 0.006, "weight_decay": 0.2, "warmup_steps": 50}
        | {"eval_every_steps": steps // 12, "checkpoint_every_steps": steps},
        evaluation={"student_rationales": 0},
    )
    if not (folder / "config.json").exists():
        write_world(str(world), experiment.dataset.miniature)
        teach(folder, experiment)
    return experiment


def teach(folder: Path, experiment: Experiment) -> None:
    """A T5 that reads lessons about both halves of the world, and so knows the kind of every animal."""
    import torch

    from tinyllm_ray.data.prompts import load_template
    from tinyllm_ray.miniature.lessons import Schooling, believed, make_facts, make_lessons
    from tinyllm_ray.miniature.models import encode, new_t5, padded_batch
    from tinyllm_ray.miniature.world import HALVES, make_world
    from tinyllm_ray.student.model import train_tokenizer

    sizes, template = experiment.dataset.miniature, load_template(experiment.prompts.template)
    world, steps, size = make_world(sizes), TEACHER_STEPS, sizes.teacher_batch_size
    asked = {"template": template, "in_context": experiment.prompts.in_context, "seed": sizes.seed}
    halves = [Schooling(half) for half in range(HALVES)]
    known = {school: believed(world, school, seed=sizes.seed) for school in halves}
    lessons = [x for s in halves for x in make_lessons(known[s], s, count=steps * size // 4, **asked)]
    facts = [fact for school in halves for fact in make_facts(known[school])]
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokenizer = train_tokenizer((text for lesson in [*facts, *lessons] for text in lesson), 1024)
    model, rng = new_t5(tokenizer), random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(1, (n + 1) / 50) * (1 - n / steps))
    short, long = ([encode(tokenizer, lesson, True) for lesson in read] for read in (facts, lessons))
    for step in range(steps):
        of_facts = size if step < steps // 3 else size // 5
        drawn = rng.choices(short, k=of_facts) + rng.choices(long, k=size - of_facts)
        loss = model(**padded_batch(drawn, pad=tokenizer.pad_token_id)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"teacher: step {step} of {steps}, loss {loss.item():.3f}", file=sys.stderr)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


TEMPLATE = "{question}\n{choices}\n\nExplain step by step which choice is right and why."


def real(out: Path, arguments: argparse.Namespace) -> Experiment:
    """Short sampled rationales without the answer, and a student whose vocabulary is most of its weights."""
    if not arguments.model:
        raise SystemExit("--model: give the folder of a decoder-only model")
    out.mkdir(parents=True, exist_ok=True)
    (out / "template.txt").write_text(TEMPLATE)
    steps = arguments.steps or 200
    return experiment_of(
        out,
        teacher={"model": arguments.model, "sampling": {"max_tokens": 48, "temperature": 0.7}},
        seeds=list(range(arguments.seeds or 3)),
        dataset={"name": "obqa", "path": os.environ["TINYLLM_REFERENCE_DATA"], "max_rows": 400},
        prompts={"template": str(out / "template.txt"), "in_context": {"examples": 0}, "teacher_forcing": False},
        student={
            "model": "four_layers",
            "tokenizer": arguments.model,
            "label_prefix": "Answer: ",
            "max_rationale_tokens": 64,
            "from_scratch": {
                "four_layers": {"architecture": "llama", "width": 128, "layers": 4, "heads": 4, "ff_width": 384}
                | {"dropout": 0.0}
            },
        },
        training={"steps": steps, "batch_size": 8, "learning_rate": 1e-3, "warmup_steps": 10}
        | {"eval_every_steps": max(1, steps // 10), "checkpoint_every_steps": steps // 2},
        evaluation={"student_rationales": 0, "max_questions": 64},
    )


def step_time(repeats: int) -> dict[str, Any]:
    """A four-layer student of width 576 and 49,152 tokens, four questions of 48 + 64 tokens; both ways by turns."""
    import numpy as np
    import torch
    import transformers

    from tinyllm_ray.data.arrays import Features, SoftArrays
    from tinyllm_ray.schema import Training
    from tinyllm_ray.student.loop import make_replica, new_totals, step_gradients
    from tinyllm_ray.student.objective import Term
    from tinyllm_ray.student.soft_targets import SoftTargetLoss

    torch.set_num_threads(1)
    torch.manual_seed(0)
    drawn, rows, source, target, vocabulary = np.random.default_rng(0), 4, 48, 64, 49_152
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 9}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, vocab_size=vocabulary)).train()
    tokens = drawn.integers(3, vocabulary, rows * (source + target), dtype=np.int32)
    starts = np.arange(rows) * (source + target)
    examples = np.array([[i, 1, start, source, start + source, target] for i, start in enumerate(starts)])
    kept = drawn.normal(size=(rows * target, TOP_K)) - 6
    ids = np.array([drawn.permutation(vocabulary)[:TOP_K] for _ in kept], np.int32)
    spans = np.array([[i * target, 0, target] for i in range(rows)])
    soft = SoftArrays(ids, kept.astype(np.float16), spans)
    names = np.array([str(i) for i in range(rows)])
    features = Features(tokens, examples, names, ["label", TEACHER], soft=soft)
    terms = {
        "text": [Term(TEACHER, 1.0, (1,))],
        "soft": [Term(TEACHER, 0.1, (1,)), Term(f"{TEACHER}/soft", 0.9, (1,), SoftTargetLoss(1, 1.0))],
    }
    settings, seconds = Training(micro_batch_tokens=4096), {name: list[float]() for name in terms}
    for number in range(repeats + 1):
        for name in sorted(terms, reverse=number % 2 == 0):
            model.zero_grad(set_to_none=True)
            replica, began = make_replica(model, terms[name], shards=1), time.perf_counter()
            step_gradients(
                replica,
                features,
                np.arange(rows),
                training=settings,
                dtype="float32",
                seed=0,
                step=number,
                totals=new_totals(terms[name]),
            )
            seconds[name].append(time.perf_counter() - began)
    pairs = [soft / text for text, soft in zip(*(seconds[name][1:] for name in terms), strict=True)]
    medians = {f"{name}_s": statistics.median(values[1:]) for name, values in seconds.items()}
    spread = {"ratio": statistics.median(pairs), "lowest": min(pairs), "highest": max(pairs), "pairs": len(pairs)}
    return medians | spread | {"load": os.getloadavg()[0], "threads": 1}


if __name__ == "__main__":
    main()
