"""Several optimizer states on the same weights: updates of one kind do not feel the moments of another."""

import copy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

State = list[dict[str, Any]]  # moments and step counts of every parameter, in the optimizer's own order


class Optimizers:
    """The states of one optimizer, by name; one of them is in use, the others wait. A name used for the first time starts with
    the state the optimizer was made with.

    `optimizer` is the one that DeepSpeed steps; what it keeps is exchanged, never copied, between two updates.
    """

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = getattr(optimizer, "optimizer", optimizer)  # inside ZeRO's
        self.fresh: dict[Any, Any] = copy.copy({key: copy.deepcopy(one) for key, one in self.optimizer.state.items()})
        self.used = ""
        self.waiting: dict[str, dict[Any, Any]] = {}

    def use(self, name: str) -> None:
        """Let the next updates be made with the state called `name`."""
        if name == self.used:
            return
        if self.used:
            self.waiting[self.used] = dict(self.optimizer.state)
            found = self.waiting.pop(name, None)
            self._put({key: copy.deepcopy(one) for key, one in self.fresh.items()} if found is None else found)
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
        self.waiting = {name: dict(zip(keys, state, strict=True)) for name, state in saved["waiting"].items()}

    def _put(self, state: dict[Any, Any]) -> None:
        self.optimizer.state.clear()
        self.optimizer.state.update(state)

    def _file(self, folder: Path) -> Path:
        return folder / f"optimizers-{dist.get_rank()}.pt"
