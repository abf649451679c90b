"""What one rank of a stage holds on its GPU and in the host's memory, part by part, before anything is started. Bytes.

Read in this engine and in DeepSpeed 0.19.8; the activations of a forward pass are measured against these formulas by a test
(saved tensors of the real pass), vLLM's share against the engine's own `needed`.

    weights      s N, under ZeRO-3 s N / R and the layers gathered meanwhile (at most 1e9 parameters). s: bytes of `dtype`
    optimizer    Adam's two moments and a master copy, 12 N in fp32, over R ranks from ZeRO-1 on; on the host with `offload`
                 A method with an optimizer state for each of two kinds of updates keeps the moments that wait besides, 8 N
    reference    of a method that needs one: s N on every rank, under ZeRO-3 too
    gradients    s N; from ZeRO-2 on s N / R and one bucket of at most 5e8; at the step an fp32 copy of the rank's share
    activations  of one micro-batch. A row is never cut: at least prompt + response tokens, however small the budget. In each
                 layer and for each token, with a, k the widths of queries and keys: 2 norms x (4 + 2 s) hidden, s (2 a + 2 k)
                 in attention, 4 s intermediate. `gradient_checkpointing` keeps s hidden of each layer and one layer in full
    logits       for each token and vocabulary entry one fp32 number and, where it is of another kind, the model's own; 24 bytes
                 for a method that reads whole distributions. Of a chunk of tokens at most (engine/forward.py), and a few copies
                 of a part of it. The last layer's gradient, s hidden for each vocabulary entry, is there twice while it is
                 added, with several chunks four times: of this chunk, those before, their sum, and other micro-batches;
                 one more was measured with a reference
    norms by term  a full gradient, in updates that measure them (`term_norms_every`; not under ZeRO-3), and a second one in the
                 place of activations and logits
    sampler      vLLM: a copy of the weights, a KV cache of `sample_batch_tokens`, activations. It sleeps during an update, and
                 its weights are then on the host
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.settings import BLOCK as PART
from engine.settings import CHUNK
from workflow.models import Shape

GIB = 1 << 30
BYTES = {"float32": 4, "bfloat16": 2}
LOGITS = {"float32": 4, "bfloat16": 6}  # bytes for each token and vocabulary entry
LOGITS_READ, COPIES = 24, 4  # the same; and fp32 copies of a block of them
GATHERED, BUCKET = 10**9, 5 * 10**8  # parameters; DeepSpeed's defaults
STEP_TOKENS, ROWS, BLOCK = 8192, 1024, 16  # of engine/sampler/vllm.py on GPUs
RESERVE = 0.06  # of a GPU: CUDA's context, NCCL's buffers, fragmentation
PROCESS = 6 * GIB  # of the host: Python, torch, vLLM and CUDA's libraries in one process


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank: on its GPU held all the time, and besides that in each phase, by part; and of the host's memory."""

    always: dict[str, int]
    phases: dict[str, dict[str, int]]
    host: int

    @property
    def peaks(self) -> dict[str, int]:
        """The most the GPU holds in each phase."""
        return {phase: sum(self.always.values()) + sum(parts.values()) for phase, parts in self.phases.items()}

    def parts(self, phase: str) -> dict[str, int]:
        """What it holds in a phase, largest first."""
        held = {**self.always, **self.phases[phase]}
        return dict(sorted(((name, size) for name, size in held.items() if size), key=lambda part: -part[1]))


def world(train: dict[str, Any]) -> int:
    """Processes of a stage on all its nodes, each with a GPU of its own where there are any."""
    return train["ranks"]


