"""From samples to grades as the rules call it: truncation, thoughts, votes, and what a row says it was made with."""

import json
import subprocess
import sys
from pathlib import Path

from engine import samples
from engine.data import Template
from engine.evaluate import grade
from engine.grade import Grader, grader_version
from tests.conftest import ROOT

ANSWERS = (  # completion, finish_reason, status, answer_class
    (r"so \boxed{0.5}", "stop", "correct", 0),
    (r"so \boxed{\frac{1}{2}}", "stop", "correct", 0),
    (r"so \boxed{7}", "stop", "wrong", 1),
    (r"so \boxed{07}", "stop", "wrong", 1),
    (r"so \boxed{8}", "stop", "wrong", 2),
    (r"so \boxed{0.5} and on", "length", "truncated", -1),
    ("so it is 0.5", "stop", "no_answer", -1),
    ("", "stop", "no_answer", -1),
    (r"<think>perhaps \boxed{0.5}", "stop", "no_answer", -1),
)


def write_samples(path: Path) -> None:
    rows = [
        {"problem_id": problem, "sample": k, "seed": k, "answer": "1/2", "completion": text, "tokens": 3}
        | {"finish_reason": reason, "template": "plain 0123456789ab"}
        for problem in ("p", "q")
        for k, (text, reason, _, _) in enumerate(ANSWERS)
    ]
    samples.write(path, rows, samples.SAMPLES)


def test_every_sample_has_its_status_and_its_vote(tmp_path: Path) -> None:
    write_samples(tmp_path / "b.samples.parquet")
    with Grader(cache=tmp_path / "verdicts.sqlite") as grader:
        grade(tmp_path / "b.samples.parquet", tmp_path / "b.grades.parquet", grader)
    rows = samples.read(tmp_path / "b.grades.parquet", samples.GRADES)
    assert len(rows) == 2 * len(ANSWERS)
    for row, (_, reason, status, vote) in zip(rows, 2 * ANSWERS, strict=True):
        assert (row["status"], row["answer_class"], row["finish_reason"]) == (status, vote, reason), row
        assert row["correct"] == (status == "correct")
        assert row["grader"] == grader_version() and row["template"] == "plain 0123456789ab"
    first = (tmp_path / "b.grades.parquet").read_bytes()
    with Grader(cache=tmp_path / "verdicts.sqlite") as grader:
        grade(tmp_path / "b.samples.parquet", tmp_path / "b.grades.parquet", grader)
    assert (tmp_path / "b.grades.parquet").read_bytes() == first  # from kept verdicts the same bytes


def test_a_prompt_that_opens_a_thought_is_answered_inside_it(spec: dict, tmp_path: Path) -> None:
    """Sampled after a prompt that ends in <think>, a completion is kept with the tag it began after."""
    (tmp_path / "thinking.txt").write_text(Path(spec["template"]).read_text() + "<think>")
    evaluation = {
        "run": "base",
        "seed": 0,
        "checkpoint": str(tmp_path / "base"),
        "template": str(tmp_path / "thinking.txt"),
        "sampler": "transformers",
        "benchmarks": {"b": {"file": spec["data"], "samples": 2}},
        "evaluation": {
            **{"temperature": 0.6, "max_prompt_tokens": 128, "max_new_tokens": 8, "sample_batch_tokens": 4096},
            **{"dtype": "float32", "device": "cpu"},
        },
    }
    made = subprocess.run(
        [sys.executable, "-m", "engine.evaluate", "generate", "--out", str(tmp_path), "--spec", json.dumps(evaluation)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    rows = samples.read(tmp_path / "b.samples.parquet", samples.SAMPLES)
    assert len(rows) > 2 and len({row["seed"] for row in rows}) == len(rows)
    assert all(row["completion"].startswith("<think>") and row["tokens"] > 0 for row in rows)
    assert {row["template"] for row in rows} == {Template.read(tmp_path / "thinking.txt").label}
