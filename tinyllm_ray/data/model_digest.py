"""What exactly a model's folder holds: its path in, a digest of its files out; a file is read again once it changes."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path


def folder_digest(folder: str) -> str:
    """Digest of the names and contents of all files below a folder."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file() and ".cache" not in path.parts)
    return _files_digest(folder, tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files))


@lru_cache(maxsize=64)
def _files_digest(folder: str, files: tuple[tuple[str, int, int], ...]) -> str:
    paths = [Path(name) for name, _, _ in files]
    with ThreadPoolExecutor(4) as threads:  # hashing releases the interpreter's lock
        contents = threads.map(_file_digest, paths)
    whole = hashlib.blake2b(digest_size=12)
    for path, content in zip(paths, contents, strict=True):
        whole.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return whole.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()
