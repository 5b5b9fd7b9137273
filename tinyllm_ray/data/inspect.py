"""What is in a file or a folder of questions: a path in, columns, splits, overlaps and a `dataset` section out.

In: data/arc    Out: {"files": {"train": [...]}, "columns": {...}, "reading": "label", "section": {...}, ...}
"""

import re
from array import array
from collections import Counter
from typing import Any

import yaml

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.data import sources
from tinyllm_ray.data.fields import BadRow
from tinyllm_ray.data.formats import Parts, to_question
from tinyllm_ray.data.guess import guess
from tinyllm_ray.data.overlap import count_shared, shared_lines, text_key
from tinyllm_ray.data.readers import SUPPORTED, Unreadable
from tinyllm_ray.data.scan import scan
from tinyllm_ray.data.splits import NAMES_OF_SPLITS, iterate_rows
from tinyllm_ray.rows import SPLITS, Rejected
from tinyllm_ray.schema import LAYOUTS, Dataset

_FIRST_ROWS = 200
_SHOWN = 160  # characters of a value
_WORD = re.compile(r"[a-zA-Z]+")
_SPLIT_OF_WORD = {word: split for split, words in NAMES_OF_SPLITS.items() for word in words}


def inspect(path: str) -> dict[str, Any]:
    """Raises UserError where there are no files of rows, or no column looks like a question."""
    uri = sources.absolute(path).rstrip("/")
    folder, files = _files(uri)
    first = _first_rows(files)
    section = _section(guess(first), folder, files)
    dataset = Dataset.model_validate(section)
    found: dict[str, Any] = {
        "path": uri,
        "files": files,
        "columns": _types(first),
        "rows": [{name: _shown(value) for name, value in row.items()} for row in first[:3]],
        "reading": None,
        "problem": "",
    }
    try:
        found["reading"] = scan(dataset, files).reading
    except UserError as error:
        found["problem"] = str(error)
    splits, shared = _count(dataset, files, found["reading"])
    _advise(section, splits, shared)
    found |= {"splits": splits, "overlaps": shared_lines({s: c["rows"] for s, c in splits.items()}, shared)}
    found |= {"section": section}
    return found | {"yaml": _yaml(section), "lines": _lines(found)}


def _files(uri: str) -> tuple[str, dict[str, list[str]]]:
    """The folder, and the files by split as their names say; a file that names no split is train.

    Files at the top of the folder go before those in folders below it.
    """
    there = sources.find("", uri)
    if there == [uri]:
        return uri.rpartition("/")[0], {"train": [uri]}
    sets: dict[str, dict[str, list[str]]] = {}
    for name in there:
        place, split = _split_of(name.removeprefix(f"{uri}/"))
        sets.setdefault(place, {}).setdefault(split, []).append(name)
    if not sets and not storage.is_folder(uri):
        raise UserError(f"there is no file or folder {uri}{storage.nearest_path(uri)}")
    if not sets:
        raise UserError(f"{uri} holds no files of rows; supported are {SUPPORTED}")
    if len(sets) > 1 and "." not in sets:
        names = ", ".join(sorted(sets)[:12]) + (", ..." if len(sets) > 12 else "")
        raise UserError(f"{uri} holds several datasets: {names}; inspect one of these folders")
    by_split = sets["."] if "." in sets else next(iter(sets.values()))
    if set(by_split) > {""}:
        del by_split[""]  # files that name no split, beside some that do
    return uri, {split or "train": by_split[split] for split in ("", *SPLITS) if split in by_split}


def _split_of(name: str) -> tuple[str, str]:
    """ "ARC-Easy/ARC-Easy-Test.jsonl" -> ("ARC-Easy", "test"); a folder named after a split is no part of the place."""
    *folders, last = name.split("/")
    words = [_SPLIT_OF_WORD[word.lower()] for word in _WORD.findall(last) if word.lower() in _SPLIT_OF_WORD]
    named = [_SPLIT_OF_WORD[folder.lower()] for folder in folders if folder.lower() in _SPLIT_OF_WORD]
    place = "/".join(folder for folder in folders if folder.lower() not in _SPLIT_OF_WORD)
    return place or ".", (words or named or [""])[0]


