"""Teachers of both kinds on a real Ray with real engines: once each, nothing lost, failures recorded."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pytest
import ray
from support.fake_endpoint import Reply, chat, server
from support.tiny_teachers import experiment, question_file, question_files, questions, save_llama, save_t5

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.data import store
from tinyllm_ray.teachers.pipeline import generate, rationale_store

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def running_ray() -> Iterator[None]:
    ray.init("local", num_cpus=4, resources={"teacher_pool": 1, "student_pool": 2}, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def filled(running_ray: None, llama: str, t5: str, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """Both teachers once over two splits, with one question far too long, and their own answers on one split."""
    folder = tmp_path_factory.mktemp("filled")
    rows = questions(40)
    rows[7] = replace(rows[7], question="rain " * 8000)  # 40,000 characters
    files = question_files(folder, train=40, validation=9)
    files["train"] = question_file(folder / "train.parquet", rows)
    teachers = [{"name": "decoder", "model": llama}, {"name": "encoder", "model": t5}]
    spec = experiment(
        *[teacher | {"max_failed_fraction": 0.05} for teacher in teachers],
        prompts={"answer_splits": ["validation"]},
    )
    return spec, str(folder / "out"), files, generate(spec, output_dir=str(folder / "out"), questions=files)


@pytest.mark.parametrize("name", ["decoder", "encoder"])
def test_a_teacher_fills_its_store_and_reports_what_it_did(filled: tuple, name: str) -> None:
    spec, out, _, reports = filled
    report = reports[name]
    assert (report.wanted, report.found, report.generated) == (58, 0, 57)  # 40 + 9 rationales, 9 answers
    assert report.failed == {"prompt too long": 1}
    assert report.store == rationale_store(spec, name, output_dir=out)
    rows = store.read(report.store, "train").to_pylist()
    assert {row["question_id"] for row in rows} == {f"q{i}" for i in range(40)} - {"q7"}
    assert all(row["rationale"].strip() and row["finish_reason"] == "length" for row in rows)
    assert all("cut_off" in row["flags"] for row in rows)
    assert report.output_tokens == 8 * 57
    assert report.tokens_per_second > 0 and report.engine_start_s > 0 and report.wall_s > report.engine_start_s


def test_the_failed_row_is_in_the_store_with_its_reason(filled: tuple) -> None:
    _, _, _, reports = filled
    table = store.read(reports["decoder"].store, "train", failures=True)
    failed = table.filter(pc.not_equal(table["failure"], "")).to_pylist()
    assert [(row["question_id"], row["failure"].split(":")[0]) for row in failed] == [("q7", "prompt too long")]


def test_a_teachers_own_answers_have_a_store_and_an_accuracy(filled: tuple) -> None:
    _, _, files, reports = filled
    report = reports["decoder"]
    assert report.answer_store != report.store
    assert storage.read_json(f"{report.answer_store}/manifest.json")["teacher_forcing"] is False
    rows = store.read(report.answer_store, "validation").to_pylist()
    assert len(rows) == files["validation"].rows == 9
    assert 0 <= report.accuracy["validation"] <= 1


def test_the_manifest_beside_the_rows_can_be_read(filled: tuple) -> None:
    _, _, _, reports = filled
    manifest = storage.read_json(f"{reports['encoder'].store}/manifest.json")
    assert manifest["engine"] == "seq2seq"
    assert manifest["in_context"] == {"examples": 2, "pool": None, "rationales": "none"}
    assert manifest["sampling"]["max_tokens"] == 8


def test_a_second_run_starts_no_engine_and_makes_nothing(filled: tuple) -> None:
    spec, out, files, _ = filled
    again = generate(spec, output_dir=out, questions=files)
    assert [(r.found, r.generated, r.engine_start_s) for r in again.values()] == [(57, 0, 0.0)] * 2
    assert storage.list_files(f"{out}/pending") == []


def test_engine_chatter_goes_to_a_log_file(filled: tuple) -> None:
    _, out, _, _ = filled
    assert "vllm" in Path(f"{out}/logs/decoder.log").read_text().lower()


def test_new_rows_alone_are_generated_and_rows_that_always_fail_end_the_run_after_all_is_stored(
    running_ray: None, t5: str, tmp_path: Path
) -> None:
    spec = experiment(
        {"name": "encoder", "model": t5, "samples_per_question": 2, "sampling": {"max_tokens": 4, "temperature": 1.0}}
    )
    out = str(tmp_path / "out")
    first = generate(spec, output_dir=out, questions=question_files(tmp_path / "a", train=6))["encoder"]
    assert (first.wanted, first.generated) == (12, 12)
    rows = questions(8)
    rows[7] = replace(rows[7], question="rain " * 8000)
    grown = {"train": question_file(tmp_path / "b" / "train.parquet", rows)}
    with pytest.raises(
        UserError, match=r"encoder failed for 2 of 16 rows \(2 prompt too long\).*max_failed_fraction=0\.0"
    ):
        generate(spec, output_dir=out, questions=grown)
    stored = store.read(first.store, "train", ["question_id", "sample"]).to_pylist()
    assert sorted((row["question_id"], row["sample"]) for row in stored) == [
        (f"q{i}", s) for i in range(7) for s in (0, 1)
    ]
    assert store.count_twice(first.store, "train") == 0


def test_teachers_run_at_the_same_time_when_the_schedule_is_parallel(
    running_ray: None, t5: str, tmp_path: Path
) -> None:
    ray_units = {"teacher": {"resource": None, "workers": 2}, "schedule": "parallel"}
    spec = experiment({"name": "one", "model": t5}, {"name": "two", "model": t5}, pools=ray_units)
    reports = generate(spec, output_dir=str(tmp_path / "out"), questions=question_files(tmp_path, train=5))
    assert [report.generated for report in reports.values()] == [5, 5]


def test_ray_data_llm_gives_the_same_greedy_texts(filled: tuple, llama: str, tmp_path: Path) -> None:
    _, _, files, reports = filled
    spec = experiment(
        {"name": "decoder", "model": llama, "engine": {"type": "ray_data_llm"}},
        prompts={"rationale_splits": ["validation"]},
    )
    report = generate(spec, output_dir=str(tmp_path), questions=files)["decoder"]
    assert report.generated == 9
    assert texts(report.store) == texts(reports["decoder"].store)


def texts(folder: str) -> dict[str, str]:
    rows = store.read(folder, "validation", ["question_id", "rationale"]).to_pylist()
    return {row["question_id"]: row["rationale"] for row in rows}


def test_a_store_that_is_given_is_used_as_it_is(running_ray: None, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "manifest.json").write_text(json.dumps({"dataset": "words", "teacher": "flan"}))
    spec = experiment({"name": "flan", "store": str(tmp_path / "given")})
    report = generate(spec, output_dir=str(tmp_path / "out"), questions=question_files(tmp_path, train=3))["flan"]
    assert (report.wanted, report.generated, report.store) == (0, 0, str(tmp_path / "given"))

    (tmp_path / "given" / "manifest.json").write_text(json.dumps({"dataset": "other", "teacher": "flan"}))
    with pytest.raises(UserError, match=r"holds rationales for the dataset 'other', but dataset.name is 'words'"):
        generate(spec, output_dir=str(tmp_path / "out"), questions=question_files(tmp_path, train=3))


def test_failed_rows_are_tried_again_in_the_run_and_in_the_next_one(running_ray: None, tmp_path: Path) -> None:
    files = question_files(tmp_path, train=8)
    broken = {f"{i}: what" for i in (2, 5)}  # the server never answers these
    tries: dict[str, int] = {}

    def answer(number: int, body: dict) -> Reply:
        prompt = body["messages"][0]["content"].rsplit("Question: ")[-1]
        tries[prompt] = tries[prompt] + 1 if prompt in tries else 1
        if tries[prompt] == 1 or any(prompt.startswith(start) for start in broken):
            return 500, {"error": {"message": "try again"}}
        return chat("Because it is so.")

    with server(answer) as (url, _):
        far = {
            "name": "far",
            "model": "m",
            "engine": {"type": "endpoint", "url": url, "max_retries": 0},
            "max_failed_fraction": 0.5,
        }
        spec = experiment(far, prompts={"chat_template": "always"})
        first = generate(spec, output_dir=str(tmp_path / "out"), questions=files)["far"]
        assert (first.generated, first.failed) == (6, {"endpoint answered 500": 2})
        failed = store.read(first.store, "train", failures=True).to_pylist()[6:]
        assert {row["failure"] for row in failed} == {"endpoint answered 500: try again"}

        broken.clear()
        second = generate(spec, output_dir=str(tmp_path / "out"), questions=files)["far"]
        assert (second.found, second.generated, second.failed) == (6, 2, {})
    assert len(store.read(first.store, "train", failures=True)) == 8
    assert store.count_twice(first.store, "train") == 0


def test_an_engine_that_does_not_start_is_one_message(running_ray: None, tmp_path: Path) -> None:
    model = Path(save_t5(tmp_path / "t5"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"d_ff": 96}))  # the weights say 128
    spec = experiment({"name": "broken", "model": str(model)})
    with pytest.raises(UserError, match=r"teacher broken: its engine does not start: .*logs"):
        generate(spec, output_dir=str(tmp_path / "out"), questions=question_files(tmp_path, train=4))