def of_training(
    shape: Shape,
    train: dict[str, Any],
    sampler: str,
    samples: bool,
    reads: bool,
    reference: bool = False,
    optimizers: bool = False,
) -> Memory:
    """Of a training stage. `samples`: whether its method samples; `reads`: whether it reads whole distributions;
    `reference`: a frozen model; `optimizers`: an optimizer state for each of two kinds of updates."""
    size, count, stage, ranks = BYTES[train["dtype"]], shape.parameters, train["zero_stage"], world(train)
    share = count / ranks if stage else count
    master = 12 if size == 2 else (12 if stage else 8)  # plain AdamW in fp32 needs no master copy
    master += 8 * optimizers
    offload = train["offload"]
    always = {"weights": size * count if stage < 3 else size * share + size * min(GATHERED, count)}
    always["optimizer"] = 0 if offload else master * share
    always["reference"] = size * count if reference else 0
    partitioned = size * share + size * min(BUCKET, count)
    gradients = {0: size * count + (4 * count if size == 2 else 0), 1: size * count}.get(stage, partitioned)
    tokens = max(train["micro_batch_tokens"], longest(train))
    held = activations(shape, size, tokens, train["packed"], train.get("gradient_checkpointing", False))
    numbers = tokens * shape.vocabulary
    logits = min(numbers, CHUNK) * (LOGITS_READ if reads else LOGITS[train["dtype"]]) + 4 * COPIES * min(numbers, PART)
    logits += size * shape.hidden * shape.vocabulary * (3 + reference if numbers > CHUNK else 1)
    norms = max(size * count, 2 * size * count - held - logits) if train["term_norms_every"] and stage < 3 else 0
    phases = {
        "updating": {"gradients": gradients, "activations": held, "logits": logits, "norms by term": norms},
        "stepping": {"gradients": gradients, "gradients in fp32": 0 if offload or not stage else 4 * share},
    }
    if samples:
        inside = of_sampler(shape, size, sampler, train["sample_batch_tokens"], longest(train))
        if sampler != "vllm":
            del inside["sampler weights"]  # it samples from the very module being trained
        phases = {"sampling": inside, **phases}
    host = (
        PROCESS + size * count * (1 + reference) + ((master + 4 + size) * share if offload else 0)
    )  # loading, and later a sleeping sampler
    return Memory(_whole(always), {phase: _whole(parts) for phase, parts in phases.items()}, round(host))


def of_evaluation(shape: Shape, evaluation: dict[str, Any], sampler: str) -> Memory:
    """Of a job that samples from one checkpoint: a single rank, nothing trained."""
    size = BYTES[evaluation["dtype"]]
    held = evaluation["max_prompt_tokens"] + evaluation["max_new_tokens"]
    inside = of_sampler(shape, size, sampler, evaluation["sample_batch_tokens"], held)
    return Memory({}, {"sampling": _whole(inside)}, PROCESS + size * shape.parameters)


def longest(train: dict[str, Any]) -> int:
    """Tokens of the longest row there can be."""
    return train["max_prompt_tokens"] + train["max_response_tokens"]


def activations(shape: Shape, size: int, tokens: int, packed: bool, checkpointing: bool) -> int:
    """What a micro-batch of `tokens` holds between forward and backward pass, the logits apart. Packed rows need a mask, which
    each layer turns into numbers for itself, and for which keys and values are repeated for every head."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norm = (4 + 2 * size) * shape.hidden
    attention = size * (4 * queries + tokens if packed else 2 * queries + 2 * keys)
    layer = 2 * norm + attention + 4 * size * shape.intermediate
    return tokens * (norm + (layer + shape.layers * size * shape.hidden if checkpointing else shape.layers * layer))


def kv_bytes(shape: Shape, size: int) -> int:
    """Keys and values of one token."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * size


def of_sampler(shape: Shape, size: int, sampler: str, batch_tokens: int, row: int) -> dict[str, int]:
    """What a sampler holds on its device, as `engine.sampler.vllm.needed` counts it; transformers' has rows of the full length
    `row`, and turns the logits of each into a distribution in fp64."""
    inner = STEP_TOKENS * (4 * shape.hidden + 2 * shape.intermediate) * size
    if sampler == "vllm":
        pool = (max(batch_tokens, min(shape.window, row + 1)) // BLOCK + 2) * BLOCK
        busy = inner + ROWS * shape.vocabulary * 16
    else:
        rows = max(1, batch_tokens // row)
        pool, busy = rows * row, inner + rows * shape.vocabulary * 28
    return {"sampler weights": size * shape.parameters, "KV cache": pool * kv_bytes(shape, size), "sampler activations": busy}


def _whole(parts: Mapping[str, float]) -> dict[str, int]:
    return {name: round(size) for name, size in parts.items()}
