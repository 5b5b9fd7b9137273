"""Plain lines and bars of long steps, on a stream of the test and on a real terminal."""

import os
import pty
import re
import subprocess
import sys
import time

import pytest

from tinyllm_ray.terminal import progress


class Said:
    """The lines that went to stderr so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys, self._text = capsys, ""

    def lines(self) -> list[str]:
        self._text += self._capsys.readouterr().err
        return self._text.splitlines()

    def wait_for(self, count: int) -> list[str]:
        deadline = time.monotonic() + 300
        while len(self.lines()) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.lines()


@pytest.fixture
def said(monkeypatch, capsys) -> Said:
    """Lines are allowed every 0.2 s and due after 0.6 s."""
    monkeypatch.setattr(progress, "QUIET_S", 0.2)
    monkeypatch.setattr(progress, "SILENT_S", 0.6)
    monkeypatch.setattr(progress, "SHORT_S", 0.1)
    monkeypatch.setattr(progress, "TICK_S", 0.05)
    return Said(capsys)


def test_a_step_says_what_how_much_and_the_latest_figures(said):
    with progress.step("training", total=1200, unit="steps") as bar:
        bar.set(400, note="loss 0.812, best accuracy 0.43")
        (line,) = said.wait_for(1)
    figures = r"400/1,200 steps, [\d,.]+ steps/s, \d\d:\d\d left, loss 0.812, best accuracy 0.43"
    assert re.fullmatch(f"training: {figures}", line)


def test_the_first_rows_after_a_long_start_do_not_promise_an_early_end(said):
    """16 of 112 rows after 0.5 s are at most 32 a second, though all of them came at once."""
    with progress.step("teacher", total=112, unit="rows") as bar:
        time.sleep(0.5)
        for _ in range(2):
            bar.advance(8)
        line = next(line for line in said.wait_for(2) if "16/112" in line)
    rate = re.search(r"16/112 rows, ([\d.]+) rows/s", line)
    assert rate is not None and 0 < float(rate[1]) <= 32


def test_a_finished_step_says_the_time_it_took(said):
    with progress.step("features", total=3, unit="rows") as bar:
        bar.advance(3)
    assert re.fullmatch(r"features: 3/3 rows, [\d,.]+ rows/s, done in \d\d:\d\d", said.lines()[-1])


def test_what_was_found_counts_as_done_but_not_in_the_rate(said):
    with progress.step("predict", total=300, unit="questions", found=300):
        pass
    assert said.lines()[0] == "predict: 300 of 300 questions found"
    assert "questions/s" not in said.lines()[1]


def test_a_step_without_news_still_says_that_it_goes_on(said):
    with progress.step("engine north"):
        lines = said.wait_for(3)
    assert all(re.fullmatch(r"engine north: \d\d:\d\d so far", line) for line in lines[:3])


def test_news_are_said_at_most_as_often_as_allowed(said):
    began = time.monotonic()
    with progress.step("rows", total=1000) as bar:
        while time.monotonic() - began < 1.0:
            bar.advance()
            time.sleep(0.005)
        took = time.monotonic() - began
    assert len(said.lines()) <= 2 + took / progress.QUIET_S  # the first, the last, and one each 0.2 s


def test_a_step_that_was_stopped_says_so(said):
    with pytest.raises(KeyError), progress.step("teachers", total=10):
        raise KeyError
    assert "stopped in" in said.lines()[-1]


def test_what_is_over_at_once_and_counts_nothing_says_nothing(said):
    with progress.step("reading"):
        pass
    assert said.lines() == []


PROGRAM = """
import time
from tinyllm_ray.terminal import progress
with progress.step("training", total=4, unit="steps") as outer:
    for number in range(4):
        outer.advance(note=f"loss {1 / (number + 1):.2f}")
        with progress.step(f"part {number}"):
            time.sleep(0.3)
    progress.say("a line between")
"""


def test_a_terminal_gets_live_bars_and_their_last_state_stays():
    reader, writer = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "110"}
    done = subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=writer, stdout=subprocess.DEVNULL, env=environment)
    os.close(writer)
    shown = b""
    while True:
        try:
            chunk = os.read(reader, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    assert done.wait(300) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "1/4 steps" in text and "a line between" in text
    assert re.search(r"training .*4/4 steps, [\d.]+ steps/s, done in \d\d:\d\d, loss 0.25", text)
