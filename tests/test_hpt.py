"""HPT's gate on either side, what passes it by hand, and that it is SFT below and GRPO above."""

from collections.abc import Sequence
from dataclasses import replace
from math import log

import pytest
import torch

from engine import methods
from engine.explain import Scripted, converse, example
from engine.explore import explore
from engine.reduce import mean_over_trajectories
from engine.tokens import Tokens, collate
from engine.words import Problem, Rollout, Trajectory
from tests.conftest import METHODS

LIMIT = 10  # of the response, in tokens


def build(name: str = "hpt", preset: str = methods.MATCHED, **settings):
    return methods.build(name, {**methods.preset(name, preset, METHODS), **settings}, METHODS)


def kinds(trajectories: Sequence[Trajectory]) -> str:
    """o for an own rollout, e for a demonstration."""
    return "".join("e" if s.expert else "o" for t in trajectories for s in t.segments)


@pytest.mark.parametrize(
    ("gate", "right", "expected"),
    [(0, 0, "e"), (0, 1, "o" * 8), (2, 2, "e"), (2, 3, "o" * 8), (7, 7, "e"), (7, 8, "o" * 8)],
)
def test_the_gate_on_either_side(gate: int, right: int, expected: str) -> None:
    sampler, trajectories = converse(build(gate=gate), lambda i: i < right)
    assert [(r.sample.n, r.sample.prefix) for r in sampler.asked] == [(8, ())]  # sampled either way
    assert kinds(trajectories) == expected
    if expected == "e":
        assert trajectories[0].segments[0].tokens == example().demonstrations[0]
    else:
        found = [t.segments[0].advantage for t in trajectories]
        assert found == [1 - right / 8] * right + [-right / 8] * (8 - right)


def test_each_problem_of_an_update_passes_the_gate_by_itself() -> None:
    """Three problems of which 0, 1 and 8 rollouts are right: one demonstration, sixteen rollouts."""
    rights = {"none": 0, "one": 1, "all": 8}
    problems = [replace(example(), id=name) for name in rights]

    def reward(pairs: Sequence[tuple[Problem, Rollout]]) -> list[float]:
        return [float(i < rights[p.id]) for i, (p, _) in enumerate(pairs)]

    found = explore(build(), problems, Scripted(lambda i: False), reward, 0, 1, 0, {})
    assert len(found.rollouts) == 24  # what was thrown away was paid for
    assert kinds(found.trajectories) == "e" + "o" * 16
    assert [t.problem.id for t in found.trajectories] == ["none"] + ["one"] * 8 + ["all"] * 8


def test_soft_adds_the_demonstration_whatever_the_rewards() -> None:
    for right in (0, 1, 8):
        assert kinds(converse(build(preset="soft"), lambda i, right=right: i < right)[1]) == "o" * 8 + "e"


def loss(method, t: Tokens) -> dict[str, torch.Tensor]:
    """Each term as it enters the loss: coefficient * sum / count."""
    found = {}
    for name, term in method.loss(t).items():
        count = max(1, term.reduce.count(term.mask, len(t.logp)))
        found[name] = term.coefficient * term.reduce.numerator(term.values, term.mask, LIMIT) / count
    return found


def slopes(value: torch.Tensor, t: Tokens) -> torch.Tensor:
    (found,) = torch.autograd.grad(value, t.logp, retain_graph=True, materialize_grads=True)
    return found


