"""RIF-RFT: who passes the filter, and that what it does with them is GRPO."""

import random

import pytest
import torch

from engine import methods
from engine.explain import POLICIES, converse
from engine.tokens import Tokens
from engine.words import Context, Problem, Rollout, Sample
from tests.conftest import METHODS

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
