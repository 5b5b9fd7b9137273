from tinyllm_ray.schema import Sampling
from tinyllm_ray.teachers.batches import cut_at_stop
from tinyllm_ray.teachers.seq2seq import batches_by_tokens


def test_batches_hold_rows_of_like_length_within_the_budget() -> None:
    assert batches_by_tokens([3, 9, 4], 10) == [[1], [2, 0]]  # 9; then 2 x 4 = 8
    assert batches_by_tokens([5, 5, 5, 5], 10) == [[0, 1], [2, 3]]


def test_a_row_over_the_budget_runs_alone() -> None:
    assert batches_by_tokens([50, 1, 1], 10) == [[0], [1, 2]]
    assert batches_by_tokens([], 10) == []


def test_a_text_ends_before_the_first_stop_text() -> None:
    sampling = Sampling(stop=["\n\n", "Question:"])
    assert cut_at_stop("So it is. Question: why\n\nthen", sampling) == "So it is. "
    assert cut_at_stop("So it is.", sampling) == "So it is."
