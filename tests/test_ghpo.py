"""GHPO by hand: when it starts over with a hint, what its advantage is, and where its clip acts."""

from typing import Any

import pytest
import torch

from engine import methods
from engine.explain import Scripted, converse, example
from engine.reduce import mean_over_tokens
from engine.tokens import Tokens, collate
from engine.words import Trajectory
from tests.conftest import METHODS

DEMONSTRATION = example().demonstrations[0]  # 40 tokens


def build(**settings: Any) -> Any:
    return methods.build("ghpo", settings, METHODS)


def hints(sampler: Scripted) -> list[int]:
    """How many tokens of the solution each request showed."""
    for request in sampler.asked:
        assert request.sample.n == 8 and request.sample.max_new_tokens is None
        assert request.sample.prefix == DEMONSTRATION[: len(request.sample.prefix)]
    return [len(request.sample.prefix) for request in sampler.asked]


def advantages(trajectories: list[Trajectory]) -> list[float]:
    for t in trajectories:
        shown, written = t.segments
        assert shown.expert and not shown.trained and written.trained and not written.expert
    return [t.segments[1].advantage for t in trajectories]


@pytest.mark.parametrize(
    ("first", "shown"),  # the first right rollout of all that are sampled, and the hints given until then
    [
        (0, [0]),
        (7, [0]),  # one right of eight is enough
        (8, [0, 10]),  # none of the first eight, the next one is right: 25 % of 40 tokens
        (15, [0, 10]),
        (16, [0, 10, 20]),
        (23, [0, 10, 20]),
        (24, [0, 10, 20, 30]),
        (31, [0, 10, 20, 30]),
        (32, [0, 10, 20, 30]),  # never: after 75 % it stops
    ],
)
def test_it_starts_over_with_more_of_the_solution_until_one_is_right(first: int, shown: list[int]) -> None:
    """One of eight is right: mean 1 / 8, standard deviation sqrt(7 * (1 / 8)^2 + (7 / 8)^2) / sqrt(7) = 1 / sqrt(8)."""
    sampler, trajectories = converse(build(), lambda i: i == first)
    assert hints(sampler) == shown
    assert len(trajectories) == 8  # the last group alone
    assert {t.segments[0].tokens for t in trajectories} == {DEMONSTRATION[: shown[-1]]}
    right, wrong = 7 / 8 / (8**-0.5 + 1e-4), -1 / 8 / (8**-0.5 + 1e-4)
    expected = [0.0] * 8 if first == 32 else [right if i == first % 8 else wrong for i in range(8)]
    assert advantages(trajectories) == pytest.approx(expected, abs=1e-9)


def test_all_right_asks_once_and_a_mixed_group_is_centred_and_scaled() -> None:
    sampler, trajectories = converse(build(), lambda i: True)
    assert hints(sampler) == [0] and advantages(trajectories) == [0.0] * 8
    sampler, trajectories = converse(build(), lambda i: i % 2 == 1)  # 4 of 8: deviation sqrt(8 / 4 / 7) = .534522
    assert hints(sampler) == [0]
    assert advantages(trajectories) == pytest.approx([-0.935239, 0.935239] * 4, abs=1e-5)


def test_the_hint_is_shown_and_only_what_follows_is_trained() -> None:
    _, trajectories = converse(build(), lambda i: i == 8)
    batch = collate(trajectories[:1], pad=0)
    assert batch.input_ids[0].tolist() == [11, 12, 13, 14, *DEMONSTRATION[:10], 91, 92, 2]
    assert batch.tokens.trained[0].tolist() == [False] * 13 + [True] * 3
    assert batch.tokens.expert[0].sum() == 10


# (advantage, ratio, loss, its slope in log p): -min(A r, A clip(r, .8, 1.2))
CLIPS = [
    (2.0, 0.79, -1.58, -1.58),
    (2.0, 1.19, -2.38, -2.38),
    (2.0, 1.21, -2.4, 0.0),
    (-2.0, 0.79, 1.6, 0.0),
    (-2.0, 0.81, 1.62, 1.62),
    (-2.0, 1.21, 2.42, 2.42),
]


def test_the_clip_by_hand() -> None:
    advantage, ratio, loss, slope = torch.tensor(CLIPS, dtype=torch.float64).T[:, None]
    yes = torch.ones_like(advantage, dtype=torch.bool)
    t = Tokens((ratio.log() - 3).requires_grad_(), torch.full_like(ratio, -3.0), advantage, ~yes, yes, yes)
    found = build().loss(t)
    found.sum().backward()
    torch.testing.assert_close(found, loss)
    torch.testing.assert_close(t.logp.grad, slope)
    assert build().reduce == mean_over_tokens


def test_without_hints_it_asks_once() -> None:
    sampler, trajectories = converse(build(hints=()), lambda i: False)
    assert hints(sampler) == [0] and advantages(trajectories) == [0.0] * 8


@pytest.mark.parametrize("settings", [{"rollouts": 1}, {"hints": [0.5, 1.0]}, {"hints": [0.0]}])
def test_settings_that_cannot_be_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=r"rollouts 1 have|must be shares"):
        build(**settings)
