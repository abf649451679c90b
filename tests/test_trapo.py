"""TRAPO by hand: when it guides, what it cuts, what it learns from."""

import csv
import dataclasses
from pathlib import Path

import pytest
import torch

from engine import methods
from engine.explain import converse, example
from engine.explore import context
from engine.tokens import Tokens, collate
from engine.words import Problem, Rollout, Sample
from tests.conftest import METHODS

# (group, rollouts before it, counts of successes that guide it): the paper's `mean < threshold` and the released code's sums
BOUNDARIES = {
    "as_paper": [(2, 4, range(0, 2)), (3, 6, range(0, 5)), (4, 7, range(0, 7))],
    "as_released": [(2, 4, range(0, 2)), (3, 6, range(0, 4)), (4, 7, range(0, 7))],
}


def build(preset: str = methods.MATCHED, **settings):
    return methods.build("trapo", {**methods.preset("trapo", preset, METHODS), **settings}, METHODS)


def requests(method, rewards: list[float], problem: Problem) -> list[Sample]:
    """What the method asks for when its rollouts earn `rewards` in order."""
    talk = method.explore(problem, context(0, 1, 0, problem.id, {}))
    earned, asked = iter(rewards), [next(talk)]
    while True:
        sample = asked[-1]
        rollouts = [Rollout(sample.prefix, (5,), (-1.0,), next(earned), "stop") for _ in range(sample.n)]
        try:
            asked.append(talk.send(rollouts))
        except StopIteration:
            return asked


@pytest.mark.parametrize("preset", BOUNDARIES)
def test_guidance_triggers_on_either_side_of_every_boundary(preset: str) -> None:
    for group, before, guided in BOUNDARIES[preset]:
        for solved in range(before + 1):
            rewards = [1.0] * solved + [0.0] * (8 - solved)
            asked = requests(build(preset), rewards, example())
            assert bool(asked[group - 1].prefix) == (solved in guided), (group, solved)


def test_guidance_triggers_match_the_published_table(shared: Path) -> None:
    columns = {"as_paper": "paper_avg_lt_t", "as_released": "code"}
    with (shared / "research" / "paper" / "trigger_table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    for preset, column in columns.items():
        for row, (group, before, guided) in zip(rows, BOUNDARIES[preset], strict=True):
            low, high = map(int, row[column].split(".."))
            assert (int(row["group"]), int(row["rollouts_before"])) == (group, before)
            assert guided == range(low, high + 1)


#   demonstration 0   21 22 23 20 24 25 20 26 27  2        (20 is a blank line, 2 the end)
#   index              0  1  2  3  4  5  6  7  8  9
@pytest.mark.parametrize(
    ("ratio", "reach", "tokens"),
    [
        (0.0, 0.0, ()),
        (0.2, 0.0, (21, 22)),
        (0.25, 0.3, (21, 22, 23, 20)),  # cut 2; the blank line at 3 is after it and before 5.5
        (0.3, 0.3, (21, 22, 23)),  # cut 3; a blank line at 3 is not after it, the one at 6 is not before 6
        (0.3, 0.31, (21, 22, 23, 20, 24, 25, 20)),  # now 6 is before 6.1
        (0.7, 0.3, (21, 22, 23, 20, 24, 25, 20)),  # no blank line after 7: the plain cut
        (1.0, 0.3, (21, 22, 23, 20, 24, 25, 20, 26, 27, 2)),
    ],
)
def test_prefix_is_cut_at_the_token_or_the_next_paragraph(problem: Problem, ratio: float, reach: float, tokens) -> None:
    assert problem.prefix(ratio, reach=reach) == tokens


def test_the_released_code_shows_a_second_demonstration_and_spares_one_prefix(problem: Problem) -> None:
    talk = build("as_released").explore(problem, context(0, 1, 0, "p", {}))
    sample = next(talk)
    asked = []
    with pytest.raises(StopIteration) as stop:
        while True:
            asked.append(sample)
            written = () if sample.max_new_tokens == 0 else (5,)
            rollouts = [Rollout(sample.prefix, written, (-1.0,) * len(written), 0.0, "stop") for _ in range(sample.n)]
            sample = talk.send(rollouts)
    assert [(s.n, s.prefix[:1], len(s.prefix)) for s in asked] == [
        (4, (), 0),
        (2, (21,), 4),
        (1, (21,), 7),
        (1, (31,), 10),
    ]
    assert asked[-1].max_new_tokens == 0
    learned = [t.segments[0].trained for t in stop.value.value]
    assert learned == [True, True, True, True, False, True, True, True]
    assert [len(t.segments[1].tokens) for t in stop.value.value] == [1] * 7 + [0]


def test_trsft_gradient_is_that_of_sft_above_alpha_and_bounded_below() -> None:
    p = torch.tensor([[0.9, 0.1, 0.05, 0.001]], dtype=torch.float64)
    logp = p.log().requires_grad_()
    yes, zero = torch.ones_like(p, dtype=torch.bool), torch.zeros_like(p)
    build().loss(Tokens(logp, zero, zero, yes, yes, yes)).sum().backward()
    # d/dlogp of -p / max(sg(p), alpha) is -p / max(p, alpha)
    torch.testing.assert_close(logp.grad, torch.tensor([[-1.0, -1.0, -0.5, -0.01]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"sizes": (4, 4)}, r"sizes \(4, 4\), ratios .* need one entry each"), ({"alpha": 1.5}, "alpha 1.5 is no probability")],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**settings)


