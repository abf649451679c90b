"""SRFT's four pieces by hand, the sign and the place of its entropy, and who is in the group."""

from math import exp, log

import pytest
import torch

from engine import methods
from engine.explain import converse, example
from engine.tokens import Tokens
from tests.conftest import METHODS

LIMIT = 10  # of the response, in tokens
RIGHT, WRONG, SHOWN = 0, 1, 2


def build(preset: str = methods.MATCHED, **settings):
    return methods.build("srft", {**methods.preset("srft", preset, METHODS), **settings}, METHODS)


# A right rollout, a wrong one and a demonstration of two tokens each; H is the entropy:
#   p    p_old   advantage  H
#   .5 .25  .4 .5    1      .2 .6     mean .4
#   .8 .1   .5 .2   -1      1  0      mean .5
#   .1 .4   -        .75    2  0      mean 1
def view() -> Tokens:
    logp = torch.tensor([[0.5, 0.25], [0.8, 0.1], [0.1, 0.4]], dtype=torch.float64).log().requires_grad_()
    old = torch.tensor([[0.4, 0.5], [0.5, 0.2], [1.0, 1.0]], dtype=torch.float64).log()
    advantage = torch.tensor([[1.0] * 2, [-1.0] * 2, [0.75] * 2], dtype=torch.float64)
    expert, yes = torch.tensor([[False] * 2, [False] * 2, [True] * 2]), torch.ones(3, 2, dtype=torch.bool)
    entropy = torch.tensor([[0.2, 0.6], [1.0, 0.0], [2.0, 0.0]], dtype=torch.float64).requires_grad_()
    return Tokens(logp, old, advantage, expert, yes, yes, entropy)


def loss(method, t: Tokens) -> dict[str, torch.Tensor]:
    """Each term as it enters the loss: coefficient * sum / count."""
    found = {}
    for name, term in method.loss(t).items():
        mask = t.trained if term.mask is None else term.mask
        found[name] = term.coefficient * term.reduce.numerator(term.values, mask, LIMIT) / term.reduce.count(mask, len(t.logp))
    return found


def slopes(value: torch.Tensor, t: Tokens) -> torch.Tensor:
    (found,) = torch.autograd.grad(value, t.logp, retain_graph=True, materialize_grads=True)
    return found


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_papers_four_pieces() -> None:
    t = view()
    found = loss(build(), t)
    right = 0.1 * exp(0.4) * -(log(0.5) + log(0.25))  # .1 exp(H) * -log p
    wrong = log(0.8) + log(0.1)
    shown = -0.75 * (0.1 + 0.4)  # -A p
    assert found["policy"].item() == pytest.approx((right + wrong + shown) / LIMIT / 3)
    assert found["imitation"].item() == pytest.approx(0.5 * exp(-1.0) * -(log(0.1) + log(0.4)) / 2)  # .5 exp(-H) * -log p
    torch.testing.assert_close(
        slopes(found["policy"], t) * LIMIT * 3, rows([-0.1 * exp(0.4)] * 2, [1.0, 1.0], [-0.75 * 0.1, -0.75 * 0.4])
    )
    torch.testing.assert_close(slopes(found["imitation"], t), rows([0.0] * 2, [0.0] * 2, [-0.25 * exp(-1.0)] * 2))


def test_the_codes_four_pieces() -> None:
    """Weights by token, exp(+H), ratios instead of log p, LUFFY's shaping, whose slope on log p is .1 p / (p + .1)^2."""
    t = view()
    found = loss(build("as_released"), t)
    right = -0.1 * (exp(0.2) * 0.5 / 0.4 + exp(0.6) * 0.25 / 0.5)
    wrong = 0.8 / 0.5 + 0.1 / 0.2
    shown = -0.75 * (0.1 / 0.2 + 0.4 / 0.5)
    assert found["policy"].item() == pytest.approx((right + wrong + shown) / LIMIT / 3)
    assert found["imitation"].item() == pytest.approx(0.5 / 16 * -(exp(2.0) * log(0.1) + log(0.4)) / 2)
    assert found["entropy"].item() == pytest.approx(-0.001 / 16 * 3.8 / 6)
    expected = rows([-0.1 * exp(0.2) * 1.25, -0.1 * exp(0.6) * 0.5], [1.6, 0.5], [-0.75 * 0.01 / 0.2**2, -0.75 * 0.04 / 0.5**2])
    torch.testing.assert_close(slopes(found["policy"], t) * LIMIT * 3, expected)
    torch.testing.assert_close(slopes(found["imitation"], t), rows([0.0] * 2, [0.0] * 2, [-0.25 / 16 * exp(2.0), -0.25 / 16]))


