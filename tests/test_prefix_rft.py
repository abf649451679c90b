"""Prefix-RFT by hand: how much of a demonstration it shows and when, a prefix's advantage, and which of its tokens learn."""

import random
from dataclasses import replace

import pytest
import torch

from engine import methods
from engine.explain import POLICIES, Scripted, converse, example
from engine.explore import explore
from engine.reduce import mean_over_tokens
from engine.tokens import Tokens, collate
from engine.words import Context, Problem, Rollout, Trajectory, expert, own
from tests.conftest import METHODS


def build(preset: str = methods.MATCHED, **settings):
    return methods.build("prefix_rft", {**methods.preset("prefix_rft", preset, METHODS), **settings}, METHODS)


def test_seven_start_from_the_problem_and_one_continues_a_prefix() -> None:
    sampler, learned = converse(build(), POLICIES["a policy that is always right"])
    assert [(request.sample.n, len(request.sample.prefix)) for request in sampler.asked] == [(7, 0), (1, 38)]  # .95 of 40
    assert [[s.expert for s in t.segments] for t in learned] == [[False]] * 7 + [[True, False]]
    assert learned[7].segments[0].tokens == example().demonstrations[0][:38] and learned[7].segments[0].trained


@pytest.mark.parametrize(
    ("right", "preset", "alone", "prefix", "continued"),
    [  # advantage of the seven in order (the first right, the last wrong), of the prefix, of its continuation
        ({0, 1, 7}, methods.MATCHED, (5 / 8, -3 / 8), 5 / 8, 5 / 8),
        ({0, 1}, methods.MATCHED, (6 / 8, -2 / 8), -2 / 8, -2 / 8),
        ({0, 1, 7}, "dr_grpo_prefix", (5 / 7, -2 / 7), 5 / 7, 1.0),  # the continuation at its raw reward
        ({0, 1}, "dr_grpo_prefix", (5 / 7, -2 / 7), -2 / 7, 0.0),
    ],
)
def test_the_prefix_has_the_advantage_of_what_came_of_it(right, preset, alone, prefix, continued) -> None:
    _, learned = converse(build(preset), lambda i: i in right)
    assert (learned[0].segments[0].advantage, learned[6].segments[0].advantage) == pytest.approx(alone)
    assert [s.advantage for s in learned[7].segments] == pytest.approx([prefix, continued])


class Lowest(random.Random):
    """Draws the lower end of every range."""

    def uniform(self, a: float, b: float) -> float:
        return a


