"""Which tokens of an update are the most uncertain: ranks of entropies over a declared scope, never over a micro-batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

SCOPES = ("trajectory", "step")


def shares_above(entropies: Sequence[Tensor], masks: Sequence[Tensor], scope: str) -> list[Tensor]:
    """For each masked token the share of the masked tokens of its scope that have a higher entropy: 0 for the most uncertain,
    in [0, 1); equal entropies share a rank; 0 where not masked.

    `entropies` and `masks` [B, T], a pair for each micro-batch; the scope is the row ("trajectory") or all of them ("step").
    """
    ranks = [torch.zeros_like(entropy) for entropy in entropies]
    if scope == "step":
        everything = torch.cat([entropy[mask] for entropy, mask in zip(entropies, masks, strict=True)])
        for rank, entropy, mask in zip(ranks, entropies, masks, strict=True):
            rank[mask] = _above(entropy[mask], everything)
        return ranks
    for rank, entropy, mask in zip(ranks, entropies, masks, strict=True):
        for row in range(len(mask)):
            here = entropy[row, mask[row]]
            rank[row, mask[row]] = _above(here, here)
    return ranks


def _above(values: Tensor, among: Tensor) -> Tensor:
    """The share of `among` that is greater than each of `values`."""
    ordered = among.sort().values
    return (len(ordered) - torch.searchsorted(ordered, values.contiguous(), right=True)) / max(1, len(ordered))
