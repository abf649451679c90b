"""The two-stage recipe: its rewards by hand and on either side of every bend, its two loss terms, and where it starts."""

import json
import math
import random
from typing import Any

import pytest
import torch
import yaml

from engine import methods
from engine.tokens import Tokens
from engine.words import Context, Problem, Rollout, Sample
from tests.conftest import METHODS, ROOT
from workflow.plan import Plan, checked

PROBLEM = Problem("p", (11, 12), "5")
LIMIT = 10  # of the response, in tokens


def build(**settings):
    return methods.build("two_stage", settings, METHODS)


def group(rollouts: list[tuple[int, bool]]) -> list[Rollout]:
    return [Rollout((), (7,) * n, (-1.0,) * n, float(right), "stop") for n, right in rollouts]


def rewards(rollouts: list[tuple[int, bool]], limit: int = LIMIT, **settings) -> list[float]:
    return build(**settings).rewards(group(rollouts), limit)


def test_the_sum_of_both_rewards_by_hand() -> None:
    """Right after 2 and 5 tokens, wrong after 10 and 5, limit 10. Accuracy: .1 + .9 (1 + cos(.2 pi)) / 2 = .914058, .55, -.1,
    -.55. Relative, shortest 2 and 8 between: .5, .125, -.5, and min(0, .125) = 0 for the wrong one."""
    mixed = [(2, True), (5, True), (10, False), (5, False)]
    found = rewards(mixed)
    assert found == pytest.approx([1.414058, 0.675, -0.6, -0.55], abs=1e-6)
    assert rewards(mixed, relative=0.0) == pytest.approx([0.914058, 0.55, -0.1, -0.55], abs=1e-6)


def test_a_group_is_centred_and_divided_by_its_sample_deviation() -> None:
    """Rewards 1.414058 .675 -.6 -.55: mean .234764; squares 1.390733 .193807 .696832 .615855, together 2.897227; / 3, root:
    .982722; and 1e-4 more."""
    exploring = build(group=4).explore(PROBLEM, Context(0, 4, random.Random(0), {}, response_tokens=LIMIT))
    assert next(exploring) == Sample(4)
    with pytest.raises(StopIteration) as stop:
        exploring.send(group([(2, True), (5, True), (10, False), (5, False)]))
    found = [t.segments[0].advantage for t in stop.value.value]
    assert found == pytest.approx([1.199905, 0.447930, -0.849355, -0.798481], abs=1e-6)


def test_right_answers_fall_and_wrong_ones_rise_with_length() -> None:
    right = [rewards([(n, True)])[0] for n in range(LIMIT + 1)]
    wrong = [rewards([(n, False)])[0] for n in range(LIMIT + 1)]
    assert (right[0], right[-1], wrong[0], wrong[-1]) == pytest.approx((1.0, 0.1, -1.0, -0.1))
    assert right == sorted(right, reverse=True) and wrong == sorted(wrong)
    assert min(right) > 0 > max(wrong)


def test_relative_length_bends_at_the_middle_for_wrong_answers_only() -> None:
    """Between 2 and 10 tokens the middle is 6. Both kinds lose beyond it; before it only right ones gain."""
    for n, of_right, of_wrong in ((5, 0.125, 0.0), (6, 0.0, 0.0), (7, -0.125, -0.125)):
        for right, expected in ((True, of_right), (False, of_wrong)):
            alone, among = rewards([(n, right)])[0], rewards([(2, True), (10, True), (n, right)])[2]
            assert among - alone == pytest.approx(expected)


def test_a_group_of_one_reward_teaches_nothing_and_one_of_one_is_refused() -> None:
    exploring = build(group=3).explore(PROBLEM, Context(0, 4, random.Random(0), {}, response_tokens=LIMIT))
    next(exploring)
    with pytest.raises(StopIteration) as stop:
        exploring.send(group([(3, True)] * 3))
    assert [t.segments[0].advantage for t in stop.value.value] == [0.0] * 3
    with pytest.raises(ValueError, match="group 1: one rollout has no deviation"):
        build(group=1)


def test_a_group_of_one_length_has_no_relative_reward() -> None:
    assert rewards([(5, True), (5, False)]) == pytest.approx([0.55, -0.55])
    assert rewards([(5, True), (6, False)])[0] == pytest.approx(0.55 + 0.5)


def test_the_two_terms_by_hand() -> None:
    """policy -A p / p_old = -.5 * .8, and slope the same; k3 = q/p - log(q/p) - 1 at q / p = 1/2, 1, 2, with slope 1 - q/p."""
    logp = torch.tensor([[0.4, 0.4, 0.4]], dtype=torch.float64).log().requires_grad_()
    reference = torch.tensor([[0.2, 0.4, 0.8]], dtype=torch.float64).log()
    old, advantage = torch.full_like(reference, math.log(0.5)), torch.full_like(reference, 0.5)
    yes = torch.ones(1, 3, dtype=torch.bool)
    terms = build().loss(Tokens(logp, old, advantage, ~yes, yes, yes, reference_logp=reference))
    assert set(terms) == {"policy", "kl"} and terms["kl"].coefficient == 0.04
    for name, values, slope in (
        ("policy", [-0.4, -0.4, -0.4], [-0.4, -0.4, -0.4]),
        ("kl", [0.5 - math.log(0.5) - 1, 0.0, 2 - math.log(2) - 1], [0.5, 0.0, -1.0]),
    ):
        torch.testing.assert_close(terms[name].values, torch.tensor([values], dtype=torch.float64))
        found = torch.autograd.grad(terms[name].values.sum(), logp, retain_graph=True)[0]
        torch.testing.assert_close(found, torch.tensor([slope], dtype=torch.float64))
        assert terms[name].reduce.name == "mean_over_trajectories"


def test_experts_tokens_are_not_held_back() -> None:
    ones, yes = torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.bool)
    expert = torch.tensor([[True, False]])
    mask = build().loss(Tokens(ones, ones, ones, expert, yes, yes, reference_logp=ones))["kl"].mask
    assert mask.tolist() == [[False, True]]


def plan(**changes: Any) -> Plan:
    return checked({**yaml.safe_load((ROOT / "config" / "miniature.yaml").read_text()), **changes})


def test_it_starts_from_a_long_sft_and_trains_its_own_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    overrides = {"sft": {"updates": 400}, "two_stage": {"learning_rate": 0.5, "beta": 0.1}}
    made = plan(runs=["base", "two_stage"], baseline="", overrides=overrides)
    spec = json.loads(made.stage_spec("two_stage", 0, "two_stage"))
    assert spec["parent"] == "results/miniature/two_stage/seed0/sft"
    assert spec["method"]["name"] == "two_stage" and spec["method"]["settings"]["beta"] == 0.1
    assert (spec["train"]["learning_rate"], spec["train"]["updates"]) == (0.5, made.config["train"]["updates"])
    imitating, usual = json.loads(made.stage_spec("two_stage", 0, "sft")), json.loads(made.stage_spec("sft", 0, "sft"))
    assert (imitating["train"]["updates"], usual["train"]["updates"]) == (1200, 400)
    assert imitating["train"]["learning_rate"] == usual["train"]["learning_rate"] != 0.5
    assert made.stage_folders(made.runs, [0], trained=True) == [
        "results/miniature/two_stage/seed0/sft",
        "results/miniature/two_stage/seed0/two_stage",
    ]
