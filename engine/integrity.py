"""The checks behind the certificate: what would have caught the bugs that decided published comparisons.

Before a stage trains, in the configuration it is about to train in:

    gradient probe      several micro-batches each move a weight of their own, all of them by the right amount
    layout              this method's gradient is plain autograd's, however an update is cut up (engine/layout.py)
    rows apart          a micro-batch gives a text the log-probs that the live model gives it alone

While it trains, from what every update records anyway (`of_updates`):

    sync canary         after every change of weights the sampler holds the trainer's and gives fixed texts the same log-probs
    importance ratio    the sampler's log-probs of this update's own rollouts are the trainer's: the ratio is 1
    group diversity     rollouts repeat one another no more often than their own probabilities say
    end of sequence     the model the stage starts from ends its answers

A check that fails stops the stage (`certificate.IntegrityError`); if a bug was injected on purpose, it is only reported.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from engine.certificate import Check
from engine.distributed import accumulate, initialize
from engine.sampler import LiveSampler, packages
from engine.settings import Settings
from engine.words import Problem, Rollout

MICRO_BATCHES = 3  # of the gradient probe, per rank
PUSH = 0.25  # how far each of them moves its weight; exact in bfloat16
CHANCE = -9.0  # log10 of the chance below which repeated rollouts are no coincidence
# Sampler and trainer: which statistic of |difference of log-probs| is compared, in nats. One token's bfloat16 kernels may
# differ by tenths; their mean does not.
APART = {"float32": ("largest", 1e-3), "bfloat16": ("mean", 0.05)}


def configuration(settings: Settings, dtype: str, sampler: str) -> dict[str, Any]:
    """What a certificate is valid for."""
    live = {name: version(name) for name in ("deepspeed", "torch", "transformers")}
    package, release = next(iter((packages(sampler) or {sampler: live["transformers"]}).items()))
    named = {
        key: getattr(settings, key)
        for key in ("zero_stage", "offload", "accumulation", "packed", "gradient_checkpointing", "device")
    }
    return {**live, **named, "ranks": dist.get_world_size(), "dtype": dtype, "sampler": f"{package} {release}"}


def gradient_probe(settings: Settings, dtype: str) -> Check:
    """Whether every micro-batch survives an optimizer step, on a linear layer with a weight for each of them.

    Micro-batch k of rank r is a unit vector; plain gradient descent at rate 1 on .25 x output must move weight (r, k) by .25
    and a last weight, which none of them touches, not at all. A second step must do the same again: what is lost or left over
    may show only then. All ranks must call it.
    """
    ranks = dist.get_world_size()
    layer = torch.nn.Linear(MICRO_BATCHES * ranks + 1, 1, bias=False, dtype=getattr(torch, dtype))
    torch.nn.init.ones_(layer.weight)
    inputs = torch.eye(layer.in_features, dtype=layer.weight.dtype)
    engine = initialize(layer, torch.optim.SGD(layer.parameters(), lr=1.0), replace(settings, clip_gradient=0.0))

    def loss(k: int) -> Tensor:
        row = inputs[dist.get_rank() * MICRO_BATCHES + k]
        return PUSH * engine(row[None].to(engine.device)).float().sum()

    wanted = [PUSH] * MICRO_BATCHES * ranks + [0.0]
    moved, wrong = [], []
    before = [1.0] * len(wanted)
    for _ in range(2):
        accumulate(engine, [partial(loss, k) for k in range(MICRO_BATCHES)], settings.accumulation)
        engine.step()
        after = weights(engine, settings).tolist()
        moved, before = [a - b for a, b in zip(before, after, strict=True)], after
        wrong = [i for i, (a, b) in enumerate(zip(moved, wanted, strict=True)) if not abs(a - b) < 0.01 * PUSH]
        if wrong:
            break
    engine.destroy()
    row = (
        f"DeepSpeed {version('deepspeed')}, ZeRO {settings.zero_stage}, offload {'on' if settings.offload else 'off'}, "
        f"accumulation {settings.accumulation}, {ranks} rank(s), {dtype}"
    )
    kept = sum(i not in wrong for i in range(MICRO_BATCHES * ranks))
    return Check(
        "gradient probe",
        "failed" if wrong else "passed",
        f"{kept} of {MICRO_BATCHES * ranks} micro-batches kept"
        + (f"; {row}: weights moved {', '.join(f'{m:.3g}' for m in moved)}" if wrong else ""),
        f"each moves its weight by {PUSH} and no other",
        "set train.accumulation to boundary; if it is, choose train.zero_stage 3 or another DeepSpeed release" if wrong else "",
    )


def weights(engine: Any, settings: Settings) -> Tensor:
    """All parameters in one row [parameters], gathered from all ranks under ZeRO-3."""
    import deepspeed

    parameters = list(engine.module.parameters())
    with deepspeed.zero.GatheredParameters(parameters if settings.zero_stage == 3 else []):
        return torch.cat([p.detach().flatten().float().cpu() for p in parameters])


def canary(sampler: LiveSampler, trainer: Any, rows: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """Let the sampler take over the trainer's weights and compare the two on fixed texts. All ranks must call it."""
    sampler.sync()
    same = sampler.fingerprint() == trainer.fingerprint()
    return {**difference(sampler.score(rows), trainer.score(rows)), "same_weights": same}


