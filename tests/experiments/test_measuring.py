"""Parts are measured apart, written when they are known, and not measured on a busy machine."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import measuring
import pytest
import quiet

SCRIPT = """
import os, signal, sys
import measuring

def counted(name):
    with open(sys.argv[0] + ".log", "a") as file:
        file.write(name + "\\n")

def good():
    counted("good")
    return {"figures": {"speed": measuring.figure([1.0, 6.0, 2.0])}, "about": "three turns"}

def bad():
    counted("bad")
    raise ValueError("there is no such thing")

def killed():
    counted("killed")
    os.kill(os.getpid(), signal.SIGKILL)

def late():
    counted("late")
    return {"figures": {"size": measuring.figure([4.0])}}

parser = measuring.make_parser("A script of the tests.")
parser.add_argument("--rows", type=int, default=1)
sys.exit(measuring.measure({"good": good, "bad": bad, "killed": killed, "late": late}, parser.parse_args()))
"""


class Script:
    """A benchmark in a folder of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.folder, self._monkeypatch = folder / "speeds.py", folder / "figures", monkeypatch
        self.path.write_text(SCRIPT)
        monkeypatch.setattr(quiet, "SECONDS", 0.5)
        monkeypatch.setenv("PYTHONPATH", str(Path(measuring.__file__).parent))

    def __call__(self, *arguments: str, busy: bool = True) -> int:
        """The exit code; the look at the machine is taken in this process."""
        given = [str(self.path), "--folder", str(self.folder), *arguments, *(["--busy"] if busy else [])]
        self._monkeypatch.setattr(sys, "argv", given)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(self.path), run_name="__main__")
        return int(ended.value.code or 0)

    def record(self, part: str) -> dict:
        return json.loads((self.folder / "speeds" / f"{part}.json").read_text())

    def measured(self) -> list[str]:
        return Path(f"{self.path}.log").read_text().split()


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    return Script(tmp_path, monkeypatch)


@pytest.fixture
def busy_process() -> Iterator[int]:
    """The id of a process that uses a core."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield process.pid
        process.kill()


def test_a_figure_is_the_median_with_its_spread_and_number() -> None:
    assert measuring.figure([3.0, 1.0, 8.0]) == {"value": 3.0, "spread": [1.0, 8.0], "n": 3}
    assert measuring.figure([1.0, 2.0, 6.0], middle=lambda values: sum(values) / 3)["value"] == 3.0
    assert measuring.ratios([2.0, 9.0, 8.0], [1.0, 3.0, 2.0]) == {"value": 3.0, "spread": [2.0, 4.0], "n": 3}


def test_an_error_in_one_part_loses_no_other(script: Script, capsys: pytest.CaptureFixture) -> None:
    assert script("--json") == 1
    good = script.record("good")
    assert good["figures"] == {"speed": {"value": 2.0, "spread": [1.0, 6.0], "n": 3}}
    assert (good["about"], good["key"], good["machine"]) == ("three turns", {"rows": 1}, measuring.machine())
    assert good["versions"]["python"] == sys.version.split()[0] and "torch" in good["versions"]
    assert script.record("bad")["error"] == "exit code 1: ValueError: there is no such thing"
    assert script.record("killed")["error"] == "exit code -9: it said nothing"
    assert script.record("late")["figures"]["size"] == {"value": 4.0, "spread": [4.0, 4.0], "n": 1}
    assert list(json.loads(capsys.readouterr().out.splitlines()[-1])) == ["good", "bad", "killed", "late"]


def test_what_is_known_is_not_measured_again_until_it_is_asked_for(script: Script) -> None:
    script("--parts", "good", "bad")
    script("--parts", "good", "bad", "late")
    assert script.measured() == ["good", "bad", "bad", "late"], "only what failed or is new"
    assert script("--parts", "good", "late") == 0
    script("--parts", "good", "--rows", "2")
    script("--parts", "good", "--rows", "2", "--again")
    assert script.measured()[4:] == ["good", "good"], "other arguments, then the request"
    assert script.record("good")["key"] == {"rows": 2}


def test_figures_of_another_machine_are_not_this_ones(script: Script, tmp_path: Path) -> None:
    script("--parts", "late")
    record = script.record("late") | {"machine": {"cpu": "another"}}
    measuring.write(script.folder / "speeds" / "late.json", record)
    assert script("--parts", "late") == 0
    assert script.measured() == ["late", "late"]


def test_the_last_words_of_a_script_are_its_figures(script: Script, capsys: pytest.CaptureFixture) -> None:
    script("--parts", "good", "bad", "late")
    assert capsys.readouterr().out.splitlines() == [
        "bad: failed: exit code 1: ValueError: there is no such thing",
        "good: speed 2 (1 to 6), n=3",
        "late: size 4, n=1",
    ]


def test_a_part_that_is_not_there_is_refused_with_those_that_are(script: Script, capsys: pytest.CaptureFixture) -> None:
    assert script("--parts", "better") == 2
    said = "--parts: speeds.py has no part 'better'; its parts are good, bad, killed, late\n"
    assert capsys.readouterr().err == said


@pytest.mark.usefixtures("busy_process")
def test_a_busy_machine_is_refused_until_it_is_told_to_measure(
    script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(quiet, "PATIENCE_S", 0.0)
    assert script("--parts", "late", busy=False) == 2
    said = capsys.readouterr().err
    assert said.startswith("speeds late: not measured, since other processes use ")
    assert said.endswith("End them, or give --busy\n")
    assert not script.folder.exists()
    assert script("--parts", "late") == 0, "told so, it measures"
    assert script.record("late")["others_use_cores"] > quiet.LIMIT_CORES


def test_others_are_counted_by_what_they_use_and_this_process_is_not(
    busy_process: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet, "SECONDS", 1.0)
    found = quiet.others_use()
    mine = [cores for name, cores in found.items() if f"(process {busy_process})" in name]
    assert 0 < mine[0] < 1.1, "a share of a core on a machine that others use too, and never more than one"
    assert not [name for name in found if f"(process {os.getpid()})" in name]


def test_a_machine_is_busy_from_a_fifth_of_a_core_on_and_the_busiest_are_named() -> None:
    assert not quiet.is_busy({"a": 0.1, "b": 0.05}) and quiet.is_busy({"a": 0.1, "b": 0.15})
    said = quiet.describe({"a (process 1)": 0.25, "b (process 2)": 1.0, "c (process 3)": 0.0, "d (process 4)": 0.5})
    assert said == (
        "other processes use 1.75 cores, and at most 0.2 are allowed: "
        "b (process 2) 1.00, d (process 4) 0.50, a (process 1) 0.25"
    )


def test_a_result_within_a_part_is_remembered_by_its_key(tmp_path: Path) -> None:
    made = iter(range(10))

    def result(steps: int, *, again: bool = False) -> int:
        return measuring.remembered(tmp_path / "0.json", {"steps": steps}, lambda: next(made), again=again)

    assert [result(8), result(8), result(9), result(9), result(9, again=True)] == [0, 0, 1, 1, 2]


def test_only_arguments_that_change_a_figure_are_in_its_key() -> None:
    parser = measuring.make_parser(None)
    parser.add_argument("--rows", type=int)
    arguments = parser.parse_args(["--rows", "3", "--busy", "--again", "--json", "--parts", "one"])
    assert measuring.key_of(arguments) == {"rows": 3}


@pytest.mark.parametrize(
    ("value", "text"), [(280_123.4, "280,123"), (24.21, "24.2"), (0.0523, "0.0523"), (2.1e-7, "2.1e-07"), (0, "0")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert measuring.number(value) == text
