"""Trajectories about which the loss says nothing: an update counts them and need not pass them through the model.

Group-normalised rewards say nothing about a group in which all rewards are equal. A KL penalty or an entropy bonus does say
something about the same trajectories, so the loss itself is asked.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from engine.curves import slopes
from engine.tokens import Tokens, collate
from engine.words import Segment, Term, Trajectory

DISTANCES = (0.01, 0.3, 3.0)  # nats around the log-probs a trajectory was sampled with


def apart(
    trajectories: Sequence[Trajectory], terms: Callable[[Tokens], dict[str, Term]], pad: int
) -> tuple[list[Trajectory], list[Trajectory]]:
    """(what has to be passed through the model, what need not be), each in the order given.

    Silent is a trajectory without a trained token of a demonstration and without an advantage, if the masked values of all
    terms and their derivatives are exactly 0 on it, wherever they are looked at: with log-probs (reference, entropies, what is
    read) drawn near and far from those it was sampled with, on both sides. The first silent one is passed all the same, so
    that every update compares the sampler's log-probs with the trainer's.
    """
    asked = [i for i, t in enumerate(trajectories) if not any(map(_pulls, t.segments))]
    if len(asked) < 2:
        return list(trajectories), []
    batch = collate([trajectories[i] for i in asked], pad).tokens
    generator, speaks = torch.Generator().manual_seed(0), torch.zeros(len(asked), dtype=torch.bool)

    def drawn(centre: Tensor, distance: float) -> Tensor:
        return (centre + distance * torch.randn(centre.shape, generator=generator)).requires_grad_()

    nothing = torch.zeros_like(batch.old_logp)
    for distance in DISTANCES:
        view = replace(
            batch,
            logp=drawn(batch.old_logp, distance),
            reference_logp=drawn(batch.old_logp, distance).detach(),
            entropy=drawn(nothing, distance).exp(),
            read=defaultdict(lambda distance=distance: drawn(nothing, distance)),
        )
        found = [term.coefficient * term.values.where(term.counted(view.trained), 0.0) for term in terms(view).values()]
        says = [values != 0 for values in (*found, *slopes(torch.stack(found).sum(), view))]
        speaks |= torch.stack(says).any(dim=0).any(dim=1)
    skipped = [i for i, says in zip(asked, speaks.tolist(), strict=True) if not says][1:]
    gone = set(skipped)
    return [t for i, t in enumerate(trajectories) if i not in gone], [trajectories[i] for i in skipped]


def _pulls(segment: Segment) -> bool:
    return bool(segment.tokens and segment.trained and (segment.expert or segment.advantage))
