import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tinyllm_ray import lock, storage
from tinyllm_ray.data.questions import prepare_questions, read_questions
from tinyllm_ray.schema import Dataset, UserError

pytestmark = pytest.mark.engine


def test_files_in_a_bucket_behave_as_local_ones(bucket: str) -> None:
    storage.write_json(f"{bucket}/run/a.json", {"a": 1})
    assert storage.read_json(f"{bucket}/run/a.json") == {"a": 1}
    assert storage.exists(f"{bucket}/run/a.json")
    assert not storage.exists(f"{bucket}/run/none")
    assert storage.list_files(f"{bucket}/run") == [f"{bucket}/run/a.json"]
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{bucket}/run/none")
    storage.remove_folder(f"{bucket}/run")
    assert storage.list_files(bucket) == []


def test_questions_are_read_from_a_bucket_and_written_to_it(bucket: str, tmp_path: Path) -> None:
    local = tmp_path / "train.jsonl"
    local.write_text(json.dumps({"id": "a", "question": "q", "choices": ["left", "right"], "answer": "right"}))
    storage.put_file(local, f"{bucket}/data/train.jsonl")
    dataset = Dataset(name="toy", format="jsonl", path=f"{bucket}/data")
    files = prepare_questions(dataset, output_dir=f"{bucket}/run")
    assert prepare_questions(dataset, output_dir=f"{bucket}/run") == files
    assert [question.question_id for question in read_questions(files["train"].path)] == ["a"]


def test_a_missing_bucket_is_not_waited_for(bucket: str) -> None:
    start = time.monotonic()
    with pytest.raises(OSError, match="NO_SUCH_BUCKET"):
        storage.write_bytes("s3://other-bucket/a", b"1")
    assert time.monotonic() - start < storage.RETRY_S


def test_a_folder_in_a_bucket_is_held_by_one(bucket: str) -> None:
    script = (
        "import sys\nfrom tinyllm_ray import lock\n"
        "with lock.hold(sys.argv[1], command='run', say=print):\n"
        "    print('held', flush=True)\n    sys.stdin.readline()"
    )
    command = [sys.executable, "-c", script, f"{bucket}/run"]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"in use by `run` on host .*, process {holder.pid}"):
        lock.refuse_held(f"{bucket}/run")
    holder.communicate(timeout=60)
    with lock.hold(f"{bucket}/run", command="run", say=print):
        assert len(storage.list_files(f"{bucket}/run")) == 1
    assert storage.list_files(f"{bucket}/run") == []