def _first_rows(files: dict[str, list[str]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for uri in (uri for uris in files.values() for uri in uris):
        for row in sources.iterate(uri):
            if isinstance(row.value, dict):
                rows.append(row.value)
            else:
                problems.append(row.problem or f"the row is of type {type(row.value).__name__}")
            if len(rows) + len(problems) >= _FIRST_ROWS:
                break
        if rows:
            return rows
    why = "; ".join(problems[:3]) or "it is empty"
    raise UserError(f"{uri} holds no rows with named columns ({why}); supported are {SUPPORTED}")


def _section(guessed: dict[str, Any], folder: str, files: dict[str, list[str]]) -> dict[str, Any]:
    last = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.rpartition("/")[2]).strip("-._")
    name = guessed["format"] if _says(guessed["format"], files) else last.lower() or "mine"
    splits = {split: [file.removeprefix(f"{folder}/") for file in uris] for split, uris in files.items()}
    names = {split: uris[0] if len(uris) == 1 else uris for split, uris in splits.items()}
    return {"name": name, **guessed, "path": folder, "splits": names}


def _says(layout: str, files: dict[str, list[str]]) -> bool:
    """Whether the files' own names say that they are this dataset, and not merely written in its way."""
    if layout not in LAYOUTS:
        return False
    names = [layout, LAYOUTS[layout]["title"], LAYOUTS[layout]["source"].partition(",")[0].rpartition("/")[2]]
    said = [_bare(uri) for uris in files.values() for uri in uris]
    return any(_bare(name) in uri for name in names for uri in said)


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _count(
    dataset: Dataset, files: dict[str, list[str]], reading: str | None
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, int]]]:
    splits: dict[str, dict[str, Any]] = {}
    keys: dict[str, array[int]] = {}
    for split, uris in files.items():
        counts = {"rows": 0, "bad": 0, "unanswered": 0, "skipped": 0, "repeated_ids": 0, "repeated_questions": 0}
        reasons: list[str] = []
        ids, keys[split] = Counter[str](), array("Q")
        for _, item in iterate_rows(dataset, split, uris):
            reason = _reason(dataset, item, reading)
            if item is None:
                counts["skipped"] += 1
            elif reason:
                counts["unanswered" if reason == "no answer" else "bad"] += 1
                if len(reasons) < 3 and reason != "no answer":
                    reasons.append(f"line {item.line if isinstance(item, Rejected) else item.position}: {reason}")
            elif isinstance(item, Parts):
                counts["rows"] += 1
                ids[item.question_id] += 1
                keys[split].append(text_key(item.context, item.question))
        counts["repeated_ids"] = sum(ids.values()) - len(ids)
        counts["repeated_questions"] = len(keys[split]) - len(set(keys[split]))
        splits[split] = {**counts, "reasons": reasons}
    return splits, count_shared(keys)


def _reason(dataset: Dataset, item: Parts | Rejected | None, reading: str | None) -> str:
    if isinstance(item, Rejected):
        return item.reason
    if item is not None and reading:
        try:
            to_question(item, dataset=dataset, reading=reading)
        except BadRow as problem:
            return str(problem)
    return ""


def _advise(section: dict[str, Any], splits: dict[str, dict[str, Any]], shared: dict[str, dict[str, int]]) -> None:
    """Keys that these files need beside the columns."""
    if any(counts["repeated_ids"] for counts in splits.values()):
        section["repeated_ids"] = "number"
    if any(others.get("train") for others in shared.values()):
        section["drop_leaked"] = True
    for split in [split for split in splits if split != "train" and not splits[split]["rows"]]:
        del section["splits"][split]
    if "train" in splits and "validation" not in section["splits"]:
        section["split_from_train"] = {"validation": 0.1}


def _types(rows: list[dict[str, Any]]) -> dict[str, str]:
    """{"choices": "list of str", "exp": "str or null"}: what the first rows hold."""
    kinds: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, value in row.items():
            kinds.setdefault(name, {})[_type(value)] = None
    for name, found in kinds.items():
        if any(name not in row for row in rows):
            found["absent"] = None
    return {name: " or ".join(kinds[name]) for name in kinds}


def _type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Unreadable):
        return "unreadable"
    if isinstance(value, dict):
        return f"{{{', '.join(map(str, list(value)[:8]))}}}"
    if isinstance(value, list):
        return f"list of {_type(value[0])}" if value else "list"
    return type(value).__name__


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _yaml(section: dict[str, Any]) -> str:
    lines = ["dataset:"]
    for key, value in section.items():
        if isinstance(value, dict):
            lines += [f"  {key}:", *(f"    {name}: {_inline(inner)}" for name, inner in value.items())]
        else:
            lines.append(f"  {key}: {_inline(value)}")
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _lines(found: dict[str, Any]) -> list[str]:
    lines = ["columns of the first rows:", *(f"  {name}: {kind}" for name, kind in found["columns"].items())]
    for number, row in enumerate(found["rows"], start=1):
        lines += [f"row {number}:", *(f"  {name}: {value}" for name, value in row.items())]
    for split, counts in found["splits"].items():
        extra = [
            f"{counts[key]} {key.replace('_', ' ')}" for key in counts if key not in ("rows", "reasons") and counts[key]
        ]
        lines.append(", ".join([f"{split}: {counts['rows']} questions", *extra]))
        lines += [f"  {reason}" for reason in counts["reasons"]]
    lines += found["overlaps"]
    if found["reading"]:
        lines.append(f"the answers are read as {found['reading']} (dataset.columns.answer_is)")
    return [*lines, *([found["problem"]] if found["problem"] else []), "", "the section to paste:", ""]
