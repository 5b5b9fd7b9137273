import torch
from transformers.cache_utils import DynamicLayer

from tinyllm_ray.teachers.engines.text_rows import ROOM, RoomyLayer, Text, TextRows, join, roomy


def test_a_layer_with_room_holds_what_a_plain_one_holds() -> None:
    first, second = torch.arange(12.0).view(1, 2, 3, 2), -torch.arange(12.0).view(1, 2, 3, 2)
    plain, roomy = DynamicLayer(), RoomyLayer(first.clone(), second.clone())
    plain.update(first, second)
    for step in range(2 * ROOM + 3):
        column = torch.full((1, 2, 1, 2), float(step))
        for held, expected in zip(roomy.update(column, column + 1), plain.update(column, column + 1), strict=True):
            assert torch.equal(held, expected)
    assert roomy.get_seq_length() == plain.get_seq_length() == 3 + 2 * ROOM + 3


def rows(texts: list[Text], tokens: list[list[int]], sources: list[list[int]]) -> TextRows:
    """Keys are the token, or the source's mask, at their column; values are their opposites."""

    def pair(columns: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        keys = torch.tensor(columns, dtype=torch.float32)[:, None, :, None]  # [B, 1, W, 1]
        return keys, -keys

    cache = roomy([pair([row[:-1] for row in tokens])], [pair(sources)])
    return TextRows(texts, torch.tensor(tokens), torch.tensor(sources), cache)


def text(tokens: list[int], *, source: int, over: bool = False) -> Text:
    return Text([9] * source, random=None, tokens=tokens, over=over)


def test_joined_rows_end_in_one_column_and_their_sources_begin_in_one() -> None:
    """Of the first part's rows the longest has ended; with it go the columns and sources that no other row needs."""
    ended = text([5, 6, 7, 8], source=4, over=True)
    going = text([7, 8], source=3)
    old = rows([ended, going], [[0, 5, 6, 7, 8], [0, 0, 0, 7, 8]], [[1, 1, 1, 1], [1, 1, 1, 0]])
    entering = text([4], source=2)
    new = rows([entering], [[0, 4]], [[1, 1]])

    joined = join([(old, old.live()), (new, [0])], start=[0])

    assert joined.texts == [going, entering]
    assert joined.tokens.tolist() == [[0, 7, 8], [0, 0, 4]]
    assert joined.source_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    [own], [cross] = joined.cache.self_attention_cache.layers, joined.cache.cross_attention_cache.layers
    assert own.keys[:, 0, :, 0].tolist() == [[0, 7], [0, 0]] and own.values[:, 0, :, 0].tolist() == [[0, -7], [0, 0]]
    assert cross.keys[:, 0, :, 0].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert joined.cache.is_updated == {0: True}


def test_a_row_that_begins_takes_the_place_of_one_that_has_ended() -> None:
    """The place beside it keeps its row, and columns and sources that only the ended one needed are out of sight."""
    ended = text([5, 6, 7, 8], source=4, over=True)
    going = text([7, 8], source=3)
    held = rows([ended, going], [[0, 5, 6, 7, 8], [0, 0, 0, 7, 8]], [[1, 1, 1, 1], [1, 1, 1, 0]])
    entering = text([4], source=2)

    held.replace(rows([entering], [[0, 4]], [[1, 1]]), start=[0])

    assert held.texts == [entering, going]
    assert held.tokens.tolist() == [[0, 0, 4], [0, 7, 8]]
    assert held.source_mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    [own], [cross] = held.cache.self_attention_cache.layers, held.cache.cross_attention_cache.layers
    assert own.keys[1, 0, :, 0].tolist() == [0, 7] and own.keys[0, 0, -1, 0] == 0
    assert cross.keys[:, 0, :, 0].tolist() == [[1, 1, 1], [1, 1, 1]]  # the mask hides the last of the first row
    column = torch.full((2, 1, 1, 1), 3.0)
    assert own.update(column, -column)[0][1, 0, :, 0].tolist() == [0, 7, 3]
