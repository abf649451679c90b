"""What the forward passes of an update say besides its loss: the curves of a training run, global over micro-batches and ranks.

A loss reaches the weights only through the log-prob of each token (its entropy, what the method reads off its distribution), so
derivatives on [B, T] tensors, far from the model, tell most of it: how much weight a token has in its own loss (`Weights`), and
how hard each part of the loss pulls at each token (`Parts`). Measuring changes no bit of an update.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from engine.distributed import summed
from engine.forward import Scored, inputs
from engine.tokens import MicroBatch, Tokens
from engine.words import Term, Trajectory

AUTHORS = ("own", "expert")
Part = tuple[str, str]  # ("author" or "term", name)
Score = Callable[[Tensor, Tensor, Tensor], Scored]
EDGES = 0.05 * torch.arange(1, 21) + 1e-6  # upper ends of twenty bins; p / p is not always 1 in float32


class Drift:
    """|log-prob of the sampler - log-prob of the trainer| over own tokens, in nats: largest and mean, 1e-6 or so in fp32. Of
    trajectories the update passes through the model: one that moves nothing may be left out (engine/silence.py).

    Only of trajectories that are `fresh`: sampled for this very update, and trained on in the context they were sampled in.
    Replayed rollouts and those whose hint was taken away are meant to differ.
    """

    def __init__(self, fresh: Callable[[Trajectory], bool]) -> None:
        self.fresh = fresh
        self.largest, self.sum, self.tokens = torch.zeros(()), 0.0, 0

    def add(self, view: Tokens, trajectories: Sequence[Trajectory]) -> None:
        rows = [i for i, t in enumerate(trajectories) if self.fresh(t) and not any(s.replay for s in t.segments)]
        own = (view.response & ~view.expert)[rows]
        if own.any():
            apart = (view.logp.detach() - view.old_logp)[rows][own].abs().cpu()
            self.largest = torch.maximum(self.largest, apart.max())  # keeps a NaN, as Python's max does not
            self.sum += float(apart.sum())
            self.tokens += apart.numel()

    def measured(self) -> dict[str, float] | None:
        """Over all ranks; None without such tokens."""
        found = summed({"sum": self.sum, "tokens": float(self.tokens)})
        if dist.get_world_size() > 1:
            dist.all_reduce(self.largest, op=dist.ReduceOp.MAX)
        return {"largest": float(self.largest), "mean": found["sum"] / found["tokens"]} if found["tokens"] else None


class Weights:
    """Trained tokens by author: their mean log-prob, and of the expert's the weight that each has in its own loss.

    That weight is |d loss of the token / d its log-prob|: 1 for -log p, p / max(p, alpha) for -p / max(sg(p), alpha). It is the
    sum over all terms, with their coefficients and without their denominators; what a term makes of other inputs than the
    log-prob (an entropy bonus) is not in it. Trajectories that are not passed through the model are added with the log-probs
    they were sampled with.
    """

    def __init__(self) -> None:
        self.logp: dict[str, float] = dict.fromkeys(AUTHORS, 0.0)
        self.bins = torch.zeros(len(EDGES) + 1, dtype=torch.float64)

    def add(self, view: Tokens, terms: dict[str, Term]) -> None:
        for author, mask in _authors(view).items():
            self.logp[author] += float(view.logp.detach()[mask & view.trained].sum(dtype=torch.float64))
        imitated = view.trained & view.expert
        if imitated.any():
            sums = [term.coefficient * term.values.where(term.counted(view.trained), 0.0).sum() for term in terms.values()]
            weights = slopes(torch.stack(sums).sum(), view)[0][imitated].abs().cpu()
            self.bins += torch.bincount(torch.bucketize(weights, EDGES), minlength=len(self.bins))

    def measured(self, trained: dict[str, int]) -> dict[str, Any]:
        """`logp_own` and `logp_expert`, mean in nats at the sampling temperature (None without such tokens), and
        `expert_weights`: how many expert tokens have a weight in (0, .05], ..., (.95, 1] (the first with 0), and above 1.
        `trained`: the update's trained tokens by author."""
        found = summed({**self.logp, **{str(i): float(count) for i, count in enumerate(self.bins)}})
        means = {f"logp_{author}": found[author] / trained[author] if trained[author] else None for author in AUTHORS}
        weights = [int(found[str(i)]) for i in range(len(self.bins))]
        return {**means, "expert_weights": weights} if trained["expert"] else means


