"""The machine a configuration declares, and what data sheets say of its GPUs."""

from dataclasses import dataclass
from typing import Any

from engine.methods import nearest
from workflow.memory import GIB

CPU = "cpu"  # for a machine without GPUs: no time is estimated


@dataclass(frozen=True)
class Gpu:
    """Peak of dense bf16 matrix products in FLOP/s, memory bandwidth in bytes/s, memory in GiB."""

    flops: float
    bandwidth: float
    memory: int


# NVIDIA's data sheets, SXM forms, without sparsity; memory in GiB as the driver reports it, rounded.
GPUS = {
    "a100": Gpu(312e12, 2.039e12, 80),
    "h100": Gpu(989e12, 3.35e12, 80),
    "h200": Gpu(989e12, 4.8e12, 140),
    "rtx4090": Gpu(165e12, 1.008e12, 24),
    "l4": Gpu(121e12, 0.3e12, 24),
}
RESPONSE_TOKENS = 4200  # mean of a response and of a demonstration: what arXiv:2604.23747 counts with


@dataclass(frozen=True)
class Hardware:
    """One node: its GPUs, and bytes of a GPU's, the host's and the disk's memory (None: not declared, not checked).
    `response_tokens`: the mean length assumed of responses and demonstrations; limits of the run cut it."""

    name: str
    gpu: Gpu | None
    gpus: int
    gpu_memory: int
    host_memory: int | None
    disk: int | None
    response_tokens: int


def declared(config: dict[str, Any]) -> Hardware | None:
    """The configuration's `hardware`; None if it declares none. Raises ValueError for a GPU nobody knows."""
    said = config.get("hardware")
    if not said:
        return None
    name = said["gpu"]
    if name not in (*GPUS, CPU):
        raise nearest("hardware.gpu", name, [*GPUS, CPU])
    gpu = GPUS.get(name)
    memory = said.get("gpu_memory_gb", gpu.memory if gpu else 0)
    host, disk = (said[key] * GIB if said.get(key) else None for key in ("host_memory_gb", "disk_gb"))
    tokens = said.get("response_tokens", RESPONSE_TOKENS)
    return Hardware(name, gpu, said.get("gpus", 1) if gpu else 0, memory * GIB, host, disk, tokens)
