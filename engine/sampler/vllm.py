"""The sampler at scale: one vLLM engine in this process, whose running batch requests enter and leave at any time.

In training it lives beside DeepSpeed's engine: with several ranks each of them calls everything here in the same order
(vLLM's external launcher; `tensor_parallel` neighbouring ranks share one engine and must be given the same requests).
Weights go from the module in training straight into the engine, never through a file.

What must hold for its rollouts to be comparable with any other sampler's, and is set here: log-probs of the distribution that
was sampled from, temperature included; no top-p, top-k or defaults out of a checkpoint's generation_config.json; one seed for
every rollout; an empty prefix cache after every change of weights.

On machines without a GPU vLLM's CPU build runs the same way. It differs in what follows from these facts (version 0.32.0):
a seeded request may not have its prompt read in several pieces (its random generator cannot be set back), so chunked prefill
is off; sleeping does nothing; and its worker switches `torch.set_num_threads` off for the whole process, which is undone.
"""

import json
import logging
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from safetensors import safe_open
from torch import Tensor

from engine.forward import fingerprint
from engine.sampler import Request, SamplerError, Sampling
from engine.words import Rollout

log = logging.getLogger("assay")
CANARY_TOKENS = 128  # the longest text that `score` must take
STEP_TOKENS = 8192  # prompts and new tokens of one forward pass, at most
ROWS = {"cpu": 512, "cuda": 1024}  # rollouts in the running batch, at most
BLOCK = {"cpu": 32, "cuda": 16}  # tokens of the KV cache that are given out together
BUCKET = 1 << 28  # weights gathered at once under ZeRO-3
GIB = 1 << 30


