"""An LLM as judge on a real Ray: an endpoint that knows, and vLLM that does not; nothing is judged twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from support.fake_endpoint import Reply, chat, server
from support.tiny_teachers import experiment, question_files, save_llama

from tinyllm_ray.config import with_overrides
from tinyllm_ray.data import store
from tinyllm_ray.data.features import read_judged
from tinyllm_ray.data.questions import read_questions
from tinyllm_ray.rows import Rationale
from tinyllm_ray.schema import Experiment
from tinyllm_ray.teachers.judge import Verdict, judge_rationales, judged_folder

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def running_ray() -> Iterator[None]:
    ray.init("local", num_cpus=4, resources={"teacher_pool": 1}, include_dashboard=False)
    yield
    ray.shutdown()


def judged_by(folder: Path, **by: object) -> tuple[Experiment, dict]:
    """Six questions, and a store of one teacher whose first three rationales are good."""
    files = question_files(folder, train=6)
    target = str(folder / "given")
    store.open_store(target, {"dataset": "words", "teacher": "writer"})
    rows = [
        Rationale(f"k{i}", q.question_id, 0, "a good reason" if i < 3 else "nonsense", "", "stop", "", 0, 1, 1)
        for i, q in enumerate(read_questions(files["train"].path))
    ]
    store.append(target, "train", rows)
    judge = {"by": {"name": "critic", "max_failed_fraction": 1.0, "sampling": {"max_tokens": 8}, **by}, "threshold": 3}
    return experiment({"name": "writer", "store": target}, rationales={"judge": judge}), files


def judged(seen: list[dict]) -> list[str]:
    """The explanations in the requests; the engine's own first request, by which it looks at the server, has none."""
    lines = [line for request in seen for line in request["messages"][0]["content"].splitlines()]
    return sorted(line for line in lines if line.startswith("Explanation: "))


def test_an_endpoint_scores_every_rationale_once(running_ray: None, tmp_path: Path) -> None:
    def answer(number: int, body: dict) -> Reply:
        return chat("Score: 5" if "a good reason" in body["messages"][0]["content"] else "1, since it is nonsense")

    with server(answer) as (url, seen):
        spec, files = judged_by(tmp_path, model="m", engine={"type": "endpoint", "url": url})
        places = {"output_dir": str(tmp_path / "out"), "questions": files}
        report, verdicts = judge_rationales(spec, spec.rationales.judge, **places)
        assert (report.generated, verdicts) == (6, [Verdict("writer", 6, below=3, unread=0)])
        folder = judged_folder(spec, spec.rationales.judge, **places)
        assert read_judged(folder, "writer") == {f"k{i}": 5 if i < 3 else 1 for i in range(6)}
        assert judged(seen) == ["Explanation: a good reason"] * 3 + ["Explanation: nonsense"] * 3

        stricter = with_overrides(spec, {"rationales.judge.threshold": 5})
        again, verdicts = judge_rationales(stricter, stricter.rationales.judge, **places)
        assert (again.found, again.generated, verdicts[0].below) == (6, 0, 3)
        assert len(judged(seen)) == 6


def test_vllm_judges_and_what_holds_no_score_is_counted(running_ray: None, tmp_path: Path) -> None:
    spec, files = judged_by(tmp_path, model=save_llama(tmp_path / "llama", positions=2048))
    report, verdicts = judge_rationales(spec, spec.rationales.judge, output_dir=str(tmp_path / "out"), questions=files)
    assert report.generated == 6
    assert verdicts[0].rationales == 6 and verdicts[0].below + verdicts[0].unread <= 6
    folder = judged_folder(spec, spec.rationales.judge, output_dir=str(tmp_path / "out"), questions=files)
    scores = read_judged(folder, "writer")
    assert set(scores) == {f"k{i}" for i in range(6)} and list(scores.values()).count(0) == verdicts[0].unread
