"""A data file's problems in tokens, kept beside it: prompts, demonstrations and their paragraph breaks.

    results/paper/data/train.jsonl             text, to read
    results/paper/data/train.tokens.arrow      tokens, mapped into memory; every stage and rank shares one copy

Tokenising a demonstration of 8,000 tokens costs about 13 ms and 230 KB of Python integers: minutes and gigabytes, again for
every stage and rank, where 46,000 problems have two. From this file a problem is made when it is asked for.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import overload

import pyarrow as pa

from engine import data, record
from engine.data import Template, Tokenizer
from engine.record import log
from engine.words import Problem

TOKENS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "prompt": TOKENS,
        "answer": pa.string(),
        "demonstrations": pa.list_(TOKENS),
        "breaks": pa.list_(TOKENS),
    }
)
CHUNK = 256  # problems a record batch
PROBES = 16  # problems that are tokenised again, to recognise tokenizer and template by


def path_of(data_file: Path) -> Path:
    """Where the tokens of a data file are."""
    return data_file.with_suffix(".tokens.arrow")


def load(data_file: Path, tokenizer: Tokenizer, template: Template, limit: int, response: int) -> Sequence[Problem]:
    """The problems of a data file: from its tokens where it has them, else tokenised now (`engine.data.problems`)."""
    path = path_of(data_file)
    if path.is_file():
        found = Problems(path, record.file_sha256(data_file), limit, response)
        if found[:PROBES] == data.problems(head(data_file, PROBES), tokenizer, template, limit, response):
            return found
        log.warning("%s is of another tokenizer or template: tokenising %s again, which may take minutes", path, data_file)
    return data.problems(data.read_rows(data_file), tokenizer, template, limit, response)


def head(data_file: Path, count: int) -> list[dict]:
    """The first rows of a data file."""
    with data_file.open(encoding="utf-8") as file:
        return [json.loads(line) for line in islice(file, count)]


def write(data_file: Path, problems: Iterable[Problem]) -> None:
    """Write the tokens of a data file, which must be there, in its order."""
    made = {"data": record.file_sha256(data_file)}
    schema = SCHEMA.with_metadata({"made": json.dumps(made)})
    with (
        record.replaced(path_of(data_file)) as path,
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_file(file, schema) as out,
    ):
        rest = iter(problems)
        while chunk := [{name: getattr(one, name) for name in SCHEMA.names} for one in islice(rest, CHUNK)]:
            out.write_batch(pa.RecordBatch.from_pylist(chunk, schema))


class Problems(Sequence[Problem]):
    """Problems of a file that `write` made. Raises ValueError if it is damaged, of other data, or holds something too long."""

    def __init__(self, path: Path, data_sha256: str, limit: int, response: int) -> None:
        try:
            self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is not whole ({error}); delete it and build its data file again") from error
        if json.loads(self._table.schema.metadata[b"made"])["data"] != data_sha256:
            raise ValueError(f"{path} was made of another data file than the one beside it; delete it, or build both again")
        prompts, demonstrations = self._table["prompt"].chunks, [one.flatten() for one in self._table["demonstrations"].chunks]
        for what, lists, allowed in (("prompt", prompts, limit), ("response", demonstrations, response)):
            longest = max((int(one.value_lengths().to_numpy().max(initial=0)) for one in lists), default=0)
            if longest > allowed:
                raise ValueError(f"{path} has a {what} of {longest} tokens, max_{what}_tokens is {allowed}; build it again")

    def __len__(self) -> int:
        return self._table.num_rows

    @overload
    def __getitem__(self, place: int) -> Problem: ...
    @overload
    def __getitem__(self, place: slice) -> list[Problem]: ...
    def __getitem__(self, place: int | slice) -> Problem | list[Problem]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        (row,) = self._table.slice(place % len(self), 1).to_pylist()
        demonstrations, breaks = (tuple(map(tuple, row[name])) for name in ("demonstrations", "breaks"))
        return Problem(row["id"], tuple(row["prompt"]), row["answer"], demonstrations, breaks)

    def __iter__(self) -> Iterator[Problem]:
        return (self[i] for i in range(len(self)))
