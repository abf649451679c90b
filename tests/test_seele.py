"""SEELE by hand: the curve it fits, the hints it asks for, what it remembers, and its three losses."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from engine import methods
from engine.explain import Scripted
from engine.explore import context, explore
from engine.tokens import collate
from engine.words import Problem, Rollout, Trajectory, expert, own
from tests.conftest import METHODS

rate_for: Callable[[float, list[tuple[float, float]]], float] = methods.load("seele", METHODS).rate_for


def build(preset: str = methods.MATCHED, **settings):
    return methods.build("seele", {**methods.preset("seele", preset, METHODS), **settings}, METHODS)


@pytest.mark.parametrize(("b", "k", "mu"), [(0.2, 8.0, -0.6), (0.0, 20.0, -0.3), (0.4, 12.0, -0.7)])
@pytest.mark.parametrize("target", [0.5, 0.7])
def test_the_fit_recovers_a_curve(b: float, k: float, mu: float, target: float) -> None:
    """Where b + (1 - b) / (1 + exp(-k (rate + mu))) is the target: -mu - log((1 - target) / (target - b)) / k."""
    seen = [(r / 10, b + (1 - b) / (1 + math.exp(-k * (r / 10 + mu)))) for r in range(11)]
    assert rate_for(target, seen) == pytest.approx(-mu - math.log((1 - target) / (target - b)) / k, abs=2e-3)


@pytest.mark.parametrize(
    ("seen", "low", "high"),
    [
        ([(0.8, 0.0)], 0.8, 1.0),  # wrong there: towards (1, 1)
        ([(0.8, 1.0)], 0.0, 0.8),  # right there: towards (0, 0)
        ([(0.8, 0.0), (0.9, 1.0)], 0.8, 0.9),
        ([(0.8, 0.5)], 0.799, 0.801),
        ([(0.0, 1.0)], 0.0, 0.0),  # without a hint, where (0, 0) is then no point: right above .5 everywhere
        ([(1.0, 0.0)], 1.0, 1.0),  # even with the whole, where (1, 1) is then no point
        ([(0.0, 0.0), (1.0, 0.6)], 0.5, 1.0),
    ],
)
def test_the_next_rate_lies_between_failure_and_success(seen: list[tuple[float, float]], low: float, high: float) -> None:
    rate = rate_for(0.5, seen)
    assert low <= rate <= high and (low == high or low < rate < high)


@pytest.mark.parametrize(("b", "rate"), [(0.45, 0.3125), (0.49, 0.111), (0.51, 0.0), (0.55, 0.0)])
def test_a_curve_above_the_target_everywhere_asks_for_nothing(b: float, rate: float) -> None:
    """On either side of b = .5; at .45: .6 - log(.5 / .05) / 8, at .49: .6 - log(.5 / .01) / 8."""
    seen = [(r / 10, b + (1 - b) / (1 + math.exp(-8 * (r / 10 - 0.6)))) for r in range(11)]
    assert rate_for(0.5, seen) == pytest.approx(rate, abs=3e-3)


def test_equal_rates_are_one_point() -> None:
    """Tried twice, a rate weighs no more than tried once; nothing meets both of these points exactly."""
    once = rate_for(0.5, [(0.4, 0.9), (0.6, 0.2)])
    assert once == rate_for(0.5, [(0.4, 0.9), (0.6, 0.2), (0.6, 0.2)]) == rate_for(0.5, [(0.6, 0.0), (0.4, 0.9), (0.6, 0.4)])
    assert once != rate_for(0.5, [(0.4, 0.9), (0.6, 0.4)])


# 50 tokens without a blank line: five steps of ten, the last of which ends the sequence
def problem(name: str = "p") -> Problem:
    return Problem(name, (11,), "5", (tuple(range(100, 150)),))


class Talk:
    """A run of updates on one problem. `script` says how many of a round's eight are right, given the steps shown."""

    def __init__(self, script: Callable[[int], int], preset: str = methods.MATCHED) -> None:
        self.method, self.script, self.memory, self.step = build(preset), script, {}, 0

    def update(self, name: str = "p") -> list[int]:
        """The steps shown in each round of one update."""
        sampler, before = Scripted(lambda i: False), copy.deepcopy(self.memory)

        def reward(pairs: Any) -> list[float]:
            shown = round(len(pairs[0][1].prefix) / 10)
            return [float(i < self.script(shown)) for i in range(len(pairs))]

        found = explore(self.method, [problem(name)], sampler, reward, self.step, 20, 0, self.memory)
        assert self.memory == before  # or several ranks would refuse it
        self.learned = self.method.update(found.trajectories, context(self.step, 20, 0, "", self.memory))
        assert self.learned == found.trajectories
        self.memory = json.loads(json.dumps(self.memory))  # as a resume would restore it
        self.step += 1
        assert {request.sample.n for request in sampler.asked} == {self.method.rollouts}
        whole = problem().demonstrations[0]
        lengths = [len(request.sample.prefix) for request in sampler.asked]
        assert [request.sample.prefix for request in sampler.asked] == [whole[:length] for length in lengths]
        assert all(length in (0, 10, 20, 30, 40, 49) for length in lengths)  # the end of sequence is never shown
        return [round(length / 10) for length in lengths]


