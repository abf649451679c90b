"""Text into problems: JSON-lines rows, prompt templates, demonstrations with their paragraph breaks.

A row is {"id", "problem", "answer", "demonstrations": [text, ...]}; demonstrations are optional. `read_rows` also takes the
published form of GSM8K ({"question", "answer": "... #### 42"}), whose worked solution becomes the demonstration.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engine import record
from engine.words import Problem


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    eos_token_id: int

    def encode(self, text: str, add_special_tokens: bool = ...) -> list[int]: ...
    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = ...) -> str: ...


@dataclass(frozen=True)
class Template:
    """A prompt as text with one `{problem}` in it. Replaced literally: LaTeX braces in problems are safe.

    Where a template comes from stands in config/templates/sources.yaml.
    """

    text: str
    name: str = ""

    @classmethod
    def read(cls, path: Path) -> "Template":
        if not path.is_file():
            raise ValueError(f"template {path} does not exist; templates are in config/templates/")
        text = path.read_bytes().decode()  # not read_text, which would change line ends
        if text.count("{problem}") != 1:
            raise ValueError(
                f"template {path} must contain {{problem}} exactly once, it has it {text.count('{problem}')} times"
            )
        return cls(text, path.stem)

    @property
    def sha256(self) -> str:
        """Of the text, and so of its file."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def label(self) -> str:
        """What tables and samples state: the name and the start of the digest."""
        return f"{self.name} {self.sha256[:12]}"

    @property
    def opens_thought(self) -> bool:
        """Whether the prompt ends inside <think>, so that a completion without </think> is an unfinished thought."""
        return self.text.rstrip().endswith("<think>")

    def answered(self, completion: str) -> str:
        """A completion as it is graded: with the thought that the prompt opened, so that an unfinished one can be told."""
        return f"<think>{completion}" if self.opens_thought else completion

    def render(self, problem: str) -> str:
        return self.text.replace("{problem}", problem)


def as_text(value: object, what: str) -> str:
    """A problem, answer or completion as text. Raises ValueError for what is neither a text nor a number: null, NaN, a list."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or value != value:
        raise ValueError(f"{what} is {value!r}; a text or a number is needed")
    return str(value)


def gsm8k_row(row: dict, position: int) -> dict:
    """A row of GSM8K as ours: calculator marks <<...>> removed, the line after #### boxed at the end of the solution."""
    solution, _, answer = str(row.get("answer") or "").partition("####")
    answer = answer.strip().replace(",", "")
    steps = re.sub(r"<<[^>]*>>", "", solution).strip()
    text = steps.replace("\n", "\n\n") + f"\n\n\\boxed{{{answer}}}"
    return {"id": f"gsm8k-{position:05d}", "problem": row.get("question"), "answer": answer, "demonstrations": [text]}


def read_rows(path: Path) -> list[dict]:
    """Rows of a data file, checked: id, problem and answer present and not empty, ids distinct."""
    if not path.is_file():
        raise ValueError(f"data file {path} does not exist; check data_dir and the file names in the configuration")
    return checked_rows(record.read_rows(path), path)


def checked_rows(rows: Sequence[dict], path: Path) -> list[dict]:
    """The same of rows that were read from `path`."""
    rows = [gsm8k_row(row, i) if "question" in row else row for i, row in enumerate(rows)]
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        for key in ("id", "problem", "answer"):
            if row.get(key) is not None:
                as_text(row[key], f"{path} line {number}: {key}")
            if row.get(key) is None or not str(row[key]).strip():
                raise ValueError(f"{path} line {number} has no {key!r}; every row needs id, problem and answer")
        if not isinstance(row.get("demonstrations", []), list) or not all(
            isinstance(d, str) for d in row.get("demonstrations", [])
        ):
            raise ValueError(f"{path} line {number}: demonstrations must be a list of texts")
        if row["id"] in seen:
            raise ValueError(f"{path} line {number} repeats the id {row['id']!r}; ids seed the sampling and must be distinct")
        seen.add(row["id"])
    if not rows:
        raise ValueError(f"{path} holds no rows")
    return rows


def problems(rows: Iterable[dict], tokenizer: Tokenizer, template: Template, limit: int, response: int = 0) -> list[Problem]:
    """Rows as tokens. `limit`: longest prompt allowed; `response`: longest demonstration allowed (0: keep none of them).

    Raises ValueError naming the first problem whose prompt or demonstration is too long: nothing is cut or dropped silently.
    """
    found = []
    blank: dict[int, bool] = {}
    for row in rows:
        prompt = tuple(tokenizer.encode(template.render(row["problem"]), add_special_tokens=False))
        if len(prompt) > limit:
            raise ValueError(
                f"problem {row['id']!r} has a prompt of {len(prompt)} tokens, the window allows {limit}; "
                "raise max_prompt_tokens, or choose a model with a longer window"
            )
        demonstrations = []
        for text in row.get("demonstrations", ()) if response else ():
            tokens = (*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id)
            if len(tokens) > response:
                raise ValueError(
                    f"problem {row['id']!r} has a demonstration of {len(tokens)} tokens, max_response_tokens is {response}; "
                    "raise it, or filter the data"
                )
            demonstrations.append(tokens)
        breaks = tuple(paragraph_breaks(tokens, tokenizer, blank) for tokens in demonstrations)
        found.append(Problem(row["id"], prompt, str(row["answer"]), tuple(demonstrations), breaks))
    return found


def paragraph_breaks(tokens: Sequence[int], tokenizer: Tokenizer, blank: dict[int, bool]) -> tuple[int, ...]:
    """Indices of the tokens whose text holds a blank line; `blank` remembers the answer for every token that was seen."""
    for token in set(tokens) - blank.keys():
        blank[token] = "\n\n" in tokenizer.decode([token])
    return tuple(i for i, token in enumerate(tokens) if blank[token])
