"""Several optimizer states on the same weights: updates of one kind do not feel the moments of another."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


class Optimizers:
    """The states of one optimizer, by name; the first one is in use, the others wait, all of them fresh.

    `optimizer` is the one that DeepSpeed steps; what it keeps is exchanged, never copied, between two updates.
    """

    def __init__(self, optimizer: Any, names: Sequence[str]) -> None:
        self.optimizer = getattr(optimizer, "optimizer", optimizer)  # inside ZeRO's
        self.used, *others = names
        self.waiting: dict[str, dict[Any, Any]] = {
            name: {key: copy.deepcopy(one) for key, one in self.optimizer.state.items()} for name in others
        }

    def use(self, name: str) -> None:
        """Let the next updates be made with the state called `name`. Raises ValueError if there is none."""
        if name == self.used:
            return
        if name not in self.waiting:
            known = ", ".join([self.used, *self.waiting])
            raise ValueError(f"the method's optimizer() returned {name!r}, which is none of its `optimizers`: {known}")
        state = self.optimizer.state
        self.waiting[self.used], found = dict(state), self.waiting.pop(name)
        state.clear()
        state.update(found)
        self.used = name

    def save(self, folder: Path) -> None:
        """Write the states that wait; the one in use is saved with the weights. Every rank must call it."""
        states = {name: list(state.values()) for name, state in self.waiting.items()}
        torch.save({"used": self.used, "waiting": states}, self._file(folder))

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote, after the state in use was loaded."""
        saved = torch.load(self._file(folder), weights_only=True)
        keys = list(self.optimizer.state)
        self.used = saved["used"]
        self.waiting = {  # one that was never used may be empty
            name: dict(zip(keys, state, strict=True)) if state else {} for name, state in saved["waiting"].items()
        }

    def _file(self, folder: Path) -> Path:
        return folder / f"optimizers-{dist.get_rank()}.pt"
