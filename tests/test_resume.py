"""A stage killed at any moment ends with the bits it would have had: twenty SIGKILLs, and checkpoints that must not be used."""

import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine import checkpoint, record
from engine.explore import Limits, Ranks
from tests.conftest import METHODS, TRAIN

KILLS = 20
PHASES = ("explore", "update", "checkpoint")
FILES = ("model/model.safetensors", "metrics.jsonl", "certificate.json")

STATEFUL = '''"""Keeps all a method can: counts in memory, a rollout to replay, two optimizer states, a reference that follows,
a choice of problems; and asks for a second stream and further problems."""
from dataclasses import dataclass
from engine.reduce import mean_over_tokens
from engine.words import Problem, Sample, Trajectory, expert, own, replay
@dataclass(frozen=True)
class Method:
    reduce = mean_over_tokens
    needs = ("reference_logp", "entropy_rank:step")
    reference_every = 2
    second = 0.4
    optimizers = ("reinforce", "imitate")
    def keep(self, problem, context):
        rollouts = yield Sample(1)
        return len(rollouts[0].tokens) % 4 > 0
    def wanting(self, found, context):
        return 1 if context.explored < 5 else 0
    def explore(self, problem, context):
        seen = context.memory.setdefault("seen", {})
        seen[problem.id] = seen.get(problem.id, 0) + 1
        if context.second:
            return [Trajectory(problem, (expert(problem.demonstration(), advantage=1.0 * seen[problem.id]),))]
        rollouts = yield Sample(2 + (context.rng.random() < 0.5))
        return [Trajectory(problem, (own(r, r.reward - 0.5),), note=[list(r.tokens), list(r.logp)]) for r in rollouts]
    def update(self, found, context):
        again = context.memory.get("again")
        context.memory["again"] = next(t.note for t in found if t.note)
        if context.step % 2:
            return [t for t in found if t.note is None]
        old = [Trajectory(found[0].problem, (replay(tuple(again[0]), tuple(again[1]), 1.0),))] if again else []
        return [t for t in found if t.note] + old
    def optimizer(self, found):
        return "imitate" if found[0].segments[0].expert else "reinforce"
    def loss(self, t):
        return (t.entropy_rank - 1 - t.advantage) * (t.logp - t.reference_logp).exp()
'''


def train(spec: dict, out: Path, diary: Path, kill: tuple[str, int, float] | None = None) -> None:
    """What the killed processes do: run the stage, writing each phase entered into the file `diary`.

    `kill`: SIGKILL this process so many seconds after it has entered the phase of that name for the n-th time.
    """
    from engine.stage import run
    from engine.training import Training

    timed, entered = Training.timed, []

    def enter(phase: str) -> None:
        record.write_text(diary, phase)
        entered.append(phase)
        if kill and phase == kill[0] and entered.count(phase) == kill[1]:
            threading.Timer(kill[2], os.kill, (os.getpid(), signal.SIGKILL)).start()

    @contextmanager
    def noted(self: Training, phase: str) -> Iterator[None]:
        """The first thing an exploration does is to sync: it is entered when that is over."""
        if phase != "explore":
            enter(phase)
        with timed(self, phase):
            yield
        if phase == "sync":
            enter("explore")

    Training.timed = noted
    run(spec, out)


