"""How an update is computed: what a run shares between methods."""

import math
from dataclasses import dataclass

CHUNK = 1 << 27  # logits made at a time, 512 MiB in fp32 (engine/forward.py)
BLOCK = CHUNK >> 4  # of them there may be copies for a moment


@dataclass(frozen=True)
class Settings:
    """What a run shares between methods: the optimizer and how an update is computed.

    A stage ends after `updates`, or with the update in which it has sampled `sampled_tokens` if that comes first.
    `schedule` is "constant" or "cosine" (down to a tenth); the first `warmup_updates` ramp up linearly. `micro_batch_tokens`
    bounds rows x longest row of one forward pass; it changes memory and speed, never the gradient, and neither do `packed`
    (rows without padding), `gradient_checkpointing` (activations of a layer are computed again in the backward pass),
    `zero_stage` and `offload` (the optimizer's state in the host's memory). `accumulation` says how
    DeepSpeed is told that several backward passes make one step: "boundary" (on every micro-batch), "unmanaged" (its
    `managed_gradient_accumulation` switched off), or "unset" (not at all, as trainers with a varying
    number of micro-batches did). Every `term_norms_every` updates (0: never; nor with zero_stage 3) the norm of the gradient is
    also measured by author and term: about one more backward pass for each, and the memory of one more gradient. `reward_noise`
    is the share of the training reward's verdicts that are turned into their opposite.
    """

    learning_rate: float
    updates: int
    schedule: str = "constant"
    warmup_updates: int = 0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip_gradient: float = 1.0
    micro_batch_tokens: int = 8192
    zero_stage: int = 2
    offload: bool = False
    accumulation: str = "boundary"
    packed: bool = False
    gradient_checkpointing: bool = False
    temperature: float = 1.0
    response_tokens: int = 1024
    device: str = "cpu"
    term_norms_every: int = 25
    reward_noise: float = 0.0
    sampled_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.sampled_tokens is not None and self.schedule != "constant":
            raise ValueError(
                f"train.schedule {self.schedule} falls over all of train.updates, before which train.sampled_tokens "
                f"{self.sampled_tokens} may end the stage; make the schedule constant or sampled_tokens null"
            )
        if not 0 <= self.reward_noise < 1:
            raise ValueError(f"train.reward_noise {self.reward_noise} is no share of verdicts; give a number from 0 to below 1")
        if self.offload and self.zero_stage == 0:
            raise ValueError("train.offload moves ZeRO's optimizer state; with zero_stage 0 there is none: use 1, 2 or 3")

    def rate(self, step: int) -> float:
        """The learning rate of update `step` (0-based)."""
        if step < self.warmup_updates:
            return self.learning_rate * (step + 1) / self.warmup_updates
        if self.schedule == "constant":
            return self.learning_rate
        share = (step - self.warmup_updates) / max(1, self.updates - self.warmup_updates)
        return self.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))
