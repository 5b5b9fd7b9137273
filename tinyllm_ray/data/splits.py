"""Which files are which split: a dataset section in, source files by split out, and the rows in them.

In: path: /data/arc    Out: {"train": ["/data/arc/ARC-Challenge/train-00000-of-00001.parquet"], ...}
"""

from collections.abc import Iterator, Mapping

from tinyllm_ray.config import UserError
from tinyllm_ray.data import sources
from tinyllm_ray.data.fields import BadRow, OtherKind
from tinyllm_ray.data.formats import Parts, columns_read, read_parts
from tinyllm_ray.data.readers import SourceRow
from tinyllm_ray.outside import load_outside
from tinyllm_ray.rows import SPLITS, Rejected
from tinyllm_ray.schema import Dataset

NAMES_OF_SPLITS = {"train": ["train"], "validation": ["validation", "valid", "dev", "val"], "test": ["test"]}
_SUFFIXES = ("jsonl", "json", "parquet", "csv", "tsv", "ndjson", "arrow")
_HUB_FOLDERS = ("", "main/", "data/", "default/", "plain_text/", "ARC-Challenge/", "pqa_labeled/", "multiple_choice/")


def find_files(dataset: Dataset) -> dict[str, list[str]]:
    """Source files by split: those that `dataset.splits` names, else the one file that `dataset.path` is, as train,
    else those with the format's own names.

    Raises UserError where there is none, or a file is named for two splits.
    """
    if not dataset.path:
        raise UserError(f"dataset.path: missing; set it to the folder that holds the files of {dataset.name}")
    folder = sources.absolute(dataset.path)
    found: dict[str, list[str]] = {}
    for split, patterns in dataset.splits.items():
        found[split] = _named(folder, patterns, split)
    if not found and sources.is_data(folder) and sources.find("", folder) == [folder]:
        found = {"train": [folder]}
    elif not found:
        found = _by_own_names(dataset, folder)
    for split in dataset.split_from_train:
        if split in found:
            raise UserError(
                f"dataset.split_from_train.{split}: there is a {split} split already ({found[split][0]}); "
                "take the key out, or name the wanted files in dataset.splits"
            )
        if "train" not in found:
            raise UserError(f"dataset.split_from_train.{split}: the dataset has no train split to take it from")
    _refuse_shared_files(found)
    return found


def iterate_rows(dataset: Dataset, split: str, uris: list[str]) -> Iterator[tuple[int, Parts | Rejected | None]]:
    """Every row with its number from 1: taken apart, rejected, or None for a row of another kind."""
    columns = columns_read(dataset)
    if dataset.reader:
        rows = (row for uri in uris for row in _read_outside(dataset.reader, uri))
    else:
        rows = (row for uri in uris for row in sources.iterate(uri, form=dataset.format, columns=columns))
    for number, row in enumerate(rows, start=1):
        if row.problem:
            yield number, Rejected(row.position, row.problem, row.text)
            continue
        try:
            name = f"{split}-{number}"
            yield number, read_parts(row.value, dataset=dataset, default_id=name, position=row.position)
        except OtherKind:
            yield number, None
        except BadRow as problem:
            yield number, Rejected(row.position, str(problem), repr(row.value)[:200])


def _read_outside(reader: str, uri: str) -> Iterator[SourceRow]:
    read = load_outside(reader, key="dataset.reader")
    return (SourceRow(position, value) for position, value in enumerate(read(uri), start=1))


def _named(folder: str, patterns: str | list[str], split: str) -> list[str]:
    files: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        there = sources.find(folder, pattern)
        if not there:
            raise UserError(
                f"dataset.splits.{split}: there is no file {pattern} in {folder}, and no folder of that name that "
                "holds files of rows"
            )
        files += there
    return list(dict.fromkeys(files))


def _by_own_names(dataset: Dataset, folder: str) -> dict[str, list[str]]:
    looked_for = {split: _own_names(dataset, split, folder) for split in SPLITS}
    found = {
        split: next((files for pattern in patterns if (files := sources.find(folder, pattern))), [])
        for split, patterns in looked_for.items()
    }
    if not any(found.values()):
        names = [name for patterns in looked_for.values() for name in patterns[:4]]
        raise UserError(
            f"dataset.path: {folder} holds no question files of format {dataset.format}; looked for {', '.join(names)} "
            f"and such; `tinyllm-ray inspect {folder}` shows what is there; set dataset.path, dataset.format or "
            "dataset.splits"
        )
    return {split: files for split, files in found.items() if files}


def _own_names(dataset: Dataset, split: str, folder: str) -> list[str]:
    if dataset.format == "miniature":
        return [f"{split}.jsonl"]
    if dataset.format == "reference":
        file = f"{dataset.name}_{'valid' if split == 'validation' else split}.json"
        return [file, f"{dataset.name}/{file}"]
    stems = NAMES_OF_SPLITS[split]
    names = [f"{stem}.{suffix}" for stem in stems for suffix in _SUFFIXES]
    if folder.startswith(("http://", "https://")):
        return names
    packed = [f"{name}.{suffix}" for name in names for suffix in ("gz", "bz2", "zst")]
    hub = [f"{place}{stem}-*.parquet" for place in _HUB_FOLDERS for stem in stems]
    return [*names, *packed, *hub, *stems]


def _refuse_shared_files(found: Mapping[str, list[str]]) -> None:
    splits = list(found)
    for position, split in enumerate(splits):
        for other in splits[:position]:
            both = set(found[split]) & set(found[other])
            if both:
                raise UserError(
                    f"dataset.splits: {min(both)} is a file of {other} and of {split}, so nothing learned on one could "
                    "be measured on the other; name other files"
                )