@pytest.fixture(scope="module")
def processes():
    """Processes that start with everything imported, so that what is killed is a stage and not an import."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["deepspeed", "engine.training", "engine.bugs", "engine.layout", "engine.sampler.transformers"]
    )
    return context


def test_twenty_kills_at_random_moments(spec: dict, tmp_path: Path, processes) -> None:
    """Two kills within each phase, the others at uniformly random moments of the whole run; every killed stage is run again."""
    folder = tmp_path / "methods"
    shutil.copytree(METHODS, folder)
    (folder / "stateful.py").write_text(STATEFUL)
    method = {"name": "stateful", "folder": str(folder), "settings": {}}
    shared = {**TRAIN, "updates": 5, "checkpoint_every": 1, "warmup_updates": 2, "schedule": "cosine"}
    spec = {**spec, "run": "stateful", "stage": "stateful", "method": method, "train": shared}

    def start(out: Path, kill: tuple[str, int, float] | None = None):
        process = processes.Process(target=train, args=(spec, out, tmp_path / f"{out.name}.phase", kill))
        process.start()
        return process

    def outcome(out: Path) -> list[str]:
        return [record.file_sha256(out / name) for name in FILES]

    whole = tmp_path / "whole"
    seconds = 0.0
    for _ in range(2):  # the second time, so that the server's own start is not counted
        shutil.rmtree(whole, ignore_errors=True)
        began = time.monotonic()
        process = start(whole)
        process.join()
        seconds = time.monotonic() - began
        assert process.exitcode == 0
    rows = record.read_rows(whole / "metrics.jsonl")
    assert len(rows) == 5 and min(row["grad_norm"] for row in rows) > 0 and all(row["sampled_tokens"] for row in rows)

    rng = random.Random(20261121)
    killed_in, kept = [], []
    for trial in range(KILLS):
        out, phase = tmp_path / f"trial{trial}", tmp_path / f"trial{trial}.phase"
        if trial < 2 * len(PHASES):
            process = start(out, (PHASES[trial % len(PHASES)], rng.randrange(2, 5), rng.random() * 0.003))
        else:
            process = start(out)
            time.sleep(rng.random() * seconds)
            process.kill()
        process.join()
        killed_in.append(phase.read_text() if phase.exists() else "start")
        kept.append(len(list((out / "state").glob("step-*"))))
        process = start(out)
        process.join()
        assert process.exitcode == 0, (trial, killed_in[-1])
        assert outcome(out) == outcome(whole), (trial, killed_in[-1])
        assert not (out / "state").exists()
        shutil.rmtree(out)
    assert set(killed_in) >= set(PHASES), killed_in
    assert checkpoint.KEPT <= max(kept) <= checkpoint.KEPT + 1, kept  # one more until the old one is dropped


@pytest.fixture
def training(spec: dict, tmp_path: Path):
    """A stage with checkpoints after updates 2 and 4, as if it had made four updates."""
    from engine.stage import identity
    from engine.training import Training

    out = tmp_path / "out"
    training = Training(spec, out, identity(spec))
    for step in (2, 4):
        training.trainer.step = step
        checkpoint.save(training.trainer, out / "state", step, training.parts, {"kept": [step]})
    for name in ("metrics.jsonl", "timings.jsonl"):
        record.write_rows(out / name, ({"step": i} for i in range(4)))
    return training


def test_a_truncated_checkpoint_is_passed_over_for_the_one_before(training, caplog: pytest.LogCaptureFixture) -> None:
    assert len(training.resume()[0]) == 4
    damaged = next((training.out / "state" / "step-000004").rglob("*.pt"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert len(training.resume()[0]) == 2
    assert training.trainer.step == 2 and training.memory == {"kept": [2]}
    assert "not using the checkpoint" in caplog.text and "trying the one before" in caplog.text
    (training.out / "state" / "step-000002" / "about.json").unlink()
    assert training.resume() == ([], [])


@pytest.mark.parametrize("harm", [lambda text: text[: len(text) // 2], lambda text: text.replace("[\n      4", "[\n      9")])
def test_an_edited_or_truncated_record_is_passed_over_too(training, harm, caplog: pytest.LogCaptureFixture) -> None:
    about = training.out / "state" / "step-000004" / "about.json"
    assert harm(about.read_text()) != about.read_text()
    about.write_text(harm(about.read_text()))
    assert len(training.resume()[0]) == 2 and training.memory == {"kept": [2]}
    assert "about.json is missing or damaged; trying the one before" in caplog.text


def test_a_checkpoint_ahead_of_its_timings_is_passed_over(training) -> None:
    record.write_rows(training.out / "timings.jsonl", ({"step": i} for i in range(3)))
    assert len(training.resume()[0]) == 2


def test_everything_is_on_the_disk_before_a_checkpoint_counts(training, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = set(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: synced.add(os.readlink(f"/proc/self/fd/{file}")) or fsync(file))
    checkpoint.save(training.trainer, training.out / "state", 6, training.parts, {})
    names = {Path(name).name for name in synced}
    assert {p.name for p in (training.out / "state" / "step-000006").rglob("*") if p.is_file()} <= names | {"about.json"}
    assert ".step-000006.tmp" in names and "state" in names


def test_what_a_finished_stage_left_behind_is_cleared(spec: dict, tmp_path: Path) -> None:
    """Killed between done.json and the end: the next run finds it done, or starts over when the configuration changed."""
    from engine.stage import run

    method = {"name": "sft", "folder": str(METHODS), "settings": {}}
    spec = {**spec, "method": method, "train": {**TRAIN, "updates": 2, "checkpoint_every": 1}}
    out = tmp_path / "out"
    for change, rate in ((False, 1e-3), (True, 2e-3)):
        run({**spec, "train": {**spec["train"], "learning_rate": 1e-3}}, out)
        (out / "state" / "step-000001").mkdir(parents=True)
        (out / "state" / "step-000001" / "about.json").write_text("{}")
        run({**spec, "train": {**spec["train"], "learning_rate": rate}}, out)
        assert not (out / "state").exists()
        assert record.read_json(out / "done.json")["identity"]["spec"]["train"]["learning_rate"] == rate, change


def test_a_checkpoint_ahead_of_its_metrics_is_passed_over(training, caplog: pytest.LogCaptureFixture) -> None:
    (training.out / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n{"step": 2}\n{"st')
    assert len(training.resume()[0]) == 2
    assert "half-written last line" in caplog.text and "only 3 updates are logged" in caplog.text


def test_a_checkpoint_of_another_configuration_is_refused(training) -> None:
    """With the settings that differ, and nothing is lost: put back, the run continues."""
    own = training.parts
    changed = {**own["spec"], "train": {**own["spec"]["train"], "learning_rate": 5e-4, "updates": 9}}
    training.parts = {**own, "spec": changed}
    with pytest.raises(
        ValueError, match=r"another configuration: spec.train.learning_rate was 0.001 and is 0.0005; spec.train.upd"
    ):
        training.resume()
    training.parts = own
    assert len(training.resume()[0]) == 4


@pytest.mark.parametrize(("memory", "message"), [({"kept": {1, 2}}, "cannot be saved"), ({1: "one"}, "changes when saved")])
def test_memory_that_a_resume_would_not_restore_is_refused(tmp_path: Path, memory: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checkpoint.save(None, tmp_path, 6, {}, memory)
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_in_the_same_folder_is_refused(spec: dict, tmp_path: Path) -> None:
    from engine.stage import run

    with record.claimed(tmp_path / "out"), pytest.raises(ValueError, match="in use by another process"):
        run(spec, tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_a_checkpoint_holds_what_every_rank_wrote(tmp_path: Path) -> None:
    """The first rank of two; the other one writes its part only while the first waits for it after its own."""
    waited = []

    class Shards:
        def save(self, folder: Path) -> None:
            assert len(waited) == 1  # for the folder to be empty
            folder.mkdir()
            (folder / "rank0").write_text("a")

    def gather(part: dict) -> dict:
        waited.append(part)
        if len(waited) == 2:
            (tmp_path / ".step-000006.tmp" / "rank1").write_text("b")
        return part

    checkpoint.save(Shards(), tmp_path, 6, {}, {}, Ranks(0, 2, gather))
    assert record.read_json(tmp_path / "step-000006" / "about.json")["files"].keys() == {"rank0", "rank1"}


def test_a_choice_of_problems_is_not_made_again_by_a_later_policy(spec: dict, tmp_path: Path, monkeypatch) -> None:
    from engine.stage import identity
    from engine.training import Training

    def stopped(self: Training, step: int, limits: Limits) -> dict:
        if step == 2:
            raise SystemExit
        return made(self, step, limits)

    spec, out, made = {**spec, "method": {**spec["method"], "name": "rif_rft"}}, tmp_path / "out", Training.step
    monkeypatch.setattr(Training, "step", stopped)
    with pytest.raises(SystemExit):
        Training(spec, out, identity(spec)).run()
    assert (out / "state" / "step-000002").exists()
    (out / "selection.json").unlink()
    with pytest.raises(ValueError, match=r"selection.json is missing or another stage's, and after 2 updates the policy would"):
        Training(spec, out, identity(spec)).run()
