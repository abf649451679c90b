"""A frozen copy of the policy: what the stage started from, or the policy as it was some updates ago."""

import copy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

FILE = "reference.pt"


class Reference:
    """A model without gradients that scores beside the one in training. With `every`, it takes over the weights in training
    before each update whose number (from 0) is a multiple of it; with None it stays what it was.

    `model` is copied before DeepSpeed takes it, so every rank holds all of the reference, under ZeRO-3 too.
    """

    def __init__(self, model: Any, every: int | None) -> None:
        self.model, self.every = copy.deepcopy(model).eval().requires_grad_(False), every

    def follow(self, live: Any, step: int) -> None:
        """Take over the weights of `live` if they are due before update `step`. Every rank must call it."""
        if self.every is None or step % self.every:
            return
        import deepspeed

        for ours, theirs in zip(self.model.parameters(), live.parameters(), strict=True):
            with deepspeed.zero.GatheredParameters([theirs] if hasattr(theirs, "ds_id") else []), torch.no_grad():
                ours.copy_(theirs)

    def save(self, folder: Path) -> None:
        """Write the weights, unless they are those the stage starts from."""
        if self.every is not None and dist.get_rank() == 0:
            torch.save(self.model.state_dict(), folder / FILE)

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote."""
        if self.every is not None:
            # By way of the host: the first rank's GPU, which wrote them, has no room for a copy from every rank.
            saved = torch.load(folder / FILE, weights_only=True, map_location="cpu", mmap=True)
            self.model.load_state_dict(saved)
