"""DeepSpeed and the ranks: how they are started, and how several backward passes become one step.

Two things would change gradients silently and are undone here, in one place:

- DeepSpeed averages gradients over ranks; losses are multiplied by the number of ranks.
- With ZeRO-1/2, several `backward` calls before one `step` lose micro-batches unless the accumulation boundary is set on every
  one of them (measured on 0.19.8; the reason this project exists).

`engine/integrity.py` looks whether it worked before every stage.
"""

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from engine.explore import ALONE, Ranks
from engine.settings import Settings


def start_distributed(device: str) -> None:
    """Join the process group: as one process alone, or as the rank a launcher gave us in the environment. Raises ValueError
    if the device is not there; DeepSpeed would quietly take another."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "train.device is cuda and no GPU is visible; set it to cpu, or check the driver and CUDA_VISIBLE_DEVICES"
        )
    os.environ["DS_ACCELERATOR"] = device
    os.environ.setdefault("LOCAL_RANK", "0")
    if device == "cuda" and int(os.environ["LOCAL_RANK"]) >= torch.cuda.device_count():
        raise ValueError(f"train.ranks needs a GPU for each rank and {torch.cuda.device_count()} are visible; lower it")
    if dist.is_initialized():
        return
    backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"  # counts are added up on the CPU, gradients on the GPU
    if "RANK" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


def ranks() -> Ranks:
    """This process among those of its stage."""
    return Ranks(dist.get_rank(), dist.get_world_size(), _gathered) if dist.get_world_size() > 1 else ALONE


def _gathered(part: dict) -> dict:
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    return {key: value for one in parts for key, value in one.items()}


def summed(parts: dict[Any, float]) -> dict[Any, float]:
    """Each rank's part added up. Every rank must call it, with the same keys."""
    if dist.get_world_size() == 1:
        return parts
    values = torch.tensor(list(parts.values()), dtype=torch.float64)
    dist.all_reduce(values)
    return dict(zip(parts, values.tolist(), strict=True))


def _worth_saying(record: logging.LogRecord) -> bool:
    """DeepSpeed warns about every optimizer that is not its own; ours is tested before every stage."""
    return "untested optimizer" not in record.getMessage()


def _deepspeed() -> Any:
    """DeepSpeed with its engine, imported without Inductor: on import it hands three functions of its Muon optimizer to
    torch.compile, which loads the compiler: 1.3 of 7.5 CPU seconds of a stage's start. Nothing here uses that optimizer."""
    with mock.patch("torch.compile", lambda function: function):
        import deepspeed
        import deepspeed.runtime.zero.muon.original_muon
    return deepspeed


def initialize(model: Any, optimizer: torch.optim.Optimizer, settings: Settings) -> Any:
    """DeepSpeed's engine for a model, in the configuration of `settings`. Probes use it too: what they test is what trains."""
    deepspeed = _deepspeed()
    deepspeed.utils.logger.addFilter(_worth_saying)
    if settings.device == "cpu":
        # Its shared-memory reduction is compiled at start-up (45 s, and a compiler must be there); gloo does without.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    zero: dict[str, Any] = {"stage": settings.zero_stage}
    if settings.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": settings.device != "cpu"}
    config = {
        "train_micro_batch_size_per_gpu": 1,  # ours vary; DeepSpeed only uses this for its own accounting
        "gradient_accumulation_steps": 1,  # said by `accumulate`
        "gradient_clipping": settings.clip_gradient,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": next(model.parameters()).dtype == torch.bfloat16},
    }
    if settings.accumulation == "unmanaged":
        config["managed_gradient_accumulation"] = False
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine


def accumulate(engine: Any, losses: Sequence[Callable[[], Tensor]], accumulation: str) -> None:
    """One backward pass for each loss, all of them for the next step: gradients of their sum over losses and ranks."""
    for index, loss in enumerate(losses):
        if accumulation == "boundary":
            engine.set_gradient_accumulation_boundary(index == len(losses) - 1)
        engine.backward(loss() * dist.get_world_size(), scale_wrt_gas=False)
