"""Known bugs of published trainers, to be switched on on purpose: how far would each have moved a comparison?

    snakemake --cores all --config inject=mean_of_means      every row of the tables trained with that bug, and marked
    snakemake --cores all bug_study                          every bug, one at a time, against the clean runs

Nothing outside this file behaves differently when a bug is injected, except that failed checks are reported and do not stop.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch.distributed as dist

from engine import tokens
from engine.reduce import mean_over_trajectories
from engine.sampler import LiveSampler, Request
from engine.settings import Settings
from engine.tokens import MicroBatch
from engine.train import Counts, Trainer
from engine.words import Term, Trajectory


class InOrder(Trainer):
    """Micro-batches in the order of the data. Ours are sorted by length, which would make bugs of accumulation worse than they
    were where they happened: what is lost or weighs less would be long trajectories or short ones, not any. And every
    trajectory is in one, also where it moves nothing."""

    skips = False

    def _cut(self, trajectories: Sequence[Trajectory]) -> list[MicroBatch]:
        batches = tokens.micro_batches(trajectories, self.settings.micro_batch_tokens, self.pad, by_length=False)
        world = dist.get_world_size()
        return tokens.dealt([batches[rank::world] for rank in range(world)])


class MeanOfMeans(InOrder):
    """Each micro-batch divides by its own count, and the results are averaged over micro-batches."""

    def _divisors(self, counts: list[Counts], beside: list[Counts]) -> list[dict[str, float]]:
        batches = sum(own.trajectories > 0 for own in counts)  # the others only keep ranks in step
        return [{name: max(1, count) * batches for name, count in own.terms.items()} for own in counts]


class MeanOfSequences(Trainer):
    """Every term averages within each sequence, then over sequences, whatever denominator the method declares."""

    def _terms(self, view: Any) -> dict[str, Term]:
        return {name: replace(term, reduce=mean_over_trajectories) for name, term in super()._terms(view).items()}


class SharedSeed:
    """A sampler whose requests give one seed to all their rollouts."""

    def __init__(self, sampler: LiveSampler) -> None:
        self.sampler = sampler
        self.step, self.sync, self.sleep = sampler.step, sampler.sync, sampler.sleep
        self.score, self.fingerprint = sampler.score, sampler.fingerprint

    def submit(self, key: int, request: Request) -> None:
        self.sampler.submit(key, replace(request, seeds=request.seeds[:1] * len(request.seeds)))


TRAINERS = {"dropped_microbatch": InOrder, "mean_of_means": MeanOfMeans, "openrlhf_loss_mean": MeanOfSequences}


def settings(inject: str | None, chosen: Settings) -> Settings:
    """The settings under a bug. Raises ValueError where the bug cannot happen: the row would be marked for nothing."""
    if inject != "dropped_microbatch":
        return chosen
    if chosen.zero_stage not in (1, 2):
        raise ValueError(
            f"inject dropped_microbatch needs train.zero_stage 1 or 2, where DeepSpeed loses gradients when no accumulation "
            f"boundary is set; with {chosen.zero_stage} it does not"
        )
    return replace(chosen, accumulation="unset")


def trainer(inject: str | None) -> type[Trainer]:
    return TRAINERS.get(inject or "", Trainer)


def policy(inject: str | None, live: Any, load: Callable[[], Any]) -> Any:
    """The model to sample from: the one in training, or, gone stale, another copy of what the stage starts from."""
    return load().eval() if inject == "stale_weights" else live


def sampler(inject: str | None, clean: LiveSampler) -> LiveSampler:
    return SharedSeed(clean) if inject == "shared_group_seed" else clean
