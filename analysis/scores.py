"""Graded samples to two tidy tables: `scores.csv` (run x seed x benchmark) and `items.csv` (one row per problem).

    results/<profile>/<run>/seed<k>/eval/<benchmark>.grades.jsonl   ->   results/<profile>/{scores,items}.csv

Beside each score stands the digest of its checkpoint's certificate: a number without one is refused.
Every number of every later table is a mean of rows of `items.csv`. Comparing runs makes sense only if they answered the
same problems equally often, so anything else is refused here, before a number exists.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.certificate import read_stage

SUFFIX = ".grades.jsonl"
FIELDS = ("problem_id", "sample", "correct", "status", "tokens", "finish_reason")
STATUSES = ("correct", "wrong", "no_answer", "undecided")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file. Raises ValueError if it is empty, broken, or its last line was cut short."""
    text = path.read_text(encoding="utf-8")
    if not text.strip():
        raise ValueError(f"{path} is empty: delete it and run the rule that writes it again")
    if not text.endswith("\n"):
        raise ValueError(f"{path} ends in a half-written line, its writer was stopped: delete it and run its rule again")
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} line {number} is not JSON ({error}): delete it and run its rule again") from error
    return rows


def run_and_seed(path: Path) -> tuple[str, int]:
    """Run name and seed of a file at .../<run>/seed<k>/<folder>/<file>; ValueError if it lies elsewhere."""
    folder = path.parent.parent
    found = re.fullmatch(r"seed(\d+)", folder.name)
    if found is None or not folder.parent.name:
        raise ValueError(f"{path} does not say run and seed: expected .../<run>/seed<k>/<folder>/{path.name}")
    return folder.parent.name, int(found[1])


def read_grades(path: Path) -> pd.DataFrame:
    """One row per sample. Raises ValueError on missing fields, repeated samples or contradictory verdicts."""
    rows = read_rows(path)
    for number, row in enumerate(rows, 1):
        if missing := [name for name in FIELDS if name not in row]:
            raise ValueError(f"{path} line {number} lacks {', '.join(missing)}: grade it again with this version")
        if row["status"] not in STATUSES or row["correct"] is not (row["status"] == "correct"):
            verdict = f"correct={row['correct']!r} with status={row['status']!r}"
            raise ValueError(f"{path} line {number} says {verdict}: grade it again with this version")
    grades = pd.DataFrame(rows, columns=list(FIELDS)).astype({"problem_id": str})
    repeated = grades[grades.duplicated(["problem_id", "sample"])]
    if len(repeated):
        first = repeated.iloc[0]
        raise ValueError(
            f"{path} grades problem {first['problem_id']!r}, sample {first['sample']} more than once ({len(repeated)} "
            "such rows): was a file appended to itself? delete it and run its rule again"
        )
    return grades


def score(grades: pd.DataFrame) -> dict[str, float]:
    """Accuracy (points, mean over problems of the mean over samples), counts, and shares of all samples in points."""
    by_problem = grades.groupby("problem_id")["correct"].agg(["mean", "size"])
    return {
        "accuracy": 100 * by_problem["mean"].mean(),
        "problems": len(by_problem),
        "samples": int(by_problem["size"].max()),
        "truncated": 100 * (grades["finish_reason"] == "length").mean(),
        "no_answer": 100 * (grades["status"] == "no_answer").mean(),
        "undecided": 100 * (grades["status"] == "undecided").mean(),
        "mean_tokens": grades["tokens"].mean(),
    }


def _check_same_work(benchmark: str, path: Path, counts: pd.Series, first_path: Path, first: pd.Series) -> None:
    """Raise ValueError unless two files hold the same problems, every one of them with the same number of samples."""
    remedy = f"evaluate both on the same {benchmark} with the same number of samples"
    if different := sorted(set(counts.index) ^ set(first.index)):
        raise ValueError(
            f"benchmark {benchmark!r}: {path} and {first_path} differ in {len(different)} problems, "
            f"{different[0]!r} among them: {remedy}"
        )
    expected = int(first.iloc[0])
    uneven = counts[counts != expected]
    if len(uneven):
        raise ValueError(
            f"benchmark {benchmark!r}: {path} has {uneven.iloc[0]} samples of problem {uneven.index[0]!r}, "
            f"{first_path} has {expected} of {first.index[0]!r}: {remedy}"
        )


