"""One table of all figures with what was aimed at, and a list of commands that give what the targets are about."""

import argparse
import re
from pathlib import Path

import bench
import measuring
import pytest
import teacher_throughput
import teacher_ways
from targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
MACHINE = {"cpu": "a", "cores": 2}


def record(benchmark: str, part: str, **more: object) -> dict:
    return {"benchmark": benchmark, "part": part, "machine": MACHINE, "measured": "2026-01-02 03:04", **more}


def test_the_table_says_what_is_met_missed_failed_and_not_measured() -> None:
    records = [
        record(
            "speed", "short", figures={"ratio": measuring.figure([1.9, 1.8, 2.4]), "rows": measuring.figure([12.0])}
        ),
        record("speed", "long", figures={"ratio": measuring.figure([1.5])}, seconds=61.4),
        record("size", "disk", error="exit code 1: OSError: full"),
    ]
    lines = bench.table(records, {"speed": {"ratio": ">= 1.7"}, "size": {"bytes": "<= 100"}})
    assert [re.split(r"  +", line) for line in lines[:6]] == [
        ["benchmark", "part", "figure", "value", "spread", "n", "target"],
        ["size", "bytes", "<= 100", "not measured"],
        ["size", "disk", "exit code 1: OSError: full", "FAILED"],
        ["speed", "long", "ratio", "1.5", "1", ">= 1.7", "MISSED"],
        ["speed", "short", "ratio", "1.9", "1.8 to 2.4", "3", ">= 1.7", "met"],
        ["speed", "short", "rows", "12", "1"],
    ]
    assert lines[7] == "1 met, 1 MISSED, 1 not measured, 1 FAILED; measured from 2026-01-02 03:04 to 2026-01-02 03:04"
    assert lines[8:] == ["seconds: speed long 61", '{"cpu": "a", "cores": 2}']


@pytest.mark.parametrize(
    ("value", "target", "said"),
    [(0.95, ">= 0.95", "met"), (0.949, ">= 0.95", "MISSED"), (1e-5, "<= 1e-5", "met"), (1, "<= 0", "MISSED")],
)
def test_a_target_is_met_at_its_limit(value: float, target: str, said: str) -> None:
    assert bench.verdict(value, target) == said


def test_the_table_of_no_figures_lists_every_target_as_not_measured(tmp_path: Path) -> None:
    lines = bench.table(bench.read(tmp_path), TARGETS)
    count = sum(map(len, TARGETS.values()))
    assert len(lines) == 1 + count + 3
    assert lines[-2] == f"0 met, 0 MISSED, {count} not measured, 0 FAILED; nothing is measured"


def test_figures_are_read_by_benchmark_and_what_scripts_keep_beside_them_is_not(tmp_path: Path) -> None:
    measuring.write(tmp_path / "scale" / "rows_10.json", {"part": "rows_10", "figures": {}})
    measuring.write(tmp_path / "search_cost" / "searches" / "search-0.json", {"key": {}})
    assert bench.read(tmp_path) == [{"benchmark": "scale", "part": "rows_10", "figures": {}}]


def test_nothing_more_is_run_where_a_script_refuses(tmp_path: Path) -> None:
    arguments = argparse.Namespace(folder=str(tmp_path), busy=True, again=False)
    refused = ["scale", "--parts", "rows_7"]
    assert bench.run([refused, ["no_such_script"]], arguments) == 2
    assert bench.run([["no_such_script"], refused], arguments) == 2, "a script that cannot be started stops it too"


def test_every_benchmark_with_targets_is_run() -> None:
    assert set(TARGETS) <= {script for script, *_ in bench.COMMANDS}
    given = {name for ratios in teacher_throughput.RATIOS.values() for name in ratios} | {"prefill_computed_share"}
    assert set(TARGETS["teacher_throughput"]) <= given
    named = {part for script, *more in bench.COMMANDS if script == "teacher_throughput" for part in more[1:]}
    assert {*named, *teacher_throughput.DEFAULT} >= set(teacher_throughput.PARTS) - {"steady"}
    assert {way for _, ways in teacher_throughput.PARTS.values() for way in ways} <= set(teacher_ways.WAYS)


def test_the_pages_name_the_same_targets() -> None:
    """Rows such as `| figure: what it is | measured | 0.95, missed |`."""
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    wanted = {name: target for figures in TARGETS.values() for name, target in figures.items()}
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    named = {match[1]: row[-1] for row in cells if (match := re.match(r"`(\w+)`", row[0])) and len(row) == 3}
    both = {name: cell.partition(",")[0] for name, cell in named.items() if name in wanted}
    assert len(both) > 15
    for name, cell in both.items():
        limit = float(cell.rstrip("%")) / (100 if cell.endswith("%") else 1)
        assert limit == pytest.approx(float(wanted[name].split()[1])), name


@pytest.mark.parametrize(
    ("part", "found", "figures"),
    [
        (
            "one_core",
            {
                "ours_one_core": {"steady_tokens_per_second": [11.0, 9.0]},
                "raw_vllm_one_core": {"steady_tokens_per_second": [10.0, 10.0]},
            },
            {"steady_vs_raw_one_core": {"value": 1.0, "spread": [0.9, 1.1], "n": 2}},
        ),
        (
            "job",
            {"ours_job": {"job_s": [30.0]}, "ray_data_llm": {"job_s": [60.0]}},
            {"job_vs_ray_data_llm": {"value": 0.5, "spread": [0.5, 0.5], "n": 1}},
        ),
    ],
)
def test_a_ratio_of_teachers_is_taken_within_each_turn(part: str, found: dict, figures: dict) -> None:
    assert teacher_throughput.figures(part, found) == figures
