"""Tokens, FLOPs and time of a stage or an evaluation, before anything is run.

Tokens. What a method samples and learns from is not known by its name: its `explore` (and `update`) is run against a policy
that is right every third time. A response, and a demonstration, is assumed to have 4,200 tokens (arXiv:2604.23747) or what
`hardware.response_tokens` says, at most the run's limit; after a prefix, what is left of that. Prompts are not counted.

FLOPs. 2N for a sampled token, 6N for a trained one, 2N for each further pass over it (a reference, ranks of entropies), N all
parameters: as `engine.metrics.costs` counts them afterwards, but for trajectories that turn out to move nothing.

Seconds of a stage, for each update:

    updating    6 N tokens / (GPUs x peak x TRAINING)
    sampling    (bytes read / bandwidth + 2 N tokens / peak) / SAMPLING on each GPU. A decoding step reads the weights, and the
                keys and values of every running response, half written on average. There are as many steps as the running batch
                needs for all tokens, and no fewer than the longest response and the mean ones of all further rounds
    the rest    REST of both: handing over weights, grading, data

The three constants are LUFFY's: 77 hours on 8 A100 for 500 updates of 128 x (7 + 1), results/published/cost/compute.csv, split
as verl measured a synchronous 7B run: 321 s of generation, 286 s of update and 54 s of the rest in a step of 749 s. Its 88 s
for log-probs of the old policy are left out: this engine has the sampler's. Nothing else is fitted; `calibration` compares the
model with every published figure. Not modelled: starting a stage, writing checkpoints, an optimizer on the host, responses that
grow while training, and transformers' sampler, which is several times slower on a GPU. The constants are those of a 7B model: a
small one, whose kernels are over before the next is launched, reaches less and takes longer than this says.
"""

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from engine.explain import LENGTH, POLICIES, Scripted, example, scripted
from engine.explore import Limits, context
from engine.supply import Supply, explored, selected
from workflow.hardware import GPUS, RESPONSE_TOKENS, Gpu, Hardware
from workflow.memory import BYTES, ROWS, kv_bytes, world
from workflow.models import Shape, shape

TRAINING = 0.37  # share of the peak that updates reach, gradient checkpointing's second forward pass not counted
SAMPLING = 0.47  # share of bandwidth and peak that sampling reaches
REST = 0.09  # of sampling and updating together
PUBLISHED = Path("results/published/cost/compute.csv")
POLICY = POLICIES["a policy that is right every third time"]
PROBLEMS, STEPS = 6, 4  # of the scripted run a method's habits are read from


@dataclass(frozen=True)
class Habits:
    """What a method does for one problem of an update: rollouts sampled, `rounds` of them that wait for one another, and in
    units of a mean response the tokens sampled and those learned from, its own and the expert's. `reads`: it reads whole
    distributions; `reference`: a frozen model; `optimizers`: an optimizer state for each of two kinds of updates; `scored`:
    forward passes over what is learned from besides that of the update itself."""

    rollouts: float
    rounds: int
    sampled: float
    own: float
    expert: float
    reads: bool = False
    reference: bool = False
    optimizers: bool = False
    scored: int = 0