def test_the_rerun_is_the_papers_sign_with_luffys_shaping() -> None:
    t = view()
    paper, rerun = loss(build(), t), loss(build("as_rerun"), t)
    assert rerun["imitation"].item() == pytest.approx(paper["imitation"].item() / 64)
    difference = (slopes(rerun["policy"], t) - slopes(paper["policy"], t)) * LIMIT * 3
    assert difference[SHOWN].norm() > 0
    torch.testing.assert_close(
        difference, rows([0.0] * 2, [0.0] * 2, [-0.75 * (0.01 / 0.2**2 - 0.1), -0.75 * (0.04 / 0.5**2 - 0.4)])
    )


@pytest.mark.parametrize("granularity", ["token", "trajectory"])
@pytest.mark.parametrize("exponent", [-1.0, 1.0])
def test_no_weight_has_a_gradient_through_the_entropy(granularity: str, exponent: float) -> None:
    t = view()
    total = sum(loss(build(granularity=granularity, exponent=exponent), t).values(), torch.zeros(()))
    assert t.entropy is not None and slopes(total, t).norm() > 0
    (through,) = torch.autograd.grad(total, t.entropy, materialize_grads=True)
    assert (through == 0).all()


def test_a_trajectorys_entropy_is_its_responses_alone() -> None:
    """Prompt and padding are not in the mean: 2.0 counts, the 9.0 beside it does not."""
    t = view()
    response = torch.tensor([[True, True], [True, True], [True, False]])
    entropy = rows([0.2, 0.6], [1.0, 0.0], [2.0, 9.0])
    t = Tokens(t.logp, t.old_logp, t.advantage, t.expert, response, response, entropy)
    expected = rows([0.0] * 2, [0.0] * 2, [-0.5 * exp(-2.0), 0.0])
    torch.testing.assert_close(slopes(loss(build(), t)["imitation"], t), expected)


@pytest.mark.parametrize(("right", "expected"), [(2, [1.0] * 2 + [-1.0] * 6), (0, [-1.0] * 8), (8, [1.0] * 8)])
def test_own_rollouts_count_by_themselves(right: int, expected: list[float]) -> None:
    """Also in a group in which all are alike, where an advantage would be 0."""
    sampler, trajectories = converse(build(), lambda i: i < right)
    assert [(r.sample.n, r.sample.prefix, r.sample.max_new_tokens) for r in sampler.asked] == [
        (8, (), None),
        (1, example().demonstrations[0], 0),
    ]
    assert [t.segments[0].advantage for t in trajectories[:8]] == expected
    assert not any(t.segments[0].expert for t in trajectories[:8]) and trajectories[8].segments[0].expert


@pytest.mark.parametrize(
    ("settings", "own", "shown"),
    [  # 2 of 8 right, and the demonstration: mean 1/3, sample deviation sqrt(9 / 8 * 2 / 9) = 1/2
        ({}, [1.0] * 2 + [-1.0] * 6, 4 / 3),
        ({"on_positive": "ratio"}, [4 / 3] * 2 + [-2 / 3] * 6, 4 / 3),
        ({"on_positive": "ratio", "deviation": False}, [2 / 3] * 2 + [-1 / 3] * 6, 2 / 3),
    ],
)
def test_the_demonstration_is_a_member_of_the_group(settings: dict, own: list[float], shown: float) -> None:
    trajectories = converse(build(**settings), lambda i: i < 2)[1]
    found = [t.segments[0].advantage for t in trajectories]
    assert found[:8] == pytest.approx(own, rel=1e-5) and found[8] == pytest.approx(shown, rel=1e-5)
    assert trajectories[8].segments[0].tokens == example().demonstrations[0] and trajectories[8].segments[0].trained


@pytest.mark.parametrize(
    ("preset", "expected"),
    [  # all 7 wrong: mean 1/8, and nothing is divided
        ("as_released", [-0.125] * 7 + [0.875]),
        ("as_rerun", [-1.0] * 7 + [0.875]),
    ],
)
def test_the_codes_group_is_seven_and_the_demonstration(preset: str, expected: list[float]) -> None:
    sampler, trajectories = converse(build(preset), lambda i: False)
    assert [r.sample.n for r in sampler.asked] == [7, 1]
    assert [t.segments[0].advantage for t in trajectories] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("setting", ["granularity", "on_positive"])
def test_an_unknown_choice_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} 'batch' is unknown"):
        build(**{setting: "batch"})
