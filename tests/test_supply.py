"""Which problems an update explores: the run's order, a second stream, further ones, those drawn, and those kept."""

import dataclasses
from typing import Any

import pytest

from engine.explain import Scripted, scripted
from engine.explore import Limits, context
from engine.supply import MOST, Supply, explored, selected
from engine.words import Problem, Sample, Trajectory, own

PROBLEMS = [Problem(f"p{i}", (11, i), str(i), ((20 + i, 21 + i, 2),)) for i in range(12)]


def test_problems_of_the_streams_come_in_orders_of_their_own() -> None:
    supply = Supply(PROBLEMS, run=3, size=4, second=0.5)
    ids = [problem.id for step in range(3) for problem in supply.batch(step)]
    assert sorted(ids) == sorted(p.id for p in PROBLEMS) != ids  # one epoch, shuffled
    assert [p.id for p in Supply(PROBLEMS, 3, 4).batch(1)] == ids[4:8]  # whatever else a method asks for
    second = [p.id for step in range(6) for p in supply.second(step)]
    assert sorted(second) == sorted(ids) and second != ids
    assert not Supply(PROBLEMS, 3, 4).second(0)
    further = [p.id for p in supply.further(0, 4, 6)]
    assert [p.id for p in supply.further(0, 6, 4)] == further[2:] and further != ids[4:10]
    assert [p.id for p in supply.further(1, 4, 6)] != further


def test_what_is_kept_is_trained_on_in_the_runs_order_and_again_from_the_start() -> None:
    supply = Supply(PROBLEMS, run=3, size=4)
    order = [p.id for step in range(3) for p in supply.batch(step)]
    assert [p.id for p in supply.pool(2)] == order[:8]
    kept = [order[6], order[1], order[3]]
    supply.keep(kept)
    expected = [order[1], order[3], order[6]]
    assert [p.id for p in supply.batch(0)] == [*expected, expected[0]]
    assert [p.id for p in supply.batch(1)] == [*expected[1:], *expected[:2]]
    other = Supply(PROBLEMS, 3, 4, second=1.0)
    other.keep(kept)
    assert {p.id for p in other.second(0)} <= {*kept} >= {p.id for p in other.further(0, 4, 6)}  # nor from elsewhere
    with pytest.raises(ValueError, match="kept none of the problems"):
        Supply(PROBLEMS, 3, 4).keep([])


class Even:
    """Keeps problems with an even number after sampling each twice."""

    def keep(self, problem: Problem, context: Any):
        rollouts = yield Sample(2)
        return len(rollouts) == 2 and int(problem.answer) % 2 == 0


def test_selection_asks_once_of_every_problem_the_run_would_see() -> None:
    supply = Supply(PROBLEMS, 3, 4)
    found = selected(Even(), supply, Scripted(lambda i: True), scripted, updates=2)
    pool = [p.id for p in supply.pool(2)]
    assert found["of"] == 8 and found["graded_rollouts"] == 16 and found["sampled_tokens"] == 48 and found["rounds"] == 1
    assert found["kept"] == [i for i in pool if int(i[1:]) % 2 == 0] and 0 < len(found["kept"]) < 8


def test_a_selection_is_not_made_with_the_rollouts_of_the_first_update() -> None:
    supply, chosen, trained = Supply(PROBLEMS, 3, 4), Scripted(lambda i: True), Scripted(lambda i: True)
    selected(Even(), supply, chosen, scripted, updates=1)
    explored(Filling(batches=1), supply, trained, scripted, 0, 1, {})
    both = [{(r.problem.id, seed) for r in one.asked for seed in r.seeds} for one in (chosen, trained)]
    assert {i for i, _ in both[0]} == {i for i, _ in both[1]} and not both[0] & both[1]


def test_what_a_method_draws_is_explored_instead() -> None:
    class Drawing(Filling):
        def draw(self, problems: list[Problem], context: Any) -> list[Problem]:
            draws.append(context.rng.random())
            return [*problems[2:], PROBLEMS[0]]

    draws: list[float] = []
    method, supply = Drawing(batches=0), Supply(PROBLEMS, 3, 4)
    explored(method, supply, Scripted(lambda i: True), scripted, 0, 1, {})
    assert [problem for problem, *_ in method.seen] == [*(p.id for p in supply.batch(0)[2:]), "p0"]
    assert draws != [context(0, 1, 3, "", {}).rng.random()]  # what its `update` would draw


