"""All benchmarks one after the other, and one table of their figures with what was aimed at.

    python experiments/benchmarks/bench.py          # or: make bench
    python experiments/benchmarks/bench.py --table  # of what is known, without measuring

Each command of COMMANDS takes less than ten minutes on two quiet cores. What is known is not measured again, so a bench
that was stopped goes on where it was.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import measuring
from targets import TARGETS

COMMANDS = [
    ["teacher_throughput"],
    ["teacher_throughput", "--parts", "job", "prefix"],
    ["teacher_throughput", "--parts", "transformers"],
    ["teacher_throughput", "--parts", "seq2seq", "--repeats", "2"],
    ["teacher_throughput", "--parts", "seq2seq_many"],
    ["student_step"],
    ["student_step", "--parts", "wrapper", "features"],
    ["ranks"],
    ["search_cost"],
    ["scale"],
    ["serve"],
    ["export"],
]
WIDEST = 80  # of an error; the whole one is in its file
HEADS = ("benchmark", "part", "figure", "value", "spread", "n", "target", "")
Row = tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--busy", action="store_true", help="measure although other processes use the machine")
    parser.add_argument("--again", action="store_true", help="measure what is known already")
    parser.add_argument("--folder", default=measuring.FOLDER, help="of the figures")
    arguments = parser.parse_args()
    code = 0 if arguments.table else run(COMMANDS, arguments)
    print("\n".join(table(read(Path(arguments.folder)), TARGETS)))
    sys.exit(code)


def run(commands: Sequence[Sequence[str]], arguments: argparse.Namespace) -> int:
    """1 where a part failed; 2, and nothing more is run, where a script did not measure."""
    given = ["--folder", arguments.folder, *(f"--{name}" for name in ("busy", "again") if getattr(arguments, name))]
    worst = 0
    for script, *more in commands:
        file = Path(__file__).with_name(f"{script}.py")
        code = subprocess.run([sys.executable, str(file), *more, *given], stdout=subprocess.DEVNULL).returncode
        worst = max(worst, code)
        if code == 2:
            break
    return worst


def read(folder: Path) -> list[dict[str, Any]]:
    """The records of all parts, each with the benchmark that it is of."""
    files = sorted(folder.glob("*/*.json"))
    return [{"benchmark": file.parent.name, **json.loads(file.read_text(encoding="utf-8"))} for file in files]


def table(records: Sequence[Mapping[str, Any]], targets: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Lines: a row for each figure, each part that failed and each target that nothing was measured for."""
    found = sorted([*measured(records, targets), *unknown(records, targets)])
    widths = [max(map(len, column)) for column in zip(HEADS, *found, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [HEADS, *found]
    ]
    verdicts = [row[-1] for row in found]
    summary = ", ".join(f"{verdicts.count(each)} {each}" for each in ("met", "MISSED", "not measured", "FAILED"))
    made = sorted(record["measured"] for record in records)
    when = f"measured from {made[0]} to {made[-1]}" if made else "nothing is measured"
    spent = [
        f"{record['benchmark']} {record['part']} {record['seconds']:.0f}" for record in records if "seconds" in record
    ]
    machines = {json.dumps(record["machine"]) for record in records}
    return [*lines, "", f"{summary}; {when}", f"seconds: {', '.join(spent)}", *sorted(machines)]


def measured(records: Sequence[Mapping[str, Any]], targets: Mapping[str, Mapping[str, str]]) -> Iterator[Row]:
    for record in records:
        where = record["benchmark"], record["part"]
        if "error" in record:
            yield *where, record["error"][:WIDEST], "", "", "", "", "FAILED"
        for name, figure in record.get("figures", {}).items():
            target = targets.get(record["benchmark"], {}).get(name, "")
            spread = measuring.spread(figure) if figure["n"] > 1 else ""
            cells = measuring.number(figure["value"]), spread, str(figure["n"])
            yield *where, name, *cells, target, verdict(figure["value"], target) if target else ""


def unknown(records: Sequence[Mapping[str, Any]], targets: Mapping[str, Mapping[str, str]]) -> Iterator[Row]:
    """Targets whose figure is in no record."""
    known = {(record["benchmark"], name) for record in records for name in record.get("figures", {})}
    for benchmark, wanted in targets.items():
        for name, target in wanted.items():
            if (benchmark, name) not in known:
                yield benchmark, "", name, "", "", "", target, "not measured"


def verdict(value: float, target: str) -> str:
    """`target` is `>= NUMBER` or `<= NUMBER`."""
    sign, limit = target.split()
    return "met" if (value >= float(limit) if sign == ">=" else value <= float(limit)) else "MISSED"


if __name__ == "__main__":
    main()