def test_a_problem_it_always_solves_loses_its_hint() -> None:
    """Each round roughly halves the rate; from the second visit on the problem stands alone."""
    talk = Talk(lambda shown: 8)
    assert talk.update() == [4, 2, 1, 1]
    assert talk.update() == talk.update() == [0, 0, 0, 0]


def test_a_problem_it_never_solves_is_shown_everything() -> None:
    talk = Talk(lambda shown: 0)
    assert talk.update() == [4, 5, 5, 5]
    assert talk.update() == [5, 5, 5, 5]


def test_half_right_is_where_it_stays() -> None:
    talk = Talk(lambda shown: 4)
    assert talk.update() == talk.update() == [4, 4, 4, 4]
    assert talk.memory == {"rates": {"p": pytest.approx(0.8, abs=1e-3)}}


def test_rounds_close_in_on_where_success_begins() -> None:
    """Right from three steps on. The second visit starts near the rate the first ended with, not at four steps."""
    talk = Talk(lambda shown: 8 * (shown >= 3))
    assert talk.update() == [4, 2, 3, 3]  # with the last round alone in mind the fourth would be 2
    assert talk.update()[0] == 2


def test_every_rollout_of_an_update_shares_one_baseline() -> None:
    """4 steps: 8 of 8, 2 steps: none; then 3 steps twice, as rates between .4 and .8 say: 6 of 8 each. Mean 20 / 32."""
    talk = Talk(lambda shown: {4: 8, 3: 6, 2: 0}[shown])
    assert talk.update() == [4, 2, 3, 3]
    advantages = [t.segments[1].advantage for t in talk.learned]
    right, wrong = 12 / 32, -20 / 32
    assert advantages == pytest.approx([right] * 8 + [wrong] * 8 + ([right] * 6 + [wrong] * 2) * 2)
    for t in talk.learned:
        hint, generated = t.segments
        assert hint.expert and hint.trained and not generated.expert


def test_rates_are_remembered_by_problem_and_written_in_update_alone() -> None:
    talk = Talk(lambda shown: 8)
    talk.update("p")
    assert talk.update("q") == [4, 2, 1, 1]  # not where p is
    assert set(talk.memory["rates"]) == {"p", "q"}
    remembered = dict(talk.memory["rates"])
    assert talk.learned[0].note == remembered["q"] and all(type(rate) is float for rate in remembered.values())
    talk.memory["rates"]["q"] = 0.3  # half a step is shown: .3 * 5 = 1.5
    assert talk.update("q")[0] == 2 and talk.memory["rates"]["p"] == remembered["p"]
    talk.memory["rates"]["q"] = 0.29
    assert talk.update("q")[0] == 1


