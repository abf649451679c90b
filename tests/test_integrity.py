"""Every check of the certificate, passed by the engine as it is and failed when what it looks for is there."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from engine import bugs, integrity, layout, methods, record
from engine.certificate import Check, certificate
from engine.distributed import start_distributed
from engine.forward import fingerprint
from engine.sampler import Request, Sampling, serve
from engine.settings import Settings
from engine.train import Trainer
from engine.words import Problem, Rollout, Sample
from tests.conftest import METHODS, ROOT, on_two_ranks

SETTINGS = Settings(learning_rate=1e-3, updates=4, response_tokens=64)
CELLS = [(zero, offload) for zero in (0, 1, 2, 3) for offload in (False, True) if zero or not offload]
LOSING = {  # measured on the pinned DeepSpeed: ZeRO stage, offload -> what the three weights move by, instead of .25 each
    (1, False): "0, 0, 0.25, 0",
    (2, False): "0, 0, 0.25, 0",
    (1, True): "0, 0.25, 0.25, 0",
    (2, True): "0, 0.25, 0.25, 0",
}


@pytest.fixture(autouse=True, scope="module")
def distributed() -> None:
    start_distributed("cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("accumulation", ["boundary", "unmanaged", "unset"])
@pytest.mark.parametrize(("zero", "offload"), CELLS)
def test_gradient_probe_in_every_cell_of_the_matrix(zero: int, offload: bool, accumulation: str, dtype: str) -> None:
    settings = dataclasses.replace(SETTINGS, zero_stage=zero, offload=offload, accumulation=accumulation)
    check = integrity.gradient_probe(settings, dtype)
    lost = LOSING.get((zero, offload)) if accumulation == "unset" else None
    if lost is None:
        assert check == Check("gradient probe", "passed", "3 of 3 micro-batches kept", check.limit)
    else:
        assert check.status == "failed"
        row = f"ZeRO {zero}, offload {'on' if offload else 'off'}, accumulation unset, 1 rank(s), {dtype}"
        assert row in check.measured and f"weights moved {lost}" in check.measured
        assert "set train.accumulation to boundary" in check.remedy


def test_gradient_probe_sees_a_wrong_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a gradient, as after an average too many; and a loss in the second step only."""
    accumulate = integrity.accumulate
    halved = lambda engine, losses, mode: accumulate(engine, [lambda one=one: one() / 2 for one in losses], mode)  # noqa: E731
    monkeypatch.setattr(integrity, "accumulate", halved)
    assert "0 of 3 micro-batches kept" in integrity.gradient_probe(SETTINGS, "float32").measured
    steps = []

    def later(engine, losses, mode) -> None:
        steps.append(len(losses))
        accumulate(engine, losses if len(steps) == 1 else losses[1:], mode)

    monkeypatch.setattr(integrity, "accumulate", later)
    assert "2 of 3 micro-batches kept" in integrity.gradient_probe(SETTINGS, "float32").measured


def test_gradient_probe_on_two_ranks() -> None:
    """Six micro-batches, three on each rank; then the same without boundaries."""
    script = """
import dataclasses, json
from engine import integrity
from engine.distributed import start_distributed
from engine.settings import Settings
start_distributed("cpu")
for accumulation in ("boundary", "unset"):
    check = integrity.gradient_probe(Settings(1e-3, 4, zero_stage=2, accumulation=accumulation), "float32")
    print("CHECK", json.dumps(dataclasses.asdict(check)), flush=True)
"""
    for out in on_two_ranks(script):
        kept, lost = [json.loads(line.removeprefix("CHECK ")) for line in out.splitlines() if line.startswith("CHECK ")]
        assert kept["status"] == "passed" and kept["measured"] == "6 of 6 micro-batches kept"
        assert (
            lost["status"] == "failed" and "2 of 6 micro-batches kept" in lost["measured"] and "2 rank(s)" in lost["measured"]
        )


@pytest.mark.parametrize("bug", ["mean_of_means", "openrlhf_loss_mean", "dropped_microbatch"])
def test_layout_sees_a_wrong_average(bug: str) -> None:
    method = methods.build("sft", {}, METHODS)
    check = layout.check(bugs.trainer(bug), method, bugs.settings(bug, SETTINGS), "float32")
    assert check.status == "failed" and "autograd" in check.measured and check.remedy