class Highest(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return b


LONG = Problem("long", (11,), "5", (tuple(range(100, 10_100)),))  # a token is a ten-thousandth of the demonstration


def prefix(step: int, total: int, rng: random.Random, problem: Problem = LONG) -> tuple[int, ...]:
    """What the eighth rollout of an update continues."""
    talk = build().explore(problem, Context(step, total, rng, {}))
    next(talk)
    return talk.send([Rollout((), (5,), (-1.0,), 0.0, "stop")] * 7).prefix


@pytest.mark.parametrize(
    ("step", "total", "low"),
    [  # low = .05 + .9 (1 + cos(pi step / total)) / 2
        (0, 500, 9500),
        (125, 500, 8182),  # cos = .70711
        (250, 500, 5000),
        (375, 500, 1818),
        (499, 500, 500),
        (0, 1, 9500),
        (1, 2, 5000),
    ],
)
def test_the_window_opens_downwards_over_the_run(step: int, total: int, low: int) -> None:
    assert len(prefix(step, total, Lowest())) == pytest.approx(low, abs=1)
    assert len(prefix(step, total, Highest())) == pytest.approx(9500, abs=1)


def test_the_share_is_uniform_between_the_ends_of_the_window() -> None:
    rng = random.Random(0)
    drawn = sorted(len(prefix(250, 500, rng)) / 10_000 for _ in range(400))
    assert 0.5 <= drawn[0] < 0.51 and 0.94 < drawn[-1] <= 0.95
    assert [drawn[100], drawn[200], drawn[300]] == pytest.approx([0.6125, 0.725, 0.8375], abs=0.03)


def test_a_prefix_is_cut_down_and_never_ends_the_sequence() -> None:
    short = Problem("short", (11,), "5", ((21, 22, 2),))
    assert prefix(0, 500, Highest(), short) == (21, 22)  # floor(.95 * 3)
    assert prefix(0, 500, Highest(), replace(short, demonstrations=((2,),))) == ()


#   two trajectories, advantages .5 and -.25, of a prefix and two own tokens each
#   p          prefix .1  .2  .3  .4   own .6  .3        prefix .5   own .9  .2
#   p_old                                  .5  .3                        .6  .4
#   rank              0 .199  .2  .8                             .1
def view() -> Tokens:
    problem = Problem("p", (11,), "5")

    def written(old: list[float]) -> Rollout:
        return Rollout((), (91, 2), tuple(torch.tensor(old, dtype=torch.float64).log().tolist()), 0.0, "stop")

    first = Trajectory(problem, (expert((21, 22, 23, 24), 0.5), own(written([0.5, 0.3]), 0.5)))
    second = Trajectory(problem, (expert((21,), -0.25), own(written([0.6, 0.4]), -0.25)))
    p = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.6, 0.3], [0.5, 0.9, 0.2, 1.0, 1.0, 1.0]], dtype=torch.float64)
    rank = torch.tensor([[0.0, 0.199, 0.2, 0.8, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    tokens = collate([first, second], 0, torch.float64).tokens
    return replace(tokens, logp=p.log().requires_grad_(), entropy_rank=rank)


def learned(method, t: Tokens, limit: int = 10) -> tuple[float, list[list[float]]]:
    """The loss as a trainer reduces it, and its gradient on log p times what it was divided by."""
    count = method.reduce.count(t.trained, len(t.logp))
    loss = method.reduce.numerator(method.loss(t), t.trained, limit) / count
    (gradient,) = torch.autograd.grad(loss, t.logp)
    return loss.item(), (gradient * count).tolist()


def test_the_uncertain_prefix_tokens_and_all_own_tokens_learn() -> None:
    """Prefix: the value is -A and the gradient -A, of ranks below .2 only; own: -A p / p_old and the same gradient."""
    loss, gradient = learned(build(), view())
    # -(.5 + .5) - .5 * 1.2 - .5 * 1 = -2.1; .25 + .25 * 1.5 + .25 * .5 = .75; over ten tokens and two trajectories
    assert loss == pytest.approx((-2.1 + 0.75) / 10 / 2)
    hand = [[-0.5, -0.5, 0, 0, -0.6, -0.5], [0.25, 0.375, 0.125, 0, 0, 0]]
    assert gradient == [pytest.approx([value / 10 for value in row]) for row in hand]


def test_a_prefix_token_that_does_not_learn_still_counts() -> None:
    loss, _ = learned(build(reduce=mean_over_tokens), view())
    assert loss == pytest.approx((-2.1 + 0.75) / 9)  # nine trained tokens, two of them with weight 0


@pytest.mark.parametrize(("preset", "learns"), [("all_tokens", [-0.5] * 4), ("frozen_prefix", [0.0] * 4)])
def test_the_ablations_train_every_prefix_token_or_none(preset: str, learns: list[float]) -> None:
    method = build(preset)
    rank = torch.tensor([[0.0, 0.999, 0.2, 0.5, 0.0, 0.0], [0.999, 0.0, 0.0, 0.0, 0.0, 0.0]])
    _, gradient = learned(method, replace(view(), entropy_rank=rank), limit=1)
    assert gradient[0] == pytest.approx([*learns, -0.6, -0.5])


def test_entropies_are_ranked_within_the_update_or_the_trajectory() -> None:
    assert build().needs == ("entropy_rank:step",)
    assert build("per_trajectory").needs == ("entropy_rank:trajectory",)


@pytest.mark.parametrize("verdict", [lambda i: i % 3 == 2, lambda i: i == 7])
def test_without_a_prefix_it_is_grpo(verdict) -> None:
    """The same trajectories, advantages and gradients, the eighth rollout included."""
    found = {}
    for name, method in {"prefix_rft": build(low=(0.0, 0.0), high=0.0), "grpo": methods.build("grpo", {}, METHODS)}.items():
        sampler = Scripted(verdict)
        done = explore(method, [example()], sampler, lambda pairs: [r.reward for _, r in pairs], 3, 10, 0, {})
        assert sum(request.sample.n for request in sampler.asked) == 8
        assert not any(request.sample.prefix for request in sampler.asked)
        t = collate(done.trajectories, 0, torch.float64).tokens
        logp = torch.linspace(-2, -0.5, t.advantage.numel(), dtype=torch.float64).reshape(t.advantage.shape)
        t = replace(t, logp=logp.requires_grad_(), entropy_rank=torch.zeros_like(t.advantage))
        found[name] = t, *learned(method, t)
    (mine, loss, gradient), (theirs, expected, slopes) = found["prefix_rft"], found["grpo"]
    assert expected != 0 and torch.tensor(slopes).norm() > 0
    for field in ("advantage", "old_logp", "trained", "response", "expert"):
        assert torch.equal(getattr(mine, field), getattr(theirs, field))
    assert loss == expected and gradient == slopes


@pytest.mark.parametrize("settings", [{"high": 1.0}, {"low": (0.96, 0.05)}, {"low": (0.95, -0.1)}, {"low": (0.5,)}])
def test_a_window_that_is_none_is_an_error(settings: dict) -> None:
    with pytest.raises(ValueError, match="0 <= low <= high < 1"):
        build(**settings)


def test_a_share_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="top 20"):
        build(top=20)
