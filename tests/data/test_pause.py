"""The gate before a teacher's prompt files."""

import threading
import time
from pathlib import Path

from tinyllm_ray.data.pause import pause, resume, wait_while_paused


def test_a_file_of_a_paused_folder_waits_until_it_is_resumed(tmp_path: Path) -> None:
    pause(str(tmp_path))
    passed = threading.Event()

    def read() -> None:
        wait_while_paused(f"{tmp_path}/000.parquet")
        passed.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert not passed.wait(1.0)
    resume(str(tmp_path))
    assert passed.wait(5.0)
    reader.join()


def test_a_folder_that_was_never_paused_does_not_wait(tmp_path: Path) -> None:
    began = time.monotonic()
    wait_while_paused(f"{tmp_path}/000.parquet")
    resume(str(tmp_path))
    assert time.monotonic() - began < 0.5
