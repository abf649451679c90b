"""Driving explorations: methods decide what to sample, this file does the sampling, the grading and the counting.

Every exploration advances at its own pace: as soon as its rollouts are graded, its next request goes to the sampler. Grading
happens on a thread of its own, and for GRADING_STEPS steps the sampler works on; then the grader is waited for. Nothing depends
on timing: rollouts are taken up exactly that many steps after they were finished, not when the grader happens to be ready, so
what shares a batch, and with it every rounding of a log-prob, is the same in each repetition. With a sampler that serves in
batches, requests wait for those before them, which makes rounds of it again.

Trajectories come back in problem order. The explorations of one update must not read what another of them writes into the
method's memory: which of them advances first depends on how long their rollouts are. With several ranks each explores its share
of the problems, and every rank is given what all of them found; memory is then written in `update` only.
"""

import inspect
import random
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from engine import seeds
from engine.sampler import Request, Sampler
from engine.words import Context, Problem, Rollout, Sample, Trajectory

MAX_ROLLOUTS = 64  # per problem and update; an exploration beyond it is taken to be endless
MAX_REQUESTS = 64
NESTED = frozenset((dict, list))  # the JSON values that hold others
GRADING_STEPS = 8  # steps of the sampler that a grade may take without anybody waiting for it


# (problem, rollout) pairs -> rewards in the same order
Reward = Callable[[Sequence[tuple[Problem, Rollout]]], list[float]]


@dataclass(frozen=True)
class Ranks:
    """The processes of a stage, as one of them sees them: problem i is explored by rank i modulo `count`. `gather` puts the
    parts of a dictionary that every rank has together, the same for all; every rank must call it."""

    rank: int = 0
    count: int = 1
    gather: Callable[[dict], dict] = dict


ALONE = Ranks()


@dataclass(frozen=True)
class Limits:
    """What a run sets for its explorations: tokens of a response, problems of an update; and the share of the tokens it may
    sample that it has sampled, 0 where that is not limited."""

    response_tokens: int = 0
    problems: int = 0
    spent: float = 0.0


FREE = Limits()


@dataclass
class Exploration:
    """What exploring a list of problems gave and cost. `rounds`: the most requests of one problem that generated something,
    each after the grades of the one before."""

    trajectories: list[Trajectory] = field(default_factory=list)
    rollouts: list[tuple[Problem, Rollout]] = field(default_factory=list)
    rounds: int = 0
    sampled_tokens: int = 0

    def __add__(self, later: "Exploration") -> "Exploration":
        """Both, one after the other."""
        return Exploration(
            self.trajectories + later.trajectories,
            self.rollouts + later.rollouts,
            self.rounds + later.rounds,
            self.sampled_tokens + later.sampled_tokens,
        )


def context(
    step: int,
    total: int,
    run: int,
    problem: str,
    memory: dict[str, Any],
    occurrence: int = 0,
    limits: Limits = FREE,
) -> Context:
    """The context of one problem at one step; its rng depends on run, step, problem and occurrence alone."""
    rng = random.Random(seeds.seed(run=run, axis="context", step=step, problem=problem, occurrence=occurrence))
    return Context(step, total, rng, memory, **vars(limits))


def name_of(method: Any) -> str:
    """The name of a method, for errors."""
    return type(method).__module__.removeprefix("assay_method_")


