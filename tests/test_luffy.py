"""LUFFY's two losses by hand, its presets, and what it is without an expert; its group is in test_groups.py."""

from typing import Any

import pytest
import torch
from torch import Tensor

from engine import methods
from engine.reduce import mean_over_tokens, sum_over_length
from engine.tokens import Tokens
from tests.conftest import METHODS


def build(preset: str = methods.MATCHED) -> Any:
    return methods.build("luffy", methods.preset("luffy", preset, METHODS), METHODS)


# p / p_old of own tokens: .79 .81 1.19 1.21 / 1; p of expert tokens: 1 .1 .001 .9
P = [[0.79, 0.81, 1.19, 1.21], [1.0, 0.1, 0.001, 0.9]]


def view(advantage: list[float], experts: bool = True) -> Tokens:
    logp = torch.tensor(P, dtype=torch.float64).log().requires_grad_()
    yes = torch.ones_like(logp, dtype=torch.bool)
    expert = torch.tensor([[False] * 4, [experts] * 4])
    advantages = torch.tensor([[one] * 4 for one in advantage], dtype=torch.float64)
    return Tokens(logp, torch.zeros_like(logp), advantages, expert, yes, yes, torch.full_like(logp, 2.0))


def slopes(policy: Tensor, t: Tokens) -> Tensor:
    """d loss of a token / d its log-prob, [B, T]."""
    return torch.autograd.grad(policy.sum(), t.logp)[0]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_two_losses_by_hand(sign: float) -> None:
    """Own: -A r, slope -A r. Expert: -A p / (p + .1), slope -A .1 p / (p + .1)^2, most at p = .1, where it is -A / 4."""
    t = view([0.5 * sign, 0.75 * sign])
    loss = build().loss(t)
    own = [-0.5 * r for r in P[0]]
    shaped = [-0.75 / 1.1, -0.75 / 2, -0.75 * 0.001 / 0.101, -0.75 * 0.9]
    torch.testing.assert_close(loss, sign * torch.tensor([own, shaped], dtype=torch.float64))
    bent = [-0.75 * 0.1 / 1.21, -0.75 / 4, -0.75 * 0.0001 / 0.010201, -0.75 * 0.09]
    torch.testing.assert_close(slopes(loss, t), sign * torch.tensor([own, bent], dtype=torch.float64))
    assert build().reduce == sum_over_length()


@pytest.mark.parametrize(("sign", "own"), [(1.0, [-0.79, -0.81, -1.19, 0.0]), (-1.0, [0.0, 0.81, 1.19, 1.21])])
def test_as_paper_clips_own_tokens_on_either_side_and_no_expert(sign: float, own: list[float]) -> None:
    t, plain = view([sign, 2.0]), view([sign, 2.0])
    terms = build("as_paper").loss(t)
    found = slopes(terms["policy"].values, t)
    torch.testing.assert_close(found[0], torch.tensor(own, dtype=torch.float64))
    torch.testing.assert_close(found[1], slopes(build().loss(plain), plain)[1])
    assert found[1].abs().min() > 0


@pytest.mark.parametrize(("preset", "coefficient"), [("as_paper", 0.01), ("as_released", 0.001 / 64)])
def test_the_bonus_is_over_all_response_tokens(preset: str, coefficient: float) -> None:
    entropy = build(preset).loss(view([1.0, 1.0]))["entropy"]
    assert entropy.coefficient == coefficient and entropy.reduce == mean_over_tokens
    assert entropy.mask.all() and entropy.values.unique().tolist() == [-2.0]
    assert build(preset).needs == ("entropy",) and build().needs == ()


def grpo(preset: str) -> Any:
    """GRPO without its clip, which the code of LUFFY takes away."""
    return methods.build("grpo", {**methods.preset("grpo", preset, METHODS), "clip": None}, METHODS)


def test_without_an_expert_it_is_grpo() -> None:
    t, other = view([1.0, -1.0], experts=False), grpo(methods.MATCHED)
    found = build().loss(t)
    assert found.abs().min() > 0 and torch.equal(found, other.loss(t)) and build().reduce == other.reduce


def test_as_released_without_an_expert_it_is_grpo_with_its_own_bonus() -> None:
    t = view([1.0, -1.0], experts=False)
    ours, theirs = build("as_released").loss(t), grpo("as_released").loss(t)
    assert list(ours) == ["policy", "entropy"] == list(theirs)
    for name, term in ours.items():
        assert term.values.abs().min() > 0 and torch.equal(term.values, theirs[name].values)
        assert (term.coefficient, term.reduce) == (theirs[name].coefficient, theirs[name].reduce)
