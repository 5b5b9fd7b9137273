"""Which rows a step has, who computes them, how they are packed."""

import numpy as np
import pytest

from tinyllm_ray.data.arrays import Features
from tinyllm_ray.student.batches import (
    active_examples,
    batch_rows,
    groups_of,
    micro_batches,
    pack,
    shard_examples,
    shuffled_rationales,
)


def features(target_lengths):
    """Two components a row: a label of 2 tokens and a rationale of the given length; sources of 5 tokens."""
    rows, start = [], 0
    for row, length in enumerate(target_lengths):
        for component, target in ((0, 2), (1, length)):
            rows.append([row, component, start, 5, start + 5, target])
            start += 5 + target
    ids = np.array([f"q{row}" for row in range(len(target_lengths))])
    return Features(np.arange(start, dtype=np.int32), np.array(rows), ids, ["label", "teacher"])


def test_each_epoch_has_every_row_once_in_another_order():
    steps = np.concatenate([batch_rows(step, rows=12, batch_size=8, seed=3) for step in range(3)])
    assert sorted(steps[:12]) == sorted(steps[12:]) == list(range(12))
    assert list(steps[:12]) != list(steps[12:])


def test_a_step_is_a_function_of_seed_and_step_alone():
    first = batch_rows(5, rows=100, batch_size=8, seed=1)
    assert list(first) == list(batch_rows(5, rows=100, batch_size=8, seed=1))
    assert list(first) != list(batch_rows(5, rows=100, batch_size=8, seed=2))


def test_a_batch_larger_than_the_data_goes_through_it_several_times():
    assert sorted(batch_rows(0, rows=2, batch_size=6, seed=0)) == [0, 0, 0, 1, 1, 1]


def test_examples_of_components_without_weight_are_not_run():
    data = features([3, 4, 5])
    assert list(data.examples[active_examples(data, np.array([2, 0]), [1]), 0]) == [2, 0]
    assert len(active_examples(data, np.array([2, 0]), [0, 1])) == 4
    assert len(active_examples(data, np.array([1]), [])) == 0


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_the_shards_hold_all_examples_and_their_load_is_even(shards):
    data = features([1, 100, 2, 90, 3, 4, 110, 5])
    indices = active_examples(data, np.arange(8), [0, 1])
    parts = shard_examples(data, indices, shards=shards)
    assert len(parts) == shards
    assert sorted(np.concatenate(parts)) == list(range(16))
    if shards == 3:
        loads = [data.examples[part, 3].sum() + data.examples[part, 5].sum() for part in parts]
        assert max(loads) - min(loads) < 40


def test_micro_batches_keep_to_both_limits_and_lose_nothing():
    data = features([1, 100, 2, 90, 3, 4, 110, 5])
    indices = np.arange(16)
    parts = micro_batches(data, indices, max_tokens=130, max_examples=5)
    assert sorted(np.concatenate(parts)) == list(indices)
    assert max(len(part) for part in parts) <= 5
    assert max(data.examples[part, 3].sum() + data.examples[part, 5].sum() for part in parts) <= 130


def test_a_sequence_longer_than_the_limit_goes_alone():
    data = features([500])
    assert [len(part) for part in micro_batches(data, np.arange(2), max_tokens=50, max_examples=9)] == [1, 1]


def test_groups_hold_lengths_that_differ_little_and_mark_their_padding():
    groups = groups_of([20, 18, 3])
    assert [tuple(group.index.shape) for group in groups] == [(2, 20), (1, 3)]
    assert groups[0].blocked[:, 0, 0].sum(1).tolist() == [0, 2]
    assert groups[0].index[1].tolist() == [*range(20, 38), 37, 37]
    assert groups[1].blocked is None and groups[1].index.tolist() == [[38, 39, 40]]


def test_a_source_that_two_targets_read_lies_in_the_batch_once():
    batch = pack([np.array([5, 6, 7])], [0, 0], [np.array([8, 1]), np.array([9, 9, 1])], [0, 1], decoder_start=0)
    assert batch.source.tolist() == [5, 6, 7]
    assert batch.labels.tolist() == [9, 9, 1, 8, 1]
    assert batch.decoder_input.tolist() == [0, 9, 9, 0, 8]
    assert batch.components.tolist() == [1, 1, 1, 0, 0]
    assert batch.examples.tolist() == [1, 1, 1, 0, 0]


def test_a_decoder_only_student_predicts_targets_from_the_token_before():
    batch = pack([np.array([5, 6])], [0], [np.array([8, 1])], [0], decoder_start=None)
    assert batch.source.tolist() == [5, 6, 8]
    assert batch.label_positions.tolist() == [1, 2]
    assert batch.labels.tolist() == [8, 1]


def test_shuffled_rationales_leave_no_question_its_own_and_labels_alone():
    data = features([3, 4, 5, 6])
    shuffled = shuffled_rationales(data, seed=1)
    teacher = data.examples[:, 1] == 1
    assert (shuffled.examples[~teacher] == data.examples[~teacher]).all()
    assert (shuffled.examples[teacher, 4] != data.examples[teacher, 4]).all()
    assert sorted(shuffled.examples[teacher, 4]) == sorted(data.examples[teacher, 4])
    assert (shuffled.examples[teacher, :4] == data.examples[teacher, :4]).all()