def test_a_bug_that_cannot_happen_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dropped_microbatch needs train\.zero_stage 1 or 2"):
        bugs.settings("dropped_microbatch", dataclasses.replace(SETTINGS, zero_stage=3))
    with pytest.raises(ValueError, match=r"train\.offload moves ZeRO's optimizer state"):
        dataclasses.replace(SETTINGS, zero_stage=0, offload=True)


def rollouts(groups: list[list[tuple[tuple[int, ...], float]]]) -> list[tuple[Problem, Rollout]]:
    """Groups of (tokens, log-prob of the whole response), each group one problem's."""
    return [
        (Problem(str(i), (1,), ""), Rollout((), tokens, (logp,) + (0.0,) * (len(tokens) - 1), 0.0, "stop"))
        for i, group in enumerate(groups)
        for tokens, logp in group
    ]


def row(**changes) -> dict:
    agreed = {"largest": 1e-5, "mean": 1e-6}
    quiet = {"seen": 2, "expected": 1.5, "variance": 1.0}
    return {"canary": {**agreed, "same_weights": True}, "logp_drift": agreed, "repeats": quiet, "ended": 0.9, **changes}


def statuses(rows: list[dict], dtype: str = "float32") -> dict[str, str]:
    return {check.name: check.status for check in integrity.of_updates(rows, dtype, 0.5)}


def test_repeats_are_what_probabilities_predict() -> None:
    """Two draws of probability .9 and .1: the second repeats the first with .9; another group's first draw repeats nothing."""
    likely, other = ((5, 2), -0.10536051565782628), ((6, 2), -2.302585092994046)
    found = integrity.repeats(rollouts([[likely, likely], [likely]]))
    assert found == {"seen": 1, "expected": 0.9, "variance": 0.09}
    found = integrity.repeats(rollouts([[likely, other, likely]]))
    assert found == {"seen": 1, "expected": 1.9, "variance": 0.09}  # the third repeats either with .9 + .1
    assert integrity.repeats(rollouts([[likely], [other]])) is None
    twice = [*rollouts([[likely]]), (Problem("0", (1,), ""), Rollout((4,), likely[0], (likely[1], 0.0), 0.0, "stop"))]
    assert integrity.repeats(twice) is None  # another prefix is another group
    sure = ((5, 2), 0.0)
    assert integrity.repeats(rollouts([[sure, other, sure]])) == {"seen": 1, "expected": 2.0, "variance": 0.0}  # 1 + .1 is 1
    assert integrity.repeats([]) is None


def test_group_diversity_sees_one_seed_for_a_group_and_spares_a_confident_policy() -> None:
    unlikely, sure = ((5, 6, 2), -3.0), ((5, 2), -0.001)
    shared = integrity.repeats(rollouts([[unlikely] * 8 for _ in range(4)]))
    confident = integrity.repeats(rollouts([[sure] * 8 for _ in range(24)]))
    assert shared and shared["seen"] == 28 and confident and confident["seen"] == 168
    assert statuses([row(repeats=shared)])["group diversity"] == "failed"
    assert statuses([row(repeats=confident)] * 40)["group diversity"] == "passed"
    small = integrity.repeats(rollouts([[unlikely] * 2]))  # one repeat alone is no proof, twenty are
    assert statuses([row(repeats=small)])["group diversity"] == "passed"
    assert statuses([row(repeats=small)] * 20)["group diversity"] == "failed"
    assert integrity.log_chance(3, 5.0, 1.0) == 0.0


