"""The driver: order, seeds, costs, and methods that misbehave."""

import pytest

from engine.explain import Scripted
from engine.explore import MAX_ROLLOUTS, Exploration, explore
from engine.metrics import summary
from engine.words import Problem, Rollout, Sample, Trajectory, own

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


def test_a_problem_drawn_twice_in_one_update_samples_differently() -> None:
    seeds = [s for request in drive(Uneven(), [PROBLEMS[0], PROBLEMS[0]])[0].asked for s in request.seeds]
    assert len(set(seeds)) == 4


def test_metrics_average_over_problems_and_say_how_much_was_shown() -> None:
    """p0: one free rollout, right. p1: three free ones, one right, and a whole demonstration of two tokens."""
    p0, p1 = Problem("p0", (1,), "5", ((7, 2),)), Problem("p1", (1,), "5", ((8, 2),))
    free = [(p0, Rollout((), (3, 4), (-1.0, -3.0), 1.0, "stop"))]
    free += [(p1, Rollout((), (3,), (-2.0,), r, "length")) for r in (1.0, 0.0, 0.0)]
    found = Exploration(
        rollouts=[*free, (p1, Rollout((8, 2), (), (), 1.0, "prefix")), (p1, Rollout((8,), (2,), (-0.5,), 0.0, "stop"))]
    )
    assert summary(found) == {
        "reward": round((1 + 1 / 3) / 2, 4),
        "reward_guided": 0.5,
        "response_tokens": 1.2,
        "finished": 0.4,
        "entropy": round((1 + 3 + 2 + 2 + 2 + 0.5) / 6, 4),
        "guided": {"0.5": 1, "1.0": 1},
    }
    assert summary(Exploration())["reward"] is None


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
