"""`python -m tests.faults`: run every test of a fault, print the table, write outputs/faults.json.

Three run side by side, since most of a fault's time passes in waiting: for processes that start, and for what is away.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

COLUMNS = ["fault", "rows_lost", "rows_twice", "metrics_lost", "recovered", "seconds"]
SIDE_BY_SIDE = ["-n", "3", "--dist", "load", "--maxschedchunk", "1"]


class Outcomes:
    """Collects what failed: a fault whose test failed did not recover."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid.rpartition("::")[2])


def main(arguments: list[str]) -> int:
    outcomes = Outcomes()
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder, "figures.jsonl")
        os.environ["TINYLLM_FAULTS"] = str(figures)
        where = arguments or [str(Path(__file__).parent)]
        code = pytest.main(["-m", "faults", "-q", *SIDE_BY_SIDE, *where], plugins=[outcomes])
        rows = [json.loads(line) for line in figures.read_text().splitlines()] if figures.is_file() else []
    failed = dict.fromkeys(outcomes.failed)
    rows = sorted((row for row in rows if row.pop("test") not in failed), key=lambda row: row["fault"])
    rows += [dict.fromkeys(COLUMNS) | {"fault": name.replace("_", " "), "recovered": False} for name in failed]
    target = Path("outputs", "faults.json")
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(rows, indent=2) + "\n")
    print("\n".join(table(rows)), f"\n{target}", sep="")
    return int(code)


def table(rows: list[dict]) -> list[str]:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        cells = ["-" if row[name] is None else str(row[name]) for name in COLUMNS]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