class VllmSampler:
    """Serves requests from a vLLM engine that starts with the weights in the folder `source`.

    `model` is the module in training whose weights `sync` takes over; without one the engine keeps what it started with.
    Raises ValueError if vLLM's build is for another device, or if weights, KV cache and activations do not fit into memory.
    """

    def __init__(self, source: Path, sampling: Sampling, model: Any = None, tensor_parallel: int = 1) -> None:
        self.model, self.sampling = model, sampling
        config = json.loads((source / "config.json").read_text())
        self.window = config["max_position_embeddings"]
        longest = min(self.window, max(sampling.prompt_tokens + sampling.response_tokens, CANARY_TOKENS) + 1)
        block = BLOCK[sampling.device]
        pool = (max(sampling.batch_tokens, longest) // block + 2) * block  # tokens of the KV cache; one block is vLLM's own
        need = needed(source, config, sampling.dtype, pool, tensor_parallel)
        refuse_too_little_memory(need, sampling)
        cpu = sampling.device == "cpu"
        with _undisturbed():
            vllm = _imported(sampling.device)
            self._vllm = vllm
            self._llm = vllm.LLM(
                model=str(source),
                dtype=sampling.dtype,
                skip_tokenizer_init=True,  # tokens in, tokens out
                generation_config="vllm",
                logprobs_mode="processed_logprobs",
                max_model_len=longest,
                max_num_seqs=ROWS[sampling.device],
                max_num_batched_tokens=max(STEP_TOKENS, longest),
                kv_cache_memory_bytes=need["KV cache"],
                block_size=block,
                enable_prefix_caching=True,
                enable_chunked_prefill=not cpu,
                enforce_eager=cpu,
                enable_sleep_mode=model is not None and not cpu,
                tensor_parallel_size=tensor_parallel,
                distributed_executor_backend="external_launcher" if _ranks() > 1 else None,
                seed=0,  # every request brings its own
                use_tqdm_on_load=False,
            )
        self._engine = self._llm.llm_engine
        self._count = 0
        self._flying: dict[str, tuple[int, int]] = {}  # vLLM's request -> (our key, number of the rollout)
        self._open: dict[int, tuple[Request, dict[int, Rollout]]] = {}  # requests, and what is written of them
        self._finished: list[tuple[int, list[Rollout]]] = []
        self._asleep = False
        self._holds = "" if model is None else fingerprint(model)

    def submit(self, key: int, request: Request) -> None:
        """Let a request enter the running batch. Raises ValueError if prompt and response cannot fit the model's window."""
        room = self.sampling.room(request, self.window)
        if len(request.problem.prompt) > self.sampling.prompt_tokens:
            raise ValueError(
                f"problem {request.problem.id!r} has a prompt of {len(request.problem.prompt)} tokens, the engine was started "
                f"for {self.sampling.prompt_tokens}; raise max_prompt_tokens"
            )
        if room == 0:
            self._finished.append((key, [Rollout(request.sample.prefix, (), (), 0.0, "prefix") for _ in request.seeds]))
            return
        self._open[key] = request, {}
        for number, seed in enumerate(request.seeds):
            parameters = self._vllm.SamplingParams(
                temperature=self.sampling.temperature,
                seed=seed,
                max_tokens=room,
                stop_token_ids=[self.sampling.end],
                ignore_eos=True,  # the one token above ends a response, whatever the checkpoint's files say
                logprobs=0,  # of the sampled token alone
                flat_logprobs=True,
                detokenize=False,
                output_kind=self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
            )
            self._flying[self._add(request.prompt, parameters)] = key, number

    def step(self) -> list[tuple[int, list[Rollout]]]:
        """One forward pass of the running batch. Raises SamplerError if the engine dies."""
        for output in self._outputs() if self._flying else ():
            key, number = self._flying.pop(output.request_id)
            request, rollouts = self._open[key]
            (written,) = output.outputs
            assert written.finish_reason in ("stop", "length"), written.finish_reason
            tokens, logp = tuple(written.token_ids), tuple(written.logprobs.logprobs)
            assert len(logp) == len(tokens), output
            rollouts[number] = Rollout(request.sample.prefix, tokens, logp, 0.0, written.finish_reason)
            if len(rollouts) == len(request.seeds):
                self._finished.append((key, [rollouts[number] for number in sorted(rollouts)]))
                del self._open[key]
        finished, self._finished = self._finished, []
        return finished

    def score(self, rows: Sequence[tuple[int, ...]]) -> list[list[float]]:
        """Log-prob in nats, at temperature 1, of every token but the first of each row. Nothing may be in flight."""
        assert not self._flying, "scoring while rollouts are being sampled"
        parameters = self._vllm.SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        places = {self._add(row, parameters): place for place, row in enumerate(rows)}
        found: list[list[float]] = [[] for _ in rows]
        while places:
            for output in self._outputs():
                if output.finished:
                    place = places.pop(output.request_id)
                    row = zip(output.prompt_logprobs[1:], rows[place][1:], strict=True)
                    found[place] = [token_logp[token].logprob for token_logp, token in row]
        return found

    def sync(self) -> None:
        """Take over the weights of the module in training. Every rank must call it; nothing may be in flight."""
        assert not self._flying, "a change of weights while rollouts are being sampled"
        if self.model is None:
            return
        if self._asleep:
            self._llm.wake_up(tags=["weights"])
        # Given an iterator: without arguments vLLM would read the files it started from once more.
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": named_weights(self.model)})
        if self._asleep:
            self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False
        if not self._llm.reset_prefix_cache():
            raise SamplerError("vLLM did not empty its prefix cache after a change of weights: keys of old weights would stay")
        self._holds = fingerprint(self.model)

    def sleep(self) -> None:
        """Give weights and KV cache back to the GPU until the next `sync`; the CPU build cannot."""
        if self.model is not None and self.sampling.device != "cpu" and not self._asleep:
            self._llm.sleep(level=1)  # keeps the buffers, which level 2 loses (vllm#16564, #29341)
            self._asleep = True

    def fingerprint(self) -> str:
        """Digest of the weights last taken over. vLLM fuses and repacks them, so it cannot say what it holds; that they work
        as they should is for `score` to show."""
        return self._holds

    def _add(self, tokens: tuple[int, ...], parameters: Any) -> str:
        name, self._count = str(self._count), self._count + 1
        self._engine.add_request(name, self._vllm.TokensPrompt(prompt_token_ids=list(tokens)), parameters)
        return name

    def _outputs(self) -> list[Any]:
        try:
            return self._engine.step()
        except RuntimeError as error:  # what torch and vLLM raise; an engine that died is not tried again
            raise SamplerError(f"vLLM's engine died with {len(self._flying)} rollouts in flight: {error}") from error


def named_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Every weight under its checkpoint's name; under ZeRO-3 gathered in buckets, which every rank must enter.

    A tied output layer is no parameter of its own, but vLLM's CPU build keeps a repacked copy of it that would go stale
    silently (6.4 nats off, measured on 0.32.0), so it is named too.
    """
    import deepspeed

    named = list(model.named_parameters())
    while named:
        bucket, size = [], 0
        while named and (not bucket or size + _numel(named[0][1]) <= BUCKET):
            size += _numel(named[0][1])
            bucket.append(named.pop(0))
        partitioned = [parameter for _, parameter in bucket if hasattr(parameter, "ds_id")]
        with deepspeed.zero.GatheredParameters(partitioned):
            for name, parameter in bucket:
                yield name, parameter.detach()
                if model.config.tie_word_embeddings and parameter is model.get_input_embeddings().weight:
                    yield "lm_head.weight", parameter.detach()


def _numel(parameter: Any) -> int:
    return getattr(parameter, "ds_numel", parameter.numel())


def needed(source: Path, config: dict, dtype: str, pool: int, tensor_parallel: int) -> dict[str, int]:
    """Bytes an engine needs on one device: for weights, for a KV cache of `pool` tokens, and, roughly, for activations."""
    size = getattr(torch, dtype).itemsize
    weights = 0
    for path in sorted(source.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118 (not a dict)
            weights += sum(int(np.prod(shape)) for shape in shapes) * size
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    per_token = 2 * config["num_hidden_layers"] * config.get("num_key_value_heads", heads)
    per_token *= config.get("head_dim") or hidden // heads
    activations = STEP_TOKENS * (4 * hidden + 2 * config["intermediate_size"]) * size + ROWS["cpu"] * config["vocab_size"] * 16
    return {
        "weights": weights // tensor_parallel,
        "KV cache": pool * per_token * size // tensor_parallel,
        "activations": activations // tensor_parallel,
    }


def refuse_too_little_memory(need: dict[str, int], sampling: Sampling) -> None:
    """Raise ValueError, saying what was needed for what, if the device has less memory left."""
    cpu = sampling.device == "cpu"
    free = psutil.virtual_memory().available if cpu else torch.cuda.mem_get_info()[0]
    if sum(need.values()) > free:
        parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in need.items())
        raise ValueError(
            f"vLLM needs {sum(need.values()) / GIB:.2f} GiB ({parts}) and {free / GIB:.2f} GiB are free on the "
            f"{sampling.device}; lower sample_batch_tokens, {sampling.batch_tokens} now, which is the size of the KV cache in "
            "tokens, or use more or larger devices"
        )


def _imported(device: str) -> Any:
    """vLLM, told before its import to stay in this process, to be quiet and to call nobody. Raises ValueError if its build
    is for another device."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    import vllm
    from vllm.platforms import current_platform

    if current_platform.device_type != device:
        raise ValueError(
            f"this vLLM runs on {current_platform.device_type or 'no device it can find'} and the device is to be {device}; "
            "install the other build with `make vllm`, or change train.device and evaluation.device"
        )
    if device == "cpu":
        # One counting helper beside the model is compiled at its first call: 4 s, and a C++ compiler must be there.
        torch._dynamo.config.disable = True
    return vllm


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Starting vLLM seeds every random generator of the process and takes `torch.set_num_threads` away; both are put back."""
    states, threads, set_threads = (random.getstate(), np.random.get_state()), torch.get_num_threads(), torch.set_num_threads
    with torch.random.fork_rng():
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_num_threads = set_threads
    torch.set_num_threads(threads)


def _ranks() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
