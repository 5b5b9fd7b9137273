"""Stdout holds the result of a command alone, whatever else prints into it."""

import json
import subprocess
import sys

NOISE = """
import atexit, os, subprocess, sys
from tinyllm_ray.terminal.output import Output, send_chatter_to
output = Output()
output.claim_stdout(as_json=sys.argv[1] == "json")
print("python")
os.write(1, b"native\\n")
subprocess.run(["echo", "child"])
if len(sys.argv) > 2:
    from pathlib import Path
    send_chatter_to(Path(sys.argv[2]))
    print("python, later")
    os.write(1, b"native, later\\n")
    subprocess.run(["echo", "child, later"])
output.write_result('{"a": 1}')
output.write_error("too late to be the result")
atexit.register(os.write, 1, b"at the exit\\n")
"""


def noisy(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", NOISE, *arguments], capture_output=True, text=True, check=True)


def test_with_json_stdout_is_one_object_and_stderr_has_the_rest() -> None:
    done = noisy("json")
    assert json.loads(done.stdout) == {"a": 1}
    assert done.stderr.split() == ["python", "native", "child", "at", "the", "exit"]


def test_without_json_only_the_commands_own_prints_are_on_stdout() -> None:
    done = noisy("text")
    assert done.stdout.splitlines() == ["python", '{"a": 1}']
    assert done.stderr.splitlines() == ["native", "child", "at the exit"]


def test_chatter_goes_to_the_log_and_what_the_command_says_to_stderr(tmp_path) -> None:
    done = noisy("json", str(tmp_path / "logs" / "engines.log"))
    assert json.loads(done.stdout) == {"a": 1}
    assert done.stderr.splitlines() == ["python", "native", "child", "python, later"]
    log = (tmp_path / "logs" / "engines.log").read_text()
    assert log.splitlines() == ["native, later", "child, later", "at the exit"]
