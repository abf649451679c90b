"""ReFT: one rollout per problem, whitening over the update, clip and KL by hand, and where it starts."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from engine import methods, record
from engine.explain import Scripted
from engine.explore import explore
from engine.reduce import mean_over_trajectories
from engine.tokens import Tokens
from engine.words import Context, Problem, Trajectory
from tests.conftest import METHODS, ROOT, TRAIN
from workflow.plan import Plan, checked


def build(**settings):
    return methods.build("reft", settings, METHODS)


def learned(right: list[bool], **settings) -> list[Trajectory]:
    """An update over one problem for each verdict: explored, then whitened."""
    method, sampler = build(**settings), Scripted(lambda i: False)
    problems = [Problem(str(i), (11, i), "") for i in range(len(right))]

    def reward(pairs: Any) -> list[float]:
        return [float(right[int(problem.id)]) for problem, _ in pairs]

    found = explore(method, problems, sampler, reward, 0, 4, 0, {}).trajectories
    assert [request.sample.n for request in sampler.asked] == [method.samples] * len(right)
    return method.update(found, Context(0, 4, random.Random(0), {}))


def advantages(right: list[bool], **settings) -> list[float]:
    return [segment.advantage for t in learned(right, **settings) for segment in t.segments]


def test_advantages_are_whitened_over_the_update() -> None:
    """One right of four: mean 1/4, deviation sqrt(3) / 4, so sqrt(3) and -1 / sqrt(3)."""
    third = 1 / math.sqrt(3)
    assert advantages([True, False, False, False]) == pytest.approx([math.sqrt(3), -third, -third, -third])
    assert advantages([True, False]) == pytest.approx([1.0, -1.0])
    assert [t.problem.id for t in learned([True, False, True])] == ["0", "1", "2"]


def test_of_more_rollouts_per_problem_all_are_whitened_together() -> None:
    third = 1 / math.sqrt(3)
    assert advantages([True, False, False, False], samples=2) == pytest.approx([math.sqrt(3)] * 2 + [-third] * 6)


@pytest.mark.parametrize("right", [[True] * 3, [False] * 3, [True]])
def test_an_update_of_one_reward_teaches_nothing(right: list[bool]) -> None:
    assert advantages(right) == [0.0] * len(right)


def test_the_clip_holds_just_beyond_a_fifth_and_only_what_has_gone_the_advantages_way() -> None:
    """Slope of -min(A r, A clip(r)) on log p, r = .79 .81 1.19 1.21: -A r, or 0 where the clip holds it."""
    ratio = torch.tensor([[0.79, 0.81, 1.19, 1.21]] * 2, dtype=torch.float64)
    logp = ratio.log().requires_grad_()
    zero, yes = torch.zeros_like(ratio), torch.ones_like(ratio, dtype=torch.bool)
    advantage = torch.tensor([[2.0] * 4, [-1.0] * 4], dtype=torch.float64)
    policy = build().loss(Tokens(logp, zero, advantage, ~yes, yes, yes, reference_logp=zero))["policy"]
    by_hand = torch.tensor([[-1.58, -1.62, -2.38, -2.4], [0.8, 0.81, 1.19, 1.21]], dtype=torch.float64)
    torch.testing.assert_close(policy.values, by_hand)
    slope = torch.tensor([[-1.58, -1.62, -2.38, 0.0], [0.0, 0.81, 1.19, 1.21]], dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(policy.values.sum(), logp)[0], slope)


def test_the_loss_by_hand() -> None:
    """Trajectories of 3 and 1 own tokens, p = .4, q = .2 .4 .8 and .2, p_old = .4, A = 1 and -.5.

    policy = (-1 + .5) / 2. k3 = q/p - log(q/p) - 1 = log 2 - .5, 0, 1 - log 2 and log 2 - .5: a mean of (.5) / 3 over the
    first trajectory's tokens, of log 2 - .5 over the other's, and both averaged."""
    logp = torch.full((2, 3), 0.4, dtype=torch.float64).log().requires_grad_()
    reference = torch.tensor([[0.2, 0.4, 0.8], [0.2, 0.4, 0.4]], dtype=torch.float64).log()
    trained = torch.tensor([[True] * 3, [True, False, False]])
    advantage = torch.tensor([[1.0] * 3, [-0.5] * 3], dtype=torch.float64)
    t = Tokens(logp, logp.detach(), advantage, torch.zeros_like(trained), trained, trained, reference_logp=reference)
    found = {}
    for name, term in build().loss(t).items():
        mask = trained if term.mask is None else term.mask
        assert term.reduce == mean_over_trajectories and term.reduce.count(mask, 2) == 2
        found[name] = term.coefficient * term.reduce.numerator(term.values, mask, 99) / 2
    assert found["policy"].item() == pytest.approx(-0.25)
    assert found["kl"].item() == pytest.approx(0.05 * (0.5 / 3 + math.log(2) - 0.5) / 2)
    slope = torch.autograd.grad(found["kl"], logp)[0]
    by_hand = 0.05 * torch.tensor([[0.5 / 3, 0.0, -1.0 / 3], [0.5, 0.0, 0.0]], dtype=torch.float64) / 2  # of 1 - q/p
    torch.testing.assert_close(slope, by_hand)


def test_experts_tokens_are_not_held_back() -> None:
    ones, yes, expert = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), torch.tensor([[True, False]])
    mask = build().loss(Tokens(ones, ones, ones, expert, yes, yes, reference_logp=ones))["kl"].mask
    assert mask.tolist() == [[False, True]]


def plan(**changes: Any) -> Plan:
    return checked({**yaml.safe_load((ROOT / "config" / "miniature.yaml").read_text()), **changes})


def test_it_starts_from_the_checkpoint_of_sft_and_trains_its_own_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    made = plan(runs=["base", "sft_then_grpo", "reft"], baseline="", overrides={"reft": {"learning_rate": 0.5, "kl": 0.01}})
    spec = json.loads(made.stage_spec("reft", 0, "reft"))
    assert spec["parent"] == "results/miniature/sft/seed0/sft" == str(made.parent("sft_then_grpo", 0, "grpo"))
    assert (spec["method"]["name"], spec["method"]["settings"]["kl"], spec["train"]["learning_rate"]) == ("reft", 0.01, 0.5)
    assert len(made.stage_folders(made.runs, [0], trained=True)) == 3  # the warm-up is trained once for both


def test_a_stage_moves_away_from_what_it_started_from_and_is_certified(spec: dict, tmp_path: Path) -> None:
    from engine.stage import run

    method, out = {"name": "reft", "folder": str(METHODS), "settings": {"samples": 8}}, tmp_path / "out"
    run({**spec, "run": "reft", "stage": "reft", "method": method, "train": {**TRAIN, "updates": 3}}, out)
    rows = record.read_rows(out / "metrics.jsonl")
    assert [row["graded_rollouts"] for row in rows] == [24] * 3 and rows[0]["grad_norm"] > 0
    assert rows[0]["loss"]["kl"] == pytest.approx(0, abs=1e-9) and rows[1]["loss"]["kl"] > 1e-3
    assert all(row["loss"]["policy"] == pytest.approx(0, abs=1e-5) for row in rows)  # whitened, ratio 1
    assert record.read_json(out / "certificate.json")["passed"]