def habits(method: Any) -> Habits:
    """Run a method for a few updates against a policy that is right every third time. No model, no torch."""
    memory: dict[str, Any] = {}
    rollouts, learned, rounds = [], [], 0
    problems = [replace(example(), id=f"example-{i}") for i in range(STEPS * PROBLEMS)]
    limits = Limits(LENGTH, PROBLEMS)
    supply = Supply(problems, 0, PROBLEMS, getattr(method, "second", 0.0))
    chosen = selected(method, supply, Scripted(POLICY), scripted, STEPS) if hasattr(method, "keep") else {}
    if chosen:
        supply.keep(chosen["kept"])
    for step in range(STEPS):
        found = explored(method, supply, Scripted(POLICY), scripted, step, STEPS, memory, limits=limits)
        rollouts += [rollout for _, rollout in found.rollouts if rollout.finish_reason != "prefix"]
        rounds = max(rounds, found.rounds)
        trajectories = found.trajectories
        if hasattr(method, "update"):
            trajectories = method.update(trajectories, context(step, STEPS, 0, "", memory, 0, limits))
        learned += [segment for trajectory in trajectories for segment in _shares(trajectory.segments)]
    each = STEPS * PROBLEMS
    before = chosen.get("graded_rollouts", 0)  # whole responses
    needs = tuple(getattr(method, "needs", ()))
    reference = "reference_logp" in needs
    return Habits(
        rollouts=(len(rollouts) + before) / each,
        rounds=rounds,
        sampled=(sum(1 - len(rollout.prefix) / LENGTH for rollout in rollouts) + before) / each,
        own=sum(share for share, expert in learned if not expert) / each,
        expert=sum(share for share, expert in learned if expert) / each,
        reads=hasattr(method, "read"),
        reference=reference,
        optimizers=hasattr(method, "optimizer"),
        scored=reference + any(need.startswith("entropy_rank") for need in needs),
    )


def _shares(segments: Sequence[Any]) -> list[tuple[float, bool]]:
    """Trained segments in units of a mean response, and whether an expert wrote them; own tokens fill what a prefix left."""
    shown, found = 0.0, []
    for segment in segments:
        share = len(segment.tokens) / LENGTH if segment.expert else max(0.0, 1 - shown) * bool(segment.tokens)
        shown += share
        if segment.trained:
            found.append((share, segment.expert))
    return found


@dataclass(frozen=True)
class Cost:
    """Of some jobs: tokens sampled and trained, FLOPs; seconds of all GPUs together and, one job after another, by the clock
    (None: not estimated); bytes that stay on the disk, and bytes that are there while one of the jobs runs."""

    jobs: int = 1
    sampled: float = 0
    own: float = 0
    expert: float = 0
    flops: float = 0
    gpu_seconds: float | None = 0
    clock: float | None = 0
    disk: float = 0
    scratch: float = 0

    def times(self, jobs: int) -> "Cost":
        """So many of this job, of which one runs at a time."""
        return self._each(lambda name: None if getattr(self, name) is None else jobs * getattr(self, name), self.scratch)

    def __add__(self, other: "Cost") -> "Cost":
        def total(name: str) -> float | None:
            one, two = getattr(self, name), getattr(other, name)
            return None if one is None or two is None else one + two

        return self._each(total, max(self.scratch, other.scratch))

    def _each(self, value: Callable[[str], Any], scratch: float) -> "Cost":
        return Cost(**{one.name: value(one.name) for one in fields(self) if one.name != "scratch"}, scratch=scratch)


def stage_cost(train: dict[str, Any], method: Habits, model: Shape, hardware: Hardware | None) -> Cost:
    """One training stage: `train` is its shared settings, complete."""
    count, ranks, problems = model.parameters, world(train), train["prompts_per_update"]
    mean = min(hardware.response_tokens if hardware else RESPONSE_TOKENS, train["max_response_tokens"])
    sampled, own, expert = (problems * mean * part for part in (method.sampled, method.own, method.expert))
    updates, budget = train["updates"], train["sampled_tokens"]
    if budget and sampled:
        updates = min(updates, math.ceil(budget / sampled))
    gpu = hardware.gpu if hardware and train["device"] != "cpu" else None
    seconds = None
    if gpu:
        passes = 1 + 2 / train["term_norms_every"] if train["term_norms_every"] and own and expert else 1  # one for each author
        work = (passes * 6 + 2 * method.scored) * count * (own + expert)
        seconds = work / (ranks * gpu.flops * TRAINING)
        if method.rollouts:
            rollouts = method.rollouts * problems / ranks
            limits = mean, train["max_response_tokens"], train["sample_batch_tokens"]
            seconds += sampling_seconds(model, BYTES[train["dtype"]], gpu, rollouts, sampled / ranks, *limits, method.rounds)
        seconds *= updates * (1 + REST)
    size = BYTES[train["dtype"]]
    state = 12 + (size if train["zero_stage"] < 3 else 0)  # master copy and moments; ZeRO-3 makes the weights from these
    state += 8 * method.optimizers  # the moments of the kind of update that waits
    resumable = train["checkpoint_every"] < train["updates"]
    return Cost(
        sampled=updates * sampled,
        own=updates * own,
        expert=updates * expert,
        flops=updates * count * (2 * sampled + (6 + 2 * method.scored) * (own + expert)),
        gpu_seconds=ranks * seconds if seconds is not None else None,
        clock=seconds,
        disk=size * count,
        scratch=3 * state * count if resumable else 0,  # two checkpoints are kept while a third is written
    )


