"""The import order of the house, read from the source: no module is imported here."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "tinyllm_ray"
BASE = {"config", "schema", "rows", "storage", "patience", "redact", "lock", "outside"}
MAY_IMPORT = {  # beside itself; who is above a line may import what is below it, never the other way
    "cli": {"stages", "checks", "session", "tuning", "report", "tracking", "student", "data", "cluster"}
    | {"terminal", "deploy"},
    "stages": {"generation", "checks", "session", "tuning", "report", "tracking", "teachers", "student", "data"},
    "generation": {"session", "tuning", "miniature", "teachers", "data"},  # the teachers' side of a run
    "checks": {"session", "tuning", "tracking", "teachers", "student", "data", "cluster"},
    "session": {"tuning", "tracking", "miniature", "teachers", "data", "cluster", "terminal"},
    "deploy": {"tracking", "student", "data", "cluster", "terminal"},
    "tuning": {"tracking", "routing", "student", "data", "cluster", "terminal"},
    "routing": {"student", "data", "tasks", "terminal"},
    "report": {"tracking", "teachers", "data", "tasks"},
    "tracking": {"student", "data"},
    "teachers": {"data", "tasks", "cluster", "terminal"},
    "student": {"data", "tasks", "cluster", "terminal"},
    "miniature": {"data", "terminal"},
    "cluster": {"tracking"},  # submit says where the records of a job are
    "data": {"tasks", "terminal"},
    "tasks": set(),
    "terminal": set(),
}


def modules() -> dict[str, set[str]]:
    """Dotted module name below the package -> everything that it imports, anywhere in its code."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        found[name] = imports(path)
    return found


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


MODULES = modules()


def own(name: str) -> set[str]:
    """The package's modules that a module imports: "data.store" for `from tinyllm_ray.data import store`."""
    found = set()
    for imported in MODULES[name]:
        parts = imported.split(".")
        if parts[0] == "tinyllm_ray":
            below = [".".join(parts[1:end]) for end in range(len(parts), 1, -1)]
            found.add(next((known for known in below if known in MODULES), ""))
    return found - {""}


def third_party(name: str) -> set[str]:
    return {imported.split(".")[0] for imported in MODULES[name]} - {"tinyllm_ray"}


def group(name: str) -> str:
    return name.split(".")[0]


def members(*groups: str) -> list[str]:
    return [name for name in MODULES if group(name) in groups]


def imported_groups(*groups: str) -> set[str]:
    return {group(imported) for name in members(*groups) for imported in own(name)}


def test_the_package_is_found() -> None:
    assert {"config", "data.store", "teachers", "student"} <= set(MODULES)
    assert own("data.store") == {"storage", "config", "redact", "rows"}


def test_the_base_imports_only_the_base() -> None:
    assert imported_groups(*BASE) <= BASE


def test_every_part_of_the_package_has_its_place_in_the_order() -> None:
    assert {group(name) for name in MODULES} - {"__init__"} == BASE | set(MAY_IMPORT)


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_imports_run_one_way(name: str) -> None:
    assert imported_groups(name) <= BASE | MAY_IMPORT[name] | {name}


def test_teachers_and_student_meet_at_the_rationale_row_alone() -> None:
    assert "student" not in imported_groups("teachers")
    assert "teachers" not in imported_groups("student")


@pytest.mark.parametrize("name", members("config", "schema"))
def test_the_config_loads_without_the_heavy_libraries(name: str) -> None:
    assert not third_party(name) & {"torch", "ray", "vllm", "transformers", "mlflow"}


def test_only_tracking_imports_mlflow() -> None:
    assert {group(name) for name in MODULES if "mlflow" in third_party(name)} == {"tracking"}


@pytest.mark.parametrize(
    "name",
    [
        "data.prompts",
        "tasks.choice",
        "tasks.label",
        "tasks.number",
        "tasks.text",
        "data.formats",
        "student.objective",
        "data.quality",
    ],
)
def test_pure_modules_import_neither_ray_nor_mlflow(name: str) -> None:
    assert not third_party(name) & {"ray", "mlflow"}


def test_the_training_loop_runs_without_ray() -> None:
    assert not third_party("student.loop") & {"ray", "mlflow"}


def test_there_is_no_cycle() -> None:
    open_modules: list[str] = []
    done: set[str] = set()

    def walk(name: str) -> None:
        assert name not in open_modules, f"import cycle: {' -> '.join([*open_modules, name])}"
        if name in done:
            return
        open_modules.append(name)
        for imported in sorted(own(name)):
            walk(imported)
        open_modules.pop()
        done.add(name)

    for name in MODULES:
        walk(name)
