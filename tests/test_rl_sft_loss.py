"""RL with SFT loss by hand: who is in the baseline, what the two losses are, and what it is without one of them."""

import pytest
import torch

from engine import methods
from engine.explain import POLICIES, converse, example
from engine.tokens import Tokens
from tests.conftest import METHODS

LIMIT = 10  # of the response, in tokens


def build(name: str = "rl_sft_loss", preset: str = methods.MATCHED, **settings):
    return methods.build(name, {**methods.preset(name, preset, METHODS), **settings}, METHODS)


# Two own trajectories of 2 and 1 tokens with advantages .5 and -.25, and a demonstration of 3 tokens:
#   p / p_old     .4/.5  .6/.6   -        p (expert)
#                 .3/.2   -      -        .1  .5  .8
def view() -> Tokens:
    logp = torch.tensor([[0.4, 0.6, 1.0], [0.3, 1.0, 1.0], [0.1, 0.5, 0.8]], dtype=torch.float64).log().requires_grad_()
    old = torch.tensor([[0.5, 0.6, 1.0], [0.2, 1.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64).log()
    advantage = torch.tensor([[0.5] * 3, [-0.25] * 3, [1.0] * 3], dtype=torch.float64)
    expert = torch.tensor([[False] * 3, [False] * 3, [True] * 3])
    trained = torch.tensor([[True, True, False], [True, False, False], [True] * 3])
    return Tokens(logp, old, advantage, expert, trained, trained, torch.full((3, 3), 2.0, dtype=torch.float64))


def loss(method, t: Tokens) -> dict[str, torch.Tensor]:
    """Each term as it enters the loss: coefficient * sum / count."""
    found = {}
    for name, term in method.loss(t).items():
        mask = t.trained if term.mask is None else term.mask
        value = term.reduce.numerator(term.values, mask, LIMIT) / term.reduce.count(mask, len(t.logp))
        found[name] = term.coefficient * value
    return found


def test_the_demonstration_is_no_member_of_the_group() -> None:
    sampler, trajectories = converse(build(), POLICIES["a policy that is right every third time"])  # - - + - - + -
    assert [request.sample.n for request in sampler.asked] == [7]
    wrong, right = -2 / 7, 1 - 2 / 7
    segments = [t.segments[0] for t in trajectories]
    assert [s.advantage for s in segments[:7]] == pytest.approx([wrong, wrong, right, wrong, wrong, right, wrong])
    assert not any(s.expert for s in segments[:7])
    assert segments[7].expert and segments[7].trained and segments[7].tokens == example().demonstrations[0]


def test_the_two_losses_by_hand() -> None:
    """policy = -sum(advantage p / p_old) / LIMIT / 3 trajectories; imitation = -mean(log p) of the three expert tokens."""
    policy = -(0.5 * 0.8 + 0.5 * 1.0 - 0.25 * 1.5) / LIMIT / 3
    imitation = -float(torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64).log().mean())
    found = {name: value.item() for name, value in loss(build(), view()).items()}
    assert found == pytest.approx({"policy": policy, "imitation": imitation})
    released = {name: value.item() for name, value in loss(build(preset="as_released"), view()).items()}
    assert released == pytest.approx({"policy": policy, "imitation": imitation / 64, "entropy": -0.001 / 64 * 2.0})
    assert loss(build(preset="as_paper"), view())["entropy"].item() == pytest.approx(-0.01 * 2.0)


def gradient(values: torch.Tensor, t: Tokens) -> torch.Tensor:
    (found,) = torch.autograd.grad(values, t.logp, materialize_grads=True)
    assert found.norm() > 0
    return found


def test_without_one_loss_it_is_the_other_method() -> None:
    """With coefficient 0 GRPO on own tokens; the expert's part alone is SFT."""
    t = view()
    own, imitated = t.trained & ~t.expert, t.trained & t.expert
    alone = sum(loss(build(coefficient=0.0), t).values(), torch.zeros(()))
    grpo = build("grpo").loss(t).where(own, 0.0).sum() / LIMIT / 3
    torch.testing.assert_close(gradient(alone, t), gradient(grpo, t))
    sft = build("sft").loss(t).where(imitated, 0.0).sum() / imitated.sum()
    torch.testing.assert_close(gradient(loss(build(), t)["imitation"], t), gradient(sft, t))
