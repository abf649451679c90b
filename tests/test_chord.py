"""CHORD by hand: its schedule on either side of its bounds, the two streams, the two losses, and what it is without mu."""

import statistics
from dataclasses import replace

import pytest
import torch

from engine import methods
from engine.explain import Scripted, example
from engine.explore import explore
from engine.reduce import mean_over_tokens
from engine.tokens import Tokens, collate
from engine.words import Trajectory
from tests.conftest import METHODS


def build(name: str = "chord", preset: str = methods.MATCHED, **settings):
    return methods.build(name, {**methods.preset(name, preset, METHODS), **settings}, METHODS)


@pytest.mark.parametrize(
    ("preset", "steps"),
    [  # updates of 1500 -> mu; half a cosine is half way down after half its steps
        (methods.MATCHED, {0: 0.9, 100: 0.475, 200: 0.05, 201: 0.05, 1499: 0.05}),
        ("phi", {0: 0.1, 1: 0.1, 200: 0.1, 1499: 0.1}),
        ("as_released", {0: 0.0, 100: 0.25, 199: 0.4975, 200: 0.5, 400: 0.26, 600: 0.02, 601: 0.02, 1499: 0.02}),
    ],
)
def test_mu_rises_falls_and_stays(preset: str, steps: dict[int, float]) -> None:
    method = build(preset=preset)
    assert {step: method.mu(step / 1500) for step in steps} == pytest.approx(steps, abs=1e-12)


def test_mu_is_still_moving_one_update_before_each_bound() -> None:
    """1 - cos of one 400th and one 200th of half a turn: 3.1e-5 and 1.2e-4, times half the height."""
    method, released = build(), build(preset="as_released")
    assert method.mu(199 / 1500) - 0.05 == pytest.approx(0.85 / 2 * 1.2337e-4, rel=1e-3)
    assert 0.5 - released.mu(201 / 1500) == pytest.approx(0.48 / 2 * 3.0843e-5, rel=1e-3)
    assert released.mu(599 / 1500) - 0.02 == pytest.approx(0.48 / 2 * 3.0843e-5, rel=1e-3)
    assert method.mu(10 / 75) == 0.05 < method.mu(9 / 75)  # a run of a twentieth of the length


def talk(method, right: int, step: int = 0, second: int = 0) -> list[Trajectory]:
    """What is learned from a problem whose first `right` rollouts are right, and from `second` of the second stream, which
    sample nothing."""
    sampler, problems = Scripted(lambda i: i < right), [example()] * (1 + second)
    found = explore(method, problems, sampler, lambda pairs: [r.reward for _, r in pairs], step, 1500, 0, {}, second=second)
    assert [(request.sample.n, request.sample.prefix) for request in sampler.asked] == [(8, ())]
    return found.trajectories


def test_the_two_streams_share_the_weight() -> None:
    """2 of 8 right: mean .25, sample deviation sqrt(8 / 7 * 3 / 16) = .46291; update 100 has mu .475."""
    method = build()
    assert method.second == 2.0
    segments = [t.segments[0] for t in talk(method, right=2, step=100, second=2)]
    assert [(s.expert, s.trained) for s in segments] == [(False, True)] * 8 + [(True, True)] * 2
    assert [s.tokens for s in segments[8:]] == [example().demonstrations[0]] * 2
    expected = [0.525 * 1.620185] * 2 + [0.525 * -0.540062] * 6 + [0.475] * 2
    assert [s.advantage for s in segments] == pytest.approx(expected, rel=1e-5)
    assert [t.segments[0].advantage for t in talk(method, right=8)] == [0.0] * 8  # no deviation, and no division by it


