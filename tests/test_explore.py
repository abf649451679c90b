"""The driver: order, seeds, costs, and methods that misbehave."""

import random
import time

import pytest

from engine.explain import Scripted
from engine.explore import MAX_ROLLOUTS, Exploration, Ranks, explore
from engine.metrics import summary
from engine.sampler import Request
from engine.words import Problem, Rollout, Sample, Trajectory, own
from tests.conftest import Lockstep

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


class Slow:
    """A sampler whose requests take as many steps as their first seed says; it writes down what it was asked and when."""

    def __init__(self) -> None:
        self.flying: dict[int, tuple[int, Request]] = {}
        self.log: list[tuple[int, int]] = []
        self.now = 0

    def submit(self, key: int, request: Request) -> None:
        self.flying[key] = self.now + 1 + request.seeds[0] % 300, request
        self.log.append((self.now, key))

    def step(self) -> list[tuple[int, list[Rollout]]]:
        self.now += 1
        done = [(key, request) for key, (due, request) in self.flying.items() if due <= self.now]
        self.flying = {key: rest for key, rest in self.flying.items() if rest[0] > self.now}
        return [(key, [Rollout((), (seed % 7, 2), (-1.0, -1.0), 0.0, "stop") for seed in r.seeds]) for key, r in done]


class Deep:
    """Asks again until a rollout was right, four times at most."""

    def explore(self, problem, context):
        found = []
        for _ in range(4):
            found += yield Sample(2)
            if any(r.reward for r in found):
                break
        return [Trajectory(problem, (own(r, r.reward),)) for r in found]


TWELVE = [Problem(f"p{i}", (1, 2), "5") for i in range(12)]


def run(sampler, slow: float) -> Exploration:
    draw = random.Random(slow)

    def reward(pairs):
        time.sleep(slow * draw.random())
        return [float(rollout.tokens[0] == 3) for _, rollout in pairs]

    return explore(Deep(), TWELVE, sampler, reward, 4, 10, 7, {})


def test_what_is_asked_when_does_not_depend_on_how_fast_the_grader_is() -> None:
    """The same requests at the same steps; and the trajectories that rounds with barriers give."""
    fast, slow, rounds = Slow(), Slow(), Slow()
    found, again = run(fast, 0.0), run(slow, 0.02)
    assert fast.log == slow.log and found == again
    assert len({step for step, _ in fast.log}) > 10 and 1 < found.rounds <= 4  # problems went their own ways
    barriers = run(Lockstep(rounds), 0.0)
    assert barriers == found and rounds.log != fast.log
    assert rounds.now > fast.now  # and waited for one another


def test_a_failure_does_not_wait_for_grades_nobody_wants() -> None:
    class Dying(Slow):
        def step(self):
            if self.now == 150:
                raise RuntimeError("gone")
            return super().step()

    graded = []

    def reward(pairs):
        time.sleep(0.2)
        graded.append(pairs)
        return [0.0] * len(pairs)

    problems = [Problem(f"p{i}", (1, 2), "5") for i in range(40)]
    sampler = Dying()
    with pytest.raises(RuntimeError, match="gone"):
        explore(Deep(), problems, sampler, reward, 4, 10, 7, {})
    assert 0 < len(graded) < len(sampler.log) - len(sampler.flying)


def test_ranks_share_the_problems_and_all_get_what_was_found() -> None:
    """Two ranks one after the other: the first fails for want of the second's part, which is then given all of the first's."""
    whole = run(Slow(), 0.0)
    parts: list[list[dict]] = [[], []]
    prepared = []

    def rank(me: int, others: list[dict] | None) -> Exploration:
        pending = iter(others or [])

        def gather(part: dict) -> dict:
            parts[me].append(part)
            return {**(next(pending) if others else {}), **part}

        return explore(
            Deep(), TWELVE, Slow(), lambda pairs: [float(r.tokens[0] == 3) for _, r in pairs],
            4, 10, 7, {}, lambda: prepared.append(me), Ranks(me, 2, gather),
        )  # fmt: skip

    with pytest.raises(KeyError):
        rank(0, None)
    found = rank(1, parts[0])
    assert prepared == [0, 1] and set(parts[0][1]) == {0, 2, 4, 6, 8, 10}
    assert found == whole


def test_a_rank_with_nothing_to_sample_prepares_with_the_others() -> None:
    class Odd:
        def explore(self, problem, context):
            if int(problem.id[1:]) % 2:
                yield Sample(1)
            return []

    prepared = []
    for others, wanted in (({1: True}, [0]), ({1: False}, [])):
        prepared.clear()
        gathered = iter([{0: False, **others}, {0: [], 1: []}, {}])  # who samples, what is finished, what was served
        ranks = Ranks(0, 2, lambda part, gathered=gathered: next(gathered))
        explore(Odd(), TWELVE[:2], Slow(), lambda pairs: [], 4, 10, 7, {}, lambda: prepared.append(0), ranks)
        assert prepared == wanted


@pytest.mark.parametrize("path", [(), ("pool",), ("pool", "p"), ("pool", "p", 1), ("pool", "p", 1, 1)])
def test_a_write_deep_in_the_memory_is_seen_too(path: tuple) -> None:
    class Writer:
        def explore(self, problem, context):
            place = context.memory
            for key in path:
                place = place[key]
            place[0] = 7
            return []

    memory = {"pool": {"p": [1, [2, [3], 4.0]]}, "0": "a"}
    with pytest.raises(ValueError, match=r"writes to context.memory in explore\(\)"):
        explore(Writer(), PROBLEMS, Slow(), lambda pairs: [], 4, 10, 7, memory, ranks=Ranks(0, 2))


def test_memory_of_several_ranks_is_not_theirs_to_write_alone() -> None:
    class Writer:
        def explore(self, problem, context):
            context.memory["seen"] = problem.id
            return []

    memory: dict = {}
    explore(Writer(), PROBLEMS, Slow(), lambda pairs: [], 4, 10, 7, memory)
    assert memory == {"seen": "p2"}
    with pytest.raises(ValueError, match=r"writes to context.memory in explore\(\), which 2 ranks do not share"):
        explore(Writer(), PROBLEMS, Slow(), lambda pairs: [], 4, 10, 7, {}, ranks=Ranks(0, 2, dict))


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
