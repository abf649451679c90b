"""Whole stages under their certificate: clean ones pass, injected bugs are reported, the same bugs uninvited stop the stage."""

from pathlib import Path

import pytest
import yaml

from engine import bugs, record
from engine.certificate import IntegrityError
from engine.train import Trainer
from tests.conftest import METHODS, ROOT, TRAIN

GRPO = {"name": "grpo", "folder": str(METHODS), "settings": {}}
HARD = {**TRAIN, "updates": 6, "prompts_per_update": 6, "learning_rate": 3e-3, "micro_batch_tokens": 256}


def run(spec: dict, out: Path, **changes) -> dict:
    """A short stage of group rollouts; returns its certificate."""
    from engine import stage

    stage.run({**spec, "run": "r", "method": GRPO, "train": HARD, **changes}, out)
    return record.read_json(out / "certificate.json")


def by_name(found: dict) -> dict[str, str]:
    return {check["name"]: check["status"] for check in found["checks"]}


def test_a_clean_stage_passes_every_check(spec: dict, tmp_path: Path) -> None:
    found = run(spec, tmp_path / "out")
    assert found["passed"] and found["inject"] is None and set(by_name(found).values()) == {"passed"}
    assert len(found["checks"]) == 7 and found["configuration"]["zero_stage"] == 2
    done = record.read_json(tmp_path / "out" / "done.json")
    assert done["certificate"] == found["digest"]
    assert found["parents"] == [record.read_json(tmp_path / "base" / "done.json")["certificate"]]


SEEN_BY = {
    "dropped_microbatch": {"gradient probe", "layout"},
    "mean_of_means": {"layout"},
    "stale_weights": {"sync canary", "importance ratio"},
    "shared_group_seed": {"group diversity"},
    "openrlhf_loss_mean": {"layout"},
}


@pytest.mark.parametrize("bug", SEEN_BY)
def test_an_injected_bug_is_seen_reported_and_does_not_stop(spec: dict, tmp_path: Path, bug: str, caplog) -> None:
    found = run(spec, tmp_path / "out", inject=bug)
    failed = {name for name, status in by_name(found).items() if status == "failed"}
    assert failed == SEEN_BY[bug] and found["inject"] == bug and not found["passed"]
    assert (tmp_path / "out" / "done.json").exists()
    for name in failed:
        assert caplog.text.count(f"injected {bug}, seen by {name}: failed") == 1


def test_every_known_bug_is_tested_and_described() -> None:
    catalogue = yaml.safe_load((ROOT / "config" / "bugs.yaml").read_text())
    assert catalogue.keys() == SEEN_BY.keys()
    assert all(entry["about"] and entry["source"] for entry in catalogue.values())


@pytest.mark.parametrize(
    ("patch", "changes", "failing"),
    [
        (None, {"train": {**HARD, "accumulation": "unset"}}, "gradient probe"),
        ("stale", {}, "sync canary"),
        ("other", {}, "sync canary"),
        ("leak", {}, "rows apart"),
        ("seed", {}, "group diversity"),
        (None, {"train": {**HARD, "max_response_tokens": 4, "min_finished": 0.9}}, "end of sequence"),
    ],
)
def test_a_check_that_fails_stops_the_stage(
    spec: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patch: str | None, changes: dict, failing: str
) -> None:
    """The same bugs, not asked for: no result, a certificate that says why, and an error that names the check."""
    from engine.sampler.transformers import TransformersSampler

    if patch == "seed":
        monkeypatch.setattr(bugs, "sampler", lambda inject, clean: bugs.SharedSeed(clean))
    if patch == "stale":
        score = TransformersSampler.score
        monkeypatch.setattr(TransformersSampler, "score", lambda self, rows: [[v - 0.01 for v in r] for r in score(self, rows)])
    if patch == "other":
        monkeypatch.setattr(TransformersSampler, "fingerprint", lambda self: "another")
    if patch == "leak":
        score_rows = Trainer.score
        monkeypatch.setattr(
            Trainer,
            "score",
            lambda self, rows, *begun: [[v - 0.01 * len(rows) for v in r] for r in score_rows(self, rows, *begun)],
        )
    rows = record.read_rows(Path(spec["data"]))
    for one in rows:
        one.pop("demonstrations")
    record.write_rows(Path(spec["data"]), rows)
    with pytest.raises(IntegrityError, match=f"{failing}: failed"):
        run(spec, tmp_path / "out", **changes)
    assert not (tmp_path / "out" / "done.json").exists()
    found = record.read_json(tmp_path / "out" / "certificate.json")
    assert by_name(found)[failing] == "failed" and not found["passed"]
    metrics = tmp_path / "out" / "metrics.jsonl"
    if failing in ("gradient probe", "rows apart"):
        assert not metrics.exists()  # nothing was trained
    else:
        assert len(record.read_rows(metrics)) < HARD["updates"]  # stopped at the update that failed, whose line is kept


REPLAY = '''"""Trains on what was sampled one update ago, from memory, and on this update's rollouts without their hint."""
from dataclasses import dataclass
from engine.reduce import mean_over_tokens
from engine.words import Rollout, Sample, Segment, Trajectory, expert, own
@dataclass(frozen=True)
class Method:
    reduce = mean_over_tokens
    def explore(self, problem, context):
        (guided,) = yield Sample(1, prefix=problem.prefix(0.5))
        (free,) = yield Sample(1, max_new_tokens=5)
        kept, context.memory[problem.id] = context.memory.get("last"), None
        context.memory["last"] = [list(guided.tokens), list(guided.logp)]
        found = [Trajectory(problem, (own(guided, 0.5),)), Trajectory(problem, (own(free, 1.0),))]
        if kept:
            found.append(Trajectory(problem, (Segment(tuple(kept[0]), False, True, 1.0, tuple(kept[1])),)))
        return found
    def loss(self, t):
        return -t.advantage * (t.logp - t.old_logp).exp()
'''


def test_replayed_and_unhinted_rollouts_are_no_false_alarm(spec: dict, tmp_path: Path) -> None:
    """Their ratio is meant to differ from 1; a limit of the method's own is not a model that cannot end."""
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "replay.py").write_text(REPLAY)
    method = {"name": "replay", "folder": str(tmp_path / "methods"), "settings": {}}
    found = run(spec, tmp_path / "out", method=method, train={**TRAIN, "updates": 3})
    assert found["passed"] and by_name(found)["importance ratio"] == "passed"
    rows = record.read_rows(tmp_path / "out" / "metrics.jsonl")
    assert all(one["logp_drift"]["largest"] < 1e-3 for one in rows) and all(one["grad_norm"] > 0 for one in rows)


def test_the_problems_of_an_update_are_the_same_for_every_method(spec: dict, tmp_path: Path) -> None:
    seen = {}
    for name in ("sft", "grpo", "trapo"):
        run(spec, tmp_path / name, method={"name": name, "folder": str(METHODS), "settings": {}}, train={**TRAIN, "updates": 2})
        seen[name] = [row["problems"] for row in record.read_rows(tmp_path / name / "metrics.jsonl")]
    assert len(set(seen["sft"])) == 2 and seen["sft"] == seen["grpo"] == seen["trapo"]