def test_sampler_and_trainer_must_agree() -> None:
    limits = {"float32": ("largest", 1e-3), "bfloat16": ("mean", 0.05)}  # as documented
    for key, name in (("canary", "sync canary"), ("logp_drift", "importance ratio")):
        for dtype, (statistic, limit) in limits.items():
            for factor, status in ((0.99, "passed"), (1.01, "failed"), (float("nan"), "failed")):
                found = {"largest": 0.0, "mean": 0.0, "same_weights": True, statistic: factor * limit}
                assert statuses([row(), row(**{key: found}), row()], dtype)[name] == status
        assert statuses([row(**{key: {"largest": 0.3, "mean": 0.01, "same_weights": True}})], "bfloat16")[name] == "passed"
    nothing = row(canary=None, logp_drift=None, repeats=None, ended=None)
    assert set(statuses([nothing]).values()) == {"not applicable"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sampler_with_other_weights_is_seen_however_close_its_log_probs_are(dtype: str) -> None:
    """Weights of one tiny update apart differ by less than bfloat16's rounding of log-probs, and are still others."""
    stale = {"largest": 1e-6, "mean": 1e-7, "same_weights": False}
    check = integrity.of_updates([row(), row(canary=stale)], dtype, 0.5)[0]
    assert check.status == "failed" and "other weights in 1 of 2 updates" in check.measured
    layer = torch.nn.Linear(300, 300, dtype=getattr(torch, dtype))
    before = fingerprint(layer)
    assert fingerprint(layer) == before
    with torch.no_grad():
        layer.weight[7, 7] = layer.weight[7, 7] * 1.01
    assert fingerprint(layer) != before


def test_a_scoring_with_a_nan_in_any_row_is_no_agreement() -> None:
    for rows in ([[0.0], [float("nan")]], [[float("nan")], [0.0]], [[0.0, float("nan"), 0.0]]):
        found = integrity.difference(rows, [[0.0] * len(r) for r in rows])
        assert found["largest"] != found["largest"] and found["mean"] != found["mean"]
    assert integrity.difference([[-1.0, -3.0]], [[-1.5, -2.0]]) == {"largest": 1.0, "mean": 0.75}


def test_end_of_sequence_is_about_the_model_the_stage_starts_from() -> None:
    assert statuses([row(ended=0.49)])["end of sequence"] == "failed"
    assert statuses([row(ended=0.5), row(ended=0.0)])["end of sequence"] == "passed"
    assert statuses([row(ended=None), row(ended=0.1), row(ended=0.9)])["end of sequence"] == "failed"  # the first that sampled
    check = integrity.of_updates([row(ended=0.1)], "float32", 0.5)[-1]
    assert "train.max_response_tokens" in check.remedy and "train.min_finished" in check.remedy


def test_a_rollout_that_the_method_cut_short_says_nothing_about_the_model() -> None:
    problem = Problem("p", (1,), "")

    def rollout(tokens: int, reason: str, prefix: int = 0) -> tuple[Problem, Rollout]:
        return problem, Rollout((9,) * prefix, (5,) * tokens, (-1.0,) * tokens, 0.0, reason)

    short, stopped, full, guided = rollout(6, "length"), rollout(3, "stop"), rollout(16, "length"), rollout(6, "length", 10)
    assert integrity.ended([short], 16) is None
    assert integrity.ended([short, stopped], 16) == 1.0
    assert integrity.ended([stopped, full, guided, short], 16) == pytest.approx(1 / 3, abs=1e-4)


def test_rows_that_see_one_another_are_found_on_the_live_model() -> None:
    class Leaking:
        """Scores a row otherwise when it is not alone."""

        def score(self, rows, begun=()):
            return [
                [-1.0 - 0.01 * (len(rows) > 1)] * (len(row) - at)
                for row, at in zip(rows, begun or [1] * len(rows), strict=True)
            ]

        def score_alone(self, row):
            return [-1.0] * (len(row) - 1)

    class Sound(Leaking):
        def score(self, rows, begun=()):
            return [
                super(Sound, self).score([row])[0][at - 1 :] for row, at in zip(rows, begun or [1] * len(rows), strict=True)
            ]

    rows = [(1, 2, 3), (1, 2)]
    assert integrity.rows_apart(Sound(), rows, "float32").status == "passed"
    check = integrity.rows_apart(Leaking(), rows, "float32")
    assert check.status == "failed" and "train.packed" in check.remedy
    assert integrity.rows_apart(Leaking(), rows, "bfloat16").status == "passed"


def test_a_certificate_is_sealed_by_its_digest() -> None:
    checks = [Check("a", "passed", "1", "<= 2"), Check("b", "not applicable", "nothing", "")]
    spec = {"run": "r", "seed": 0, "stage": "s", "inject": None}
    written = certificate(spec, {"ranks": 1}, checks, ["0123"])
    body = {key: value for key, value in written.items() if key != "digest"}
    assert written["passed"] and written["digest"] == record.digest(body)
    failed = certificate(spec, {"ranks": 1}, [*checks, Check("c", "failed", "3", "<= 2", "mend it")], ["0123"])
    assert not failed["passed"] and failed["digest"] != written["digest"]


def test_grader_self_check(tmp_path: Path) -> None:
    from engine import evaluate

    source, out = tmp_path / "b.jsonl", tmp_path / "b.golds.json"
    rows = [
        {"id": str(i), "problem": "?", "answer": a}
        for i, a in enumerate(["5", r"\frac{1}{2}", "} {", "$a x$, where $a$ is an integer"])
    ]
    record.write_rows(source, rows)
    with pytest.raises(ValueError, match=r"self-check of .*b.jsonl: .* it is otherwise for 1: 2\. Mend the data"):
        evaluate.golds(source, out, [])
    assert [row["id"] for row in record.read_json(out)["wrong"]] == ["2"] and not record.read_json(out)["passed"]
    evaluate.golds(source, out, ["2"])
    found = record.read_json(out)
    assert found["passed"] and found["golds"] == 4 and found["known"] == ["2"]
    assert "3" in [row["id"] for row in found["text_only"]]
    with pytest.raises(ValueError, match=r"otherwise for 1: 1\."):
        evaluate.golds(source, out, ["1", "2"])


def test_the_canary_syncs_first_and_the_worst_rank_counts() -> None:
    calls = []

    class Sampler:
        def sync(self):
            calls.append("sync")

        def fingerprint(self):
            calls.append("fingerprint")
            return "a"

        def score(self, rows):
            calls.append("score")
            return [[-1.0] for _ in rows]

    class Scorer:
        def score(self, rows):
            return [[-1.5] for _ in rows]

        def fingerprint(self):
            return "b"

    found = integrity.canary(Sampler(), Scorer(), [(1, 2)])  # pyright: ignore[reportArgumentType]
    assert calls == ["sync", "fingerprint", "score"]
    assert found == {"largest": 0.5, "mean": 0.5, "same_weights": False}
    good = {"largest": 0.1, "mean": 0.1, "same_weights": True}
    assert integrity.worst([good, found]) == integrity.worst([found, good]) == found
    assert integrity.worst([good, good]) == pytest.approx(good) and integrity.worst([]) is None
    broken = integrity.worst([{**good, "largest": float("nan")}, good])
    assert broken and math.isnan(broken["largest"])


def test_both_ways_to_score_agree_with_what_was_sampled(spec: dict) -> None:
    """The sampler's own log-probs while generating, its teacher-forced ones and the trainer's, padded and packed."""
    from transformers import AutoModelForCausalLM

    from engine.sampler.transformers import TransformersSampler

    model = AutoModelForCausalLM.from_pretrained(ROOT / "miniature" / "base", dtype=torch.float32)
    method = methods.build("grpo", {}, METHODS)
    sampler = TransformersSampler(model, Sampling(0, 1, 32, 32, temperature=1.0, batch_tokens=8192))
    problems = [Problem("a", (5, 6, 7), ""), Problem("b", (8, 9, 10, 11, 12, 13), "")]
    groups = serve(sampler, [Request(p, Sample(2), (1, 2)) for p in problems])
    rows = [p.prompt + r.tokens for p, group in zip(problems, groups, strict=True) for r in group]
    written = [r.logp for group in groups for r in group]
    for packed in (False, True):
        trainer = Trainer(model, method, dataclasses.replace(SETTINGS, packed=packed), pad=0)
        for scored in (sampler.score(rows), trainer.score(rows)):
            for values, tokens, logp in zip(scored, rows, written, strict=True):
                assert len(values) == len(tokens) - 1 and len(logp) > 0
                assert values[-len(logp) :] == pytest.approx(list(logp), abs=1e-4)
