"""Teachers of both kinds on a real Ray with real engines."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from tiny_teachers import experiment, question_files, save_llama, save_t5

from tinyllm_ray.data import store
from tinyllm_ray.teachers.rationales import generate

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def running_ray() -> Iterator[None]:
    ray.init(num_cpus=4, resources={"teacher_pool": 1, "student_pool": 2}, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {"llama": save_llama(tmp_path_factory.mktemp("llama")), "t5": save_t5(tmp_path_factory.mktemp("t5"))}


def test_two_teachers_of_two_kinds_fill_their_stores_once(
    running_ray: None, folders: dict[str, str], tmp_path: Path
) -> None:
    files = question_files(tmp_path / "questions", train=40, validation=9)
    spec = experiment({"name": "decoder", "model": folders["llama"]}, {"name": "encoder", "model": folders["t5"]})
    out = str(tmp_path / "out")

    first = generate(spec, output_dir=out, questions=files)
    print(first)
    for name in ("decoder", "encoder"):
        report = first[name]
        assert (report.wanted, report.found, report.generated + sum(report.failed.values())) == (49, 0, 49)
        rows = store.read(report.store, "train").to_pylist()
        assert {row["question_id"] for row in rows} == {f"q{i}" for i in range(40)}
        assert len(rows) == 40

    second = generate(spec, output_dir=out, questions=files)
    assert [(r.found, r.generated, r.engine_start_s) for r in second.values()] == [(49, 0, 0.0)] * 2
