"""What the in-context examples do to a teacher's rationales: how many have no flag, and what the stops saved.

    python experiments/benchmarks/in_context.py --json
    python experiments/benchmarks/in_context.py dataset.max_rows=8 output.dir=outputs/short
    python experiments/benchmarks/in_context.py --experiment MINE.yaml teachers.NAME.sampling.max_tokens=96

The experiment's teachers write rationales for its training questions three times: without examples, with examples that
show an answer alone, and with examples whose rationales the teacher has written itself. Stores of an earlier run count,
so nothing is written twice.
"""

import argparse
import json
import os
from typing import Any

WAYS = {
    "none": ["prompts.in_context.examples=0", "prompts.in_context.rationales=none"],
    "plain": ["prompts.in_context.rationales=none"],
    "bootstrap": ["prompts.in_context.rationales=bootstrap"],
}
SHOWN = ("short", "cut_off", "looping", "answer_contradicted", "answer_leaked", "new_question")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="over the experiment's keys")
    parser.add_argument("--experiment", default="experiments/smollm2.yaml")
    parser.add_argument("--way", action="append", choices=WAYS, help="one of the three, may be repeated; else all")
    parser.add_argument("--json", action="store_true", help="only the result, as the last line")
    arguments = parser.parse_args()
    measured = {way: measure(arguments.experiment, [*arguments.overrides, *WAYS[way]]) for way in arguments.way or WAYS}
    if not arguments.json:
        for way, teachers in measured.items():
            for name, row in teachers.items():
                print(f"{way:>10} {name}: {row['clean_share']:.2f} of {row['rows']} clean, {row['saved_tokens']} saved")
    print(json.dumps({"machine": {"cpus": os.cpu_count()}, "experiment": arguments.experiment, "ways": measured}))


def measure(experiment: str, overrides: list[str]) -> dict[str, dict[str, Any]]:
    """Teacher -> its figures in one way."""
    from tinyllm_ray import stages
    from tinyllm_ray.config import load_experiment
    from tinyllm_ray.session import Session

    with Session(load_experiment(experiment, overrides), say=lambda line: None) as session:
        stores = {name: report["store"] for name, report in stages.generate(session).items()}
        return {
            name: _figures(folder, max_tokens=session.experiment.teacher(name).sampling.max_tokens)
            | _tokens(folder, output_dir=session.dir)
            for name, folder in stores.items()
        }


def _figures(folder: str, *, max_tokens: int) -> dict[str, Any]:
    """Of a store's training rows; shares are of those that have a text."""
    from tinyllm_ray.data import store
    from tinyllm_ray.data.quality import statistics

    rows = store.read(folder, "train", failures=True).to_pylist()
    counted = statistics(rows)
    ends = [row["finish_reason"] for row in rows]
    loops = [row for row in rows if row["finish_reason"] == "repetition"]
    return {
        **{name: counted[name] for name in ("rows", "failed", "clean_share", "words_median", "output_tokens_mean")},
        "flag_share": {name: counted["flag_share"][name] for name in SHOWN},
        "finish_reasons": {reason: ends.count(reason) for reason in sorted(set(ends))},
        "allowed_tokens": max_tokens * counted["rows"],
        "saved_at_loops": sum(max_tokens - row["output_tokens"] for row in loops),
    }


def _tokens(folder: str, *, output_dir: str) -> dict[str, Any]:
    """Over all runs that wrote to the store: tokens that stop texts and ended loops left unwritten, and seconds."""
    from tinyllm_ray import storage

    runs = [storage.read_json(uri) for uri in storage.list_files(storage.join(output_dir, "generation"), ".json")]
    reports = [report for run in runs for report in run.values() if report["store"] == folder]
    return {name: sum(report[name] for report in reports) for name in ("saved_tokens", "wall_s")}


if __name__ == "__main__":
    main()
