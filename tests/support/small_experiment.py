"""A whole experiment that runs in seconds: word questions, one tiny encoder-decoder teacher, a student made here."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from support.tiny_teachers import questions, save_t5

COMMAND = str(Path(sys.executable).parent / "tinyllm-ray")
SIZES = {"train": 96, "validation": 16, "test": 16}
PATIENCE_S = 900.0  # a bound that only what hangs can reach: many times what the longest wait takes on busy cores

STARTED: list[subprocess.Popen] = []  # every command of this process


def write_experiment(folder: Path, *, sizes: dict[str, int] | None = None, **sections: Any) -> Path:
    """The file of an experiment whose data, teacher and output lie in `folder`; `sections` are merged over it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = iter(questions(sum((sizes or SIZES).values())))
    for split, count in (sizes or SIZES).items():
        lines = [json.dumps(asdict(next(rows))) for _ in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    raw: dict[str, Any] = {
        "name": "small",
        "dataset": {"name": "words", "format": "jsonl", "path": str(folder), "columns": {"id": "question_id"}},
        "prompts": {"in_context": {"examples": 1}},
        "teachers": [
            {
                "name": "one",
                "model": save_t5(folder / "teacher"),
                "engine": {"type": "seq2seq"},
                "sampling": {"max_tokens": 12},
                "batch_size": 8,
                "max_failed_fraction": 1.0,
            }
        ],
        "student": {
            "model": "tiny",
            "from_scratch": {"tiny": {"width": 32, "ff_width": 64, "vocabulary_size": 300, "dropout": 0.0}},
            "max_input_tokens": 128,
        },
        "loss": {"rationale_weights": {"one": 0.5}},
        "training": {
            "steps": 20,
            "batch_size": 8,
            "learning_rate": 1.0e-3,
            "eval_every_steps": 10,
            "checkpoint_every_steps": 5,
            "log_every_steps": 1,
        },
        "evaluation": {"student_rationales": 0},
        "output": {"dir": str(folder / "out")},
    }
    for name, values in sections.items():
        raw[name] = {**raw[name], **values} if isinstance(values, dict) and name in raw else values
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@dataclass
class Running:
    """A command under way: its process, and the file in which its stderr can be read at any time."""

    process: subprocess.Popen
    log: Path

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")


def start(command: str, experiment: Path, *overrides: str, env: dict[str, str] | None = None) -> Running:
    """The command as a user's shell would run it, in a process group of its own."""
    descriptor, log = tempfile.mkstemp(prefix=f"{command}-", suffix=".log", dir=experiment.parent)
    with os.fdopen(descriptor, "w") as stderr:
        process = subprocess.Popen(
            [COMMAND, command, str(experiment), *overrides, "--json"],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=experiment.parent,
            start_new_session=True,
            env={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(os.environ if env is None else env)},
        )
    STARTED.append(process)
    return Running(process, Path(log))


def finish(running: Running) -> dict[str, Any]:
    """The JSON object on its stdout; fails with all that it said where it ended badly."""
    stdout, _ = running.process.communicate(timeout=PATIENCE_S)
    assert running.process.returncode == 0, running.said()
    return json.loads(stdout)


def run(command: str, experiment: Path, *overrides: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    return finish(start(command, experiment, *overrides, env=env))


def wait_until(condition: Callable[[], object], *, running: Running | None = None) -> float:
    """Seconds until the condition held; fails where it does not come, or where what should bring it about ends."""
    began = time.monotonic()
    while not condition():
        said = running.said() if running else ""
        assert running is None or running.process.poll() is None or condition(), said
        assert time.monotonic() - began < PATIENCE_S, f"it did not come about in {PATIENCE_S} s: {said}"
        time.sleep(0.1)
    return time.monotonic() - began


def processes_of(pid: int, name: str) -> list[psutil.Process]:
    """What the process and its children started, where the command line holds the name."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [process] if name in " ".join(process.cmdline()) else []
    return found


def kill_driver(process: subprocess.Popen) -> None:
    """The driver only; whatever it started must go by itself. Ray's agents first look for their head for a minute."""
    started = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    process.wait()
    wait_until(lambda: not _working(started))


def _working(processes: list[psutil.Process]) -> list[str]:
    """Names of those that still run, Ray's agents apart."""
    names = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):  # a zombie has no command line
            name = process.cmdline()[0]
            names += [] if name.endswith("Agent") else [name]
    return names
