from pathlib import Path

from tinyllm_ray.cluster.submit import package
from tinyllm_ray.config import load_experiment


def test_a_job_gets_the_experiment_with_what_it_extends(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "base.yaml").write_text((repository / "experiments" / "obqa.yaml").read_text())
    path = tmp_path / "below" / "mine.yaml"
    path.write_text("extends: ../base.yaml\nname: '010'\ndataset: {path: s3://bucket/data}\n")
    target = tmp_path / "package"
    target.mkdir()
    inside = package(load_experiment(path), path, target)
    assert load_experiment(target / inside) == load_experiment(path)
    assert load_experiment(target / inside).name == "010"
