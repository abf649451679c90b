"""Trajectories into tensors, aligned to the token being predicted, and cut into micro-batches.

One row per trajectory, padded on the right (the forward pass may leave the padding out; what a loss sees stays the same).
With L tokens in the longest row of a micro-batch there are T = L - 1 predicted tokens: position t of every [B, T] field is
about predicting token t + 1. For the trajectory of `engine/words.py`, prompt 11 12 13 14, expert prefix 21 22, generated
31 32 33 (log-probs -.1 -2.3 -.7, advantage .5):

    input_ids   11 12 13 14 21 22 31 32 33
    predicted      12 13 14 21 22 31  32   33
    response        0  0  0  1  1  1   1    1
    expert          0  0  0  1  1  0   0    0
    trained         0  0  0  1  1  1   1    1
    advantage       0  0  0  1  1 .5  .5   .5
    old_logp        0  0  0  0  0 -.1 -2.3 -.7
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from engine.words import Trajectory


@dataclass(frozen=True)
class Tokens:
    """What `Method.loss` sees: everything [B, T], log-probs and entropies in nats. `logp`, what the method `needs` and what it
    reads off whole distributions (`Method.read`, by name) is filled in by the trainer."""

    logp: Tensor
    old_logp: Tensor
    advantage: Tensor
    expert: Tensor
    trained: Tensor
    response: Tensor
    entropy: Tensor | None = None
    replay: Tensor | None = None
    reference_logp: Tensor | None = None
    entropy_rank: Tensor | None = None
    read: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass: input_ids [B, L], each row's length without padding [B], the view for the loss [B, T = L - 1], and the
    trajectories the rows are (none of them in the filling that keeps ranks in step)."""

    input_ids: Tensor
    lengths: Tensor
    tokens: Tokens
    trajectories: tuple[Trajectory, ...]

    def filling(self) -> "MicroBatch":
        """The same forward pass with nothing trained: an empty micro-batch for a rank that has run out of its own."""
        nothing = torch.zeros_like(self.tokens.trained)
        return replace(self, tokens=replace(self.tokens, trained=nothing, response=nothing), trajectories=())


def length(trajectory: Trajectory) -> int:
    """Tokens of prompt and response together."""
    return len(trajectory.problem.prompt) + sum(len(s.tokens) for s in trajectory.segments)


def collate(trajectories: Sequence[Trajectory], pad: int, dtype: torch.dtype = torch.float32) -> MicroBatch:
    """Pad trajectories into one micro-batch. Segments without tokens leave no trace."""
    width = max(map(length, trajectories))
    shape = (len(trajectories), width)
    input_ids = torch.full(shape, pad, dtype=torch.long)
    old_logp, advantage = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
    expert, trained, response, replay = (torch.zeros(shape, dtype=torch.bool) for _ in range(4))
    for row, trajectory in enumerate(trajectories):
        at = len(trajectory.problem.prompt)
        input_ids[row, :at] = torch.tensor(trajectory.problem.prompt)
        for segment in trajectory.segments:
            here = slice(at, at + len(segment.tokens))
            at = here.stop
            input_ids[row, here] = torch.tensor(segment.tokens, dtype=torch.long)
            advantage[row, here] = segment.advantage
            expert[row, here] = segment.expert
            trained[row, here] = segment.trained
            response[row, here] = True
            replay[row, here] = segment.replay
            if segment.logp:
                old_logp[row, here] = torch.tensor(segment.logp, dtype=dtype)
    seen = (one[:, 1:] for one in (old_logp, advantage, expert, trained, response))
    shifted = Tokens(torch.zeros(shape[0], width - 1, dtype=dtype), *seen, replay=replay[:, 1:])
    return MicroBatch(input_ids, torch.tensor([length(t) for t in trajectories]), shifted, tuple(trajectories))


def micro_batches(
    trajectories: Sequence[Trajectory], budget: int, pad: int, dtype: torch.dtype = torch.float32, by_length: bool = True
) -> list[MicroBatch]:
    """Cut an update into micro-batches of at most `budget` tokens, padding included; longest rows first, so that what is
    padded together has about the same length (or in the order given). A trajectory longer than the budget is alone in its."""
    order = sorted(trajectories, key=length, reverse=True) if by_length else list(trajectories)
    batches: list[MicroBatch] = []
    while order:
        rows, longest = 1, length(order[0])
        while rows < len(order) and (rows + 1) * max(longest, length(order[rows])) <= budget:
            longest = max(longest, length(order[rows]))
            rows += 1
        batches.append(collate(order[:rows], pad, dtype))
        order = order[rows:]
    return batches


def balanced(trajectories: Sequence[Trajectory], ranks: int, width: int) -> list[list[Trajectory]]:
    """Dealt to the ranks so that all have about the same to compute, in the order given.

    The differencing method of Karmarkar and Karp (1982) for several parts: of all partial solutions the two that are furthest
    from even are joined, the largest part of one with the smallest of the other, until one is left. A token of a row of L costs
    a transformer of hidden size `width` about 24 width^2 + 2 width L a layer, half of the attention being causally masked.
    """
    costs = [length(one) * (12 * width + length(one)) for one in trajectories]
    # Of each partial solution: minus its spread, its first member, and cost and members of each rank's part, largest first.
    alone: list[tuple[int, int, list[tuple[int, list[int]]]]] = [
        (-cost, i, [(cost, [i]), *(((0, []),) * (ranks - 1))]) for i, cost in enumerate(costs)
    ]
    heapq.heapify(alone)
    while len(alone) > 1:
        (_, first, one), (_, _, other) = heapq.heappop(alone), heapq.heappop(alone)
        joined = [(a + b, [*mine, *theirs]) for (a, mine), (b, theirs) in zip(one, reversed(other), strict=True)]
        joined.sort(key=lambda part: part[0], reverse=True)
        heapq.heappush(alone, (joined[-1][0] - joined[0][0], first, joined))
    parts = alone[0][2] if alone else [(0, [])] * ranks
    return [[trajectories[i] for i in sorted(members)] for _, members in parts]


def dealt(parts: Sequence[Sequence[MicroBatch]]) -> list[MicroBatch]:
    """The micro-batches of all ranks in one list, where those of rank r are `[r::ranks]`. Who has fewer is given fillings, for
    all must make the same backward passes."""
    last = next((part[-1] for part in reversed(parts) if part), None)
    rounds = range(max(map(len, parts)))
    return [part[i] if i < len(part) else last.filling() for i in rounds for part in parts if last]
