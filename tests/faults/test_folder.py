"""What may befall an output folder: a second command in it at the same time."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.fake_endpoint import Reply, chat, server
from support.small_experiment import PATIENCE_S, finish, start, wait_until, write_experiment

from tinyllm_ray.data import store

pytestmark = [pytest.mark.engine, pytest.mark.faults]


def test_a_second_command_in_an_output_folder_is_refused_and_the_first_loses_nothing(
    tmp_path: Path, record_fault: Callable
) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def answer(number: int, request: dict) -> Reply:
        asked.set()
        go_on.wait()
        return chat("It is so. Thus, the answer is (a).")

    with server(answer) as (url, _):
        teacher = {"name": "one", "model": "m", "engine": {"type": "endpoint", "url": url, "timeout_s": PATIENCE_S}}
        path = write_experiment(tmp_path, teachers=[teacher], prompts={"chat_template": "always"})
        first = start("generate", path)
        wait_until(asked.is_set, running=first)  # it is in the middle, and stays there until the second has ended
        began = time.monotonic()
        second = start("generate", path)
        stdout, _ = second.process.communicate(timeout=PATIENCE_S)
        seconds = time.monotonic() - began
        go_on.set()
        assert second.process.returncode == 2, second.said()
        for words in ("is in use by `generate` on host", f"Stop it with: kill {first.process.pid}"):
            assert words in json.loads(stdout)["error"], stdout
        report = finish(first)["teachers"]["one"]
    (folder,) = {str(part.parents[1]) for part in tmp_path.glob("out/stores/**/*.parquet")}
    kept = {split: store.read(folder, split, ["key"])["key"].to_pylist() for split in ("train", "validation")}
    lost = report["wanted"] - sum(len(set(keys)) for keys in kept.values())
    twice = sum(store.count_twice(folder, split) for split in kept)
    assert (lost, twice) == (0, 0)
    record_fault("second command in an output folder", rows_lost=lost, rows_twice=twice, seconds=seconds)