# A rollout with advantage .5 and two demonstrations, of 1 and 3 tokens: three rows, so the policy term is divided by 3.
#   p / p_old   .4/.5  .6/.4   -
#   p           .2
#               .1     .5     .8
def view() -> Tokens:
    logp = torch.tensor([[0.4, 0.6, 1.0], [0.2, 1.0, 1.0], [0.1, 0.5, 0.8]], dtype=torch.float64).log().requires_grad_()
    old = torch.tensor([[0.5, 0.4, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64).log()
    advantage = torch.tensor([[0.5] * 3, [1.0] * 3, [1.0] * 3], dtype=torch.float64)
    expert = torch.tensor([[False] * 3, [True] * 3, [True] * 3])
    trained = torch.tensor([[True, True, False], [True, False, False], [True] * 3])
    entropy = torch.tensor([[1.0] * 3, [2.0] * 3, [3.0] * 3], dtype=torch.float64)
    return Tokens(logp, old, advantage, expert, trained, trained, entropy)


def test_the_two_losses_by_hand() -> None:
    """policy = -.5 (.8 + 1.5) / LIMIT / 3 rows; imitation = -(ln .2 + ln .1 + ln .5 + ln .8) / 4 tokens."""
    t = view()
    found = loss(build(), t)
    assert set(found) == {"policy", "imitation"}
    assert found["policy"].item() == pytest.approx(-0.5 * 2.3 / LIMIT / 3)
    assert found["imitation"].item() == pytest.approx(-(log(0.2) + log(0.1) + log(0.5) + log(0.8)) / 4)
    policy = torch.tensor([[-0.4, -0.75, 0.0], [0.0] * 3, [0.0] * 3], dtype=torch.float64) / LIMIT / 3
    torch.testing.assert_close(slopes(found["policy"], t), policy)
    imitation = torch.tensor([[0.0] * 3, [-0.25, 0.0, 0.0], [-0.25] * 3], dtype=torch.float64)
    torch.testing.assert_close(slopes(found["imitation"], t), imitation)


def test_as_released_scales_the_sum_and_adds_the_bonus() -> None:
    plain, released = loss(build(), view()), loss(build(preset="as_released"), view())
    assert released["policy"].item() == plain["policy"].item() != 0
    assert released["imitation"].item() == pytest.approx(plain["imitation"].item() / 64)
    assert released["entropy"].item() == pytest.approx(-0.001 / 64 * (2 * 1.0 + 1 * 2.0 + 3 * 3.0) / 6)  # of all six tokens


def test_as_paper_clips_and_averages_each_demonstration() -> None:
    """1.5 is clipped at 1.2, without a gradient; imitation = -(ln .2 + (ln .1 + ln .5 + ln .8) / 3) / 2 demonstrations."""
    t = view()
    found = loss(build(preset="as_paper"), t)
    assert build(preset="as_paper").imitate_over == mean_over_trajectories
    assert found["policy"].item() == pytest.approx(-0.5 * 2.0 / LIMIT / 3)
    assert slopes(found["policy"], t)[0].tolist() == pytest.approx([-0.4 / LIMIT / 3, 0.0, 0.0])
    assert found["imitation"].item() == pytest.approx(-(log(0.2) + (log(0.1) + log(0.5) + log(0.8)) / 3) / 2)
    assert slopes(found["imitation"], t)[1:, 0].tolist() == pytest.approx([-1 / 2, -1 / 6])


def test_as_paper_clips_on_either_side_of_its_bounds() -> None:
    """Slope of -min(A r, A clip(r)) on log p, r = .79, .81, 1.19, 1.21: -A r, or 0 where the clip holds it."""
    logp = torch.tensor([[0.79, 0.81, 1.19, 1.21]] * 2, dtype=torch.float64).log().requires_grad_()
    advantage = torch.tensor([[1.0] * 4, [-1.0] * 4], dtype=torch.float64)
    nothing, yes = torch.zeros_like(advantage), torch.ones_like(advantage, dtype=torch.bool)
    terms = build(preset="as_paper").loss(Tokens(logp, nothing, advantage, ~yes, yes, yes))
    terms["policy"].values.sum().backward()
    slopes = [[-0.79, -0.81, -1.19, 0.0], [0.0, 0.81, 1.19, 1.21]]
    torch.testing.assert_close(logp.grad, torch.tensor(slopes, dtype=torch.float64))


def test_as_paper_divides_by_the_groups_deviation() -> None:
    """2 of 8 right: mean .25, sample deviation sqrt(8 / 7 * 3 / 16) = .46291."""
    found = [t.segments[0].advantage for t in converse(build(preset="as_paper"), lambda i: i < 2)[1]]
    assert found == pytest.approx([1.620185] * 2 + [-0.540062] * 6, rel=1e-5)


def tensors(trajectories: Sequence[Trajectory]) -> Tokens:
    """An update's view with log-probs that are not those of the sampler."""
    t = collate(trajectories, pad=0, dtype=torch.float64).tokens
    torch.manual_seed(2)
    return replace(t, logp=(-2 * torch.rand_like(t.logp)).requires_grad_())


@pytest.mark.parametrize(("right", "other"), [(0, "sft"), (1, "grpo"), (5, "grpo")])
def test_below_the_gate_it_is_sft_and_above_it_grpo(right: int, other: str) -> None:
    method, reference = build(), build(other)
    learned = converse(method, lambda i: i < right)[1]
    assert learned == converse(reference, lambda i: i < right)[1]
    t = tensors(learned)
    reduce = reference.reduce
    alone = reduce.numerator(reference.loss(t), t.trained, LIMIT) / reduce.count(t.trained, len(t.logp))
    expected = slopes(alone, t)
    assert expected.norm() > 0
    torch.testing.assert_close(slopes(sum(loss(method, t).values(), torch.zeros(())), t), expected)


def test_a_rollout_weighs_more_the_more_problems_are_imitated() -> None:
    """One reinforced problem among three: 8 + 2 rows instead of 24, so 2.4 times the weight."""
    method = build()
    group, (shown,) = converse(method, lambda i: i < 4)[1], converse(method, lambda i: False)[1]
    weights = {}
    for name, update in {"two imitated": [*group, shown, shown], "all reinforced": group * 3}.items():
        t = tensors(update)
        t = replace(t, logp=(t.old_logp * 1.0).requires_grad_())  # ratio 1
        weights[name] = -slopes(loss(method, t)["policy"], t)[0][t.trained[0]][0].item()
    assert weights == pytest.approx({"two imitated": 0.5 / LIMIT / 10, "all reinforced": 0.5 / LIMIT / 24})


@pytest.mark.parametrize("gate", [-1, 8])
def test_a_gate_that_decides_nothing_is_refused(gate: int) -> None:
    with pytest.raises(ValueError, match=f"gate {gate} decides nothing for 8 rollouts"):
        build(gate=gate)