# Two own trajectories with advantages .5 and -1, a demonstration with weight mu = .25; p, and p / p_old of own tokens:
#   .5  .3   1.25  1         .1 .5 .8 (expert)
#   .2  .75  .5    1.5
def view() -> Tokens:
    logp = torch.tensor([[0.5, 0.3, 1.0], [0.2, 0.75, 1.0], [0.1, 0.5, 0.8]], dtype=torch.float64).log().requires_grad_()
    old = torch.tensor([[0.4, 0.3, 1.0], [0.4, 0.5, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64).log()
    advantage = torch.tensor([[0.5] * 3, [-1.0] * 3, [0.25] * 3], dtype=torch.float64)
    expert = torch.tensor([[False] * 3, [False] * 3, [True] * 3])
    trained = torch.tensor([[True, True, False], [True, True, False], [True] * 3])
    return Tokens(logp, old, advantage, expert, trained, trained)


def losses(method, t: Tokens) -> dict[str, torch.Tensor]:
    found = {}
    for name, term in method.loss(t).items():
        assert term.reduce == mean_over_tokens
        found[name] = term.coefficient * term.values.where(term.mask, 0.0).sum() / term.mask.sum()
    return found


def slopes(value: torch.Tensor, t: Tokens) -> torch.Tensor:
    (found,) = torch.autograd.grad(value, t.logp, retain_graph=True, materialize_grads=True)
    return found


def test_own_tokens_are_clipped_as_in_ppo() -> None:
    """-(.5 * 1.2 + .5 * 1 - 1 * .8 - 1 * 1.5) / 4 tokens: 1.25 and .5 are clipped, 1.5 with a negative advantage is not."""
    t = view()
    policy = losses(build(), t)["policy"]
    assert policy.item() == pytest.approx(0.3)
    expected = torch.tensor([[0.0, -0.125, 0.0], [0.0, 0.375, 0.0], [0.0] * 3], dtype=torch.float64)
    torch.testing.assert_close(slopes(policy, t), expected)


def test_demonstrations_by_hand() -> None:
    """mu: -.25 (ln .1 + ln .5 + ln .8) / 3. phi: each log p times p (1 - p) = .09 .25 .16, which has no gradient."""
    t = view()
    plain, phi = losses(build(), t)["imitation"], losses(build(preset="phi"), t)["imitation"]
    assert plain.item() == pytest.approx(0.25 * (2.302585 + 0.693147 + 0.223144) / 3)
    assert phi.item() == pytest.approx(0.25 * (0.09 * 2.302585 + 0.25 * 0.693147 + 0.16 * 0.223144) / 3, rel=1e-5)
    rows = torch.zeros(3, 3, dtype=torch.float64)
    rows[2] = -0.25 / 3
    torch.testing.assert_close(slopes(plain, t), rows)
    rows[2] *= torch.tensor([0.09, 0.25, 0.16], dtype=torch.float64)
    torch.testing.assert_close(slopes(phi, t), rows)


def test_without_mu_it_is_grpo_with_the_deviation() -> None:
    chord, grpo = build(peak=0.0, valley=0.0), build("grpo", clip=0.2, reduce=mean_over_tokens)
    learned = talk(chord, right=3, second=2)
    plain = [s.advantage for t in talk(grpo, right=3) for s in t.segments]
    deviation = statistics.stdev([1.0] * 3 + [0.0] * 5)
    assert [t.segments[0].advantage for t in learned[:8]] == pytest.approx([a / deviation for a in plain], rel=1e-5)
    t = collate(learned, pad=0, dtype=torch.float64).tokens
    torch.manual_seed(1)
    logp = (t.old_logp - 0.5 * torch.rand_like(t.logp) + 0.25).where(~t.expert, t.old_logp - 1).requires_grad_()
    t = replace(t, logp=logp)
    own = t.trained & ~t.expert
    whole = slopes(sum(losses(chord, t).values(), torch.zeros(())), t)
    expected = slopes(grpo.loss(t).where(own, 0.0).sum() / own.sum(), t)
    assert expected[own].norm() > 0 and (t.trained & t.expert).any()
    torch.testing.assert_close(whole, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"peak": 1.1}, "peak 1.1 is no share"), ({"decay": 200.0}, "decay 200.0 is no share"), ({"rollouts": 1}, "at least 2")],
)
def test_a_schedule_in_steps_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**settings)
