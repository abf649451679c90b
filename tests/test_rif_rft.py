"""RIF-RFT: who passes the filter, and that what it does with them is GRPO."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import methods, record
from engine.explain import POLICIES, Scripted, converse
from engine.supply import SELECTION, Supply, selected
from engine.tokens import Tokens
from engine.words import Context, Problem, Rollout, Sample
from tests.conftest import METHODS, TRAIN

PROBLEM = Problem("p", (11, 12), "5")


def build(name: str = "rif_rft", **settings):
    return methods.build(name, settings, METHODS)


def kept(method, rewards: list[float]) -> bool:
    """Ask the filter about a problem whose rollouts earn these rewards."""
    asking = method.keep(PROBLEM, Context(0, 4, random.Random(0), {}))
    assert next(asking) == Sample(len(rewards))
    with pytest.raises(StopIteration) as stop:
        asking.send([Rollout((), (7, 2), (-1.0, -1.0), reward, "stop") for reward in rewards])
    return stop.value.value


def test_a_problem_is_kept_if_and_only_if_one_of_eight_is_right() -> None:
    assert kept(build(), [0.0] * 7 + [1.0]) is True
    assert kept(build(), [1.0] * 8) is True
    assert kept(build(), [0.0] * 8) is False
    assert kept(build(samples=2), [0.0, 1.0]) is True


def test_the_threshold_belongs_to_what_is_kept() -> None:
    assert kept(build(tau=0.5), [0.0] * 7 + [0.5]) is True
    assert kept(build(tau=0.5), [0.0] * 7 + [0.49]) is False
    assert kept(build(), [0.99] * 8) is False


@pytest.mark.parametrize("tau", [0.0, -1.0, 1.01])
def test_a_threshold_that_filters_nothing_or_everything_is_refused(tau: float) -> None:
    with pytest.raises(ValueError, match=f"tau {tau} keeps every problem or none"):
        build(tau=tau)
    assert build(tau=0.01) and build(tau=1.0)


def test_what_a_run_would_see_is_asked_for_once_and_only_the_solved_are_seen_again() -> None:
    """Two updates of three would see six of eight problems; the policy solves those with an even number, once in eight."""
    problems = [Problem(str(i), (11, i), "") for i in range(8)]
    supply, sampler = Supply(problems, 0, 3), Scripted(lambda i: False)

    def reward(pairs: Any) -> list[float]:
        return [float(int(problem.id) % 2 == 0 and i == 7) for i, (problem, _) in enumerate(pairs)]

    seen = [problem.id for problem in supply.pool(2)]
    found = selected(build(), supply, sampler, reward, 2)
    assert len(seen) == 6 and [request.sample for request in sampler.asked] == [Sample(8)] * 6
    assert found["kept"] == [name for name in seen if int(name) % 2 == 0] and 0 < len(found["kept"]) < 6
    supply.keep(found["kept"])
    assert {problem.id for step in range(4) for problem in supply.batch(step)} == set(found["kept"])


def test_the_rest_is_grpo() -> None:
    """Two right of eight: advantages 1 - 1/4 and -1/4; the loss is -advantage * p / p_old, a slope of that on log p."""
    sampler, found = converse(build(), POLICIES["a policy that is right every third time"])  # - - + - - + - -
    assert [request.sample for request in sampler.asked] == [Sample(8)]
    assert [t.segments[0].advantage for t in found] == [-0.25, -0.25, 0.75, -0.25, -0.25, 0.75, -0.25, -0.25]
    logp = torch.tensor([[0.5, 0.2], [0.1, 0.3]], dtype=torch.float64).log().requires_grad_()
    old = torch.tensor([[0.4, 0.2], [0.2, 0.3]], dtype=torch.float64).log()
    advantage = torch.tensor([[0.75] * 2, [-0.25] * 2], dtype=torch.float64)
    yes = torch.ones(2, 2, dtype=torch.bool)
    t = Tokens(logp, old, advantage, ~yes, yes, yes)
    by_hand = torch.tensor([[-0.9375, -0.75], [0.125, 0.25]], dtype=torch.float64)
    loss = build().loss(t)
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(loss, build("grpo").loss(t))
    assert build().reduce == build("grpo").reduce
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), logp)[0], by_hand)


def test_a_stage_says_what_it_kept_and_is_certified(spec: dict, tmp_path: Path) -> None:
    from engine.stage import run

    method, out = {"name": "rif_rft", "folder": str(METHODS), "settings": {"samples": 2, "group": 4}}, tmp_path / "out"
    run({**spec, "run": "rif_rft", "stage": "rif_rft", "method": method, "train": {**TRAIN, "updates": 3}}, out)
    first, second, _ = record.read_rows(out / "metrics.jsonl")
    assert 0 < first["kept_problems"] == len(record.read_json(out / SELECTION)["kept"]) < first["of_problems"] == 9
    assert (first["graded_rollouts"], second["graded_rollouts"]) == (9 * 2 + 3 * 4, 3 * 4)
    assert first["grad_norm"] > 0 and record.read_json(out / "certificate.json")["passed"]
