"""Driving explorations: methods decide what to sample, this file does the sampling, the grading and the counting.

All problems of an update advance in lockstep rounds: in each round every exploration that still wants rollouts gets its
request served in one batch. Trajectories come back in problem order whatever finished first.
"""

import inspect
import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from engine import seeds
from engine.words import Context, Problem, Rollout, Sample, Trajectory

MAX_ROLLOUTS = 64  # per problem and update; an exploration beyond it is taken to be endless
MAX_REQUESTS = 64


@dataclass(frozen=True)
class Request:
    """One problem's `Sample` with the seed of each of its rollouts."""

    problem: Problem
    sample: Sample
    seeds: tuple[int, ...]


class Sampler(Protocol):
    """Serves requests: for each, its rollouts in seed order, not yet graded (reward 0)."""

    def generate(self, requests: Sequence[Request]) -> list[list[Rollout]]: ...


# (problem, rollout) pairs -> rewards in the same order
Reward = Callable[[Sequence[tuple[Problem, Rollout]]], list[float]]


@dataclass
class Exploration:
    """What exploring a list of problems gave and cost."""

    trajectories: list[Trajectory] = field(default_factory=list)
    rollouts: list[tuple[Problem, Rollout]] = field(default_factory=list)
    rounds: int = 0
    sampled_tokens: int = 0


def context(step: int, total: int, run: int, problem: str, memory: dict[str, Any], occurrence: int = 0) -> Context:
    """The context of one problem at one step; its rng depends on these axes alone."""
    rng = random.Random(seeds.seed(run=run, axis="context", step=step, problem=problem, occurrence=occurrence))
    return Context(step, total, rng, memory)


def explore(
    method: Any,
    problems: Sequence[Problem],
    sampler: Sampler,
    reward: Reward,
    step: int,
    total: int,
    run: int,
    memory: dict,
) -> Exploration:
    """Run `method.explore` for every problem and return its trajectories in problem order, with costs.

    Raises ValueError naming the method and the problem when an exploration yields something that is not a `Sample`, asks for
    more than MAX_ROLLOUTS rollouts or MAX_REQUESTS requests, or returns something that is not a list of trajectories.
    """
    name = type(method).__module__.removeprefix("assay_method_")
    result = Exploration()
    finished: dict[int, list[Trajectory]] = {}
    talks: dict[int, Generator[Any, Any, Any]] = {}
    pending: dict[int, Sample] = {}
    ids = [problem.id for problem in problems]
    occurrence = [ids[:i].count(ids[i]) for i in range(len(ids))]  # a problem may be drawn twice where two epochs meet
    asked = dict.fromkeys(range(len(problems)), 0)
    sampled = dict.fromkeys(range(len(problems)), 0)

    def advance(i: int, rollouts: list[Rollout] | None) -> None:
        """Let one exploration take a step; file what it asks for or what it returns."""
        try:
            request = talks[i].send(rollouts)
        except StopIteration as stop:
            finished[i] = _trajectories(name, problems[i], stop.value)
            pending.pop(i, None)
            return
        pending[i] = _request(name, problems[i], request)
        asked[i] += 1
        sampled[i] += request.n
        if sampled[i] > MAX_ROLLOUTS or asked[i] > MAX_REQUESTS:
            raise ValueError(
                f"method {name!r} asked for {sampled[i]} rollouts in {asked[i]} requests for problem {problems[i].id!r}; the "
                f"budget is {MAX_ROLLOUTS} and {MAX_REQUESTS}: does its explore() ever return?"
            )

    for i, problem in enumerate(problems):
        started = method.explore(problem, context(step, total, run, problem.id, memory, occurrence[i]))
        if inspect.isgenerator(started):
            talks[i] = started
            advance(i, None)
        else:
            finished[i] = _trajectories(name, problem, started)

    while pending:
        requests = [
            _seeded(problems[i], sample, run, step, asked[i] - 1, occurrence[i]) for i, sample in sorted(pending.items())
        ]
        groups = sampler.generate(requests)
        flat = [(request.problem, rollout) for request, group in zip(requests, groups, strict=True) for rollout in group]
        graded = iter([replace(r, reward=value) for (_, r), value in zip(flat, reward(flat), strict=True)])
        result.rounds += any(request.sample.max_new_tokens != 0 for request in requests)
        for i, group in zip(sorted(pending), groups, strict=True):
            rollouts = [next(graded) for _ in group]
            result.rollouts += [(problems[i], rollout) for rollout in rollouts]
            result.sampled_tokens += sum(len(r.tokens) for r in rollouts)
            advance(i, rollouts)

    result.trajectories = [trajectory for i in range(len(problems)) for trajectory in finished[i]]
    return result


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
