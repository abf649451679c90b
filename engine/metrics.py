"""What one update says about the policy, and what a stage cost."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from engine.explore import Exploration
from engine.words import Problem

COUNTED = ("sampled_tokens", "graded_rollouts", "trained_tokens_own", "trained_tokens_expert", "rounds")
TIMED = ("seconds_explore", "seconds_update")


def summary(found: Exploration, batch: list[Problem]) -> dict[str, Any]:
    """What the rollouts of one update say about the policy.

    `reward` is the mean over rollouts that started from the bare problem; `guided` counts the others by the share of the
    demonstration they were shown, in tenths; `entropy` estimates the policy's entropy by the mean of -log p over its own
    tokens, in nats; `finished` is the share of generated responses that ended by themselves.
    """
    lengths = {p.id: len(p.demonstrations[0]) for p in batch if p.demonstrations}
    typical = sum(lengths.values()) / max(1, len(lengths))
    free = [r for r in found.rollouts if not r.prefix]
    wrote = [r for r in found.rollouts if r.finish_reason != "prefix"]
    shares = Counter(f"{min(1.0, len(r.prefix) / typical):.1f}" for r in found.rollouts if r.prefix)
    tokens = sum(len(r.tokens) for r in wrote)
    return {
        "reward": mean([r.reward for r in free]),
        "reward_guided": mean([r.reward for r in found.rollouts if r.prefix]),
        "response_tokens": mean([float(len(r.tokens)) for r in wrote]),
        "finished": mean([float(r.finish_reason == "stop") for r in wrote]),
        "entropy": round(-sum(sum(r.logp) for r in wrote) / tokens, 4) if tokens else None,
        "guided": dict(sorted(shares.items())),
    }


def mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def costs(rows: Sequence[dict], parameters: int, device: str) -> dict[str, float]:
    """The costs of a stage, summed over its updates: tokens, rounds of generation that wait for one another, seconds, FLOPs
    (2N per sampled, 6N per trained token, N all parameters), and GPU-hours (0 on a CPU)."""
    total: dict[str, float] = {name: sum(row[name] for row in rows) for name in COUNTED}
    total |= {name: round(sum(row[name] for row in rows), 1) for name in TIMED}
    total["seconds"] = round(total["seconds_explore"] + total["seconds_update"], 1)
    trained = total["trained_tokens_own"] + total["trained_tokens_expert"]
    total["flops"] = parameters * (2 * total["sampled_tokens"] + 6 * trained)
    total["gpu_hours"] = 0.0 if device == "cpu" else round(total["seconds"] / 3600, 4)
    return total
