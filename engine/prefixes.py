"""What rows begin with alike, a prompt above all, is passed once: the rest of each row then attends to its keys and values.

For padded rows only: packed ones can be given no cache.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

WORTH = 7 / 8  # of what one pass costs: two are made where they cost less
# Decoders whose tokens see others by keys and values alone, at the positions they are given. A few more would do; in others a
# bias or a window counts places in the cache, padding included (GPT-Neo, MPT), or there is no such cache (RWKV).
KNOWN = {"gemma", "gpt2", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3"}


@dataclass(frozen=True)
class Split:
    """B rows of L tokens in two passes: the `prefix` [G, P] of each group of rows, `lengths` [G] tokens and then others up to P
    that nobody sees, and the `rest` [B, S] of each row, at its `positions` [B, S]; the group of each row is `group` [B]."""

    prefix: Tensor
    lengths: Tensor
    group: Tensor
    rest: Tensor
    positions: Tensor

    def states(self, embed: Callable[[Tensor], Tensor], called: Callable[..., Any], at: Tensor) -> Tensor:
        """The last hidden states [N, H] at the wanted positions `at` [B, L], of a model that makes of tokens `embed` and is
        `called` with these. All are embedded at once: the gradient of that is as large as the vocabulary."""
        both = embed(torch.cat([self.prefix.flatten(), self.rest.flatten()])).split([self.prefix.numel(), self.rest.numel()])
        begun = called(inputs_embeds=both[0].unflatten(0, self.prefix.shape), use_cache=True)
        for layer in begun.past_key_values.layers:
            layer.keys, layer.values = (kept.index_select(0, self.group) for kept in (layer.keys, layer.values))
        seen = torch.arange(self.prefix.shape[1], device=self.group.device) < self.lengths[self.group, None]
        rest = called(
            inputs_embeds=both[1].unflatten(0, self.rest.shape),
            attention_mask=torch.cat([seen, torch.ones_like(self.rest, dtype=torch.bool)], 1),
            position_ids=self.positions,
            past_key_values=begun.past_key_values,
            use_cache=True,
        )
        found = [output.last_hidden_state.flatten(0, 1) for output in (begun, rest)]
        return torch.cat(found).index_select(0, self._place(at))

    def _place(self, at: Tensor) -> Tensor:
        """Where the wanted positions are among all states, those of the prefixes first: [N]."""
        row, column = at.nonzero(as_tuple=True)
        group, (groups, longest) = self.group[row], self.prefix.shape
        after = column - self.lengths[group]
        return torch.where(after < 0, group * longest + column, groups * longest + row * self.rest.shape[1] + after)


def split(input_ids: Tensor, lengths: Tensor, wanted: Tensor, width: int) -> Split | None:
    """Rows [B, L] padded on the right, of `lengths` [B], of which log-probs are `wanted` [B, T]; None if a model of hidden size
    `width` would not gain by it.

    Rows that agree as far as the first wanted position are a group, and share as much as they agree on; one alone in its
    group leaves to the first pass what comes before that. A token of each row at least stays for the second pass.

    A token that attends to n others costs about 24 width^2 + 4 width n a layer. Of L in one causal pass that is half of them on
    average; in the second pass, which has a mask, also those that are masked.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, (row, before) in enumerate(zip(input_ids.tolist(), wanted.int().argmax(1).tolist(), strict=True)):
        groups.setdefault(tuple(row[: before + 1]), []).append(index)
    shared = []
    for begun, members in groups.items():
        rows = input_ids[members]
        alike = int((rows == rows[0]).all(0).int().cumprod(0).sum()) if len(members) > 1 else len(begun)
        shared.append(min(alike, int(lengths[members].min()) - 1))
    group = torch.empty_like(lengths)
    for index, members in enumerate(groups.values()):
        group[members] = index
    common, ends = lengths.new_tensor(shared), input_ids.shape[1] - 1
    longest, rest = max(shared), int((lengths - common[group]).max())
    one_pass = input_ids.numel() * (12 * width + input_ids.shape[1])
    first, second = len(groups) * longest * (12 * width + longest), len(group) * rest * (12 * width + 2 * (longest + rest))
    if longest == 0 or first + second > WORTH * one_pass:
        return None
    prefix = input_ids[[members[0] for members in groups.values()], :longest]
    positions = (common[group, None] + torch.arange(rest, device=group.device)).clamp(max=ends)  # of padding: any that exist
    return Split(prefix, common, group, input_ids.gather(1, positions), positions)


def can_share(model: Any) -> bool:
    """Whether all keys and values are kept for all: not with windows, not where layers are computed again. Not under ZeRO-3,
    whose ranks must make the same passes: each decides by its own rows."""
    known = model.config.model_type in KNOWN
    whole = known and all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
    return whole and not model.is_gradient_checkpointing and not any(hasattr(p, "ds_id") for p in model.parameters())
