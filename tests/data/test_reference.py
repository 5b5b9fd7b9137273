import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tinyllm_ray.config import UserError
from tinyllm_ray.data import store
from tinyllm_ray.data.questions import prepare_questions, read_questions
from tinyllm_ray.data.reference import import_reference, take_apart
from tinyllm_ray.schema import Dataset

QUESTION = "\n\nQ: What floats?\nAnswer Choices:\n(a) iron\n(b) cork"


def row(name: str) -> dict[str, object]:
    return {"id": name, "question": "What floats?", "choices": ["iron", "cork"], "answer": "cork"}


def published(flan: str = "Cork is light. ", llama: str = "Let's think. The answer is (b).") -> str:
    return f"{flan}Thus, the answer is (b) cork{QUESTION} llama rationale: {llama}"


def write(folder: Path, rows: list[object], strings: dict[str, object], split: str = "train") -> None:
    (folder / "toy" / "llm").mkdir(parents=True, exist_ok=True)
    (folder / "toy" / f"toy_{split}.json").write_text(json.dumps(rows))
    for number, value in strings.items():
        (folder / "toy" / "llm" / f"{split}_CoT_{number}.json").write_text(json.dumps(value))


def stored(folder: Path, teacher: str, split: str = "train") -> dict[str, list[object]]:
    return pq.read_table(folder / "out" / "toy" / teacher / split).to_pydict()


def run(folder: Path) -> dict:
    return import_reference(str(folder), dataset="toy", out=str(folder / "out"))


def test_one_string_is_taken_apart() -> None:
    parts = take_apart(published("Cork is light.\n ", " Thus, the answer is (a). \n"))
    assert (parts.flan_t5, parts.flan_t5_letter, parts.llama2) == ("Cork is light.", "b", "Thus, the answer is (a).")


@pytest.mark.parametrize(
    ("text", "flan", "llama"),
    [
        ("", None, None),
        ("Cork. Thus, the answer is (b) cork", "Cork.", None),
        (" llama rationale: Thus, the answer is (b)", None, "Thus, the answer is (b)"),
        ("Thus, the answer is cork llama rationale: ", "", ""),
    ],
)
def test_an_absent_part_is_none(text: str, flan: str | None, llama: str | None) -> None:
    parts = take_apart(text)
    assert (parts.flan_t5, parts.llama2) == (flan, llama)


def test_rows_keep_their_order_and_files_their_numbers(tmp_path: Path) -> None:
    names = [f"q{index}" for index in range(12)]
    write(tmp_path, [row(n) for n in names], {str(k): [published(f"text {k} ", f"llama {k}")] for k in range(12)})
    report = run(tmp_path)
    assert report["problems"] == []
    assert report["missing"] == ["toy/toy_valid.json", "toy/toy_test.json"]
    flan = stored(tmp_path, "flan_t5")
    assert flan["question_id"] == names
    assert flan["rationale"] == [f"text {k}" for k in range(12)]
    assert set(flan["predicted_answer"]) == {"cork"}
    assert stored(tmp_path, "llama2")["rationale"] == [f"llama {k}" for k in range(12)]
    questions = read_questions(str(tmp_path / "out" / "toy" / "questions" / "train.parquet"))
    assert [question.question_id for question in questions] == names


def test_the_stores_open_as_stores_and_the_absent_does_not_count(tmp_path: Path) -> None:
    write(tmp_path, [row("a"), row("b")], {"0": [published(), published().partition(" llama")[0]]}, split="valid")
    run(tmp_path)
    folder = str(tmp_path / "out" / "toy" / "llama2")
    assert store.read_manifest(folder)["teacher"] == "llama2"
    assert store.read(folder, "validation", ["question_id", "rationale", "predicted_answer"]).to_pylist() == [
        {"question_id": "a", "rationale": "Let's think. The answer is (b).", "predicted_answer": "cork"}
    ]
    assert stored(tmp_path, "llama2", "validation")["rationale"] == ["Let's think. The answer is (b).", ""]


def test_text_and_files_that_were_encoded_twice_are_decoded(tmp_path: Path) -> None:
    texts = [published("First. "), json.dumps(published("“Second”. "))]
    write(tmp_path, [row("a"), row("b")], {"0": json.dumps(texts)})
    assert run(tmp_path)["problems"] == []
    assert stored(tmp_path, "flan_t5")["rationale"] == ["First.", "“Second”."]


def test_questions_that_were_encoded_twice_are_decoded(tmp_path: Path) -> None:
    write(tmp_path, [row("a")], {"0": [published()]})
    (tmp_path / "toy" / "toy_train.json").write_text(json.dumps(json.dumps([row("a")])))
    assert run(tmp_path)["splits"]["train"]["unusable"] == 0


