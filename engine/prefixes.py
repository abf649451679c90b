"""What rows begin with alike, a prompt above all, is passed once: the rest of each row then attends to its keys and values.

For padded rows only: packed ones can be given no cache.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

WORTH = 7 / 8  # of the tokens in one pass: with fewer left to pass, two passes are made


@dataclass(frozen=True)
class Split:
    """B rows of L tokens in two passes: the `prefix` [G, P] of each group of rows, padded on the right to P tokens from
    `lengths` [G], and the `rest` [B, S] of each row, at its `positions` [B, S]; the group of each row is `group` [B]."""

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


def split(input_ids: Tensor, lengths: Tensor, wanted: Tensor) -> Split | None:
    """Rows [B, L] padded on the right, of `lengths` [B], of which log-probs are `wanted` [B, T]; None if not worth it.

    Rows that agree as far as the first wanted position are a group, and share as much as they agree on; one alone in its
    group leaves to the first pass what comes before that. A token of each row at least stays for the second pass.
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
    if longest == 0 or len(groups) * longest + len(group) * rest > WORTH * input_ids.numel():
        return None
    prefix = input_ids[[members[0] for members in groups.values()], :longest]
    positions = (common[group, None] + torch.arange(rest, device=group.device)).clamp(max=ends)  # of padding: any that exist
    return Split(prefix, common, group, input_ids.gather(1, positions), positions)


def can_share(model: Any) -> bool:
    """Whether every token attends to all before it by their keys and values alone, and these are kept: not with windows or
    recurrent states, not where layers are computed again, not with weights that are gathered for a single pass (ZeRO-3)."""
    whole = all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
    return whole and not model.is_gradient_checkpointing and not any(hasattr(p, "ds_id") for p in model.parameters())
