"""What a method does, in words: its claim, its settings, and its conversation with scripted policies. No model, no torch."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine import methods
from engine.explore import Limits, explore
from engine.sampler import Request
from engine.words import Problem, Rollout, Trajectory

# Two demonstrations of 40 tokens: 36 and an end of sequence, a blank line after every 9th; three tokens a rollout.
LENGTH = 40
POLICIES: dict[str, Callable[[int], bool]] = {
    "a policy that is always right": lambda i: True,
    "a policy that is always wrong": lambda i: False,
    "a policy that is right every third time": lambda i: i % 3 == 2,
}


class Scripted:
    """A sampler whose rollouts are right or wrong by script: `verdict(i)` for the i-th rollout of a problem. It keeps a record
    of what was asked; a prefix graded as it stands counts as right only if it is a whole demonstration."""

    def __init__(self, verdict: Callable[[int], bool]) -> None:
        self.verdict = verdict
        self.asked: list[Request] = []
        self.answers: list[list[bool]] = []
        self.count = 0
        self.finished: list[tuple[int, list[Rollout]]] = []

    def submit(self, key: int, request: Request) -> None:
        """Three-token rollouts with log-probs of -1 nat, or none when only the prefix is to be graded."""
        self.asked.append(request)
        graded_only = request.sample.max_new_tokens == 0
        tokens, logp = ((), ()) if graded_only else ((91, 92, 2), (-1.0, -1.0, -1.0))
        group = []
        for _ in request.seeds:
            right = request.sample.prefix in request.problem.demonstrations if graded_only else self.verdict(self.count)
            self.count += not graded_only
            group.append(Rollout(request.sample.prefix, tokens, logp, float(right), "prefix" if graded_only else "stop"))
        self.answers.append([bool(r.reward) for r in group])
        self.finished.append((key, group))

    def step(self) -> list[tuple[int, list[Rollout]]]:
        """Everything that was asked for since the last step."""
        finished, self.finished = self.finished, []
        return finished


def scripted(pairs: Sequence[tuple[Problem, Rollout]]) -> list[float]:
    """The rewards that a `Scripted` sampler has given already."""
    return [rollout.reward for _, rollout in pairs]


def example() -> Problem:
    """The problem of every explanation."""
    body = tuple(20 if i % 10 == 9 else 30 + i for i in range(LENGTH - 1))
    blank = tuple(i for i, token in enumerate(body) if token == 20)
    return Problem("example", (11, 12, 13, 14), "5", ((*body, 2), (*body[::-1], 2)), (blank, ()))


def converse(method: Any, verdict: Callable[[int], bool], second: bool = False) -> tuple[Scripted, list[Trajectory]]:
    """One exploration of the example problem, perhaps as one of the second stream, with a scripted policy."""
    sampler = Scripted(verdict)
    found = explore(method, [example()], sampler, scripted, 0, 1, 0, {}, limits=Limits(LENGTH, 1), second=int(second))
    return sampler, found.trajectories


def explain(name: str, preset: str, folder: Path) -> str:
    """The whole explanation as text."""
    module = methods.load(name, folder)
    parts = [inspect.cleandoc(module.__doc__ or "(no docstring)")]
    if not hasattr(module, "Method"):
        lines = [f"  {s.name}: {_stage(s.method)}, from {s.parent or 'the base model'}" for s in methods.stages(name, folder)]
        return "\n".join([*parts, "", "Stages", *lines])
    method = methods.build(name, methods.preset(name, preset, folder), folder)
    parts += [
        "",
        *_settings(name, folder),
        "",
        f"Conversations ({preset}), one problem with two demonstrations of {LENGTH} tokens",
    ]
    talks = [(title, verdict, False) for title, verdict in POLICIES.items()]
    if getattr(method, "second", 0):
        mixed, verdict, _ = talks[-1]
        talks.append((f"{mixed}, a problem of the second stream", verdict, True))
    for title, verdict, second in talks:
        sampler, trajectories = converse(method, verdict, second)
        parts += ["", f"  {title}"]
        parts += [f"    asks   {_request(r, a)}" for r, a in zip(sampler.asked, sampler.answers, strict=True)] or [
            "    asks   nothing"
        ]
        parts += [f"    learns {line}" for line in _grouped([_trajectory(t) for t in trajectories])]
    return "\n".join(parts)


def _stage(method: str | None) -> str:
    return f"trained with {method}" if method else "the base model as it is"


def _settings(name: str, folder: Path) -> list[str]:
    """A table of the method's settings: a column for each preset; * marks what a preset changes."""
    method = methods.build(name, {}, folder)
    defaults = methods.settings(method)
    presets = getattr(type(method), "presets", {})
    built = {p: methods.settings(methods.build(name, methods.preset(name, p, folder), folder)) for p in presets}
    reduce = [] if "reduce" in defaults else [f"  reduce      {method.reduce}"]
    if not defaults:
        return ["Settings: none", *reduce]
    rows = [["", methods.MATCHED, *built]]
    for key, value in defaults.items():
        rows.append([key, _short(value), *(_short(s[key]) + " *" * (s[key] != value) for s in built.values())])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return ["Settings (* changed by the preset)", *lines, *reduce]


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(_short(v) for v in value) + ")"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _request(request: Request, answers: list[bool]) -> str:
    sample = request.sample
    number = request.problem.demonstrations.index(d) if (d := _source(request)) else 0
    start = f"after {len(sample.prefix)} tokens of demonstration {number}" if sample.prefix else "from the bare problem"
    what = "grade" if sample.max_new_tokens == 0 else "sample"
    return f"{what} {sample.n} {start}: {''.join('+' if a else '-' for a in answers)}"


def _source(request: Request) -> tuple[int, ...] | None:
    prefix = request.sample.prefix
    return next((d for d in request.problem.demonstrations if prefix and d[: len(prefix)] == prefix), None)


def _trajectory(trajectory: Trajectory) -> str:
    told = []
    for s in trajectory.segments:
        if s.tokens:
            author = "expert" if s.expert else "own"
            told.append(f"{len(s.tokens)} {author} tokens " + (f"at {s.advantage:+.3g}" if s.trained else "shown, not trained"))
    return ", ".join(told) or "nothing"


def _grouped(lines: list[str]) -> list[str]:
    """Equal neighbours as one line with a count."""
    found: list[tuple[str, int]] = []
    for line in lines:
        if found and found[-1][0] == line:
            found[-1] = (line, found[-1][1] + 1)
        else:
            found.append((line, 1))
    return [f"{count} x ({line})" for line, count in found]
