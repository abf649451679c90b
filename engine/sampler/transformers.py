"""The laptop sampler: a decoding loop over transformers' forward pass and KV cache, as wide as memory allows.

Rollouts of one round differ in length by a factor of ten, so rows that have ended leave the batch (and its cache) as soon as
they are half of it; transformers' own `generate` carries them to the end of the longest row.

Every rollout has its own seed and draws by inverse transform from its own stream of uniform numbers, so what it samples does
not depend on which other rollouts share the batch (up to floating-point rounding of the logits).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache

from engine.explore import Request
from engine.forward import fingerprint
from engine.words import Rollout

# (tokens of prompt and prefix, new tokens allowed, seed) -> (generated tokens, their log-probs, finish reason)
Job = tuple[tuple[int, ...], int, int]
Written = tuple[tuple[int, ...], tuple[float, ...], str]


def choose(logits: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The next token of each row and its log-prob in nats: logits [B, V], uniform [B] in [0, 1) -> [B], [B].

    A token is where the cumulative distribution softmax(logits / temperature) passes the row's uniform number. Temperature 0 is
    greedy; its log-probs are those at temperature 1.
    """
    logp = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
    if temperature == 0:
        token = logp.argmax(dim=-1, keepdim=True)
    else:
        cumulative = logp.double().exp().cumsum(dim=-1)
        token = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True).clamp(max=logits.shape[1] - 1)
    return token.squeeze(1), logp.gather(1, token).squeeze(1)


class TransformersSampler:
    """Serves requests from a live torch model, usually the very module being trained, so weights are never out of date.

    `response_tokens` limits prefix and new tokens together; `batch_tokens` bounds rows x longest possible row of one batch.
    """

    def __init__(
        self,
        model: Any,
        pad: int,
        end: int,
        response_tokens: int,
        temperature: float,
        batch_tokens: int,
        progress: str = "",
    ) -> None:
        self.model = model
        self.pad, self.end = pad, end
        self.response_tokens = response_tokens
        self.temperature = temperature
        self.batch_tokens = batch_tokens
        self.progress = progress

    def generate(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """Rollouts for each request, in seed order. Raises ValueError if prompt and response cannot fit the model's window."""
        jobs = [
            (request.problem.prompt + request.sample.prefix, self._room(request), seed)
            for request in requests
            for seed in request.seeds
        ]
        written: list[Written] = [((), (), "prefix")] * len(jobs)
        order = sorted((i for i, job in enumerate(jobs) if job[1] > 0), key=lambda i: len(jobs[i][0]) + jobs[i][1])
        batches = []
        while order:  # longest first, and rows of one batch about equally long
            rows = max(1, self.batch_tokens // (len(jobs[order[-1]][0]) + jobs[order[-1]][1]))
            batches.append(order[-rows:])
            order = order[:-rows]
        bar = tqdm(batches, desc=self.progress, disable=not self.progress, mininterval=5, unit="batch")
        for rows in bar:
            for i, result in zip(rows, self._batch([jobs[i] for i in rows]), strict=True):
                written[i] = result
        results = iter(written)
        return [[_ungraded(request, *next(results)) for _ in request.seeds] for request in requests]

    @torch.no_grad()
    def score(self, rows: Sequence[tuple[int, ...]]) -> list[list[float]]:
        """Log-prob in nats of every token but the first of each row, as this sampler would have reported it."""
        device = self.model.device
        width = max(map(len, rows))
        input_ids, mask = torch.full((len(rows), width), self.pad), torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            input_ids[i, width - len(row) :], mask[i, width - len(row) :] = torch.tensor(row), 1
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        inputs = {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions}
        logits = self.model(**{name: tensor.to(device) for name, tensor in inputs.items()}, use_cache=False).logits
        logp = torch.log_softmax(logits[:, :-1].float() / (self.temperature or 1.0), dim=-1)
        chosen = logp.gather(-1, input_ids[:, 1:, None].to(device)).squeeze(-1)
        return [values[width - len(row) :].tolist() for values, row in zip(chosen, rows, strict=True)]

    def fingerprint(self) -> str:
        """Digest of weights this sampler samples from, to be compared with the trainer's."""
        return fingerprint(self.model)

    def _room(self, request: Request) -> int:
        """New tokens a request may have: its own limit, or what the response limit leaves after the prefix."""
        left = max(0, self.response_tokens - len(request.sample.prefix))
        wanted = request.sample.max_new_tokens
        room = left if wanted is None else min(wanted, left)
        total = len(request.problem.prompt) + len(request.sample.prefix) + room
        window = self.model.config.max_position_embeddings
        if total > window:
            raise ValueError(
                f"problem {request.problem.id!r} needs {total} tokens of prompt and response, the model's window is {window}; "
                "lower max_response_tokens or drop the problem from the data"
            )
        return room

    @torch.no_grad()
    def _batch(self, jobs: list[Job]) -> list[Written]:
        """Decode one batch, rows padded on the left; each row ends at its end of sequence or at its own limit."""
        device = self.model.device
        width, steps = max(len(prompt) for prompt, _, _ in jobs), max(room for _, room, _ in jobs)
        input_ids = torch.full((len(jobs), width), self.pad)
        mask = torch.zeros((len(jobs), width + steps), dtype=torch.long)
        uniforms = np.zeros((len(jobs), steps))
        for row, (prompt, room, seed) in enumerate(jobs):
            input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
            uniforms[row, :room] = np.random.Generator(np.random.Philox(seed)).random(room)
        uniform, mask, input_ids = torch.from_numpy(uniforms).to(device), mask.to(device), input_ids.to(device)
        rooms = torch.tensor([room for _, room, _ in jobs], device=device)
        tokens = torch.zeros((len(jobs), steps), dtype=torch.long, device=device)
        logps = torch.zeros((len(jobs), steps), device=device)
        lengths = torch.zeros(len(jobs), dtype=torch.long, device=device)
        rows = torch.arange(len(jobs), device=device)  # the rows still in the batch, and which of them still write
        alive = torch.ones(len(jobs), dtype=torch.bool, device=device)
        cache = DynamicCache()
        positions = (mask[:, :width].cumsum(dim=1) - 1).clamp(min=0)
        for step in range(steps):
            output = self.model(
                input_ids=input_ids,
                attention_mask=mask[:, : width + step],
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            token, logp = choose(output.logits[:, -1], uniform[rows, step], self.temperature)
            tokens[rows, step], logps[rows, step] = token, logp
            lengths[rows[alive]] = step + 1
            alive = alive & (token != self.end) & (step + 1 < rooms[rows])
            if not alive.any():
                break
            input_ids, positions = token[:, None], positions[:, -1:] + 1
            if 2 * alive.sum() <= len(rows):
                keep = alive.nonzero().squeeze(1)
                cache.batch_select_indices(keep)
                rows, alive, mask, input_ids, positions = rows[keep], alive[keep], mask[keep], input_ids[keep], positions[keep]
        return [
            self._written(row[:length], logp[:length])
            for row, logp, length in zip(tokens.tolist(), logps.tolist(), lengths.tolist(), strict=True)
        ]

    def _written(self, tokens: list[int], logp: list[float]) -> Written:
        return tuple(tokens), tuple(logp), "stop" if tokens[-1] == self.end else "length"


def _ungraded(request: Request, tokens: tuple[int, ...], logp: tuple[float, ...], reason: str) -> Rollout:
    return Rollout(request.sample.prefix, tokens, logp, 0.0, reason)