def explore(
    method: Any,
    problems: Sequence[Problem],
    sampler: Sampler,
    reward: Reward,
    step: int,
    total: int,
    run: int,
    memory: dict,
    prepare: Callable[[], None] = lambda: None,
    ranks: Ranks = ALONE,
    limits: Limits = FREE,
    second: int = 0,
    earlier: Sequence[Problem] = (),
) -> Exploration:
    """Run `method.explore` for every problem and return its trajectories in problem order, with costs.

    `prepare` is called on every rank before the first rollout is asked for, unless none of them asks for any. The last `second`
    problems are those of the second stream; `earlier` ones were explored before in the same update.

    Raises ValueError naming the method and the problem when an exploration yields something that is not a `Sample`, asks for
    more than MAX_ROLLOUTS rollouts or MAX_REQUESTS requests, or returns something that is not a list of trajectories; or, with
    several ranks, when one writes into the method's memory.
    """
    name = name_of(method)
    ids = [problem.id for problem in (*earlier, *problems)]
    # A problem may be drawn twice: where two epochs meet, by both streams, or once more.
    occurrence = [ids[:i].count(ids[i]) for i in range(len(earlier), len(ids))]
    finished: dict[int, list[Trajectory]] = {}
    talks: dict[int, Generator[Any, Any, Any]] = {}
    first: dict[int, Request] = {}
    asked: dict[int, list[Request]] = {i: [] for i in range(len(problems))}
    served: dict[tuple[int, int], list[Rollout]] = {}  # by (number of the request, problem)

    def advance(i: int, rollouts: list[Rollout] | None) -> Request | None:
        """Let one exploration take a step: what it asks for, or None, and what it returns is filed."""
        try:
            sample = _request(name, problems[i], talks[i].send(rollouts))
        except StopIteration as stop:
            finished[i] = _trajectories(name, problems[i], stop.value)
            return None
        asked[i].append(_seeded(problems[i], sample, run, step, len(asked[i]), occurrence[i]))
        sampled = sum(request.sample.n for request in asked[i])
        if sampled > MAX_ROLLOUTS or len(asked[i]) > MAX_REQUESTS:
            raise ValueError(
                f"method {name!r} asked for {sampled} rollouts in {len(asked[i])} requests for problem {problems[i].id!r}; the "
                f"budget is {MAX_ROLLOUTS} and {MAX_REQUESTS}: does its explore() ever return?"
            )
        return asked[i][-1]

    before = _copied(memory) if ranks.count > 1 else memory
    for i in range(ranks.rank, len(problems), ranks.count):
        here = context(step, total, run, problems[i].id, memory, occurrence[i], limits)
        started = method.explore(problems[i], replace(here, second=i >= len(problems) - second))
        if not inspect.isgenerator(started):
            finished[i] = _trajectories(name, problems[i], started)
            continue
        talks[i] = started
        if request := advance(i, None):
            first[i] = request
    if any(ranks.gather({ranks.rank: bool(first)}).values()):
        prepare()
    for i, request in first.items():
        sampler.submit(i, request)

    grading: deque[tuple[int, int, list[Rollout], Future[list[float]]]] = deque()  # due at a step: problem, rollouts, rewards
    now, sampling = 0, len(first)
    grader = ThreadPoolExecutor(1)
    try:
        while sampling or grading:
            if sampling:
                now += 1
                for i, rollouts in sampler.step():
                    rewards = grader.submit(reward, [(problems[i], rollout) for rollout in rollouts])
                    grading.append((now + GRADING_STEPS, i, rollouts, rewards))
                    sampling -= 1
            idle = not sampling  # with nothing to sample there is nothing to wait for but the grader
            while grading and (idle or grading[0][0] <= now):
                _, i, rollouts, rewards = grading.popleft()
                graded = [replace(r, reward=value) for r, value in zip(rollouts, rewards.result(), strict=True)]
                served[len(asked[i]) - 1, i] = graded
                if request := advance(i, graded):
                    sampler.submit(i, request)
                    sampling += 1
    finally:
        grader.shutdown(cancel_futures=True)  # after a failure nobody wants the other grades

    if memory != before:
        raise ValueError(
            f"method {name!r} writes to context.memory in explore(), which {ranks.count} ranks do not share; let it write "
            "there in update() alone, or set train.ranks to 1"
        )
    finished, served = ranks.gather(finished), ranks.gather(served)
    pairs = [(problems[i], rollout) for number, i in sorted(served) for rollout in served[number, i]]
    generated = Counter(i for (_, i), rollouts in served.items() if any(r.finish_reason != "prefix" for r in rollouts))
    return Exploration(
        trajectories=[trajectory for i in range(len(problems)) for trajectory in finished[i]],
        rollouts=pairs,
        rounds=max(generated.values(), default=0),
        sampled_tokens=sum(len(rollout.tokens) for _, rollout in pairs),
    )


def _copied(value: Any) -> Any:
    """JSON values with dictionaries and lists of their own. A method may keep millions of numbers: deepcopy looks at each."""
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    if isinstance(value, list):
        return value.copy() if NESTED.isdisjoint(map(type, value)) else [_copied(one) for one in value]
    return value


def _seeded(problem: Problem, sample: Sample, run: int, step: int, request: int, occurrence: int) -> Request:
    axes = {"run": run, "step": step, "problem": problem.id, "occurrence": occurrence, "request": request}
    return Request(problem, sample, tuple(seeds.seed(**axes, sample=k) for k in range(sample.n)))


def _request(name: str, problem: Problem, request: object) -> Sample:
    if not isinstance(request, Sample) or request.n < 1:
        raise ValueError(
            f"method {name!r} yielded {request!r} for problem {problem.id!r}; explore() may only yield Sample(n >= 1)"
        )
    return request


def _trajectories(name: str, problem: Problem, returned: object) -> list[Trajectory]:
    if not isinstance(returned, list) or not all(isinstance(item, Trajectory) for item in returned):
        raise ValueError(
            f"method {name!r} returned {type(returned).__name__} for problem {problem.id!r}; explore() must return a list of "
            "Trajectory (did a `return` or a `yield` get lost?)"
        )
    return returned
