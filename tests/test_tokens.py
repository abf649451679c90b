"""Alignment, written out by hand.

position      0  1  2  3  4  5  6  7  8        predicted token t of a row is input token t + 1
input        11 12 13 14 21 22 31 32 33
"""

import pytest
import torch

from engine.reduce import mean_over_tokens, mean_over_trajectories, named, sum_over_length
from engine.tokens import balanced, collate, dealt, length, micro_batches
from engine.words import Problem, Rollout, Trajectory, expert, own

PROMPT = Problem("p", (11, 12, 13, 14), "5")
GUIDED = Trajectory(PROMPT, (expert((21, 22)), own(Rollout((21, 22), (31, 32, 33), (-0.1, -2.3, -0.7), 1.0, "stop"), 0.5)))
SHORT = Trajectory(PROMPT, (expert((), trained=False), own(Rollout((), (41, 42), (-0.2, -0.3), 0.0, "stop"), 0.0)))
SHOWN = Trajectory(PROMPT, (expert((21,), trained=False), own(Rollout((21,), (51,), (-0.4,), 0.0, "length"), -0.5)))


def test_every_field_is_aligned_to_the_token_it_predicts() -> None:
    batch = collate([GUIDED, SHORT, SHOWN], pad=0)
    t = batch.tokens
    yes, no = True, False
    assert batch.input_ids.tolist() == [
        [11, 12, 13, 14, 21, 22, 31, 32, 33],
        [11, 12, 13, 14, 41, 42, 0, 0, 0],
        [11, 12, 13, 14, 21, 51, 0, 0, 0],
    ]
    # predicted:     12  13  14  21/41/21  22/42/51  31  32  33
    assert t.response.tolist() == [
        [no, no, no, yes, yes, yes, yes, yes],
        [no, no, no, yes, yes, no, no, no],
        [no, no, no, yes, yes, no, no, no],
    ]
    assert t.expert.tolist() == [
        [no, no, no, yes, yes, no, no, no],
        [no, no, no, no, no, no, no, no],
        [no, no, no, yes, no, no, no, no],
    ]
    assert t.trained.tolist() == [
        [no, no, no, yes, yes, yes, yes, yes],
        [no, no, no, yes, yes, no, no, no],  # a zero advantage is trained all the same
        [no, no, no, no, yes, no, no, no],  # a shown token is not
    ]
    torch.testing.assert_close(
        t.advantage,
        torch.tensor([[0, 0, 0, 1, 1, 0.5, 0.5, 0.5], [0] * 8, [0, 0, 0, 1, -0.5, 0, 0, 0]]),
    )
    torch.testing.assert_close(
        t.old_logp,
        torch.tensor([[0, 0, 0, 0, 0, -0.1, -2.3, -0.7], [0, 0, 0, -0.2, -0.3, 0, 0, 0], [0, 0, 0, 0, -0.4, 0, 0, 0]]),
    )


def test_denominators_by_hand() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0, 100.0], [4.0, 100.0, 100.0, float("nan")], [7.0, 7.0, 7.0, 7.0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    rows = 3

    def average(reduce) -> float:
        return float(reduce.numerator(values, mask, limit=10) / reduce.count(mask, rows))

    assert average(mean_over_tokens) == (1 + 2 + 3 + 4) / 4
    assert average(mean_over_trajectories) == ((1 + 2 + 3) / 3 + 4) / 2  # the row without a masked token is no trajectory
    assert average(sum_over_length(5)) == pytest.approx((6 / 5 + 4 / 5) / 3)  # here it counts
    assert average(sum_over_length()) == pytest.approx((6 / 10 + 4 / 10) / 3)  # the run's response limit
    for reduce in (mean_over_tokens, mean_over_trajectories, sum_over_length(5), sum_over_length()):
        assert named(str(reduce)) == reduce


def of_lengths(*lengths: int) -> list[Trajectory]:
    return [Trajectory(Problem(str(i), (1,) * n, ""), ()) for i, n in enumerate(lengths)]


def test_ranks_get_trajectories_of_about_the_same_cost() -> None:
    """Wide models: cost is length. 8 7 6 5 4 in two parts: 8 - 7, 6 - 5, then 4 - 1, then 3 - 1 leaves 2: 16 and 14."""
    parts = balanced(of_lengths(8, 7, 6, 5, 4), 2, width=10**9)
    assert sorted(sum(map(length, part)) for part in parts) == [14, 16]
    tailed = of_lengths(400, 300, 200, 150, *range(30, 94))
    for ranks in (2, 4, 8):
        parts = balanced(tailed, ranks, width=100)
        assert sorted(int(t.problem.id) for part in parts for t in part) == list(range(len(tailed)))
        assert all(part == sorted(part, key=lambda t: int(t.problem.id)) for part in parts)
        costs = [sum(length(t) * (1200 + length(t)) for t in part) for part in parts]
        assert max(costs) - min(costs) < 0.01 * max(costs)
    assert balanced(tailed, 1, 100) == [tailed] and balanced([], 2, 100) == [[], []]


def test_attention_makes_long_rows_cost_more_than_their_tokens() -> None:
    apart = [[length(t) for t in part] for part in balanced(of_lengths(100, 50, 50, 30), 2, width=2)]
    assert sorted(apart) == [[50, 50, 30], [100]]  # 100 x 124 against 2 x 50 x 74 + 30 x 54


def test_micro_batches_are_dealt_in_turn_and_missing_ones_filled() -> None:
    one, other = (micro_batches(of_lengths(*sizes), 1, 0) for sizes in ((9, 8, 7), (6,)))
    found = dealt([one, other])
    assert found[::2] == one and found[1] is other[0] and len(found) == 6
    assert all(b.trajectories == () and not b.tokens.response.any() for b in found[3::2])
    assert dealt([[], []]) == []


def test_micro_batches_hold_every_trajectory_once_and_keep_to_the_budget() -> None:
    batches = micro_batches([SHORT, GUIDED, SHOWN, GUIDED], budget=18, pad=0)
    assert [len(b.trajectories) for b in batches] == [2, 2]
    in_order = micro_batches([SHORT, GUIDED, SHOWN, SHORT], 18, 0, by_length=False)
    assert [b.trajectories for b in in_order] == [(SHORT, GUIDED), (SHOWN, SHORT)]
    assert all(b.input_ids.numel() <= 18 for b in batches)
    assert sum(int(b.tokens.trained.sum()) for b in batches) == 5 + 5 + 2 + 1
    alone = micro_batches([GUIDED], budget=1, pad=0)
    assert len(alone) == 1 and alone[0].filling().trajectories == () and not alone[0].filling().tokens.trained.any()
