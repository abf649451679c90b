"""The laptop sampler: transformers' own `generate`, all prompts of a round in wide batches with a KV cache.

Every rollout has its own seed and draws by inverse transform from its own stream of uniform numbers, so what it samples does
not depend on which other rollouts share the batch (up to floating-point rounding of the logits).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import LogitsProcessor, LogitsProcessorList

from engine.explore import Request
from engine.words import Rollout


class SeededChoice(LogitsProcessor):
    """Choose each row's next token from softmax(logits / temperature) with that row's uniform number, and force the choice.

    `generate` then only has to take the maximum. Keeps the log-prob of every choice under the distribution it was drawn
    from: `logp` grows by one [B] tensor per step, in nats. Temperature 0 is greedy; its log-probs are those at temperature 1.
    """

    def __init__(self, uniforms: Tensor, temperature: float) -> None:
        self.uniforms = uniforms  # [B, new tokens]
        self.temperature = temperature
        self.logp: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logp = torch.log_softmax(scores.float() / (self.temperature or 1.0), dim=-1)
        if self.temperature == 0:
            choice = logp.argmax(dim=-1, keepdim=True)
        else:
            cumulative = logp.double().exp().cumsum(dim=-1)
            target = self.uniforms[:, len(self.logp), None] * cumulative[:, -1:]
            choice = torch.searchsorted(cumulative, target, right=True).clamp(max=scores.shape[1] - 1)
        self.logp.append(logp.gather(1, choice).squeeze(1))
        return torch.full_like(scores, -torch.inf).scatter(1, choice, 0.0)


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
        written: list[tuple[tuple[int, ...], tuple[float, ...], str]] = [((), (), "prefix")] * len(jobs)
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
        return [
            [Rollout(request.sample.prefix, *_without_reward(next(results))) for _ in request.seeds] for request in requests
        ]

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
    def _batch(self, jobs: list[tuple[tuple[int, ...], int, int]]) -> list[tuple[tuple[int, ...], tuple[float, ...], str]]:
        """One `generate` call; rows are padded on the left and share the largest limit, each is cut at its own."""
        width, steps = max(len(prompt) for prompt, _, _ in jobs), max(room for _, room, _ in jobs)
        input_ids = torch.full((len(jobs), width), self.pad)
        attention_mask = torch.zeros((len(jobs), width), dtype=torch.long)
        uniforms = np.empty((len(jobs), steps))
        for row, (prompt, room, seed) in enumerate(jobs):
            input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
            attention_mask[row, width - len(prompt) :] = 1
            uniforms[row, :room] = np.random.Generator(np.random.Philox(seed)).random(room)
            uniforms[row, room:] = 0.5
        device = self.model.device
        choice = SeededChoice(torch.from_numpy(uniforms).to(device), self.temperature)
        output = self.model.generate(
            input_ids=input_ids.to(device),
            attention_mask=attention_mask.to(device),
            logits_processor=LogitsProcessorList([choice]),
            max_new_tokens=steps,
            do_sample=False,
            use_cache=True,
            pad_token_id=self.pad,
            eos_token_id=self.end,
        )
        tokens = output[:, width:].tolist()
        logps = torch.stack(choice.logp, dim=1).tolist()
        return [self._cut(row, logp, room) for row, logp, (_, room, _) in zip(tokens, logps, jobs, strict=True)]

    def _cut(self, tokens: list[int], logp: list[float], room: int) -> tuple[tuple[int, ...], tuple[float, ...], str]:
        """A row's tokens up to its own end of sequence, which belongs to it, or up to its limit."""
        tokens = tokens[:room]
        if self.end in tokens:
            end = tokens.index(self.end) + 1
            return tuple(tokens[:end]), tuple(logp[:end]), "stop"
        return tuple(tokens), tuple(logp[: len(tokens)]), "length"


def _without_reward(
    written: tuple[tuple[int, ...], tuple[float, ...], str],
) -> tuple[tuple[int, ...], tuple[float, ...], float, str]:
    tokens, logp, reason = written
    return tokens, logp, 0.0, reason
