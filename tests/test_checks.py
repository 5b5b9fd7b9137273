"""What can be known without an engine is said before one starts: the student's side."""

import json
from pathlib import Path

import pytest
from support.fake_endpoint import chat, server
from support.small_experiment import write_experiment

from tinyllm_ray.checks import CHECKS, check
from tinyllm_ray.config import UserError, load_experiment
from tinyllm_ray.session import Session

SIZES = {"train": 12, "validation": 4}


def checked(folder: Path, *overrides: str) -> list[str]:
    path = write_experiment(folder, sizes=SIZES)
    with Session(load_experiment(path, [f"teachers.one.store={folder}", *overrides]), say=print) as session:
        return check(session, "train")


def test_more_ranks_than_shards_or_questions_of_a_step_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="9 ranks: a step has 8 rows"):
        checked(tmp_path, "pools.student.workers=9")
    with pytest.raises(UserError, match="4 ranks were asked for, but a step has 2 shards"):
        checked(tmp_path, "pools.student.workers=4", "training.shards=2")
    with pytest.raises(UserError, match="13 ranks: a step has 12 rows"):
        checked(tmp_path, "pools.student.workers=13", "training.batch_size=64")


def test_a_loss_term_that_cannot_be_imported_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"loss.custom.far.path: no_package:term cannot be imported"):
        checked(tmp_path, "loss.custom.far.path=no_package:term")


def soft(folder: Path, *overrides: str) -> list[str]:
    path = write_experiment(folder, sizes=SIZES)
    given = ["teachers.one.soft_targets={top_k: 4}", *overrides]
    with Session(load_experiment(path, given), say=print) as session:
        return [line for line in check(session, "run") if line.startswith("soft targets")]


def test_the_vocabularies_of_soft_targets_are_compared_before_anything_starts(tmp_path: Path) -> None:
    own = f"student.tokenizer={tmp_path}/teacher"
    assert soft(tmp_path, own) == ["soft targets: one has the student's vocabulary"]
    with pytest.raises(UserError, match=r"another vocabulary \(the student's tokenizer is trained on the dataset\)"):
        soft(tmp_path)
    write_experiment(tmp_path / "other", sizes=SIZES)
    there = tmp_path / "other" / "teacher" / "tokenizer.json"
    there.write_text(there.read_text().replace('"<s>"', '"<begin>"'))  # <s> comes back behind the others, as id 300
    other = f"student.tokenizer={there.parent}"
    with pytest.raises(UserError, match=r"2 is '<s>' for the teacher, '<begin>' for the student"):
        soft(tmp_path, other)
    (line,) = soft(tmp_path, other, "teachers.one.soft_targets.on_mismatch=cross_entropy")
    assert line.startswith("soft targets: one has another vocabulary than the student (2 of 301 ids differ")
    assert line.endswith("so it is learned from as text")


def test_more_soft_targets_than_tokens_are_refused_before_anything_starts(tmp_path: Path) -> None:
    own = f"student.tokenizer={tmp_path}/teacher"
    with pytest.raises(UserError, match=r"top_k is 301, but the vocabulary of .* has 300 tokens"):
        soft(tmp_path, own, "teachers.one.soft_targets.top_k=301")


def test_a_served_teachers_vocabulary_is_that_of_the_tokenizer_that_its_engine_names(tmp_path: Path) -> None:
    """The server gives texts for tokens, so of the two checks the vocabulary's passes and the teacher's does not."""
    own = f"student.tokenizer={tmp_path}/teacher"
    served = {"type": "endpoint", "url": "", "max_retries": 0}
    with server(lambda number, body: chat("because")) as (served["url"], _):
        given = [own, "teachers.one.model=m", f"teachers.one.engine={json.dumps(served)}"]
        with pytest.raises(UserError) as caught:
            soft(tmp_path, *given)
        assert "teachers.one.engine.tokenizer: the tokenizer of m cannot be loaded: " in str(caught.value)
        with pytest.raises(UserError) as caught:
            soft(tmp_path, *given, f"teachers.one.engine.tokenizer={tmp_path}/teacher")
    (line,) = str(caught.value).splitlines()
    assert "does not give them: endpoint gives no log-probabilities: `logprobs` is NoneType" in line


def test_question_files_that_cannot_be_had_are_asked_for_once(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, sizes=SIZES)
    (tmp_path / "train.jsonl").write_bytes(b"")
    with Session(load_experiment(path), say=print) as session:
        mistakes = []
        for _ in range(2):
            with pytest.raises(UserError) as caught:
                _ = session.questions
            mistakes.append(caught.value)
    assert mistakes[0] is mistakes[1]


def test_a_tokenizer_that_cannot_be_loaded_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in (tmp_path / "empty", "no/where"):
        with pytest.raises(UserError, match=f"the tokenizer '{name}' cannot be loaded; set student.tokenizer"):
            checked(tmp_path, f"student.tokenizer={name}")
    with pytest.raises(UserError, match="holds no manifest") as caught:  # nothing but the store is missing
        checked(tmp_path, f"student.tokenizer={tmp_path / 'teacher'}")
    assert "student.tokenizer" not in str(caught.value)


def test_a_judge_whose_prompt_or_model_is_not_there_is_refused_before_anything_starts(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, sizes=SIZES)

    def look(*overrides: str) -> list[str]:
        judge = ["rationales.judge.by.name=critic", f"rationales.judge.by.model={tmp_path}/none", *overrides]
        with Session(load_experiment(path, judge), say=print) as session:
            return list(CHECKS["generate"]["judge"](session, "generate"))

    with pytest.raises(UserError, match=r"rationales.judge.prompt: 'no.txt' is neither 'default' nor"):
        look("rationales.judge.prompt=no.txt")
    with pytest.raises(UserError, match=r"^rationales.judge.by.model: there is no folder .*/none"):
        look()
    (line,) = look(f"rationales.judge.by.model={tmp_path}/teacher", "rationales.judge.by.engine.type=seq2seq")
    assert line == "critic will score the rationales, and those below 3 are not used"