def evaluation_cost(evaluation: dict[str, Any], samples: int, model: Shape, hardware: Hardware | None) -> Cost:
    """Sampling `samples` completions from one checkpoint on one GPU, and the files they are kept in."""
    limit = evaluation["max_new_tokens"]
    mean = min(hardware.response_tokens if hardware else RESPONSE_TOKENS, limit)
    tokens, gpu = samples * mean, hardware.gpu if hardware and evaluation["device"] != "cpu" else None
    seconds = None
    if gpu:
        size, pool = BYTES[evaluation["dtype"]], evaluation["sample_batch_tokens"]
        seconds = (1 + REST) * sampling_seconds(model, size, gpu, samples, tokens, mean, limit, pool)
    text = 2 * tokens  # bytes of compressed text for each token
    return Cost(sampled=tokens, flops=2 * model.parameters * tokens, gpu_seconds=seconds, clock=seconds, disk=text)


def sampling_seconds(
    model: Shape, size: int, gpu: Gpu, rollouts: float, tokens: float, mean: int, limit: int, pool: int, rounds: int = 1
) -> float:
    """Seconds of one GPU for `tokens` tokens of `rollouts` responses, of `mean` and at most `limit` tokens each, with room for
    `pool` tokens in the KV cache."""
    running = max(1.0, min(rollouts, ROWS, pool / mean))
    steps = max(tokens / running + limit - mean, limit + (rounds - 1) * mean)
    read = steps * size * model.parameters + tokens * mean / 2 * kv_bytes(model, size)
    return (read / gpu.bandwidth + 2 * model.parameters * tokens / gpu.flops) / SAMPLING


# The runs behind the published figures: LUFFY's settings, one node of 8 A100.
PRINTED = {
    "dtype": "bfloat16",
    "device": "cuda",
    "ranks": 8,
    "zero_stage": 2,
    "term_norms_every": 0,
    "checkpoint_every": 500,
    "sampled_tokens": None,
    "max_response_tokens": 8192,
    "sample_batch_tokens": 600_000,
}


def calibration(path: Path = PUBLISHED) -> list[dict[str, Any]]:
    """Every published cost beside the model's: method, quantity, published, model, ratio (model / published), source."""
    hardware = Hardware("a100", GPUS["a100"], 8, 80 << 30, None, None, RESPONSE_TOKENS)
    model = shape({"name": "qwen2.5_math_7b"})
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["updates"]]
    found: list[dict[str, Any]] = []
    for row in rows:
        own, expert = float(row["own"]), float(row["expert"])
        train = {**PRINTED, "updates": int(row["updates"]), "prompts_per_update": int(row["prompts_per_update"])}
        cost = stage_cost(train, Habits(own, 1, own, own, expert), model, hardware)
        value = cost.flops if row["quantity"] == "train_flops" else (cost.gpu_seconds or 0) / 3600
        value += sum(one["model"] for one in found if (one["method"], one["quantity"]) == (row["after"], row["quantity"]))
        published = float(row["value"])
        about = {key: row[key] for key in ("method", "quantity", "source")}
        found.append({**about, "published": published, "model": value, "ratio": value / published})
    return found
