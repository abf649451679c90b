"""The driver: order, seeds, costs, and methods that misbehave."""

import pytest

from engine.explain import Scripted
from engine.explore import MAX_ROLLOUTS, explore
from engine.words import Problem, Sample, Trajectory, own

PROBLEMS = [Problem(f"p{i}", (1, 2), "5") for i in range(3)]


def drive(method, problems=PROBLEMS, verdict=lambda i: True):
    sampler = Scripted(verdict)
    return sampler, explore(method, problems, sampler, lambda pairs: [r.reward for _, r in pairs], 4, 10, 7, {})


class Uneven:
    """Asks as many times as the problem's number says."""

    def explore(self, problem, context):
        found = []
        for _ in range(1 + int(problem.id[1])):
            found += yield Sample(2)
        return [Trajectory(problem, (own(r, 1.0),)) for r in found]


def test_trajectories_come_back_in_problem_order_with_costs() -> None:
    sampler, found = drive(Uneven(), list(reversed(PROBLEMS)))
    assert [t.problem.id for t in found.trajectories] == ["p2"] * 6 + ["p1"] * 4 + ["p0"] * 2
    assert found.rounds == 3
    assert found.sampled_tokens == 12 * 3
    assert len(sampler.asked) == 6


def test_every_sample_has_a_seed_of_its_own_that_depends_on_names_only() -> None:
    seeds = [s for request in drive(Uneven())[0].asked for s in request.seeds]
    assert len(set(seeds)) == len(seeds) == 12
    backwards = [s for request in drive(Uneven(), list(reversed(PROBLEMS)))[0].asked for s in request.seeds]
    assert sorted(seeds) == sorted(backwards) and seeds != backwards


class Endless:
    def explore(self, problem, context):
        while True:
            yield Sample(8)


class Idle:
    def explore(self, problem, context):
        while True:
            yield Sample(1, max_new_tokens=0)


class YieldsText:
    def explore(self, problem, context):
        yield "please"


class ForgotReturn:
    def explore(self, problem, context):
        yield Sample(1)


class ReturnsText:
    def explore(self, problem, context):
        return ["text"]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Endless(), f"budget is {MAX_ROLLOUTS}"),
        (Idle(), "does its explore\\(\\) ever return"),
        (YieldsText(), "yielded 'please' for problem 'p0'"),
        (ForgotReturn(), "returned NoneType for problem 'p0'"),
        (ReturnsText(), "must return a list of Trajectory"),
    ],
)
def test_misbehaving_methods_are_named(method, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drive(method)


def test_a_missing_demonstration_is_named() -> None:
    with pytest.raises(ValueError, match=r"problem 'p0' has 0 demonstration\(s\) and number 0 was asked for"):
        PROBLEMS[0].prefix(0.5)
