"""One stage on the real miniature: repeatable, resumable, and loud about bad input. DeepSpeed, transformers, math-verify."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine import checkpoint, record
from tests.conftest import METHODS, ROOT

TRAIN = {
    "updates": 4,
    "prompts_per_update": 3,
    "learning_rate": 1e-3,
    "schedule": "constant",
    "warmup_updates": 0,
    "weight_decay": 0.0,
    "betas": [0.9, 0.999],
    "clip_gradient": 1.0,
    "temperature": 1.0,
    "max_prompt_tokens": 64,
    "max_response_tokens": 64,
    "micro_batch_tokens": 512,
    "sample_batch_tokens": 8192,
    "zero_stage": 2,
    "checkpoint_every": 2,
    "dtype": "float32",
    "device": "cpu",
}


@pytest.fixture
def spec(tmp_path: Path) -> dict:
    """A TRAPO stage of four updates; its parent is the base model, published as a stage."""
    from engine.stage import run
    from miniature.world import training_rows

    rows = [row for row, _ in zip(training_rows(), range(12), strict=False)]
    record.write_rows(tmp_path / "train.jsonl", rows)
    base = {
        "run": "base",
        "seed": 0,
        "stage": "base",
        "method": None,
        "parent": None,
        "model": {"path": str(ROOT / "miniature" / "base")},
        "data": str(tmp_path / "train.jsonl"),
        "template": str(ROOT / "config" / "templates" / "miniature.txt"),
        "train": TRAIN,
    }
    run(base, tmp_path / "base")
    method = {"name": "trapo", "folder": str(METHODS), "settings": {}}
    return {**base, "run": "trapo", "stage": "trapo", "method": method, "parent": str(tmp_path / "base")}


def start(spec: dict, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "engine.stage", "--out", str(out), "--spec", json.dumps(spec)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def outcome(out: Path) -> tuple[str, list[dict]]:
    """What must not differ between two runs: weights and metrics, seconds left out."""
    done = json.loads((out / "done.json").read_text())
    rows = [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in record.read_rows(out / "metrics.jsonl")]
    return done["weights_sha256"], rows


def test_two_runs_agree_and_a_killed_run_resumes_to_the_same_bits(spec: dict, tmp_path: Path) -> None:
    first, second, killed = (tmp_path / name for name in ("first", "second", "killed"))
    for out in (first, second):
        process = start(spec, out)
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    weights, rows = outcome(first)
    assert len(rows) == 4 and any(row["guided"] for row in rows) and min(row["grad_norm"] for row in rows) > 0
    assert rows[0]["logp_drift"] < 1e-3
    base = json.loads((tmp_path / "base" / "done.json").read_text())
    assert weights != base["weights_sha256"]
    assert outcome(second) == (weights, rows)

    process = start(spec, killed)
    while not (killed / "state" / "step-000002").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "done.json").exists()
    process = start(spec, killed)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "resuming after update 2" in errors
    assert outcome(killed) == (weights, rows)
    assert not (killed / "state").exists()
    process = start(spec, killed)
    assert "is up to date" in process.communicate(timeout=60)[1]


def test_base_model_with_another_digest_is_refused(spec: dict, tmp_path: Path) -> None:
    from engine.stage import checked_base

    with pytest.raises(ValueError, match=r"has sha256 .* the configuration says 0000"):
        checked_base({"path": str(ROOT / "miniature" / "base"), "sha256": "0000"})
    with pytest.raises(ValueError, match="holds no model"):
        checked_base({"path": str(tmp_path)})


def test_a_method_that_fails_leaves_no_result(spec: dict, tmp_path: Path) -> None:
    folder = tmp_path / "methods"
    folder.mkdir()
    source = (METHODS / "sft.py").read_text()
    (folder / "bad.py").write_text(source.replace("return -t.logp", "return t.logp / 0.0"))
    process = start({**spec, "method": {"name": "bad", "folder": str(folder), "settings": {}}}, tmp_path / "out")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "is not finite" in errors
    assert not (tmp_path / "out" / "done.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"demonstrations": []}, "has 0 demonstration"),
        ({"answer": ""}, "has no 'answer'"),
        ({"answer": None}, "has no 'answer'"),
        ({"question": "GSM8K without a solution"}, "has no 'answer'"),
        ({"demonstrations": "one text"}, "must be a list of texts"),
        ({"problem": "1 + " * 60}, "has a prompt of"),
        ({"demonstrations": ["1 " * 60]}, "has a demonstration of"),
        ({"id": "train-00001"}, "repeats the id"),
    ],
)
def test_bad_data_is_named_and_loses_nothing(spec: dict, tmp_path: Path, change: dict, message: str) -> None:
    from engine.stage import run

    rows = record.read_rows(Path(spec["data"]))
    for row in rows[: 1 if "id" in change else None]:
        row.update(change)
        if "question" in change:
            row.pop("answer")
    record.write_rows(Path(spec["data"]), rows)
    spec = {**spec, "method": {"name": "sft", "folder": str(METHODS), "settings": {}}}
    with pytest.raises(ValueError, match=message):
        run(spec, tmp_path / "out")
    assert not (tmp_path / "out" / "done.json").exists()


def test_a_damaged_checkpoint_is_passed_over_and_a_foreign_one_is_not_used(spec: dict, tmp_path: Path) -> None:
    from engine.stage import Training, identity

    out = tmp_path / "out"
    training = Training(spec, out, identity(spec))
    for step in (2, 4):
        training.trainer.step = step
        checkpoint.save(training.trainer, out / "state", step, training.parts, {"kept": [step]})
    record.write_rows(out / "metrics.jsonl", ({"step": i} for i in range(4)))
    assert len(training.resume()) == 4
    damaged = next((out / "state" / "step-000004").rglob("*.pt"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert len(training.resume()) == 2
    assert training.trainer.step == 2 and training.memory == {"kept": [2]}
    training.parts = {**training.parts, "template": "another"}
    assert training.resume() == []
    assert not (out / "state").exists()  # nothing in it is of use to this stage
    checkpoint.save(training.trainer, out / "state", 2, training.parts, {})
    (out / "state" / "step-000002" / "about.json").unlink()
    assert training.resume() == []


@pytest.mark.parametrize(("memory", "message"), [({"kept": {1, 2}}, "cannot be saved"), ({1: "one"}, "changes when saved")])
def test_memory_that_a_resume_would_not_restore_is_refused(tmp_path: Path, memory: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checkpoint.save(None, tmp_path, 6, {}, memory)
    assert list(tmp_path.iterdir()) == []


def test_another_base_model_is_another_stage(spec: dict, tmp_path: Path) -> None:
    from engine.stage import identity, run

    shutil.copytree(ROOT / "miniature" / "base", tmp_path / "model")
    base = json.loads((tmp_path / "base" / "done.json").read_text())["identity"]["spec"]
    base = {**base, "run": "base", "model": {"path": str(tmp_path / "model")}}
    before = record.digest(identity(base))
    (tmp_path / "model" / "tokenizer_config.json").write_text("{}")
    assert record.digest(identity(base)) != before
    with pytest.raises(ValueError, match="more than the model's window of 8192 tokens"):
        run({**spec, "train": {**TRAIN, "max_response_tokens": 8192}}, tmp_path / "out")


def test_two_processes_cannot_share_a_folder(tmp_path: Path) -> None:
    with (
        record.claimed(tmp_path),
        pytest.raises(ValueError, match="in use by another process"),
        record.claimed(tmp_path),
    ):
        pass


def test_a_full_disk_leaves_no_half_written_file(tmp_path: Path) -> None:
    """/dev/full stands for a disk without space; the file that was there stays."""
    target = tmp_path / "done.json"
    record.write_text(target, "whole")
    full = tmp_path / f".done.json.{os.getpid()}.tmp"
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        record.write_text(target, "x" * 100)
    assert target.read_text() == "whole"


def test_a_half_written_last_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n{"st')
    assert record.whole_rows(path) == [{"step": 0}, {"step": 1}]
    with pytest.raises(ValueError, match="line 3 is not JSON"):
        record.read_rows(path)
    shutil.rmtree(tmp_path)
