"""The laptop sampler: a decoding loop over transformers' forward pass and KV cache, as wide as memory allows.

Rollouts of one round differ in length by a factor of ten, so rows that have ended leave the batch (and its cache) as soon as
they are half of it; transformers' own `generate` carries them to the end of the longest row.

Every rollout has its own seed and draws by inverse transform from its own stream of uniform numbers, so what it samples does
not depend on which other rollouts share the batch (up to floating-point rounding of the logits).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from engine import memory
from engine.forward import fingerprint
from engine.sampler import Request, Sampling
from engine.words import Rollout


@dataclass
class Job:
    """One rollout to write: what it continues, how many new tokens it may have, its seed."""

    request: Request
    room: int
    seed: int
    rollout: Rollout | None = None

    @property
    def longest(self) -> int:
        return len(self.request.prompt) + self.room

    def write(self, tokens: list[int], logp: list[float], reason: str) -> None:
        self.rollout = Rollout(self.request.sample.prefix, tuple(tokens), tuple(logp), 0.0, reason)


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
    """Serves requests from a live torch model, usually the very module being trained, so weights are never out of date."""

    def __init__(self, model: Any, sampling: Sampling) -> None:
        self.model, self.sampling = model, sampling
        self._requests: dict[int, list[Job]] = {}  # what is being served
        self._waiting: list[int] = []  # keys of what no batch has been made of yet
        self._batches: list[list[Job]] = []

    def submit(self, key: int, request: Request) -> None:
        """Queue a request. Raises ValueError if prompt and response cannot fit the model's window."""
        room = self.sampling.room(request, self.model.config.max_position_embeddings)
        self._requests[key] = [Job(request, room, seed) for seed in request.seeds]
        self._waiting.append(key)

    def step(self) -> list[tuple[int, list[Rollout]]]:
        """Decode one batch. What is submitted meanwhile waits until all batches of what was there before are done."""
        if not self._batches:
            self._batches = self._plan()
        if self._batches:
            with memory.bounded("sample_batch_tokens", self.sampling.batch_tokens):
                self._decode(self._batches.pop(0))
        finished = []
        for key, jobs in list(self._requests.items()):
            rollouts = [job.rollout for job in jobs if job.rollout]
            if len(rollouts) == len(jobs):
                finished.append((key, rollouts))
                del self._requests[key]
        return finished

    def _plan(self) -> list[list[Job]]:
        """Batches of everything that waits: longest first, and rows of one batch about equally long."""
        jobs = [job for key in sorted(self._waiting) for job in self._requests[key]]
        self._waiting = []
        for job in jobs:
            if job.room == 0:
                job.write([], [], "prefix")
        order = sorted((job for job in jobs if job.room > 0), key=lambda job: job.longest)
        batches = []
        while order:
            rows = max(1, self.sampling.batch_tokens // order[-1].longest)
            batches.append(order[-rows:])
            order = order[:-rows]
        return batches

    def sync(self) -> None:
        """Nothing to do: the weights are the model's own."""

    def sleep(self) -> None:
        """Nothing to free: a batch's cache goes with the batch."""

    @torch.no_grad()
    def score(self, rows: Sequence[tuple[int, ...]]) -> list[list[float]]:
        """Log-prob in nats, at temperature 1, of every token but the first of each row."""
        device = self.model.device
        width = max(map(len, rows))
        input_ids, mask = self._padded(rows, width)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        inputs = {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions}
        logits = self.model(**{name: tensor.to(device) for name, tensor in inputs.items()}, use_cache=False).logits
        logp = torch.log_softmax(logits[:, :-1].float(), dim=-1)
        chosen = logp.gather(-1, input_ids[:, 1:, None].to(device)).squeeze(-1)
        return [values[width - len(row) :].tolist() for values, row in zip(chosen, rows, strict=True)]

    def fingerprint(self) -> str:
        """Digest of weights this sampler samples from, to be compared with the trainer's."""
        return fingerprint(self.model)

    def _padded(self, rows: Sequence[tuple[int, ...]], width: int, more: int = 0) -> tuple[Tensor, Tensor]:
        """Rows padded on the left [B, width], and their mask [B, width + more], in which `more` tokens may follow."""
        input_ids = torch.full((len(rows), width), self.sampling.pad)
        mask = torch.zeros((len(rows), width + more), dtype=torch.long)
        for i, row in enumerate(rows):
            input_ids[i, width - len(row) :], mask[i, width - len(row) :] = torch.tensor(row), 1
        return input_ids, mask

    @torch.no_grad()
    def _decode(self, jobs: list[Job]) -> None:
        """Write one batch, rows padded on the left; each row ends at its end of sequence or at its own limit. A prompt that
        several rows continue is passed once, its cache then copied for each of them."""
        device, end = self.model.device, self.sampling.end
        prompts = [job.request.prompt for job in jobs]
        width, steps = max(map(len, prompts)), max(job.room for job in jobs)
        place = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompts))}
        input_ids, mask = self._padded(list(place), width, steps)
        prompt_of = torch.tensor([place[prompt] for prompt in prompts], device=device)
        uniforms = np.zeros((len(jobs), steps))
        for row, job in zip(uniforms, jobs, strict=True):
            row[: job.room] = np.random.Generator(np.random.Philox(job.seed)).random(job.room)
        uniform, mask, input_ids = torch.from_numpy(uniforms).to(device), mask.to(device), input_ids.to(device)
        rooms = torch.tensor([job.room for job in jobs], device=device)
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
            logits = output.logits[:, -1]
            if step == 0:
                cache.batch_select_indices(prompt_of)
                logits, mask, positions = logits[prompt_of], mask[prompt_of], positions[prompt_of]
            token, logp = choose(logits, uniform[rows, step], self.sampling.temperature)
            tokens[rows, step], logps[rows, step] = token, logp
            lengths[rows[alive]] = step + 1
            alive = alive & (token != end) & (step + 1 < rooms[rows])
            if not alive.any():
                break
            input_ids, positions = token[:, None], positions[:, -1:] + 1
            if 2 * alive.sum() <= len(rows):
                keep = alive.nonzero().squeeze(1)
                cache.batch_select_indices(keep)
                rows, alive, mask, input_ids, positions = rows[keep], alive[keep], mask[keep], input_ids[keep], positions[keep]
        for job, row, logp, length in zip(jobs, tokens.tolist(), logps.tolist(), lengths.tolist(), strict=True):
            job.write(row[:length], logp[:length], "stop" if row[length - 1] == end else "length")
