"""Group advantages by hand: what GRPO and LUFFY learn from a policy that is right every third time."""

import pytest
import torch

from engine import methods
from engine.explain import POLICIES, converse, example
from tests.conftest import METHODS
from tests.test_trapo import rows, slopes

MIXED = POLICIES["a policy that is right every third time"]  # - - + - - + - -
WRONG = POLICIES["a policy that is always wrong"]


def learned(name: str, verdict) -> tuple[list[int], list[tuple[bool, bool, int, float]]]:
    """Rollouts per request, and (expert, trained, tokens, advantage) of every segment with tokens."""
    sampler, trajectories = converse(methods.build(name, {}, METHODS), verdict)
    segments = [s for t in trajectories for s in t.segments if s.tokens]
    return [r.sample.n for r in sampler.asked], [(s.expert, s.trained, len(s.tokens), s.advantage) for s in segments]


def test_grpo_subtracts_the_mean_of_its_eight() -> None:
    asked, segments = learned("grpo", MIXED)
    assert asked == [8]
    wrong, right = -2 / 8, 1 - 2 / 8
    assert segments == [(False, True, 3, a) for a in (wrong, wrong, right, wrong, wrong, right, wrong, wrong)]


def test_luffy_counts_the_expert_among_the_eight() -> None:
    asked, segments = learned("luffy", MIXED)
    assert asked == [7, 1]
    wrong, right = -3 / 8, 1 - 3 / 8  # two of seven right, and the expert
    own = [(False, True, 3, a) for a in (wrong, wrong, right, wrong, wrong, right, wrong)]
    assert segments == [*own, (True, True, len(example().demonstrations[0]), right)]


def test_luffy_imitates_most_where_the_policy_fails() -> None:
    assert [s[3] for s in learned("luffy", WRONG)[1]] == pytest.approx([-1 / 8] * 7 + [7 / 8])


def test_sft_asks_for_nothing_and_learns_one_whole_demonstration() -> None:
    assert learned("sft", WRONG) == ([], [(True, True, 40, 1.0)])


def test_luffy_without_experts_is_grpo() -> None:
    """On own tokens the two losses have one gradient, here at ratios from .5 to 1.25; the expert is what differs."""
    t = rows()
    ours, theirs = (slopes(methods.build(name, {}, METHODS), t) for name in ("luffy", "grpo"))
    assert ours[~t.expert].norm() > 0.5 and not ours[t.expert].allclose(theirs[t.expert])
    torch.testing.assert_close(ours[~t.expert], theirs[~t.expert])
