"""Whether training has seen the test: problems of benchmarks that are training problems too.

    python -m engine.overlap TRAIN.jsonl BENCHMARK.jsonl...
    math500: 500 problems, 2 word for word, 9 share 13 consecutive words

The first compares whole texts in Unicode NFC without case, white space and the last full stop or question mark; the second
words, and so neither punctuation nor operators. Thirteen consecutive words are the mark of GPT-3's contamination
study (arXiv:2005.14165); stock phrases share them too, so the second number is an upper bound.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from engine import data, record
from engine.benchmarks import normalised

SIZE = 13
KINDS = ("word for word", f"{SIZE} words in a row")
Pair = tuple[int, int]  # positions of a training problem and of a tested one


def whole(text: str) -> str:
    return re.sub(r"\s+", "", normalised(text).casefold()).rstrip(".?!")


def words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", normalised(text).casefold()))


def _runs(text: Sequence[str]) -> set[Sequence[str]]:
    return {text[i : i + SIZE] for i in range(len(text) - SIZE + 1)}


def pairs(train: Iterable[str], tested: Iterable[str]) -> tuple[set[Pair], set[Pair]]:
    """The pairs that are the same word for word, and those that share SIZE consecutive words."""
    wholes: dict[str, list[int]] = {}
    runs: dict[Sequence[str], list[int]] = {}
    for place, text in enumerate(tested):
        wholes.setdefault(whole(text), []).append(place)
        for run in _runs(words(text)):
            runs.setdefault(run, []).append(place)
    same: set[Pair] = set()
    sharing: set[Pair] = set()
    for number, text in enumerate(train):
        same |= {(number, place) for place in wholes.get(whole(text), ())}
        sharing |= {(number, place) for run in _runs(words(text)) for place in runs.get(run, ())}
    return same, sharing


def overlap(train: Iterable[str], tested: Iterable[str]) -> tuple[int, int]:
    """How many tested problems are a training problem word for word, and how many share SIZE consecutive words with one."""
    same, sharing = pairs(train, tested)
    return len({place for _, place in same}), len({place for _, place in sharing})


def report(rows: Sequence[dict], benchmarks: Iterable[Path]) -> dict[str, dict]:
    """For every benchmark, by its file's name: its size, and the pairs of ids (training, tested) of either kind."""
    train = [row["problem"] for row in rows]
    found: dict[str, dict] = {}
    for path in benchmarks:
        tested = data.read_rows(path)
        about: dict[str, Any] = {"problems": len(tested)}
        both = pairs(train, [row["problem"] for row in tested])
        for kind, same in zip(KINDS, both, strict=True):
            about[f"tested, {kind}"] = len({place for _, place in same})
            about[f"pairs, {kind}"] = sorted([rows[number]["id"], tested[place]["id"]] for number, place in same)
        found[path.stem] = about
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Count the problems of benchmarks that training has seen.")
    parser.add_argument("train", type=Path)
    parser.add_argument("benchmarks", type=Path, nargs="+")
    parser.add_argument("--source", type=Path, help="the corpus's report, whose name and size go into OUT")
    parser.add_argument("--out", type=Path, help="JSON with the ids of all pairs")
    args = parser.parse_args()
    try:
        found = report(data.read_rows(args.train), args.benchmarks)
        for name, one in found.items():
            same, part = (one[f"tested, {kind}"] for kind in KINDS)
            text = f"{name}: {one['problems']} problems, {same} word for word, {part} share {SIZE} consecutive words\n"
            sys.stdout.write(text)
        if args.out:
            about = record.read_json(args.source) if args.source else {}
            kept = {key: about[key] for key in ("name", "size", "sha256", "pinned") if key in about}
            record.write_json(args.out, {**kept, "overlap": found})
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
