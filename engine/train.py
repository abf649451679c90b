"""One optimizer update on DeepSpeed: the same gradient however the update is cut into micro-batches and ranks.

Every loss term is sum / count with the count taken over the whole update first; the backward passes then only add up
(`engine/distributed.py`).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from engine import forward, memory, ranking, silence, tokens
from engine.curves import AUTHORS, Drift, Parts, Weights
from engine.distributed import accumulate, initialize, ranks, start_distributed, summed
from engine.optimizers import Optimizers
from engine.reference import Reference
from engine.settings import Settings
from engine.tokens import MicroBatch, Tokens
from engine.words import Term, Trajectory

SCOPED = {f"entropy_rank:{scope}": scope for scope in ranking.SCOPES}
NEEDS = ("entropy", "reference_logp", *SCOPED)


@dataclass(frozen=True)
class Counts:
    """What one micro-batch adds to the count of each term, and its trained tokens by author; how many trajectories it has."""

    terms: dict[str, int]
    trained: dict[str, int]
    trajectories: int


class Trainer:
    """A model, its method's loss and DeepSpeed's engine. `model` is the live module; samplers read it directly.

    `skips`: trajectories that move nothing are counted and not passed (engine/silence.py).
    `reference` is the model a method's `reference_logp` is under, if it needs one; None: `model` as it is now.
    """

    skips = True

    def __init__(self, model: Any, method: Any, settings: Settings, pad: int, reference: Any = None) -> None:
        start_distributed(settings.device)
        memory.keep(settings.device)
        self.method, self.settings, self.pad = method, settings, pad
        self.needs = tuple(getattr(method, "needs", ()))
        if unknown := set(self.needs) - set(NEEDS):
            raise ValueError(f"method needs {sorted(unknown)}; the engine can provide: {', '.join(NEEDS)}")
        if len(scopes := [need for need in self.needs if need in SCOPED]) > 1:
            raise ValueError(f"method needs {scopes}; entropies have ranks of one scope, keep one of them")
        self.step = 0
        self.scope = next((SCOPED[need] for need in self.needs if need in SCOPED), None)
        self.reference = None
        if "reference_logp" in self.needs:
            self.reference = Reference(reference or model, getattr(method, "reference_every", None))
            self.reference.model.to(settings.device)
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
        )
        self.engine = initialize(model, optimizer, settings)
        self.optimizers = Optimizers(self.engine.optimizer, method.optimizers) if hasattr(method, "optimizer") else None

    @property
    def model(self) -> Any:
        return self.engine.module

    @property
    def passes(self) -> int:
        """Forward passes over what is trained besides the update's own: by the reference, and for ranks of entropies."""
        return (self.reference is not None) + (self.scope is not None)

    def update(
        self, trajectories: Sequence[Trajectory], fresh: Callable[[Trajectory], bool] = lambda trajectory: True
    ) -> dict[str, Any]:
        """One optimizer step on these trajectories; every rank is given all of them and computes its share.

        `fresh` says which of them must have importance ratio 1. Returns loss per term, gradient norm before clipping, learning
        rate, token counts, how far the ratios are from 1 and the curves of engine/curves.py; an update without a trained token
        (a method that found nothing to learn from) leaves the weights alone and says so by its counts. Raises
        FloatingPointError if loss or gradient is not finite; the weights are then not to be used.
        """
        if self.reference:
            self.reference.follow(self.model, self.step)
        passed, silent = list(trajectories), []
        if self.skips and self.scope is None:  # ranks of entropies are among all tokens
            passed, silent = silence.apart(trajectories, self._terms, self.pad)
        batches = self._ranked(self._cut(passed))
        skipped = [tokens.collate(silent, self.pad)] if silent else []
        counts, beside = [self._counts(batch) for batch in batches], [self._counts(batch) for batch in skipped]
        trained = {author: sum(count.trained[author] for count in (*counts, *beside)) for author in AUTHORS}
        rate = self.settings.rate(self.step)
        if sum(trained.values()) == 0:
            self.step += 1
            unseen = {f"logp_{author}": None for author in AUTHORS}
            nothing = {"loss": {}, "grad_norm": 0.0, "skipped_tokens": 0, "logp_drift": None}
            return {**nothing, "lr": rate, "trained_tokens": trained, **unseen}
        if self.optimizers:
            self.optimizers.use(self.method.optimizer(trajectories))
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        self.engine.train()
        divisors = self._divisors(counts, beside)
        losses = dict.fromkeys(divisors[0], 0.0)
        seen = dict.fromkeys(divisors[0], 0.0)
        drift, weights = Drift(fresh), Weights()
        for batch in skipped if dist.get_rank() == 0 else ():
            weights.add(replace(batch.tokens, logp=batch.tokens.old_logp), {})
        every = self.settings.term_norms_every
        parts = Parts() if every and self.step % every == 0 and self.settings.zero_stage < 3 else None

        def loss(batch: MicroBatch, divisor: dict[str, float]) -> Tensor:
            view = self._forward(batch)
            drift.add(view, batch.trajectories)
            terms = self._terms(view)
            weights.add(view, terms)
            total = view.logp.sum() * 0.0  # ranks must run the same backward passes, also where nothing is trained
            shares = {}
            for name, term in terms.items():
                mask = term.counted(view.trained)
                value = term.reduce.numerator(term.values, mask, self.settings.response_tokens) / max(1, divisor[name])
                shares[name] = term.coefficient * value
                total = total + shares[name]
                losses[name] += value.item()
                seen[name] += term.reduce.count(mask, len(batch.trajectories))
            if parts:
                parts.add(batch, view, shares)
            return total

        mine = list(zip(batches, divisors, strict=True))[dist.get_rank() :: dist.get_world_size()]
        accumulate(self.engine, [partial(loss, *one) for one in mine], self.settings.accumulation)
        norms = parts.norms(self._scored_alone, list(self.model.parameters())) if parts else {}
        norm = self._step()
        self.step += 1
        losses = summed(losses)
        expected = _added([count.terms for count in counts])
        if summed(seen) != expected:
            raise ValueError(
                f"the method's loss masks changed with the policy: counted {expected} before the update and {seen} during it; "
                "a term's mask may only use expert, trained, response, replay, advantage, old_logp and entropy_rank"
            )
        if not all(map(math.isfinite, [*losses.values(), norm])):
            raise FloatingPointError(
                f"update {self.step}: loss {losses} with gradient norm {norm} is not finite; lower learning_rate or check the "
                "method's loss for divisions and logarithms of zero"
            )
        by_term = {name: norm if one is None else one for name, one in norms.items() if trained.get(name, 1)}
        return {
            "loss": losses,
            "grad_norm": norm,
            **({"grad_norm_by_term": by_term} if by_term else {}),
            "lr": rate,
            "trained_tokens": trained,
            "skipped_tokens": sum(count.trained["own"] for count in beside),
            "logp_drift": drift.measured(),
            **weights.measured(trained),
        }

    def score(self, rows: Sequence[tuple[int, ...]], begun: Sequence[int] = ()) -> list[list[float]]:
        """Log-prob in nats, at temperature 1, of every token but the first of each row, or of those after the `begun` first of
        it, by the forward pass of an update. Every rank must call it."""
        begun = begun or [1] * len(rows)
        lengths = torch.tensor([len(row) for row in rows])
        input_ids = torch.full((len(rows), int(lengths.max())), self.pad)
        for index, row in enumerate(rows):
            input_ids[index, : len(row)] = torch.tensor(row)
        device = self.engine.device
        place = torch.arange(1, input_ids.shape[1])
        wanted = ((place >= torch.tensor(begun)[:, None]) & (place < lengths[:, None])).to(device)
        with torch.no_grad():
            found = forward.score(
                self.engine, input_ids.to(device), lengths.to(device), 1.0, packed=self.settings.packed, wanted=wanted
            )
        return [logp[at - 1 : len(row) - 1].tolist() for logp, row, at in zip(found.logp, rows, begun, strict=True)]

    def score_alone(self, row: tuple[int, ...]) -> list[float]:
        """As `score` of one row, but from the logits that the model itself gives. Every rank must call it."""
        return forward.plain(self.engine, row, self.engine.device).tolist()

    def fingerprint(self) -> str:
        """Digest of weights in training, to be compared with the sampler's. Every rank must call it."""
        return forward.fingerprint(self.model)

    def _terms(self, view: Tokens) -> dict[str, Term]:
        """The method's loss as named terms; a bare tensor is one term under the method's `reduce`."""
        value = self.method.loss(view)
        return value if isinstance(value, dict) else {"loss": Term(value, self.method.reduce)}

    def _cut(self, trajectories: Sequence[Trajectory]) -> list[MicroBatch]:
        """In turn for each rank, as many for one as for another. Padded ones cost about the same, all being about full; packed
        ones are cut after the trajectories have been balanced over the ranks."""
        ranks, budget = dist.get_world_size(), self.settings.micro_batch_tokens
        if self.settings.packed:
            width = self.model.config.get_text_config().hidden_size
            shares = tokens.balanced(trajectories, ranks, width)
            return tokens.dealt([tokens.micro_batches(share, budget, self.pad) for share in shares])
        batches = tokens.micro_batches(trajectories, budget, self.pad)
        return tokens.dealt([batches[rank::ranks] for rank in range(ranks)])

    def _counts(self, batch: MicroBatch) -> Counts:
        """What a micro-batch adds to each term's count and to the trained tokens, before any forward pass.

        Masks do not depend on the policy, so the method's loss is asked for its terms with log-probs of zero: that is
        arithmetic on [B, T] tensors, no model. Every rank holds all micro-batches, so no communication either.
        """
        nothing = torch.zeros_like(batch.tokens.logp)
        view = replace(batch.tokens, entropy=nothing, reference_logp=nothing, read=defaultdict(lambda: nothing))
        terms = {
            name: term.reduce.count(term.counted(view.trained), len(batch.trajectories))
            for name, term in self._terms(view).items()
        }
        own, imitated = view.trained & ~view.expert, view.trained & view.expert
        return Counts(terms, {"own": int(own.sum()), "expert": int(imitated.sum())}, len(batch.trajectories))

    def _divisors(self, counts: list[Counts], beside: list[Counts]) -> list[dict[str, float]]:
        """What each micro-batch's sums are divided by: the counts of the whole update, with what is not passed."""
        return [dict(_added([count.terms for count in (*counts, *beside)]))] * len(counts)

    def _ranked(self, batches: list[MicroBatch]) -> list[MicroBatch]:
        """With `entropy_rank` filled in, if the method needs it: by a pass of its own, for ranks are over the whole update."""
        if self.scope is None or not batches:
            return batches
        found = {}
        for index in range(dist.get_rank(), len(batches), dist.get_world_size()):
            batch = batches[index]
            with torch.no_grad():
                scored = self._scored(self.engine, batch.input_ids, batch.lengths, batch.tokens.response, entropies=True)
            assert scored.entropy is not None
            found[index] = scored.entropy.cpu()
        found = ranks().gather(found)
        masks = [batch.tokens.trained & batch.tokens.expert for batch in batches]
        shares = ranking.shares_above([found[i] for i in range(len(batches))], masks, self.scope)
        views = [replace(batch.tokens, entropy_rank=share) for batch, share in zip(batches, shares, strict=True)]
        return [replace(batch, tokens=view) for batch, view in zip(batches, views, strict=True)]

    def _forward(self, batch: MicroBatch) -> Tokens:
        """The micro-batch's view with log-probs, and what else the method needs, under the policy."""
        found = self._scored(self.engine, batch.input_ids, batch.lengths, batch.tokens.response)
        moved = {name: v.to(self.engine.device) for name, v in vars(batch.tokens).items() if isinstance(v, Tensor)}
        return replace(batch.tokens, **(moved | vars(found)))

    def _scored(
        self, model: Any, input_ids: Tensor, lengths: Tensor, wanted: Tensor, entropies: bool = False
    ) -> forward.Scored:
        """What the method needs under `model` at the `wanted` positions; or `entropies` alone, without the reference and what
        is read."""
        chosen, device = self.settings, self.engine.device
        entropy = entropies or "entropy" in self.needs
        beside = () if entropies else (self.reference and self.reference.model, getattr(self.method, "read", None))
        return forward.score(
            model,
            input_ids.to(device),
            lengths.to(device),
            chosen.temperature,
            entropy,
            chosen.packed,
            *beside,
            wanted=wanted.to(device),
        )

    def _scored_alone(self, input_ids: Tensor, lengths: Tensor, wanted: Tensor) -> forward.Scored:
        """As in `_forward`, by the model without DeepSpeed's engine around it: the weights must not be partitioned."""
        return self._scored(self.model, input_ids, lengths, wanted)

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
        for kept in filter(None, (self.reference, self.optimizers)):
            kept.save(folder)

    def load(self, folder: Path) -> None:
        """Continue exactly where `save` left off."""
        path, state = self.engine.load_checkpoint(str(folder), tag="state")
        assert path is not None, folder
        self.step = state["step"]
        for kept in filter(None, (self.reference, self.optimizers)):
            kept.load(folder)

    def save_model(self, folder: Path) -> None:
        """Write the weights as a Hugging Face folder (gathered from all ranks under ZeRO-3)."""
        import deepspeed

        parameters = list(self.model.parameters()) if self.settings.zero_stage == 3 else []
        with deepspeed.zero.GatheredParameters(parameters):
            if dist.get_rank() == 0:
                self.model.save_pretrained(folder)


def _added(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    return {name: sum(count[name] for count in counts) for name in counts[0]}
