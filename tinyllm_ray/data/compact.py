"""Compaction of a finished store: many small Parquet parts in, few larger ones out, with the same rows in their order.

A stop at any moment loses nothing: a merged part is whole before the parts that went into it are removed, and it names
them, so that the next compaction removes what was left.
"""

import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from tinyllm_ray import storage
from tinyllm_ray.config import digest
from tinyllm_ray.data import store

PART_BYTES = 16 << 20  # a part of at least this size is left as it is
_MERGED_FROM = b"merged_from"


def compact(folder: str, split: str, *, part_bytes: int = PART_BYTES) -> int:
    """Merge neighbors in the order of names; the number of parts that are left."""
    place = storage.join(folder, split)
    sizes = storage.list_sizes(place, ".parquet")
    if sum(size < part_bytes for size in sizes.values()) < 2:
        return len(sizes)
    sizes = _without_leftovers(sizes)
    for group in _groups(sizes, part_bytes):
        _merge(group, place)
    return len(storage.list_files(place, ".parquet"))


def _without_leftovers(sizes: dict[str, int]) -> dict[str, int]:
    """Remove parts that are in a merged part already, which a stop has left behind."""
    there = {uri.rpartition("/")[2]: uri for uri in sizes}
    for uri in list(sizes):
        for name in _merged_from(uri):
            if name in there:
                storage.remove(there[name])
                del sizes[there.pop(name)]
    return sizes


def _merged_from(uri: str) -> list[str]:
    if "-merged-" not in uri.rpartition("/")[2]:
        return []
    with storage.open_file(uri) as file:
        metadata = pq.read_schema(file).metadata or {}
    return json.loads(metadata.get(_MERGED_FROM, b"[]"))


def _groups(sizes: dict[str, int], part_bytes: int) -> Iterator[list[str]]:
    group: list[str] = []
    held = 0
    for uri, size in [*sizes.items(), ("", part_bytes)]:
        if size < part_bytes:
            group.append(uri)
            held += size
        if size >= part_bytes or held >= part_bytes:
            if len(group) > 1:
                yield group
            group, held = [], 0


def _merge(uris: list[str], place: str) -> None:
    """The name sorts where the first of the parts did."""
    names = [uri.rpartition("/")[2] for uri in uris]
    table = pa.concat_tables([store.read_part(uri) for uri in uris], promote_options="default")
    marked = table.replace_schema_metadata({_MERGED_FROM: json.dumps(names).encode()})
    first = names[0].removesuffix(".parquet").partition("-merged-")[0]
    storage.write_table(storage.join(place, f"{first}-merged-{digest(names, 12)}.parquet"), marked)
    for uri in uris:
        storage.remove(uri)
