"""How fast the teachers are, as ratios of two ways that take turns in one run.

    python experiments/benchmarks/teacher_throughput.py  # one_core and one_engine
    python experiments/benchmarks/teacher_throughput.py --parts job prefix
    python experiments/benchmarks/teacher_throughput.py --parts transformers
    python experiments/benchmarks/teacher_throughput.py --parts seq2seq --repeats 2
    python experiments/benchmarks/teacher_throughput.py --parts seq2seq_many
    python experiments/benchmarks/teacher_throughput.py --parts steady

Each of these commands is planned to take less than ten minutes on two quiet cores. Every way runs in a process of its
own. The engines of a ratio's two ways have as many threads, save in `steady`, where ours is an engine on each core. The
teachers have random weights, made here: what is measured is the machinery. Prompts are those of OpenBookQA where the
reference data is (TINYLLM_REFERENCE_DATA), else generated.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import measuring

CORES = os.cpu_count() or 1
PARTS = {  # part -> its rows for each of --rows, and its ways
    "one_core": (1 / 8, ("raw_vllm_one_core", "ours_one_core")),
    "one_engine": (1 / 4, ("raw_vllm", "ours_one_engine")),
    "steady": (1 / 4, ("raw_vllm", "ours")),
    "job": (1, ("ours_job", "ray_data_llm")),
    "prefix": (1 / 8, ("prefix",)),
    "transformers": (1 / 8, ("vllm_natural", "transformers")),
    "seq2seq": (1 / 16, ("seq2seq",)),
    "seq2seq_many": (1, ("seq2seq_many",)),
}
DEFAULT = ("one_core", "one_engine")
IN_TURN = ("one_core", "one_engine", "steady", "job")
ONE_CORE = ("raw_vllm_one_core", "ours_one_core", "prefix")
KINDS = (("", ""), ("spread_", "_spread"), ("long_", "_long"), ("forced_", "_forced"))  # of encoder-decoders
STEADY = "steady_tokens_per_second"
# part -> figure -> way and name of what is above the line of the ratio, and of what is below it
RATIOS = {
    "one_core": {"steady_vs_raw_one_core": (("ours_one_core", STEADY), ("raw_vllm_one_core", STEADY))},
    "one_engine": {"steady_vs_raw_one_engine": (("ours_one_engine", STEADY), ("raw_vllm", STEADY))},
    "steady": {"steady_vs_raw": (("ours", STEADY), ("raw_vllm", STEADY))},
    "job": {"job_vs_ray_data_llm": (("ours_job", "job_s"), ("ray_data_llm", "job_s"))},
    "transformers": {"vs_transformers": (("vllm_natural", "tokens_per_second"), ("transformers", "tokens_per_second"))},
    "prefix": {
        f"prefix_speedup{suffix}": (
            ("prefix", f"{kind}pool_prompts_per_second"),
            ("prefix", f"{kind}drawn_prompts_per_second"),
        )
        for kind, suffix in (("", ""), ("long_", "_long"))
    },
    "seq2seq": {
        f"seq2seq_vs_fixed{suffix}": (
            ("seq2seq", f"{kind}ours_rows_per_second"),
            ("seq2seq", f"{kind}fixed_rows_per_second"),
        )
        for kind, suffix in KINDS
    },
    "seq2seq_many": {
        "seq2seq_vs_fixed_many": (("seq2seq_many", "ours_rows_per_second"), ("seq2seq_many", "fixed_rows_per_second"))
    },
}


def main() -> None:
    parser = measuring.make_parser(__doc__)
    parser.add_argument(
        "--rows",
        type=int,
        default=2048,
        help="of a whole job; a quarter on one engine, an eighth on one core and with example sets or stopping texts, "
        "a 16th for encoder-decoders, all of them for seq2seq_many",
    )
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    parts = {name: functools.partial(measure_part, name, arguments) for name in PARTS}
    sys.exit(measuring.measure(parts, arguments, default=DEFAULT))


def measure_part(part: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The ways of a whole job take turns, so that a slow spell of the machine meets both; the others' repeats follow
    each other in one process."""
    share, ways = PARTS[part]
    rows, once = max(1, int(share * arguments.rows)), [(way, arguments.repeats) for way in ways]
    turns = [(way, 1) for _ in range(arguments.repeats) for way in ways] if part in IN_TURN else once
    found: dict[str, dict[str, Any]] = {way: {} for way in ways}
    with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
        _run("models", folder, rows, 1)
        for way, repeats in turns:
            for name, value in _run(way, folder, rows, repeats).items():
                known = found[way].get(name, [])
                found[way][name] = [*known, *value] if isinstance(value, list) else value
    return {"figures": figures(part, found), "rows": rows, "by_way": found}


def _run(way: str, folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """One way in its own process; what it measured is the last line that it prints."""
    script = Path(__file__).with_name("teacher_ways.py")
    command = [sys.executable, str(script), way, folder, str(rows), str(repeats)]
    threads = 1 if way in ONE_CORE else CORES
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    if done.returncode:
        raise RuntimeError(f"{way} ended with exit code {done.returncode}; what it said stands above")
    return json.loads(done.stdout.splitlines()[-1])


def figures(part: str, found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The ratios of a part, one a turn; for shared prefixes also the share of the prompts that was computed, and for
    encoder-decoders the tokens per second as a share of the arithmetic limit."""
    ratios = {
        name: measuring.ratios(found[way][above], found[other][below])
        for name, ((way, above), (other, below)) in RATIOS[part].items()
    }
    shares = {
        "prefix": {"prefill_computed_share": "computed_share"},
        "seq2seq": {f"share_of_limit{suffix}": f"{kind}share_of_limit" for kind, suffix in KINDS},
        "seq2seq_many": {"share_of_limit_many": "share_of_limit"},
    }.get(part, {})
    return ratios | {name: measuring.figure(found[part][key]) for name, key in shares.items()}


if __name__ == "__main__":
    main()
