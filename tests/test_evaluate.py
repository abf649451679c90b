"""From samples to grades as the rules call it: truncation, thoughts, votes, and what a row says it was made with."""

import json
import subprocess
import sys
from pathlib import Path

from engine import record, samples
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


def generated(spec: dict, folder: Path, **changes: object) -> subprocess.CompletedProcess[str]:
    """Sample the published base model of `spec` on its training problems, into `folder`."""
    evaluation = {
        "run": "base",
        "seed": 0,
        "checkpoint": str(folder / "base"),
        "template": spec["template"],
        "sampler": "transformers",
        "benchmarks": {"b": {"file": spec["data"], "samples": 2}},
        "evaluation": {
            **{"temperature": 0.6, "max_prompt_tokens": 128, "max_new_tokens": 8, "sample_batch_tokens": 4096},
            **{"dtype": "float32", "device": "cpu"},
        },
        **changes,
    }
    command = [sys.executable, "-m", "engine.evaluate", "generate", "--out", str(folder), "--spec", json.dumps(evaluation)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_responses_may_end_where_the_models_window_does(spec: dict, tmp_path: Path) -> None:
    path = tmp_path / "base" / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": 60}))
    done = tmp_path / "base" / "done.json"
    outputs = {**record.read_json(done)["outputs"], "model/config.json": record.file_sha256(path)}
    record.write_json(done, {**record.read_json(done), "outputs": outputs})
    settings = {"temperature": 5.0, "max_prompt_tokens": 128, "max_new_tokens": 112, "sample_batch_tokens": 4096}
    settings |= {"dtype": "float32", "device": "cpu"}  # so hot that hardly any response ends by itself
    refused = generated(spec, tmp_path, evaluation=settings)
    assert refused.returncode == 1 and "the model's window is 60" in refused.stderr
    made = generated(spec, tmp_path, evaluation=settings, within_window=True)
    assert made.returncode == 0, made.stderr
    rows = samples.read(tmp_path / "b.samples.parquet", samples.SAMPLES)
    cut = [row["tokens"] for row in rows if row["finish_reason"] == "length"]
    assert cut and min(cut) >= 1 and max(cut) < 60 and len(set(cut)) > 1  # what each prompt leaves


def test_only_the_first_problems_are_evaluated_where_that_is_asked(spec: dict, tmp_path: Path) -> None:
    made = generated(spec, tmp_path, benchmarks={"b": {"file": spec["data"], "samples": 2, "problems": 5}})
    assert made.returncode == 0, made.stderr
    rows = samples.read(tmp_path / "b.samples.parquet", samples.SAMPLES)
    first = [row["id"] for row in record.read_rows(Path(spec["data"]))]
    assert len(first) > 5 and list(dict.fromkeys(row["problem_id"] for row in rows)) == first[:5]


def test_a_prompt_that_opens_a_thought_is_answered_inside_it(spec: dict, tmp_path: Path) -> None:
    """Sampled after a prompt that ends in <think>, a completion is kept with the tag it began after."""
    (tmp_path / "thinking.txt").write_text(Path(spec["template"]).read_text() + "<think>")
    made = generated(spec, tmp_path, template=str(tmp_path / "thinking.txt"))
    assert made.returncode == 0, made.stderr
    rows = samples.read(tmp_path / "b.samples.parquet", samples.SAMPLES)
    assert len(rows) > 2 and len({row["seed"] for row in rows}) == len(rows)
    assert all(row["completion"].startswith("<think>") and row["tokens"] > 0 for row in rows)
    assert {row["template"] for row in rows} == {Template.read(tmp_path / "thinking.txt").label}
