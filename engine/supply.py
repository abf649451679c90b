"""Which problems an update explores: those of the run's order, those of a second stream, and further ones a method asks for.

The run's order is the same for every method. The other two are orders of their own over the same data, so that a method that
wants more problems does not move those of the updates to come.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

from engine import explore, seeds
from engine.explore import ALONE, FREE, Exploration, Limits, Ranks, Reward, Sampler
from engine.words import Context, Problem, Rollout, Sample, Trajectory

MOST = 64  # times the problems of an update that one may explore; a method that wants more is taken to be endless
SELECTION = "selection.json"  # in a stage's folder: which problems its method kept
BEFORE = -1  # the step of what is sampled before the first update


class Supply:
    """The problems of a stage. `size` of them make an update, and `second` times as many come from the second stream."""

    def __init__(self, problems: Sequence[Problem], run: int, size: int, second: float = 0.0) -> None:
        self.problems, self.run = problems, run
        self.size, self.second_size = size, round(size * second)
        self.kept: list[Problem] | None = None

    def batch(self, step: int) -> list[Problem]:
        """The problems of update `step`: of the run's order, or of what was kept of it, from the start again when it ends."""
        if self.kept is None:
            return self._drawn("order", step * self.size, self.size)
        return [self.kept[k % len(self.kept)] for k in range(step * self.size, (step + 1) * self.size)]

    def second(self, step: int) -> list[Problem]:
        """The problems of the second stream of update `step`."""
        return self._drawn("second", step * self.second_size, self.second_size)

    def further(self, step: int, explored: int, count: int) -> list[Problem]:
        """`count` more problems for update `step`, of which `explored` were explored."""
        return self._drawn("further", step * self.size * MOST + explored, count)

    def pool(self, updates: int) -> list[Problem]:
        """The problems that so many updates would see, each once, in the run's order."""
        return list({problem.id: problem for problem in self._drawn("order", 0, updates * self.size)}.values())

    def keep(self, ids: Sequence[str]) -> None:
        """Train on these alone. Raises ValueError if there are none."""
        kept = set(ids)
        self.kept = [problem for problem in self.problems if problem.id in kept]
        place = {problem.id: i for i, problem in enumerate(self._drawn("order", 0, len(self.problems)))}
        self.kept.sort(key=lambda problem: place[problem.id])
        if not self.kept:
            raise ValueError(
                "the method kept none of the problems: the policy it starts from cannot do any of them by the method's rule; "
                "lower its threshold, ask for more rollouts, or give train.data easier problems"
            )

    def _drawn(self, axis: str, start: int, count: int) -> list[Problem]:
        among = self.problems if self.kept is None or axis == "order" else self.kept
        return [among[i] for i in seeds.problem_order(self.run, len(among), start, count, axis)]


class Keeping:
    """A method's `keep` driven like an exploration: a problem that is kept gives one trajectory without segments."""

    def __init__(self, method: Any) -> None:
        self.method = method

    def explore(self, problem: Problem, context: Context) -> Generator[Sample, list[Rollout], list[Trajectory]]:
        kept = yield from self.method.keep(problem, context)
        return [Trajectory(problem, ())] if kept else []


def selected(
    method: Any,
    supply: Supply,
    sampler: Sampler,
    reward: Reward,
    updates: int,
    prepare: Callable[[], None] = lambda: None,
    ranks: Ranks = ALONE,
    limits: Limits = FREE,
) -> dict[str, Any]:
    """Ask `method.keep` of every problem that so many updates would see, with the policy as it is: what it kept, and costs."""
    asked = supply.pool(updates)
    at = (BEFORE, updates, supply.run, {}, prepare, ranks, limits)
    found = explore.explore(Keeping(method), asked, sampler, reward, *at)
    return {
        "kept": [trajectory.problem.id for trajectory in found.trajectories],
        "of": len(asked),
        "sampled_tokens": found.sampled_tokens,
        "graded_rollouts": len(found.rollouts),
        "rounds": found.rounds,
    }


def explored(
    method: Any,
    supply: Supply,
    sampler: Sampler,
    reward: Reward,
    step: int,
    total: int,
    memory: dict[str, Any],
    prepare: Callable[[], None] = lambda: None,
    ranks: Ranks = ALONE,
    limits: Limits = FREE,
) -> Exploration:
    """Explore what update `step` of `total` wants: its problems, or what `method.draw` makes of them, those of the second
    stream, then further ones for as long as `method.wanting` says how many (0: enough).

    Raises ValueError if that is more than MOST times the problems of an update.
    """
    prepared: list[bool] = []

    def once() -> None:
        if not prepared:
            prepared.append(True)
            prepare()

    batch, second = supply.batch(step), supply.second(step)
    here = explore.context(step, total, supply.run, "", memory, 1, limits)  # 0: that of `update`
    if hasattr(method, "draw"):
        batch = method.draw(batch, here)
    at = (step, total, supply.run, memory, once, ranks, limits)
    found = explore.explore(method, [*batch, *second], sampler, reward, *at, second=len(second))
    if not hasattr(method, "wanting"):
        return found
    seen = [*batch, *second]
    while True:
        count = method.wanting(found.trajectories, replace(here, explored=len(seen)))
        if count <= 0:
            return found
        if len(seen) + count > MOST * supply.size:
            raise ValueError(
                f"method {explore.name_of(method)!r} wants {count} problems more than {len(seen)} in update {step}; the limit "
                f"is {MOST} times prompts_per_update: does its wanting() ever return 0?"
            )
        more = supply.further(step, len(seen), count)
        found += explore.explore(method, more, sampler, reward, *at, earlier=seen)
        seen += more
