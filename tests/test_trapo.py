"""TRAPO by hand: when it guides, what it cuts, what it learns from."""

import csv
from pathlib import Path

import pytest
import torch

from engine import methods
from engine.explain import example
from engine.explore import context
from engine.tokens import Tokens
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
