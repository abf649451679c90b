"""Log-probs of given tokens under a model: the one forward pass of training, padded or packed, and of every check on it."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

TENSORS, WEIGHTS = 8, 65_536  # of a model's fingerprint: about so many tensors, and at most so many weights of each


@dataclass(frozen=True)
class Distribution:
    """What `Method.read` sees of N positions: log-probs in nats over a vocabulary of V, `logp` [N, V] with gradient and, with a
    reference, its `reference` [N, V] without; and the `token` [N] that followed."""

    logp: Tensor
    reference: Tensor | None
    token: Tensor


Read = Callable[[Distribution], dict[str, Tensor]]


@dataclass(frozen=True)
class Scored:
    """logp [B, T] in nats, of the token each position predicts; what else was asked for, [B, T] as well. All are 0 on padding
    when the pass was packed, and meaningless there when it was not."""

    logp: Tensor
    entropy: Tensor | None = None
    reference_logp: Tensor | None = None
    read: Mapping[str, Tensor] = field(default_factory=dict)


def score(
    model: Any,
    input_ids: Tensor,
    lengths: Tensor,
    temperature: float,
    entropy: bool = False,
    packed: bool = False,
    reference: Any = None,
    read: Read | None = None,
) -> Scored:
    """Score rows padded on the right: input_ids [B, L], lengths [B] -> [B, T = L - 1], in fp32 at the sampling temperature.

    Padded, causal attention alone keeps padding out of real tokens; a mask would only cost the fast kernel. Packed, the rows
    follow one another in a single row whose positions start again at 0, from which transformers infers that no row may see
    another one (masking_utils.find_packed_sequence_indices; no mask and no cache may be given).
    """
    if packed:
        place = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        real = place < lengths[:, None]
        row, positions = input_ids[real][None], place[real][None]
        # Position t of the packed row predicts token t + 1, except where the next trajectory begins.
        inside, back = positions[:, 1:] > 0, real[:, 1:]
        predicted = row[:, 1:][inside]
    else:
        predicted = input_ids[:, 1:].flatten()

    def logp_all(of: Any) -> Tensor:
        """Log-probs [N, V]: of all positions, or of those that are not padding."""
        if packed:
            logits = of(input_ids=row, position_ids=positions, use_cache=False).logits[:, :-1][inside][None]
        else:
            logits = of(input_ids=input_ids, use_cache=False).logits[:, :-1]
        return torch.log_softmax(logits.float() / temperature, dim=-1).flatten(0, 1)

    def shaped(values: Tensor) -> Tensor:
        if packed:
            return values.new_zeros(back.shape).masked_scatter(back, values)
        return values.view(len(input_ids), -1)

    logp, anchor = logp_all(model), None
    if reference is not None:
        with torch.no_grad():
            anchor = logp_all(reference)
    found = read(Distribution(logp, anchor, predicted)) if read else {}
    for name, values in found.items():
        if values.shape != predicted.shape:
            raise ValueError(f"read() returned {name!r} of shape {tuple(values.shape)}; one value per position, [N], is wanted")
    return Scored(
        shaped(_of_tokens(logp, predicted)),
        shaped(-(logp.exp() * logp).sum(-1)) if entropy else None,
        None if anchor is None else shaped(_of_tokens(anchor, predicted)),
        {name: shaped(values) for name, values in found.items()},
    )


def inputs(found: Any) -> list[Tensor]:
    """Of a `Scored` or the view made of it: what a loss reaches the weights through, [B, T] each. What was read and detached is
    a weight."""
    entropy = [] if found.entropy is None else [found.entropy]
    return [found.logp, *entropy, *(values for values in found.read.values() if values.requires_grad)]


def fingerprint(model: Any) -> str:
    """Digest of a few thousand weights from a few tensors spread over the model: another after any update, however small.

    Under ZeRO-3 every rank must call it.
    """
    import deepspeed

    parameters = list(model.parameters())
    chosen = parameters[:: max(1, len(parameters) // TENSORS)]
    taken = hashlib.sha256()
    for parameter in chosen:
        with deepspeed.zero.GatheredParameters([parameter] if hasattr(parameter, "ds_id") else []):
            taken.update(parameter.detach().flatten()[:WEIGHTS].float().cpu().numpy().tobytes())
    return taken.hexdigest()


def _of_tokens(logp: Tensor, tokens: Tensor) -> Tensor:
    """[N, V], [N] -> [N]"""
    return logp.gather(-1, tokens[:, None]).squeeze(-1)
