"""Log-probs of given tokens under a model: the one forward pass of training, padded or packed, and of every check on it."""

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TENSORS, WEIGHTS = 8, 65_536  # of a model's fingerprint: about so many tensors, and at most so many weights of each


@dataclass(frozen=True)
class Scored:
    """logp [B, T] in nats, of the token each position predicts; entropy [B, T] in nats where it was asked for. Both are 0 on
    padding when the pass was packed, and meaningless there when it was not."""

    logp: Tensor
    entropy: Tensor | None


def score(
    model: Any, input_ids: Tensor, lengths: Tensor, temperature: float, entropy: bool = False, packed: bool = False
) -> Scored:
    """Score rows padded on the right: input_ids [B, L], lengths [B] -> [B, T = L - 1], in fp32 at the sampling temperature.

    Padded, causal attention alone keeps padding out of real tokens; a mask would only cost the fast kernel. Packed, the rows
    follow one another in a single row whose positions start again at 0, from which transformers infers that no row may see
    another one (masking_utils.find_packed_sequence_indices; no mask and no cache may be given).
    """
    if not packed:
        return _scored(model(input_ids=input_ids, use_cache=False).logits[:, :-1], input_ids[:, 1:], temperature, entropy)
    place = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    real = place < lengths[:, None]
    row, positions = input_ids[real][None], place[real][None]
    logits = model(input_ids=row, position_ids=positions, use_cache=False).logits
    # Position t of the packed row predicts token t + 1, except where the next trajectory begins.
    inside = positions[:, 1:] > 0
    flat = _scored(logits[:, :-1][inside][None], row[:, 1:][inside][None], temperature, entropy)
    back = real[:, 1:]

    def unpacked(values: Tensor) -> Tensor:
        return values.new_zeros(back.shape).masked_scatter(back, values)

    return Scored(unpacked(flat.logp), None if flat.entropy is None else unpacked(flat.entropy))


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


def _scored(logits: Tensor, predicted: Tensor, temperature: float, entropy: bool) -> Scored:
    logp_all = torch.log_softmax(logits.float() / temperature, dim=-1)
    logp = logp_all.gather(-1, predicted[..., None]).squeeze(-1)
    return Scored(logp, -(logp_all.exp() * logp_all).sum(-1) if entropy else None)
