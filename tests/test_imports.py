"""The import order of the house, read from the source: no module is imported here."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "tinyllm_ray"
BASE = {
    "config",
    "schema",
    "rows",
    "storage",
    "redact",
    "lock",
    "experiment_file",
    "strict_yaml",
    "failures",
    "outside",
    "progress",
}
GROUPS = {"tasks", "data", "teachers", "student", "miniature"}
TOP = {"cli", "pipeline", "tuning", "report"}


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


@pytest.mark.parametrize("name", members("config", "schema", "experiment_file", "strict_yaml"))
def test_the_config_loads_without_the_heavy_libraries(name: str) -> None:
    assert not third_party(name) & {"torch", "ray", "vllm", "transformers", "mlflow"}


def test_data_imports_only_the_base_and_the_tasks() -> None:
    assert imported_groups("data") <= BASE | {"data", "tasks"}


def test_tasks_import_only_the_base() -> None:
    assert imported_groups("tasks") <= BASE | {"tasks"}


def test_teachers_import_data_and_the_cluster_but_never_the_student() -> None:
    assert imported_groups("teachers") <= BASE | {"teachers", "data", "tasks", "cluster"}


def test_the_student_imports_data_but_never_a_teacher() -> None:
    assert imported_groups("student") <= BASE | {"student", "data", "tasks", "cluster"}


def test_the_cluster_imports_only_the_base_and_where_the_tracking_store_is() -> None:
    assert imported_groups("cluster") <= BASE | {"cluster", "tracking"}


def test_tracking_imports_the_data_and_the_student_that_it_registers() -> None:
    assert imported_groups("tracking") <= BASE | {"tracking", "data", "tasks", "student"}


@pytest.mark.parametrize("name", [name for name in MODULES if group(name) not in {"cli", "jobs"}])
def test_nothing_imports_the_commands(name: str) -> None:
    assert "cli" not in {group(imported) for imported in own(name)}


@pytest.mark.parametrize("name", [name for name in MODULES if group(name) in GROUPS | BASE])
def test_what_lies_below_imports_nothing_above(name: str) -> None:
    assert not {group(imported) for imported in own(name)} & TOP


@pytest.mark.parametrize("name", members("tuning", "report"))
def test_tuning_and_report_do_not_import_the_pipeline(name: str) -> None:
    assert not {group(imported) for imported in own(name)} & {"pipeline", "cli"}


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