def test_the_preset_of_eight_costs_eight() -> None:
    talk = Talk(lambda shown: 1, "eight")
    assert len(talk.update()) == 4 and len(talk.learned) == 8


def test_a_demonstration_of_one_step_is_shown_in_part_or_not_at_all() -> None:
    """One step: the first rate is 0 / 1, so the bare problem comes first."""
    single = Problem("one", (11,), "5", ((21, 2),), ((),))
    method = build(steps=1)
    sampler = Scripted(lambda i: False)
    explore(method, [single], sampler, lambda pairs: [0.0] * len(pairs), 0, 1, 0, {})
    assert [request.sample.prefix for request in sampler.asked] == [(), (21,), (21,), (21,)]


#   a hint of two tokens and two own ones with advantage .5; a hint of one token and one own with -.25
#   p       hint .5  .25   own .6  .3       hint .1   own .8
#   p_old                      .5  .3                     .4
#   p_ref                      .3  .6                     .8
def test_the_three_losses_by_hand() -> None:
    def written(*old: float) -> Rollout:
        return Rollout((), (91, 2)[-len(old) :], tuple(math.log(p) for p in old), 0.0, "stop")

    first = Trajectory(problem(), (expert((100, 101)), own(written(0.5, 0.3), 0.5)))
    second = Trajectory(problem(), (expert((100,)), own(written(0.4), -0.25)))
    p = torch.tensor([[0.5, 0.25, 0.6, 0.3], [0.1, 0.8, 1.0, 1.0]], dtype=torch.float64)
    reference = torch.tensor([[0.9, 0.9, 0.3, 0.6], [0.9, 0.8, 1.0, 1.0]], dtype=torch.float64)
    logp = p.log().requires_grad_()
    t = replace(collate([first, second], 0, torch.float64).tokens, logp=logp, reference_logp=reference.log())
    found = {}
    for name, term in build().loss(t).items():
        loss = term.coefficient * term.reduce.numerator(term.values, term.mask, 10) / term.reduce.count(term.mask, 2)
        (gradient,) = torch.autograd.grad(loss, logp)
        found[name] = loss.item(), gradient.tolist()
    assert set(found) == {"policy", "imitation", "kl"}
    loss, gradient = found["policy"]  # -A p / p_old and the same gradient, over ten tokens and two trajectories
    assert loss == pytest.approx(-(0.5 * 1.2 + 0.5 * 1 - 0.25 * 2) / 20)
    assert gradient == [pytest.approx([0, 0, -0.6 / 20, -0.5 / 20]), pytest.approx([0, 0.5 / 20, 0, 0])]
    loss, gradient = found["imitation"]  # -.001 log p over three hint tokens
    assert loss == pytest.approx(-0.001 * math.log(0.5 * 0.25 * 0.1) / 3)
    assert gradient == [pytest.approx([-0.001 / 3, -0.001 / 3, 0, 0]), pytest.approx([-0.001 / 3, 0, 0, 0])]
    loss, gradient = found["kl"]  # p_ref / p - 1 - log(p_ref / p), gradient 1 - p_ref / p; ratios .5, 2 and 1
    assert loss == pytest.approx(0.001 * ((-0.5 + math.log(2)) + (1 - math.log(2)) + 0) / 20)
    assert gradient == [pytest.approx([0, 0, 0.0005 / 20, -0.001 / 20]), pytest.approx([0, 0, 0, 0])]
    assert build().needs == ("reference_logp",)
    assert build(kl=0.0).needs == () and set(build(kl=0.0).loss(t)) == {"policy", "imitation"}


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_a_target_that_no_curve_reaches_is_an_error(target: float) -> None:
    with pytest.raises(ValueError, match=f"target {target}"):
        build(target=target)