def collect(paths: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(scores, items) of grades files, in the order given.

    scores: run, seed, benchmark and the columns of `score`. items: run, seed, benchmark, problem_id, correct (mean over
    samples, 0..1). Raises ValueError when files come from several profiles, repeat a run, or did not do the same work.
    """
    if len({path.parents[3] for path in paths}) > 1:
        raise ValueError(f"{paths[0]} and other grades are of several profiles: pass those of one")
    scores: list[dict[str, Any]] = []
    items: list[pd.DataFrame] = []
    first: dict[str, tuple[Path, pd.Series]] = {}
    for path in paths:
        run, seed = run_and_seed(path)
        benchmark = path.name.removesuffix(SUFFIX)
        key = {"run": run, "seed": seed, "benchmark": benchmark}
        if any(row.items() >= key.items() for row in scores):
            raise ValueError(f"{path} repeats run {run!r}, seed {seed}, benchmark {benchmark!r}: pass each file once")
        grades = read_grades(path)
        by_problem = grades.groupby("problem_id")["correct"].agg(["mean", "size"])
        _check_same_work(benchmark, path, by_problem["size"], *first.setdefault(benchmark, (path, by_problem["size"])))
        scores.append({**key, **score(grades)})
        correct = by_problem["mean"].rename("correct").reset_index()
        items.append(correct.assign(**key)[[*key, "problem_id", "correct"]])
    return pd.DataFrame(scores), pd.concat(items, ignore_index=True)


def add_certificates(scores: pd.DataFrame, paths: Sequence[Path]) -> pd.DataFrame:
    """The scores with the column `certificate`: the digest in the file at .../<run>/seed<k>/<stage>/certificate.json.

    Raises ValueError if a run and seed of the scores has none, or two.
    """
    digests: dict[tuple[str, int], str] = {}
    for path in paths:
        if run_and_seed(path) in digests:
            raise ValueError(f"{path} is a second certificate of its run and seed: pass that of the final stage alone")
        digests[run_and_seed(path)] = read_stage(path)["digest"]
    keys = list(zip(scores["run"], scores["seed"], strict=True))
    if missing := [key for key in keys if key not in digests]:
        run, seed = missing[0]
        raise ValueError(f"run {run!r}, seed {seed} is graded but has no certificate: pass that of its final stage")
    return scores.assign(certificate=[digests[key] for key in keys])


def read_table(path: Path) -> pd.DataFrame:
    """A table written by this module. Names stay text: a run called `nan` or a problem called `007` is what it says.

    So do digests: `12e4567890123456` is not a number.
    """
    texts = dict.fromkeys(("run", "benchmark", "problem_id", "certificate"), str)
    return pd.read_csv(path, dtype=texts, keep_default_na=False)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.scores", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("grades", nargs="+", type=Path, help=f".../<run>/seed<k>/eval/<benchmark>{SUFFIX}")
    parser.add_argument(
        "--certificates",
        required=True,
        nargs="+",
        type=Path,
        metavar="FILE",
        help="of every run and seed, .../<run>/seed<k>/<final stage>/certificate.json",
    )
    parser.add_argument("--out", required=True, type=Path, help="the scores table; items.csv is written beside it")
    arguments = parser.parse_args(argv)
    scores, items = collect(arguments.grades)
    scores = add_certificates(scores, arguments.certificates)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    scores.to_csv(arguments.out, index=False, float_format="%.10g")
    items.to_csv(arguments.out.with_name("items.csv"), index=False, float_format="%.10g")


if __name__ == "__main__":
    main()
