"""What a run says in a log: no silence of more than 30 s, and the figures that people look for."""

import itertools
import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from support.left_files import assert_all_is_there
from support.small_experiment import COMMAND, write_experiment

from tinyllm_ray import storage
from tinyllm_ray.terminal.progress import SILENT_S

pytestmark = pytest.mark.engine
WOKEN_LATE_S = 10  # on busy cores, the thread that says that a step goes on


def run_with_times(path: Path, *overrides: str) -> tuple[list[tuple[float, str]], dict]:
    """The lines on stderr with the seconds since the start, and the result."""
    began, lines = time.monotonic(), []
    process = subprocess.Popen(
        [COMMAND, "run", str(path), *overrides, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=path.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    for line in process.stderr:
        lines.append((time.monotonic() - began, line.rstrip()))
    assert process.wait() == 0, "\n".join(line for _, line in lines)
    return [(0.0, ""), *lines, (time.monotonic() - began, "")], json.loads(process.stdout.read())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[tuple[float, str]], dict]:
    """A run whose output folder is a file:// address: its experiment, that address, what it said and its result."""
    folder = tmp_path_factory.mktemp("finished")
    out = f"file://{folder}/shared/small"
    training = {"steps": 60, "log_every_steps": 1, "eval_every_steps": 20, "keep_checkpoints": True}
    tracking = {"uri": f"sqlite:///{folder}/mlflow.db"}
    path = write_experiment(folder, output={"dir": out}, tracking=tracking, training=training)
    return path, out, *run_with_times(path)


def test_a_run_is_never_silent_for_long(finished):
    _, _, lines, _ = finished
    times = [at for at, _ in lines]
    silences = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(silences) <= SILENT_S + WOKEN_LATE_S, lines
    said = "\n".join(line for _, line in lines)
    assert re.search(r"methods: [\d,]+/120 steps, .*2 trainings, loss \d\.\d{3}, best accuracy \d\.\d{3}", said), said
    assert re.search(r"teacher one: 112/112 rows, .*done in \d\d:\d\d", said), said
    assert said.index("MLflow: sqlite:///") < said.index("teacher one"), "where to look is said before the work begins"
    assert "\x1b" not in said and "━" not in said


def test_what_a_run_leaves_lies_where_its_file_address_says(finished):
    path, out, _, result = finished
    assert result["teacher_rows_generated"] == 112
    models = [name for name in storage.list_files(f"{out}/trials") if name.endswith("/model/model.safetensors")]
    assert len(models) == 2
    for model in models:
        assert_all_is_there(out, model.removesuffix("/model.safetensors"), checkpoints=[55, 60])
    assert not (path.parent / "file:").exists()


def test_a_rerun_says_what_was_found(finished):
    path, _, _, _ = finished
    again, result = run_with_times(path)
    assert result["teacher_rows_generated"] == 0
    assert "finished trainings found" in "\n".join(line for _, line in again)
