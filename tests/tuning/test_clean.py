"""What can be made again is found and removed; what cannot stays."""

from pathlib import Path

from tinyllm_ray import storage
from tinyllm_ray.tuning.clean import describe, find_spare, remove


def write(folder: Path, *names: str) -> None:
    for name in names:
        storage.write_bytes(str(folder / name), b"x" * 2**19)


def test_only_what_can_be_made_again_goes(tmp_path):
    """Half a MiB a file: four spare ones of three kinds."""
    kept = ["trials/a/model/model.safetensors", "rationales/one/train/part.parquet", "questions/words/train.parquet"]
    kept += ["trials/c/checkpoints/000000400/model.safetensors", "mlflow/mlflow.db"]
    write(tmp_path, *kept, "features/f/meta.json", "trials/a/checkpoints/000000400/optimizer.safetensors")
    write(tmp_path, "trials/b/checkpoints/000000200/model.safetensors", "trials/a/ray_train/state.json")
    ends = {"a": "result.json", "b": "stopped.json", "c": "failure.json"}
    for trial, end in ends.items():
        storage.write_json(str(tmp_path / "trials" / trial / end), {})
    spare = find_spare(str(tmp_path))
    assert [(item.kind, item.files, item.bytes) for item in spare] == [
        ("checkpoints of ended trainings", 2, 2**20),
        ("state of Ray Train in ended trainings", 1, 2**19),
        ("features", 1, 2**19),
    ]
    assert describe(spare, removed=False)[-1] == "2.0 MiB can be freed"
    remove(spare)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*kept, *(f"trials/{trial}/{end}" for trial, end in ends.items())}
    assert find_spare(str(tmp_path)) == []
