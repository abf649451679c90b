"""What one update says about the policy, and what a stage cost."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from engine.explore import Exploration
from engine.words import Problem, Rollout

COUNTED = (
    *("sampled_tokens", "graded_rollouts", "trained_tokens_own", "trained_tokens_expert"),
    *("skipped_tokens", "scored_tokens", "rounds"),
)
# `sync`: the sampler's start, weights handed to it, the canary. What is in none of them is the start of everything else.
PHASES: tuple[str, ...] = ("explore", "sync", "update", "checkpoint", "checks")


def summary(found: Exploration) -> dict[str, Any]:
    """What the rollouts of one update say about the policy.

    `reward` is the mean over problems of the mean over the rollouts that started from the bare problem (a method may make more
    of them where it succeeds); `guided` counts the others by the share of the demonstration they were shown, in tenths;
    `entropy` estimates the policy's entropy by the mean of -log p over its own tokens, in nats; `finished` is the share of
    generated responses that ended by themselves.
    """
    free: dict[str, list[float]] = {}
    for problem, rollout in found.rollouts:
        if not rollout.prefix:
            free.setdefault(problem.id, []).append(rollout.reward)
    guided = [(problem, rollout) for problem, rollout in found.rollouts if rollout.prefix]
    wrote = [rollout for _, rollout in found.rollouts if rollout.finish_reason != "prefix"]
    tokens = sum(len(r.tokens) for r in wrote)
    return {
        "reward": mean([sum(rewards) / len(rewards) for rewards in free.values()]),
        "reward_guided": mean([rollout.reward for _, rollout in guided]),
        "response_tokens": mean([float(len(r.tokens)) for r in wrote]),
        "finished": mean([float(r.finish_reason == "stop") for r in wrote]),
        "entropy": round(-sum(sum(r.logp) for r in wrote) / tokens, 4) if tokens else None,
        "guided": dict(sorted(Counter(f"{_shown(problem, rollout):.1f}" for problem, rollout in guided).items())),
    }


def _shown(problem: Problem, rollout: Rollout) -> float:
    """The share of its demonstration that a rollout's prefix is."""
    length = len(rollout.prefix)
    return next((length / len(d) for d in problem.demonstrations if d[:length] == rollout.prefix), 1.0)


def mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def costs(rows: Sequence[dict], timings: Sequence[dict], parameters: int, gpus: int) -> dict[str, float]:
    """The costs of a stage, summed over its updates: tokens, rounds of generation that wait for one another, seconds, FLOPs
    (2N per sampled, 6N per trained token unless skipped, 2N per token scored besides; N all parameters), and GPU-hours."""
    total: dict[str, float] = {name: sum(row[name] for row in rows) for name in COUNTED}
    phases = {f"seconds_{phase}": sum(row[f"seconds_{phase}"] for row in timings) for phase in PHASES}
    total |= {name: round(seconds, 1) for name, seconds in phases.items()}
    total["seconds"] = round(sum(phases.values()), 1)
    trained = total["trained_tokens_own"] + total["trained_tokens_expert"] - total["skipped_tokens"]
    total["flops"] = parameters * (2 * (total["sampled_tokens"] + total["scored_tokens"]) + 6 * trained)
    total["gpu_hours"] = round(gpus * total["seconds"] / 3600, 4)
    return total