@dataclasses.dataclass(frozen=True)
class Filling:
    """Keeps problems on which its one rollout is right, and wants others for those it drops, at most `batches` of them."""

    batches: int = 3
    second: float = 0.0
    seen: list = dataclasses.field(default_factory=list)

    def explore(self, problem: Problem, context: Any):
        self.seen.append((problem.id, context.second, context.rng.random()))
        (rollout,) = yield Sample(1)
        return [Trajectory(problem, (own(rollout, 1.0),), note=rollout.reward)] if rollout.reward else []

    def wanting(self, found: list[Trajectory], context: Any) -> int:
        return 4 - len(found) if context.explored < 4 * self.batches else 0


def test_further_problems_are_explored_until_the_method_has_enough() -> None:
    method, supply = Filling(), Supply(PROBLEMS, 3, 4)
    found = explored(method, supply, Scripted(lambda i: i % 2 == 1), scripted, 0, 1, {})
    assert [t.note for t in found.trajectories] == [1.0] * 4
    ids = [p.id for p in supply.batch(0)] + [p.id for p in supply.further(0, 4, len(method.seen) - 4)]
    assert [seen[0] for seen in method.seen] == ids and len(ids) == 8 == len(found.rollouts)
    assert found.sampled_tokens == 3 * 8 and found.rounds == 4  # 4 problems, 2 more, 1 more, 1 more
    assert len({draw for *_, draw in method.seen}) == 8  # also of a problem that is drawn twice


def test_problems_explored_again_in_an_update_are_sampled_anew_and_nothing_is_prepared_twice() -> None:
    """Twelve explorations of five problems: repetitions within and across the batches of one update."""
    method, sampler, calls = Filling(), Scripted(lambda i: False), []
    explored(method, Supply(PROBLEMS[:5], 3, 4), sampler, scripted, 0, 1, {}, prepare=lambda: calls.append(1))
    assert len(method.seen) == 12 and len({problem for problem, *_ in method.seen}) == 5
    assert len({draw for *_, draw in method.seen}) == 12 == len({request.seeds for request in sampler.asked})
    assert calls == [1]


def test_no_update_explores_what_another_may_want_further() -> None:
    supply = Supply(PROBLEMS, run=3, size=4)
    assert supply.further(0, 4 * MOST, 6) == supply.further(1, 0, 6)


def test_a_budget_ends_it_and_a_method_that_never_has_enough_is_stopped() -> None:
    hopeless = Scripted(lambda i: False)
    method = Filling()
    assert not explored(method, Supply(PROBLEMS, 3, 4), hopeless, scripted, 0, 1, {}).trajectories
    assert len(method.seen) == 12
    with pytest.raises(ValueError, match=r"wants 4 problems more than .* does its wanting\(\) ever return 0"):
        explored(Filling(batches=MOST + 1), Supply(PROBLEMS, 3, 4), hopeless, scripted, 0, 1, {})


def test_the_second_stream_is_explored_with_the_first_and_says_so() -> None:
    method, supply = Filling(second=0.5), Supply(PROBLEMS, 3, 4, second=0.5)
    calls: list[int] = []
    explored(method, supply, Scripted(lambda i: True), scripted, 0, 1, {}, prepare=lambda: calls.append(1))
    assert [(i, second) for i, second, _ in method.seen] == [
        *((p.id, False) for p in supply.batch(0)),
        *((p.id, True) for p in supply.second(0)),
    ]
    assert calls == [1]
    here = context(1, 4, 0, "", {}, limits=Limits(7, 3, spent=0.5))
    assert (here.response_tokens, here.problems, here.progress) == (7, 3, 0.5) and not here.second and here.explored == 0
    assert context(3, 4, 0, "", {}, limits=Limits(spent=0.5)).progress == 0.75
