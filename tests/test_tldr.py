"""TLDR's reward by hand, on either side of what it may take away, and what it is without its penalty."""

import random

import pytest
import torch

from engine import methods
from engine.tokens import Tokens
from engine.words import Context, Problem, Rollout, Sample
from tests.conftest import METHODS

PROBLEM = Problem("p", (11, 12), "5")
LIMIT = 10  # of the response, in tokens


def build(name: str = "tldr", **settings):
    return methods.build(name, settings, METHODS)


def advantages(method, rollouts: list[tuple[int, float]]) -> list[float]:
    """Of a group of rollouts, (length, reward) each."""
    exploring = method.explore(PROBLEM, Context(0, 4, random.Random(0), {}, response_tokens=LIMIT))
    assert next(exploring) == Sample(method.group)
    with pytest.raises(StopIteration) as stop:
        exploring.send([Rollout((), (7,) * n, (-1.0,) * n, reward, "stop") for n, reward in rollouts])
    found = stop.value.value
    assert [len(t.segments[0].tokens) for t in found] == [n for n, _ in rollouts]
    return [t.segments[0].advantage for t in found]


def test_right_answers_earn_less_by_their_share_of_the_limit() -> None:
    """Penalty .5, limit 10: right after 2, 4 and 10 tokens earn .9, .8 and .5, wrong after 6 earns 0; the mean is .55."""
    group = [(2, 1.0), (4, 1.0), (6, 0.0), (10, 1.0)]
    assert advantages(build(), group) == pytest.approx([0.35, 0.25, -0.55, -0.05])
    assert advantages(build(penalty=0.1), group) == pytest.approx([0.27, 0.25, -0.71, 0.19])  # of .98, .96, 0 and .9


def test_wrong_answers_are_all_alike() -> None:
    assert advantages(build(), [(1, 0.0), (10, 0.0)]) == [0.0, 0.0]


def test_without_a_penalty_or_a_difference_in_length_it_is_grpo() -> None:
    group = [(2, 1.0), (4, 1.0), (6, 0.0), (10, 1.0)]
    assert advantages(build(penalty=0.0), group) == advantages(build("grpo"), group) == [0.25, 0.25, -0.75, 0.25]
    assert advantages(build(), [(5, 1.0)] * 3) == [0.0] * 3


def test_a_right_answer_is_worth_more_than_a_wrong_one_up_to_the_largest_penalty() -> None:
    longest_right, shortest_wrong = advantages(build(penalty=0.99), [(LIMIT, 1.0), (1, 0.0)])
    assert longest_right == pytest.approx(0.005) and shortest_wrong == pytest.approx(-0.005)
    for penalty in (1.0, -0.01):
        with pytest.raises(ValueError, match=f"penalty {penalty}"):
            build(penalty=penalty)


def test_the_loss_is_grpos() -> None:
    """-advantage * p / p_old, .35 * .5 / .4 and -.55 * .1 / .2; so is its slope on log p."""
    logp = torch.tensor([[0.5], [0.1]], dtype=torch.float64).log().requires_grad_()
    old, advantage = (
        torch.tensor([[0.4], [0.2]], dtype=torch.float64).log(),
        torch.tensor([[0.35], [-0.55]], dtype=torch.float64),
    )
    yes = torch.ones(2, 1, dtype=torch.bool)
    t = Tokens(logp, old, advantage, ~yes, yes, yes)
    loss, by_hand = build().loss(t), torch.tensor([[-0.4375], [0.275]], dtype=torch.float64)
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(loss, build("grpo").loss(t))
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), logp)[0], by_hand)
    assert build().reduce == build("grpo").reduce