def worst(found: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Of what several ranks' canaries found; None if there was none."""
    if not found:
        return None
    apart = {key: float(torch.tensor([one[key] for one in found]).max()) for key in ("largest", "mean")}  # keeps a NaN
    return {**apart, "same_weights": all(one["same_weights"] for one in found)}


def difference(ones: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> dict[str, float]:
    """Largest and mean |difference| of two scorings of the same rows, in nats; NaN if any of them is."""
    one, other = (torch.tensor([value for row in rows for value in row]) for rows in (ones, others))
    apart = (one - other).abs()
    return {"largest": float(apart.max()), "mean": float(apart.mean())}


def rows_apart(trainer: Any, rows: Sequence[tuple[int, ...]], dtype: str) -> Check:
    """Whether a micro-batch, padded or packed as in this run, gives a text the log-probs that the live model's own logits give
    it alone: an architecture that lets rows see one another, or their padding, or that caps or scales its logits after the last
    layer, would train on something else. Scored are the texts, and two of them with several endings, which share what is before
    (engine/prefixes.py)."""
    statistic, allowed = APART[dtype]
    branches = [branch for text in (rows[0], rows[-1]) for branch in _branches(text)]
    alone = [trainer.score_alone(row) for row in (*rows, *branches)]
    with_others = trainer.score(rows) + trainer.score(branches, [_begun(row) for row in branches])
    compared = [one[len(one) - len(other) :] for one, other in zip(alone, with_others, strict=True)]
    found = difference(compared, with_others)
    failed = not found[statistic] <= allowed
    remedy = (
        "this model's rows see one another (set train.packed to false, or use another attention backend), or it caps or scales "
        "its logits after the last layer, which the trainer's do not (use another model)"
    )
    return Check(
        "rows apart",
        "failed" if failed else "passed",
        f"{found[statistic]:.1e} nats at most",
        f"{statistic} difference of a text's log-probs, alone and with others, <= {allowed:g} nats",
        remedy if failed else "",
    )


def _begun(text: tuple[int, ...]) -> int:
    """How many tokens of a text its branches share."""
    return max(1, len(text) * 3 // 4)


def _branches(text: tuple[int, ...]) -> list[tuple[int, ...]]:
    """A text with its end as it is, and turned by one, two and three tokens."""
    begun, end = text[: _begun(text)], text[_begun(text) :]
    return [begun + end[k:] + end[:k] for k in range(4)]


def ended(rollouts: Sequence[tuple[Problem, Rollout]], limit: int) -> float | None:
    """Share of rollouts that ended by themselves, of those that could have used the whole response `limit`; None without one.

    What a method cut short itself, with `max_new_tokens`, says nothing about the model.
    """
    stops = [r.finish_reason == "stop" for _, r in rollouts if r.finish_reason == "stop" or len(r.prefix + r.tokens) >= limit]
    return round(sum(stops) / len(stops), 4) if stops else None


def repeats(rollouts: Sequence[tuple[Problem, Rollout]]) -> dict[str, float] | None:
    """How often a rollout repeated an earlier one of the same problem and prefix, and what its probabilities predict.

    Independent draws repeat an earlier one with the probability of the earlier ones together, which the sampler's own
    log-probs give. A confident policy may repeat itself all the time; one seed for a whole group cannot hide behind that.
    """
    groups: dict[tuple[str, tuple[int, ...]], dict[tuple[int, ...], float]] = {}
    seen, expected, variance, draws = 0, 0.0, 0.0, 0
    for problem, rollout in rollouts:
        if not rollout.tokens:
            continue
        known = groups.setdefault((problem.id, rollout.prefix), {})
        if known:
            chance = min(1.0, sum(known.values()))
            expected, variance = expected + chance, variance + chance * (1 - chance)
            seen, draws = seen + (rollout.tokens in known), draws + 1
        known[rollout.tokens] = math.exp(sum(rollout.logp))
    return {"seen": seen, "expected": round(expected, 6), "variance": round(variance, 6)} if draws else None


def of_updates(rows: Sequence[dict], dtype: str, min_finished: float) -> list[Check]:
    """The checks that metrics of updates allow, over all of `rows` together."""
    return [
        _canary([row["canary"] for row in rows if row["canary"]], dtype),
        _agreement(
            "importance ratio",
            [row["logp_drift"] for row in rows if row["logp_drift"]],
            dtype,
            "no rollout was trained on in the update and context it was sampled in",
        ),
        _diversity([row["repeats"] for row in rows if row["repeats"]]),
        _endings(rows, min_finished),
    ]


def _canary(found: Sequence[dict[str, Any]], dtype: str) -> Check:
    check = _agreement("sync canary", found, dtype, "nothing was sampled")
    stale = sum(not one["same_weights"] for one in found)
    limit = f"same weights, {check.limit}"
    if not stale:
        return replace(check, limit=limit)
    remedy = "the sampler does not hold the trainer's weights: look at how they reach it after an update"
    return Check(check.name, "failed", f"other weights in {stale} of {len(found)} updates, {check.measured}", limit, remedy)


def _agreement(name: str, found: Sequence[dict[str, float]], dtype: str, nothing: str) -> Check:
    statistic, allowed = APART[dtype]
    limit = f"{statistic} difference of log-probs <= {allowed:g} nats"
    if not found:
        return Check(name, "not applicable", nothing, limit)
    failed = not all(one[statistic] <= allowed for one in found)  # also for a NaN
    worst = torch.tensor([one[statistic] for one in found]).max()
    remedy = "sampler and trainer disagree: look at how weights reach the sampler, its temperature, and its log-probs' kind"
    return Check(
        name,
        "failed" if failed else "passed",
        f"{worst:.1e} nats at most in {len(found)} updates",
        limit,
        remedy if failed else "",
    )


def _diversity(found: Sequence[dict[str, float]]) -> Check:
    limit = f"chance of so many repeats >= 1e{CHANCE:.0f}"
    if not found:
        return Check("group diversity", "not applicable", "no group of several rollouts", limit)
    seen, expected, variance = (sum(one[key] for one in found) for key in ("seen", "expected", "variance"))
    chance = log_chance(seen, expected, variance)
    failed = chance < CHANCE
    return Check(
        "group diversity",
        "failed" if failed else "passed",
        f"{seen} rollouts repeat another, {expected:.1f} expected" + (f" (chance below 1e{chance:.0f})" if failed else ""),
        limit,
        "members of a group share a seed or a cached answer: give every rollout its own" if failed else "",
    )


def log_chance(seen: float, expected: float, variance: float) -> float:
    """log10 of an upper bound on the chance of at least `seen` repeats (Freedman's inequality for bounded martingales)."""
    excess = seen - expected
    return 0.0 if excess <= 0 else -(excess**2) / (2 * (variance + excess / 3)) / math.log(10)


def _endings(rows: Sequence[dict], min_finished: float) -> Check:
    """Of the first update that sampled: what the model does before much has been learned here."""
    finished = next((row["ended"] for row in rows if row["ended"] is not None), None)
    limit = f">= {min_finished:.0%} end by themselves at the first update that samples"
    if finished is None:
        return Check("end of sequence", "not applicable", "nothing was sampled up to the response limit", limit)
    failed = finished < min_finished
    remedy = (
        "the model does not end its answers under this template: check the template and the end-of-sequence token, raise "
        "train.max_response_tokens, or lower train.min_finished if that is what you mean to train"
    )
    return Check("end of sequence", "failed" if failed else "passed", f"{finished:.0%} ended", limit, remedy if failed else "")