class Parts:
    """The gradient of an update taken apart: by the author of the token, and by term if there are several.

    While the update makes its passes, `add` keeps what each part pulls at each token, the denominators of the whole update
    included. `norms` then goes once more through the rows with any pull, by plain autograd on the model alone: DeepSpeed's
    hooks and gradients see nothing of it.
    """

    def __init__(self) -> None:
        self.pulls: list[tuple[MicroBatch, dict[Part, list[Tensor]]]] = []

    def add(self, batch: MicroBatch, view: Tokens, shares: dict[str, Tensor]) -> None:
        """`shares`: this micro-batch's part of the loss, by term."""
        terms = {("term", name): slopes(share, view) for name, share in shares.items()}
        whole = [torch.stack(each).sum(dim=0) for each in zip(*terms.values(), strict=True)]
        found = {("author", name): [slope * mask for slope in whole] for name, mask in _authors(view).items()}
        self.pulls.append((batch, found | (terms if len(terms) > 1 else {})))

    def norms(self, score: Score, parameters: Sequence[Tensor]) -> dict[str, float | None]:
        """Norm of each part's gradient over all micro-batches and ranks, before clipping; None for one that is all of it.

        `score` gives log-probs (and entropies) of input_ids [B, L] with lengths [B] where they are wanted [B, T]. A term called
        like an author takes its place.
        """
        parts = list(self.pulls[0][1])
        counted = [float(sum(int(_any(found[part]).sum()) for _, found in self.pulls)) for part in parts]
        tokens = summed(dict(zip(parts, counted, strict=True)))
        norms: dict[str, float | None] = {}
        for kind, name in parts:
            alone = not any(tokens[other] for other in parts if other[0] == kind and other[1] != name)
            pulls = tokens[kind, name] > 0
            norms[name] = None if alone else self._norm((kind, name), score, parameters) if pulls else 0.0
        return norms

    def _norm(self, part: Part, score: Score, parameters: Sequence[Tensor]) -> float:
        total = [torch.zeros_like(parameter) for parameter in parameters]
        for batch, found in self.pulls:
            pulled = _any(found[part])
            if not pulled.any():
                continue
            rows = pulled.any(dim=1)
            width = int(pulled.any(dim=0).nonzero().max()) + 1  # no token looks at a later one
            device = pulled.device
            input_ids, lengths = batch.input_ids.to(device)[rows, : width + 1], batch.lengths.to(device)[rows]
            scored = score(input_ids, lengths.clamp(max=width + 1), pulled[rows, :width])
            chosen = [slope[rows, :width] for slope in found[part]]
            pull = torch.stack([(slope * value).sum() for slope, value in zip(chosen, inputs(scored), strict=True)]).sum()
            for into, gradient in zip(total, torch.autograd.grad(pull, parameters, materialize_grads=True), strict=True):
                into += gradient
        if dist.get_world_size() > 1:
            for gradient in total:
                dist.all_reduce(gradient)
        return math.sqrt(sum(float(torch.linalg.vector_norm(gradient, dtype=torch.float32)) ** 2 for gradient in total))


def _authors(view: Tokens) -> dict[str, Tensor]:
    """Masks [B, T], in the order of AUTHORS."""
    return dict(zip(AUTHORS, (~view.expert, view.expert), strict=True))


def _any(found: Sequence[Tensor]) -> Tensor:
    """Where a token is pulled at, [B, T] bool."""
    return torch.stack([slope != 0 for slope in found]).any(dim=0)


def slopes(value: Tensor, view: Tokens) -> list[Tensor]:
    """Derivatives [B, T] of a scalar with respect to what it reaches the weights through, each token's log-prob first."""
    through = inputs(view)
    if not value.requires_grad:
        return [torch.zeros_like(one) for one in through]
    return list(torch.autograd.grad(value, through, retain_graph=True, materialize_grads=True))
