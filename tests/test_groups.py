"""Group advantages by hand: what GRPO and LUFFY learn from a policy that is right every third time."""

import pytest

from engine import methods
from engine.explain import POLICIES, converse, example
from tests.conftest import METHODS

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
