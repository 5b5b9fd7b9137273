"""The rows between the stages and the Arrow schemas that follow from them."""

import pyarrow as pa
import pytest

from tinyllm_ray.rows import Prediction, PromptRow, Question, Rationale, from_table, schema_of, to_table

ASKED = Question("q", "Who ate it?", ["cat", "dog"], "cat", context="A cat ate.", accepted=["the cat"])


def test_a_schema_has_a_column_for_each_field_in_their_order() -> None:
    assert schema_of(Question) == pa.schema(
        [
            ("question_id", pa.string()),
            ("question", pa.string()),
            ("choices", pa.list_(pa.string())),
            ("answer", pa.string()),
            ("context", pa.string()),
            ("accepted", pa.list_(pa.string())),
            ("task", pa.string()),
        ]
    )


def test_numbers_have_the_width_that_their_field_names() -> None:
    prompt = schema_of(PromptRow)
    assert prompt.field("target").type == pa.int32()
    assert prompt.field("seed").type == pa.int64()
    assert prompt.field("prompt_ids").type == pa.list_(pa.int32())
    assert prompt.field("question").type == pa.struct(list(schema_of(Question)))
    prediction = schema_of(Prediction)
    assert prediction.field("choice_scores").type == pa.list_(pa.float32())
    assert prediction.field("correct").type == pa.bool_()
    assert prediction.field("rationales").type == pa.map_(pa.string(), pa.string())


@pytest.mark.parametrize(
    "row",
    [
        ASKED,
        PromptRow("k", 1, 2, ASKED, dropped_examples=0, seed=2**40, prompt="Who?", prompt_ids=[5, 6]),
        Rationale("k", "q", 0, "It ate.", "cat", "stop", "", 0, 5, 3, ["short"]),
        Prediction("q", "Who?", "cat", "dog", False, [-0.5, -0.25], "", {"owl": "It ate."}),
    ],
)
def test_a_row_comes_back_from_its_table(row: object) -> None:
    table = to_table([row, row], type(row))
    assert table.schema == schema_of(type(row))
    assert from_table(table, type(row)) == [row, row]


def test_a_field_without_a_column_takes_its_default() -> None:
    old = to_table([ASKED], Question).drop_columns(["context", "accepted"])
    assert from_table(old, Question) == [Question("q", "Who ate it?", ["cat", "dog"], "cat")]


def test_no_rows_are_a_table_with_all_columns() -> None:
    assert to_table([], Rationale).schema == schema_of(Rationale)