# One own row, one guided row (two expert tokens, then two own ones), one whole demonstration:
#   p            .5   .25  .8   .4            p_old (own)  .4   .25  .8   .8
#                .02  .6   .3   .9                          -    -   .5   .9
#                .7   .05  .3   .001                        -    -    -    -
def rows() -> Tokens:
    p = [[0.5, 0.25, 0.8, 0.4], [0.02, 0.6, 0.3, 0.9], [0.7, 0.05, 0.3, 0.001]]
    old = [[0.4, 0.25, 0.8, 0.8], [1.0, 1.0, 0.5, 0.9], [1.0] * 4]
    logp, old_logp = (torch.tensor(x, dtype=torch.float64).log() for x in (p, old))
    expert = torch.tensor([[False] * 4, [True, True, False, False], [True] * 4])
    advantage = torch.tensor([[-0.5] * 4, [0.25, 0.25, 0.5, 0.5], [0.75] * 4], dtype=torch.float64)
    trained = torch.ones_like(expert)
    return Tokens(logp.requires_grad_(), old_logp, advantage, expert, trained, trained, torch.zeros_like(logp))


def slopes(method, t: Tokens) -> torch.Tensor:
    """d loss of a token / d its log-prob, [B, T]."""
    (found,) = torch.autograd.grad(method.loss(t).sum(), t.logp)
    assert found.norm() > 0
    return found


def other(name: str):
    return methods.build(name, {}, METHODS)


