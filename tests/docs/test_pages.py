"""The pages stay true: they build without a warning, load nothing from elsewhere, and name what exists."""

import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import typer.main
import yaml

from tinyllm_ray.cli import app
from tinyllm_ray.schema import Experiment
from tinyllm_ray.schema.describe import json_schema, list_keys

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
KEY = re.compile(rf"(?<![\w./-])(?:{'|'.join(Experiment.model_fields)})(?:\.[A-Za-z_]\w*)+(?![\w(])")
BLOCK = re.compile(r"^( *)```yaml[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def names(path: Path) -> str:
    return path.stem


def known_keys() -> tuple[set[str], set[str]]:
    """Paths of all keys without the names of teachers and other entries; those of mappings, which hold any name."""
    found = list_keys()
    plain = {key.path.replace(".<name>", "") for key in found}
    return plain, {key.path.replace(".<name>", "") for key in found if "mapping" in key.allowed}


def exists(path: str, plain: set[str], mappings: set[str]) -> bool:
    parts = path.split(".")
    without_name = [parts[0], *parts[2:]] if parts[0] == "teachers" else parts
    candidates = {path, ".".join(without_name)}
    above = {".".join(parts[:end]) for end in range(1, len(parts))}
    return bool(candidates & plain or above & mappings)


def test_the_pages_build_without_a_warning_and_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    html = "".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("*.html"))
    assert html.count("<h1") == len(list((ROOT / "docs").glob("*.md"))) + 1, "a page for each file, and the 404 page"
    assert not re.findall(r"<(?:script|img|link)[^>]*(?:src|href)=\"(?:https?:)?//[^\"]*", html)


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    navigation = text.partition("\nnav:")[2]
    assert [page.name for page in PAGES[1:] if page.name not in navigation] == []


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    commands = set(typer.main.get_command(app).commands)
    named = set(re.findall(r"\btinyllm-ray ([a-z][a-z-]*)", page.read_text(encoding="utf-8")))
    assert named - commands == set()


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_every_target_of_make_that_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE)) - targets == set()


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_every_key_that_a_page_names_exists(page: Path) -> None:
    plain, mappings = known_keys()
    found = {match[0] for match in KEY.finditer(page.read_text(encoding="utf-8"))}
    keys = {path for path in found if not path.endswith((".py", ".yaml", ".json", ".jsonl", ".parquet", ".md"))}
    assert [path for path in sorted(keys) if not exists(path, plain, mappings)] == []


def faults(shown: dict) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(json_schema()).iter_errors(shown)]


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_every_experiment_that_a_page_shows_is_allowed(page: Path) -> None:
    for indent, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        shown = yaml.safe_load("\n".join(line.removeprefix(indent) for line in text.splitlines()))
        if isinstance(shown, dict) and set(shown) & set(Experiment.model_fields):
            assert faults(shown) == []


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_guided_tour_names_functions_that_exist() -> None:
    tour = re.findall(r"^\d\. `(tinyllm_ray/[\w/]+\.py):(\w+)`", PAGES[0].read_text(encoding="utf-8"), re.MULTILINE)
    assert len(tour) == 6
    for path, function in tour:
        assert re.search(rf"^( {{4}})?def {function}\b", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), path


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1100


def test_pictures_are_small() -> None:
    pictures = list((ROOT / "docs" / "images").glob("*"))
    assert len(pictures) >= 2
    assert [picture.name for picture in pictures if picture.stat().st_size >= 200_000] == []
