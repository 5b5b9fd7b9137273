from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, Field

from tinyllm_ray.config.experiment_file import read_experiment_file
from tinyllm_ray.schema import describe
from tinyllm_ray.schema.base import UserError

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))


class Fast(BaseModel):
    type: Literal["fast"] = Field(description="tag")
    threads: int = Field(2, ge=1, le=8, description="threads")


class Exact(BaseModel):
    type: Literal["exact"] = Field(description="tag")
    threads: int = Field(2, ge=1, le=8, description="threads")
    digits: int | None = Field(None, gt=0, description="digits")


class Part(BaseModel):
    name: str = Field(description="name")
    engine: Annotated[Fast | Exact, Field(discriminator="type")] = Field(Fast(type="fast"), description="engine")


class Whole(BaseModel):
    parts: list[Part] = Field([], description="parts")
    sizes: dict[str, Part] = Field(default_factory=dict, description="by name")
    bounds: tuple[float, float] = Field(description="a | b, see <this>")


def described(monkeypatch: pytest.MonkeyPatch) -> dict[str, describe.Key]:
    monkeypatch.setattr(describe, "Experiment", Whole)
    return {f"{key.path} {key.only_for}".strip(): key for key in describe.list_keys()}


def test_every_key_has_a_description() -> None:
    assert [key.path for key in describe.list_keys() if not key.description] == []


def test_keys_of_lists_mappings_and_alternatives_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(described(monkeypatch)) == [
        "extends",
        "parts",
        "parts.<name>.name",
        "parts.<name>.engine",
        "parts.<name>.engine.type type: fast",
        "parts.<name>.engine.threads type: fast or type: exact",
        "parts.<name>.engine.type type: exact",
        "parts.<name>.engine.digits type: exact",
        "sizes",
        "sizes.<name>.name",
        "sizes.<name>.engine",
        "sizes.<name>.engine.type type: fast",
        "sizes.<name>.engine.threads type: fast or type: exact",
        "sizes.<name>.engine.type type: exact",
        "sizes.<name>.engine.digits type: exact",
        "bounds",
    ]


@pytest.mark.parametrize(
    ("path", "allowed", "default"),
    [
        ("parts", "list of section", "[]"),
        ("parts.<name>.name", "text", "needed"),
        ("parts.<name>.engine", "section", "{type: fast}"),
        ("parts.<name>.engine.threads type: fast or type: exact", "integer ≥ 1 and ≤ 8", "2"),
        ("parts.<name>.engine.digits type: exact", "integer > 0 or null", "null"),
        ("sizes", "mapping to section", "{}"),
        ("bounds", "[number, number]", "needed"),
    ],
)
def test_what_is_allowed_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch, path: str, allowed: str, default: str
) -> None:
    key = described(monkeypatch)[path]
    assert (key.allowed, key.default) == (allowed, default)


def test_a_section_is_listed_with_all_that_lies_below_it() -> None:
    assert {key.path for key in describe.list_keys("loss")} >= {"loss", "loss.label_weight", "loss.rationale_weights"}
    assert all(key.path.startswith("loss") for key in describe.list_keys("loss"))
    assert {key.path for key in describe.list_keys("teachers.sampling.top_p")} == {"teachers.<name>.sampling.top_p"}


def test_an_unknown_section_is_refused_with_the_nearest_ones() -> None:
    with pytest.raises(UserError, match=r"no section or key 'trainin'; near: \['training'"):
        describe.list_keys("trainin")


def test_a_table_cell_survives_bars_and_angle_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describe, "Experiment", Whole)
    row = "| `bounds` | [number, number] | needed | a \\| b, see &lt;this> |"
    assert row in describe.page("").splitlines()


def test_the_page_of_all_keys_is_as_the_schema_writes_it() -> None:
    path = ROOT / "docs" / "configuration.md"
    text = path.read_text(encoding="utf-8")
    assert describe.page(text) == text, f"write it again: python -m tinyllm_ray.schema.describe {path.name}"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_json_schema_accepts_every_experiment(path: Path) -> None:
    validator = jsonschema.Draft202012Validator(describe.json_schema())
    for raw in (yaml.safe_load(path.read_text(encoding="utf-8")), read_experiment_file(path)):
        assert [error.message for error in validator.iter_errors(raw)] == []


@pytest.mark.parametrize(
    "change",
    [{"traning": {}}, {"seeds": [-1]}, {"loss": {"label_weight": "much"}}, {"teachers": [{"modle": "x"}]}],
    ids=str,
)
def test_the_json_schema_refuses_what_the_schema_refuses(change: dict[str, Any]) -> None:
    raw = yaml.safe_load(EXPERIMENTS[0].read_text(encoding="utf-8"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(raw | change, describe.json_schema())
