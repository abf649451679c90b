"""Log-probs of given tokens under a model: the one forward pass of training, padded or packed, and of every check on it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from engine import prefixes
from engine.settings import BLOCK, CHUNK

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
    """logp [B, T] in nats, of the token each position predicts; what else was asked for, [B, T] as well. All are 0 at positions
    that were not wanted."""

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
    wanted: Tensor | None = None,
    chunk: int = CHUNK,
) -> Scored:
    """Score rows padded on the right: input_ids [B, L], lengths [B] -> [B, T = L - 1], in fp32 at the sampling temperature, at
    the `wanted` positions [B, T] (None: wherever a token follows).

    Padded, causal attention alone keeps padding out of real tokens; a mask would only cost the fast kernel. Only where rows
    begin alike, which is then passed once, there is one (engine/prefixes.py). Packed, the rows follow one another in a single
    row whose positions start again at 0, from which transformers infers that no row may see another one
    (masking_utils.find_packed_sequence_indices; no mask and no cache may be given).

    Logits are made for as many positions at a time as fit into `chunk` numbers. Where that is not all of them, the backward
    pass makes each chunk again: memory does not grow with tokens x vocabulary.
    """
    place = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    real = place < lengths[:, None]
    wanted = real[:, 1:] if wanted is None else wanted
    at, given = torch.nn.functional.pad(wanted, (0, 1)), {"input_ids": input_ids}
    if packed:
        at, given = at[real][None], {"input_ids": input_ids[real][None], "position_ids": place[real][None]}
    halves = None
    if not packed and prefixes.can_share(_module(model)):
        halves = prefixes.split(input_ids, lengths, wanted, _module(model).config.hidden_size)

    def hidden(of: Any) -> Tensor:
        """The last hidden states [N, H] of a model at the wanted positions."""
        if halves is None:
            return _called(of, **given, use_cache=False).last_hidden_state[at]
        return halves.states(_module(of).get_input_embeddings(), partial(_called, of), at)

    def part(token: Tensor, states: Tensor, reference_states: Tensor | None = None) -> Scored:
        """Of N positions, [N] each, from the last hidden states [N, H] of the model and of the reference."""
        reference_all = reference_logp = None
        if reference_states is not None:
            with torch.no_grad():
                reference_all = _log_softmax_(_logits(reference, reference_states).div_(temperature))
                reference_logp = _of_tokens(reference_all, token)
        if read is None:
            reference_all = None  # its memory is free for the policy's
            logp, entropies = LogProbs.apply(_logits(model, states), token, temperature, entropy)
            return Scored(logp, entropies, reference_logp)
        logp_all = (_logits(model, states) / temperature).log_softmax(-1)
        found = read(Distribution(logp_all, reference_all, token))
        for name, values in found.items():
            if values.shape != token.shape:
                shape = tuple(values.shape)
                raise ValueError(f"read() returned {name!r} of shape {shape}; one value per position, [N], is wanted")
        return Scored(_of_tokens(logp_all, token), _entropy(logp_all) if entropy else None, reference_logp, found)

    made = [input_ids[:, 1:][wanted], hidden(model)]
    if reference is not None:
        with torch.no_grad():
            made.append(hidden(reference))
    rows = max(1, chunk // _module(model).config.get_text_config().vocab_size)
    pieces = list(zip(*(values.split(rows) for values in made), strict=True))
    if dist.is_initialized() and any(hasattr(p, "ds_id") for p in _module(model).get_output_embeddings().parameters()):
        most = torch.tensor(len(pieces))  # under ZeRO-3 the last layer is gathered for each chunk, by all ranks together
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        pieces += [tuple(values[:0] for values in made)] * (int(most) - len(pieces))
    parts = [part(*pieces[0])] if len(pieces) == 1 else [checkpoint(part, *piece, use_reentrant=False) for piece in pieces]

    def whole(values: list[Tensor]) -> Tensor:
        joined = torch.cat(values)
        return joined.new_zeros(wanted.shape).masked_scatter(wanted, joined)

    def all_of(name: str) -> Tensor | None:
        return None if getattr(parts[0], name) is None else whole([getattr(part, name) for part in parts])

    read_off = {name: whole([part.read[name] for part in parts]) for name in parts[0].read}
    return Scored(whole([part.logp for part in parts]), all_of("entropy"), all_of("reference_logp"), read_off)


class LogProbs(torch.autograd.Function):
    """Logits [N, V] in fp32 and the token [N] that followed -> its log-prob [N] and, if wanted, the entropy [N], both at a
    temperature.

    Takes over the memory of the logits: they become log-probs, and in the backward pass their own gradient (autograd refuses a
    second one). No other [N, V] is ever made.

    Derivatives by the scaled logit j: of the log-prob [j is the token] - p_j, of the entropy -p_j (log p_j + entropy).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, token: Tensor, temperature: float, wanted: bool) -> tuple[Tensor, Tensor | None]:
        logp = _log_softmax_(logits.div_(temperature))
        entropy = torch.cat([_entropy(rows) for rows in logp.split(_block(logp))]) if wanted else None
        ctx.save_for_backward(logp, token, entropy)
        ctx.temperature = temperature
        return _of_tokens(logp, token), entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None]:
        logp, token, entropy = ctx.saved_tensors
        step = _block(logp)
        for start in range(0, len(logp), step):
            rows = slice(start, start + step)
            pull = gradients[0][rows, None]
            if entropy is not None:
                pull = pull + gradients[1][rows, None] * (logp[rows] + entropy[rows, None])
            logp[rows] = -pull * logp[rows].exp()
        return logp.scatter_add_(-1, token[:, None], gradients[0][:, None]).div_(ctx.temperature), None, None, None


def _block(logits: Tensor) -> int:
    """Rows of [N, V] that are worked on together, where a copy of all would be too much."""
    return max(1, BLOCK // logits.shape[-1])


def _log_softmax_(logits: Tensor) -> Tensor:
    """In place."""
    for rows in logits.split(_block(logits)):
        rows.copy_(rows.log_softmax(-1))
    return logits


def _entropy(logp: Tensor) -> Tensor:
    """[N, V] -> [N]"""
    return -(logp.exp() * logp).sum(-1)


def _called(model: Any, **given: Any) -> Any:
    """What the layers give, hidden states [B, L, H]: the whole model is called, as DeepSpeed's hooks need it, for the logits of
    nothing."""
    found: list[Any] = []
    base = _module(model).base_model
    hook = base.register_forward_hook(lambda module, inputs, output: found.append(output))
    try:
        model(**given, logits_to_keep=torch.empty(0, dtype=torch.long, device=_module(model).device))
    finally:
        hook.remove()
    return found[0]


def _logits(model: Any, hidden: Tensor) -> Tensor:
    """[N, H] -> [N, V], in fp32."""
    return _module(model).get_output_embeddings()(hidden).float()


def _module(model: Any) -> Any:
    """The model inside DeepSpeed's engine, or what is no engine."""
    return getattr(model, "module", model)


def plain(model: Any, row: Sequence[int], device: Any) -> Tensor:
    """Log-prob in nats, at temperature 1, of every token but the first of a row, [L - 1], from the model's own logits."""
    ids = torch.tensor([row], device=device)
    with torch.no_grad():
        return _of_tokens(model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1), ids[0, 1:])


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