def test_every_step_of_the_ladder_is_grpo_on_own_tokens_and_its_own_method_on_expert_tokens() -> None:
    t = rows()
    reinforced, imitated = slopes(other("grpo"), t), slopes(other("sft"), t)
    shaped = slopes(other("luffy"), t)
    p = t.logp.detach().exp()
    torch.testing.assert_close(slopes(build("sft_loss"), t), imitated.where(t.expert, reinforced))
    torch.testing.assert_close(slopes(build("luffy_loss"), t), shaped.where(t.expert, reinforced))
    torch.testing.assert_close(slopes(build(alpha=1e-6), t), slopes(build("sft_loss"), t))  # alpha -> 0 is SFT
    torch.testing.assert_close(slopes(build(alpha=1.0), t), (-p).where(t.expert, reinforced))  # alpha 1 is the gradient of -p
    # by hand: p / max(p, .1) is .2 at .02, .5 at .05 and .01 at .001
    trust = torch.tensor([[0.2, 1.0], [1.0, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(slopes(build(), t)[1:, :2], -trust)
    assert slopes(build(), t)[2, 3].item() == pytest.approx(-0.01)


def test_sft_loss_survives_a_token_whose_probability_is_zero_in_float32() -> None:
    logp = torch.tensor([[-200.0]], requires_grad=True)
    yes, zero = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1)
    build("sft_loss").loss(Tokens(logp, zero, zero, yes, yes, yes)).sum().backward()
    assert logp.grad is not None and logp.grad.item() == -1.0


def learned(preset: str, verdict=lambda i: False):
    """(expert tokens that are trained, own tokens and their advantage) of each rollout of a policy that is always wrong."""
    _, trajectories = converse(build(preset), verdict)
    pairs = [t.segments for t in trajectories]
    return [(len(prefix.tokens) * prefix.trained, len(own.tokens), own.advantage) for prefix, own in pairs]


def test_micro_groups_is_trapo_that_learns_from_no_prefix() -> None:
    trapo, guided = learned(methods.MATCHED), learned("micro_groups")
    assert [expert for expert, _, _ in trapo] == [0, 0, 0, 0, 8, 8, 20, 40]
    assert guided == [(0, own, advantage) for _, own, advantage in trapo]
    assert learned("sft_loss") == learned("luffy_loss") == trapo  # they differ in the loss alone


def test_the_ladder_is_micro_groups_and_a_loss_on_prefixes() -> None:
    """TRAPO with alpha 0 = micro-groups + SFT: the gradients of a whole update add up."""
    found = {}
    for preset in ("micro_groups", "sft_loss"):
        _, trajectories = converse(build(preset), lambda i: i % 3 == 2)
        t = collate(trajectories, pad=0, dtype=torch.float64).tokens
        assert t.expert.any()
        logp = (-1 - torch.arange(t.logp.numel(), dtype=torch.float64).reshape(t.logp.shape) % 7 / 3).requires_grad_()
        t = dataclasses.replace(t, logp=logp)
        method = build(preset, reduce="sum_over_length()")
        (found[preset],) = torch.autograd.grad(method.reduce.numerator(method.loss(t), t.trained, 100), logp)
        sft = (-logp).where(t.expert & t.trained, 0.0).sum() / 100
        (found[f"sft of {preset}"],) = torch.autograd.grad(sft, logp)
    assert found["sft of micro_groups"].norm() == 0 < found["sft of sft_loss"].norm()
    torch.testing.assert_close(found["sft_loss"], found["micro_groups"] + found["sft of sft_loss"])


def test_the_released_sft_branch_imitates_whole_guided_responses_and_reinforces_the_others() -> None:
    """policy = sum(-A p / p_old) of the own row / limit / 3; imitation = mean(-log p) of the eight guided tokens / 8."""
    t = rows()
    terms = build("sft_loss_as_released").loss(t)
    assert {name: int(term.mask.sum()) for name, term in terms.items()} == {"policy": 4, "imitation": 8, "entropy": 12}
    policy, imitation = terms["policy"], terms["imitation"]
    found = policy.reduce.numerator(policy.values, policy.mask, 10) / policy.reduce.count(policy.mask, 3)
    assert found.item() == pytest.approx(0.5 * (0.5 / 0.4 + 1 + 1 + 0.5) / 10 / 3)
    found = imitation.reduce.numerator(imitation.values, imitation.mask, 10) / imitation.reduce.count(imitation.mask, 3)
    assert found.item() == pytest.approx(-t.logp.detach()[1:].mean().item())
    assert imitation.coefficient == 1 / 8
    spared, whole = (
        converse(build(name), lambda i: False)[1][4].segments[0] for name in ("as_released", "sft_loss_as_released")
    )
    assert (spared.trained, whole.trained) == (False, True) and spared.tokens == whole.tokens


def test_fixed_prefix_guides_the_solved_problems_too() -> None:
    guided, free = [(4, 0), (2, 8), (1, 20), (1, 40)], [(4, 0), (2, 0), (1, 0), (1, 0)]

    def shown(preset: str, reward: float) -> list[tuple[int, int]]:
        return [(s.n, len(s.prefix)) for s in requests(build(preset), [reward] * 8, example())]

    assert shown("fixed_prefix", 1.0) == shown("fixed_prefix", 0.0) == shown("as_paper", 0.0) == guided
    assert shown("as_paper", 1.0) == free


def test_the_clip_holds_own_tokens_on_either_side_of_its_bounds() -> None:
    """Slope of -min(A r, A clip(r, .8, 1.2)) on log p, r = .79, .81, 1.19, 1.21: -A r, or 0 where the clip holds it."""
    logp = torch.tensor([[0.79, 0.81, 1.19, 1.21]] * 2, dtype=torch.float64).log().requires_grad_()
    advantage = torch.tensor([[1.0] * 4, [-1.0] * 4], dtype=torch.float64)
    nothing, yes = torch.zeros_like(advantage), torch.ones_like(advantage, dtype=torch.bool)
    found = slopes(build(clip=0.2), Tokens(logp, nothing, advantage, ~yes, yes, yes))
    torch.testing.assert_close(found, torch.tensor([[-0.79, -0.81, -1.19, 0.0], [0.0, 0.81, 1.19, 1.21]], dtype=torch.float64))


def test_the_released_bonus_is_an_eighth_of_a_thousandth_over_all_response_tokens() -> None:
    entropy = build("as_released").loss(rows())["entropy"]
    assert entropy.coefficient == 0.001 / 8 and torch.equal(entropy.mask, rows().response) and rows().expert.any()
