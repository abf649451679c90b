"""Files that are whole or absent, and digests that say what they were made from."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def digest(value: Any) -> str:
    """sha256 over the canonical JSON of a value; 16 hex digits are plenty to tell runs apart and short enough to read."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(folder: Path, pattern: str = "**/*.py") -> str:
    """Digest of a folder's source files, by name and content. Snakemake does not watch imported modules; this does."""
    return digest({str(p.relative_to(folder)): file_sha256(p) for p in sorted(folder.glob(pattern))})


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is never half there: temporary name, flush to disk, rename. A full disk raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_rows(path: Path) -> list[dict]:
    """The rows of a JSON-lines file. Raises ValueError naming file and line if one is broken."""
    rows = []
    with path.open() as file:
        for number, line in enumerate(file, 1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path} line {number} is not JSON ({error}); is the file complete?") from error
    return rows


def whole_rows(path: Path) -> list[dict]:
    """The rows of a log that a killed process may have cut short: a half-written last line is dropped."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone. Raises ValueError if another process is working in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{folder} is in use by another process; wait for it or choose another output folder") from error
        yield
