"""One optimizer update on DeepSpeed: the same gradient however the update is cut into micro-batches and ranks.

Every loss term is sum / count with the count taken over the whole update first; the backward passes then only add up. Two
things would break that silently and are undone here, in one place:

- DeepSpeed averages gradients over ranks; the loss is multiplied by the number of ranks.
- With ZeRO-1/2, several `backward` calls before one `step` keep only the last one unless the accumulation boundary is set
  on every micro-batch (measured on 0.19.8; the reason this project exists).
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from engine import tokens
from engine.tokens import MicroBatch, Tokens
from engine.words import Term, Trajectory


@dataclass(frozen=True)
class Settings:
    """What a run shares between methods: the optimizer and how an update is computed.

    `schedule` is "constant" or "cosine" (down to a tenth); the first `warmup_updates` ramp up linearly. `micro_batch_tokens`
    bounds rows x longest row of one forward pass; it changes memory and speed, never the gradient.
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
    temperature: float = 1.0
    response_tokens: int = 1024
    device: str = "cpu"

    def rate(self, step: int) -> float:
        """The learning rate of update `step` (0-based)."""
        if step < self.warmup_updates:
            return self.learning_rate * (step + 1) / self.warmup_updates
        if self.schedule == "constant":
            return self.learning_rate
        share = (step - self.warmup_updates) / max(1, self.updates - self.warmup_updates)
        return self.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))


