"""Training corpora in the forms they are published in, as rows with an answer and demonstrations.

    chat          Elliott/Openr1-Math-46k-8192: prompt [{role, content}], target [{role, content}], reward_model, extra_info
    generations   open-r1/OpenR1-Math-220k: problem, answer, generations, correctness_math_verify, is_reasoning_complete, uuid
    gsm8k         openai/gsm8k: question, answer with the worked solution before ####
    rows          this project's own: id, problem, answer, demonstrations

Files are .parquet or .jsonl; parquet is read in batches and only the columns a form needs, since a corpus is gigabytes of text.
"""

import json
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import data, record

BATCH = 512  # rows of a parquet file in memory at once


@dataclass(frozen=True)
class Demonstration:
    """A response as published. `failed`: its publisher's check says it is wrong or unfinished, or does not say it is right."""

    text: str
    failed: bool = False
    complete: bool = True


@dataclass(frozen=True)
class Row:
    """A problem as published; `source_id` may be empty or shared with other rows."""

    source_id: str
    problem: str
    answer: str
    demonstrations: tuple[Demonstration, ...] = ()

    @property
    def line(self) -> bytes:
        """What the digest of a list of rows is made of: the same for the same content in another kind of file."""
        content = [self.problem, self.answer, [one.text for one in self.demonstrations]]
        return f"{json.dumps(content, ensure_ascii=False)}\n".encode()


def key(problem: str) -> str:
    """What two copies of a problem have in common: its text in Unicode NFC, with every stretch of white space one space."""
    return " ".join(unicodedata.normalize("NFC", problem).split())


def read(name: str, files: list[Path], form: str) -> Iterator[Row]:
    """The rows of all files. Raises ValueError for a missing column, a file of another kind, or a file that is cut short."""
    make, columns = FORMS[form]
    for path in files:
        for number, raw in enumerate(_raw(path, columns), 1):
            try:
                yield make(raw, number)
            except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
                raise ValueError(
                    f"{name}: row {number} of {path} is not in the form {form!r} ({type(error).__name__}: {error}), which has "
                    f"{', '.join(columns)}; correct `form` in config/corpora.yaml, or the file"
                ) from error


def _raw(path: Path, columns: tuple[str, ...]) -> Iterator[dict]:
    if path.suffix == ".jsonl":
        yield from record.read_rows(path)
    elif path.suffix == ".parquet":
        yield from _parquet(path, columns)
    else:
        raise ValueError(f"{path} is neither .parquet nor .jsonl; convert it to one of them")


def _parquet(path: Path, columns: tuple[str, ...]) -> Iterator[dict]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            held = [column for column in columns if column in file.schema_arrow.names]
            for batch in file.iter_batches(BATCH, columns=held):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}); is it whole? Delete it and download it again") from error


def _chat(raw: dict, _: int) -> Row:
    problem = [turn["content"] for turn in raw["prompt"] if turn["role"] == "user"][-1]
    index = (raw.get("extra_info") or {}).get("index")
    texts = [_text(turn["content"]) for turn in raw.get("target") or () if turn["role"] == "assistant"]
    demonstrations = tuple(Demonstration(text) for text in texts if text)
    return Row("" if index is None else str(index), _text(problem), _text(raw["reward_model"]["ground_truth"]), demonstrations)


def _generations(raw: dict, _: int) -> Row:
    texts = raw["generations"] or []
    verified = raw["correctness_math_verify"] or [None] * len(texts)
    complete = raw["is_reasoning_complete"] or [None] * len(texts)
    demonstrations = tuple(
        Demonstration(_text(text), failed=not good, complete=bool(whole))
        for text, good, whole in zip(texts, verified, complete, strict=True)
        if _text(text)
    )
    return Row(str(raw.get("uuid") or ""), _text(raw["problem"]), _text(raw["answer"]), demonstrations)


def _gsm8k(raw: dict, number: int) -> Row:
    return _own(data.gsm8k_row({key: raw[key] for key in ("question", "answer")}, number - 1), number)


def _own(raw: dict, _: int) -> Row:
    texts = raw.get("demonstrations") or []
    if not isinstance(texts, list):
        raise TypeError(f"demonstrations are {type(texts).__name__}, not a list")
    demonstrations = tuple(Demonstration(_text(text)) for text in texts if _text(text))
    return Row(str(raw.get("id") or ""), _text(raw["problem"]), _text(raw["answer"]), demonstrations)


def _text(value: Any) -> str:
    """Problems and golds as text; a number is written out, and what is neither is empty, which the preparation counts."""
    return str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) and value == value else ""


def shown(text: str, how: str, opened: bool) -> str | None:
    """A demonstration as the file holds it; None or nothing if it has no thought, opened and closed, and needs one."""
    head, closing, answer = text.rpartition("</think>")
    thought = head.strip().removeprefix("<think>").strip()
    if how == "untagged":
        return f"{thought}\n\n{answer.strip()}".strip() if closing else text.strip().removeprefix("<think>").strip()
    if not closing or not thought:
        return None
    if how == "thought":
        return thought
    return text.strip().removeprefix("<think>").lstrip() if opened else text.strip()


FORMS: dict[str, tuple[Callable[[dict, int], Row], tuple[str, ...]]] = {
    "chat": (_chat, ("prompt", "target", "reward_model", "extra_info")),
    "generations": (
        _generations,
        ("problem", "answer", "generations", "correctness_math_verify", "is_reasoning_complete", "uuid"),
    ),
    "gsm8k": (_gsm8k, ("question", "answer")),
    "rows": (_own, ("id", "problem", "answer", "demonstrations")),
}