def test_what_does_not_fit_is_reported_and_the_rest_imported(tmp_path: Path) -> None:
    bad = {**row("b"), "answer": "lead"}
    strings = [published("nan "), 7, "broken \ud800 text", published(llama="nan")]
    write(tmp_path, [row("a"), bad, row("c"), row("a"), row("e")], {"0": strings})
    report = run(tmp_path)
    counts = report["splits"]["train"]
    assert (counts["rows"], counts["unusable"], counts["rationales"]) == (5, 1, 4)
    assert (counts["flan_t5"]["absent"], counts["flan_t5"]["nan"]) == (3, 1)
    assert (counts["llama2"]["absent"], counts["llama2"]["nan"]) == (3, 1)
    assert stored(tmp_path, "flan_t5")["question_id"] == ["a", "b", "c", "a#4", "e"]
    assert stored(tmp_path, "flan_t5")["rationale"] == ["nan", "", "", "Cork is light.", ""]
    told = "\n".join(report["problems"])
    assert "'lead' is not among the choices" in told
    assert "duplicate id 'a'" in told
    assert "5 questions, but 4 rationales" in told
    assert "rationale 2 is of type int" in told
    assert "rationale 3 holds bytes that are no characters" in told


def test_no_rationales_and_a_broken_rationale_file_leave_the_questions(tmp_path: Path) -> None:
    write(tmp_path, [row("a")], {})
    write(tmp_path, [row("b")], {"0": []}, split="test")
    (tmp_path / "toy" / "llm" / "test_CoT_0.json").write_text('["cut off')
    report = run(tmp_path)
    assert "toy/llm/train_CoT_0.json" in report["missing"]
    assert "test_CoT_0.json cannot be read" in report["problems"][0]
    assert report["splits"]["test"]["flan_t5"]["absent"] == 1


def test_a_gap_in_the_numbers_is_reported(tmp_path: Path) -> None:
    write(tmp_path, [row("a"), row("b")], {"0": [published()], "2": [published()]})
    assert "number 1 is missing before it" in run(tmp_path)["problems"][0]


def test_other_rationales_make_another_content_digest(tmp_path: Path) -> None:
    write(tmp_path, [row("a")], {"0": [published()]})
    run(tmp_path)
    folder = str(tmp_path / "out" / "toy" / "flan_t5")
    before = store.content_digest(folder)
    write(tmp_path, [row("a")], {"0": [published("Other. ")]})
    run(tmp_path)
    assert store.content_digest(folder) != before


def test_a_folder_without_the_dataset_names_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"looked for toy/toy_train\.json"):
        run(tmp_path)


@pytest.mark.parametrize("name", ["../toy", "/toy", "..", ""])
def test_a_dataset_name_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is not a dataset's name"):
        import_reference(str(tmp_path), dataset=name, out=str(tmp_path / "out"))


@pytest.mark.parametrize(("dataset", "sizes", "equal"), [("obqa", 5957, 3), ("arc", 2577, 0), ("pubmedqa", 1000, 0)])
def test_every_published_text_is_imported_as_it_is(
    reference_data: Path, tmp_path: Path, dataset: str, sizes: int, equal: int
) -> None:
    report = import_reference(str(reference_data), dataset=dataset, out=str(tmp_path))
    assert report["missing"] == []
    assert [problem for problem in report["problems"] if "two choices are" not in problem] == []
    assert sum(split["unusable"] for split in report["splits"].values()) == len(report["problems"]) == equal
    assert sum(split["rows"] for split in report["splits"].values()) == sizes
    prepared = prepare_questions(Dataset(name=dataset, path=str(reference_data)), output_dir=str(tmp_path / "prepared"))
    for split, name in {"train": "train", "validation": "valid", "test": "test"}.items():
        count = len(list((reference_data / dataset / "llm").glob(f"{name}_CoT_*.json")))
        files = [reference_data / dataset / "llm" / f"{name}_CoT_{number}.json" for number in range(count)]
        source = [text for file in files for text in json.loads(file.read_text())]
        questions = read_questions(prepared[split].path)
        asked = {question.question_id for question in questions}
        assert read_questions(str(tmp_path / dataset / "questions" / f"{split}.parquet")) == questions
        for teacher, texts in {
            "flan_t5": [text.split("Thus, the answer is")[0].rstrip() for text in source],
            "llama2": [text.split("llama rationale: ", 1)[1].strip() for text in source],
        }.items():
            table = pq.read_table(tmp_path / dataset / teacher / split)
            assert table["rationale"].to_pylist() == texts
            ids = table["question_id"].to_pylist()
            assert [name for name in ids if name in asked] == [question.question_id for question in questions]