def start_distributed(device: str) -> None:
    """Join the process group: as one process alone, or as the rank a launcher gave us in the environment. Raises ValueError
    if the device is not there; DeepSpeed would quietly take another."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "train.device is cuda and no GPU is visible; set it to cpu, or check the driver and CUDA_VISIBLE_DEVICES"
        )
    os.environ["DS_ACCELERATOR"] = device
    os.environ.setdefault("LOCAL_RANK", "0")
    if dist.is_initialized():
        return
    backend = "gloo" if device == "cpu" else "nccl"
    if "MASTER_ADDR" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


class Trainer:
    """A model, its method's loss and DeepSpeed's engine. `model` is the live module; samplers read it directly."""

    def __init__(self, model: Any, method: Any, settings: Settings, pad: int) -> None:
        start_distributed(settings.device)
        import deepspeed

        if settings.device == "cpu":
            # Its shared-memory reduction is compiled at start-up (45 s, and a compiler must be there); gloo does without.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.method, self.settings, self.pad = method, settings, pad
        self.needs = tuple(getattr(method, "needs", ()))
        if unknown := set(self.needs) - {"entropy"}:
            raise ValueError(f"method needs {sorted(unknown)}; the engine can provide: entropy")
        self.step = 0
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
        )
        self.engine: Any
        self.engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config={
                "train_micro_batch_size_per_gpu": 1,  # ours vary; DeepSpeed only uses this for its own accounting
                "gradient_accumulation_steps": 1,  # boundaries are set by hand below
                "gradient_clipping": settings.clip_gradient,
                "zero_optimization": {"stage": settings.zero_stage},
                "zero_allow_untested_optimizer": True,
                "bf16": {"enabled": next(model.parameters()).dtype == torch.bfloat16},
            },
        )

    @property
    def model(self) -> Any:
        return self.engine.module

    def update(self, trajectories: Sequence[Trajectory]) -> dict[str, Any]:
        """One optimizer step on these trajectories; every rank is given all of them and computes its share.

        Returns loss per term, gradient norm before clipping, learning rate and token counts; an update without a trained token
        (a method that found nothing to learn from) leaves the weights alone and says so by its counts. Raises
        FloatingPointError if loss or gradient is not finite; the weights are then not to be used.
        """
        batches = tokens.micro_batches(trajectories, self.settings.micro_batch_tokens, self.pad)
        counts, trained = self._counts(batches)
        rate = self.settings.rate(self.step)
        if trained["own"] + trained["expert"] == 0:
            self.step += 1
            return {"loss": {}, "grad_norm": 0.0, "lr": rate, "trained_tokens": trained, "logp_drift": 0.0}
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        self.engine.train()
        share = self._share(batches)
        losses = dict.fromkeys(counts, 0.0)
        seen = dict.fromkeys(counts, 0.0)
        drift = 0.0
        for index, batch in enumerate(share):
            self.engine.set_gradient_accumulation_boundary(index == len(share) - 1)
            view = self._forward(batch)
            drift = max(drift, _drift(view))
            total = view.logp.sum() * 0.0  # ranks must run the same backward passes, also where nothing is trained
            for name, term in self._terms(view).items():
                mask = view.trained if term.mask is None else term.mask
                value = term.reduce.numerator(term.values, mask, self.settings.response_tokens) / max(1, counts[name])
                total = total + term.coefficient * value
                losses[name] += value.item()
                seen[name] += term.reduce.count(mask, batch.trajectories)
            self.engine.backward(total * dist.get_world_size(), scale_wrt_gas=False)
        norm = self._step()
        self.step += 1
        losses = _summed(losses)
        if _summed(seen) != counts:
            raise ValueError(
                f"the method's loss masks changed with the policy: counted {counts} before the update and {seen} during it; a "
                "term's mask may only use expert, trained, response, advantage and old_logp"
            )
        if not all(map(math.isfinite, [*losses.values(), norm])):
            raise FloatingPointError(
                f"update {self.step}: loss {losses} with gradient norm {norm} is not finite; lower learning_rate or check the "
                "method's loss for divisions and logarithms of zero"
            )
        return {"loss": losses, "grad_norm": norm, "lr": rate, "trained_tokens": trained, "logp_drift": drift}

    def _terms(self, view: Tokens) -> dict[str, Term]:
        """The method's loss as named terms; a bare tensor is one term under the method's `reduce`."""
        value = self.method.loss(view)
        return value if isinstance(value, dict) else {"loss": Term(value, self.method.reduce)}

    def _counts(self, batches: list[MicroBatch]) -> tuple[dict[str, int], dict[str, int]]:
        """Each term's count over the whole update, and the trained tokens by author, before any forward pass.

        Masks do not depend on the policy, so the method's loss is asked for its terms with log-probs of zero: that is
        arithmetic on [B, T] tensors, no model. Every rank holds all micro-batches, so no communication either.
        """
        counts: dict[str, int] = {}
        trained = {"own": 0, "expert": 0}
        for batch in batches:
            view = replace(batch.tokens, entropy=torch.zeros_like(batch.tokens.logp))
            for name, term in self._terms(view).items():
                mask = view.trained if term.mask is None else term.mask
                counts[name] = counts.get(name, 0) + term.reduce.count(mask, batch.trajectories)
            trained["own"] += int((view.trained & ~view.expert).sum())
            trained["expert"] += int((view.trained & view.expert).sum())
        return counts, trained

    def _share(self, batches: list[MicroBatch]) -> list[MicroBatch]:
        """This rank's micro-batches, as many as any other rank's; the last ones may be filling."""
        rank, world = dist.get_rank(), dist.get_world_size()
        mine = batches[rank::world]
        rounds = math.ceil(len(batches) / world)
        return mine + [batches[-1].filling()] * (rounds - len(mine))

    def _forward(self, batch: MicroBatch) -> Tokens:
        """Log-probs (and entropies) of the predicted tokens, in fp32, under the sampling temperature."""
        device = self.engine.device
        input_ids = batch.input_ids.to(device)
        # Rows are padded on the right, so causal attention alone keeps padding out; a mask would only cost the fast kernel.
        logits = self.engine(input_ids=input_ids, use_cache=False).logits
        logp_all = torch.log_softmax(logits[:, :-1].float() / self.settings.temperature, dim=-1)
        logp = logp_all.gather(-1, input_ids[:, 1:, None]).squeeze(-1)
        entropy = -(logp_all.exp() * logp_all).sum(-1) if "entropy" in self.needs else None
        moved = {name: value.to(device) for name, value in vars(batch.tokens).items() if isinstance(value, Tensor)}
        return Tokens(**{**moved, "logp": logp, "entropy": entropy})

    def _step(self) -> float:
        """Clip and step; the gradient's norm before clipping. At stage 0 DeepSpeed clips but does not say the norm."""
        if self.settings.zero_stage > 0:
            self.engine.step()
            return float(self.engine.get_global_grad_norm() or 0.0)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        self.engine.step()
        return norm

    def save(self, folder: Path) -> None:
        """Write optimizer, weights and step, as DeepSpeed shards, into `folder`."""
        self.engine.save_checkpoint(str(folder), tag="state", client_state={"step": self.step})

    def load(self, folder: Path) -> None:
        """Continue exactly where `save` left off."""
        path, state = self.engine.load_checkpoint(str(folder), tag="state")
        assert path is not None, folder
        self.step = state["step"]

    def save_model(self, folder: Path) -> None:
        """Write the weights as a Hugging Face folder (gathered from all ranks under ZeRO-3)."""
        import deepspeed

        parameters = list(self.model.parameters()) if self.settings.zero_stage == 3 else []
        with deepspeed.zero.GatheredParameters(parameters):
            if dist.get_rank() == 0:
                self.model.save_pretrained(folder)


def _drift(view: Tokens) -> float:
    """Largest |log-prob of sampler - log-prob of trainer| over own tokens, in nats: about 1e-5 in fp32."""
    own = view.response & ~view.expert
    return float((view.logp.detach() - view.old_logp)[own].abs().max()) if own.any() else 0.0


def _summed(losses: dict[str, float]) -> dict[str, float]:
    """Each rank's part of the loss added up."""
    if dist.get_world_size() == 1:
        return losses
    values = torch.tensor(list(losses.values()), dtype=torch.float64)
    dist.all_reduce(values)
    return dict(zip(losses, values.tolist(), strict=True))
