"""The denominators, named. A loss term is one global sum over one global count, both over the whole optimizer step.

Every denominator says two things about a micro-batch: what it adds to the sum and what it adds to the count. The engine sums
both over all micro-batches and ranks, so the value cannot depend on how the step was cut up.

    mean_over_tokens        sum of values / number of masked tokens
    mean_over_trajectories  mean over each trajectory's tokens, then over trajectories
    sum_over_length(L)      sum of values / L, averaged over all trajectories
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Denominator:
    """A named way to average. `length` only matters to `sum_over_length`; None there means the run's response limit."""

    name: str
    length: int | None = None

    def numerator(self, values: "Tensor", mask: "Tensor", limit: int) -> "Tensor":
        """This micro-batch's part of the sum: a scalar from values [B, T] and mask [B, T] bool. Unmasked values
        contribute nothing. `limit` is the run's response limit in tokens."""
        sums = values.where(mask, values.new_zeros(())).sum(dim=1)
        if self.name == "mean_over_trajectories":
            return (sums / mask.sum(dim=1).clamp(min=1)).sum()
        if self.name == "sum_over_length":
            return sums.sum() / (self.length or limit)
        return sums.sum()

    def count(self, mask: "Tensor", trajectories: int) -> int:
        """This micro-batch's part of the count. `trajectories`: how many of its rows are trajectories (not filling)."""
        if self.name == "mean_over_trajectories":
            return int(mask.any(dim=1).sum())
        if self.name == "sum_over_length":
            return trajectories
        return int(mask.sum())

    def __str__(self) -> str:
        return f"{self.name}({self.length or ''})" if self.name == "sum_over_length" else self.name


mean_over_tokens = Denominator("mean_over_tokens")
mean_over_trajectories = Denominator("mean_over_trajectories")


def sum_over_length(length: int | None = None) -> Denominator:
    """Token sum over a constant `length` (None: the run's response limit), averaged over all trajectories of the update."""
    return Denominator("sum_over_length", length)


def named(text: str) -> Denominator:
    """The denominator a configuration names, as printed by str(). Raises ValueError for any other text."""
    found = re.fullmatch(r"sum_over_length\((\d*)\)", text)
    if found:
        return sum_over_length(int(found[1]) if found[1] else None)
    for denominator in (mean_over_tokens, mean_over_trajectories):
        if text == denominator.name:
            return denominator
    raise ValueError(f"reduce: {text!r} is no denominator; use mean_over_tokens, mean_over_trajectories or sum_over_length(L)")
