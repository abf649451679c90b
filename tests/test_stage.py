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

from engine import evaluate, record
from tests.conftest import METHODS, ROOT, TRAIN


def start(spec: dict, out: Path, script: str = "") -> subprocess.Popen:
    """A stage in a process of its own, or a script that changes something and then calls its main function."""
    program = ["-c", script] if script else ["-m", "engine.stage"]
    command = [sys.executable, *program, "--out", str(out), "--spec", json.dumps(spec)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(process: subprocess.Popen, code: int = 0) -> str:
    """What a stage says; it must end with this exit code."""
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == code, errors
    return errors


def outcome(out: Path) -> tuple[str, str, str]:
    """What must not differ between two runs, byte by byte: weights, metrics, certificate."""
    files = ("model/model.safetensors", "metrics.jsonl", "certificate.json")
    weights, rows, certificate = (record.file_sha256(out / name) for name in files)
    return weights, rows, certificate


def test_two_runs_agree_and_a_killed_run_resumes_to_the_same_bits(spec: dict, tmp_path: Path) -> None:
    first, second, killed = (tmp_path / name for name in ("first", "second", "killed"))
    for out in (first, second):
        process = start(spec, out)
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    rows, done = record.read_rows(first / "metrics.jsonl"), record.read_json(first / "done.json")
    assert len(rows) == 4 and any(row["guided"] for row in rows) and min(row["grad_norm"] for row in rows) > 0
    weights = "model/model.safetensors"
    assert done["outputs"][weights] != record.read_json(tmp_path / "base" / "done.json")["outputs"][weights]
    assert done["costs"]["seconds_update"] > 0 and done["provenance"]["packages"]["deepspeed"]
    assert outcome(second) == outcome(first)

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
    assert outcome(killed) == outcome(first)
    assert not (killed / "state").exists()
    process = start(spec, killed)
    assert "is up to date" in process.communicate(timeout=60)[1]


def test_a_stage_ends_with_the_update_that_spends_its_sampling_budget(spec: dict, tmp_path: Path) -> None:
    """Of four updates three: it is spent in the third, whatever it had sampled when it was killed."""
    finish(start(spec, tmp_path / "whole"))
    whole = record.read_rows(tmp_path / "whole" / "metrics.jsonl")
    sampled = [row["sampled_tokens"] for row in whole]
    assert len(whole) == 4 and min(sampled) > 1
    limited = {**spec, "train": {**spec["train"], "sampled_tokens": sum(sampled[:2]) + 1}}
    assert "budget=" in finish(start(limited, tmp_path / "limited"))
    assert record.read_rows(tmp_path / "limited" / "metrics.jsonl") == whole[:3]
    assert record.read_json(tmp_path / "limited" / "done.json")["updates"] == 3

    process = start(limited, tmp_path / "killed")
    while not (tmp_path / "killed" / "state" / "step-000002").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish(start(limited, tmp_path / "killed"))
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "limited")

    falling = {**limited, "train": {**limited["train"], "schedule": "cosine"}}
    said = finish(start(falling, tmp_path / "falling"), code=1)
    assert "before which train.sampled_tokens" in said and "make the schedule constant" in said and "Traceback" not in said


def test_base_model_with_another_digest_is_refused(spec: dict, tmp_path: Path) -> None:
    from engine.stage import run

    base = {**spec, "run": "base", "stage": "base", "method": None, "parent": None}
    for model, message in (
        ({"path": str(ROOT / "miniature" / "base"), "sha256": "0000"}, "has sha256 .* the configuration says 0000"),
        ({"path": str(tmp_path)}, "holds no model"),
    ):
        with pytest.raises(ValueError, match=message):
            run({**base, "model": model}, tmp_path / "out")
    assert not (tmp_path / "out" / "model").exists()


def test_corrupted_weights_are_named(spec: dict, tmp_path: Path) -> None:
    """Of a base model without a configured sha256, and of the stage a stage starts from."""
    from engine.stage import run

    shutil.copytree(ROOT / "miniature" / "base", tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    base = {**spec, "run": "base", "stage": "base", "method": None, "parent": None, "model": {"path": str(tmp_path / "model")}}
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        run(base, tmp_path / "out")
    parent = tmp_path / "base" / "model" / "model.safetensors"
    bits = bytearray(parent.read_bytes())
    bits[-1] ^= 1  # the same length, one bit of one weight
    parent.write_bytes(bits)
    with pytest.raises(ValueError, match=r"base/model/model.safetensors is damaged or replaced.*delete .* run its stage again"):
        run(spec, tmp_path / "out")
    assert not (tmp_path / "out" / "done.json").exists()
    evaluation = {
        "checkpoint": str(tmp_path / "base"),
        "evaluation": {},
        "sampler": "transformers",
        "template": spec["template"],
        "benchmarks": {},
    }
    with pytest.raises(ValueError, match="damaged or replaced"):
        evaluate.generate(evaluation, tmp_path / "eval")


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


def test_a_model_with_dropout_and_a_launcher_are_refused(spec: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.stage import run

    base = {**spec, "run": "base", "stage": "base", "method": None, "parent": None, "model": {"path": str(tmp_path / "model")}}
    shutil.copytree(ROOT / "miniature" / "base", tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**record.read_json(config), "attention_dropout": 0.1}))
    run(base, tmp_path / "dropping")
    with pytest.raises(ValueError, match=r"attention_dropout 0.1\); set these to 0"):
        run({**spec, "parent": str(tmp_path / "dropping")}, tmp_path / "out")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="WORLD_SIZE is 2: start a stage without a launcher"):
        run(spec, tmp_path / "out")


def test_the_engines_sources_are_part_of_a_stages_identity(spec: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.stage import identity

    before = identity(spec)
    monkeypatch.setattr(record, "fingerprint", lambda folder, *pattern: f"another {folder}")
    after = identity(spec)
    assert before != after and {key for key in before if before[key] != after[key]} == {"engine"}


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


def test_a_full_disk_leaves_no_half_written_file(tmp_path: Path) -> None:
    """/dev/full stands for a disk without space; the file that was there stays."""
    target = tmp_path / "done.json"
    record.write_text(target, "whole")
    full = tmp_path / f".done.json.{os.getpid()}.tmp"
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        record.write_text(target, "x" * 100)
    assert target.read_text() == "whole"


def test_a_half_written_last_line_is_dropped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n{"st')
    assert record.whole_rows(path) == [{"step": 0}, {"step": 1}]
    assert "metrics.jsonl: dropping its half-written last line" in caplog.text
    path.write_bytes(b'{"step": 0}\n{"step": "\xc3')  # cut inside a character
    assert record.whole_rows(path) == [{"step": 0}]
    path.write_text('{"step": 0}\n{"st\n{"step": 1}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl holds a line that is not JSON"):
        record.whole_rows(path)
    path.write_text('{"step": 0}\n{"step": 1}\n{"st')
    with pytest.raises(ValueError, match="line 3 is not JSON"):
        record.read_rows(path)
    shutil.rmtree(tmp_path)
