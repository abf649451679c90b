"""Matrix products in fp32 on CPUs: oneDNN's, where torch takes MKL's and those are slow.

torch multiplies fp32 matrices with MKL, which has no AVX-512 code for processors that are not Intel's: on a Zen 5 core 85 to 95
GFLOP/s, where oneDNN, which torch brings along and uses for bfloat16, makes 150 to 210 (docs/LOG.md, 2026-11-22). Both are fp32
throughout and differ in the order of their sums.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from engine import provenance
from engine.settings import BLOCK

ROWS = 32  # with fewer, as in the last steps of decoding, a call of oneDNN's costs more than it saves


def slow() -> bool:
    """Whether this is such a CPU: a property of the machine, so that a repetition computes the same."""
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()
    return wide and provenance.cpuinfo("vendor_id") == "AuthenticAMD"


def use(model: nn.Module, device: str) -> None:
    """Have a model's linear layers multiply by oneDNN, on such a CPU and in fp32; elsewhere nothing changes."""
    if device == "cpu" and slow():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = Linear


class Linear(nn.Linear):
    """A linear layer with the same weights and another product."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., K] -> [..., N]"""
        if input.numel() < ROWS * self.in_features or not input.dtype == self.weight.dtype == torch.float32:
            return super().forward(input)
        return Affine.apply(input, self.weight, self.bias)


class Affine(torch.autograd.Function):
    """x [..., K], weight [N, K], bias [N] or None -> x weight^T + bias, [..., N], and its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        pull, rows = gradients[0].flatten(0, -2), x.flatten(0, -2)
        return (
            product(pull, weight.t()).view_as(x) if of_x else None,
            _of_weight(pull, rows) if of_weight else None,
            pull.sum(0) if of_bias else None,
        )


def _of_weight(pull: Tensor, rows: Tensor) -> Tensor:
    """[M, N], [M, K] -> [N, K]. oneDNN copies both, and is fastest with the narrower one first; large ones, as logits may be,
    are left to MKL, which does not."""
    if pull.numel() > BLOCK:
        return pull.t() @ rows
    if pull.shape[1] > rows.shape[1]:
        return product(rows.t(), pull.t()).t()
    return product(pull.t(), rows.t())


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[..., K], [N, K] -> [..., N], by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
