"""The forward pass: the same log-probs and gradient in whatever chunks, in memory that does not grow with the vocabulary."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from engine import forward, methods
from engine.integrity import rows_apart
from engine.tokens import collate
from engine.train import Trainer
from tests.conftest import METHODS, on_two_ranks
from tests.test_estimate import Peak, small
from tests.test_train import SETTINGS, small_model, trajectories
from workflow import memory

VOCABULARY, TEMPERATURE = 64, 0.7
MOST, HIDDEN = 1 << 23, 64  # logits in a chunk, where memory is measured, and the width of the model


def of_everything(model: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """Log-probs [B, T, V] by plain autograd."""
    return (model(input_ids=input_ids).logits[:, :-1] / TEMPERATURE).log_softmax(-1)


def gradient(model: Any, loss: torch.Tensor) -> torch.Tensor:
    found = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    return torch.cat([one.flatten() for one in found]).double()


@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("chunk", [1, 5 * VOCABULARY, 1 << 27])
def test_log_probs_entropies_and_their_gradient_are_plain_autograds(
    chunk: int, packed: bool, entropy: bool, read: bool
) -> None:
    model, other, batch = small_model(), small_model(), collate(trajectories(), 0)
    with torch.no_grad():
        other.lm_head.weight.mul_(3)
    wanted, ids = batch.tokens.response, batch.input_ids
    assert 5 < int(wanted.sum()) < wanted.numel()
    weights = torch.randn((3, *wanted.shape), generator=torch.Generator().manual_seed(3)) * wanted
    logp = of_everything(model, ids)
    values = [logp.gather(-1, ids[:, 1:, None])[..., 0], -(logp.exp() * logp).sum(-1), logp.exp().square().sum(-1)]
    asked = [True, entropy, read]
    loss = torch.stack([(w * v).sum() for w, v, one in zip(weights, values, asked, strict=True) if one]).sum()
    expected = gradient(model, loss)
    assert expected.norm() > 1

    by = (lambda d: {"sure": d.logp.exp().square().sum(-1)}) if read else None
    scored = forward.score(model, ids, batch.lengths, TEMPERATURE, entropy, packed, other, by, wanted, chunk)
    found = forward.inputs(scored)
    for one, value in zip(found, [v for v, yes in zip(values, asked, strict=True) if yes], strict=True):
        torch.testing.assert_close(one, value * wanted, rtol=1e-5, atol=1e-5)
        assert not one[~wanted].any()
    reference = of_everything(other, ids).gather(-1, ids[:, 1:, None])[..., 0]
    assert scored.reference_logp is not None and not scored.reference_logp.requires_grad
    torch.testing.assert_close(scored.reference_logp, (reference * wanted).detach(), rtol=1e-5, atol=1e-5)
    pulls = [w for w, one in zip(weights, asked, strict=True) if one]
    loss = torch.stack([(w * v).sum() for w, v in zip(pulls, found, strict=True)]).sum()
    assert (gradient(model, loss) - expected).norm() < 2e-6 * expected.norm()


@pytest.mark.parametrize("packed", [False, True])
def test_where_nothing_is_wanted_a_backward_pass_is_still_made(packed: bool) -> None:
    model, batch = small_model(), collate(trajectories()[:2], 0)
    nothing = torch.zeros_like(batch.tokens.response)
    found = forward.score(
        model, batch.input_ids, batch.lengths, 1.0, True, packed, read=lambda d: {"all": d.logp.sum(-1)}, wanted=nothing
    )
    assert not found.logp.any()
    torch.stack([one.sum() for one in forward.inputs(found)]).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_a_second_backward_pass_is_refused() -> None:
    batch = collate(trajectories()[:2], 0)
    found = forward.score(small_model(), batch.input_ids, batch.lengths, 1.0).logp.sum()
    found.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.backward()


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many logits are in a block, of the size it has beside a whole chunk."""
    monkeypatch.setattr(forward, "BLOCK", MOST >> 4)
    return MOST >> 4


def peak(vocabulary: int, dtype: str, entropy: bool = False, reference: bool = False, read: bool = False) -> float:
    """Bytes that scoring and differentiating 1,000 tokens holds at most besides weights and gradients, the second time."""
    sizes: dict[str, Any] = {"vocab_size": vocabulary, "hidden_size": HIDDEN, "intermediate_size": 16, "num_hidden_layers": 1}
    model, other = (small(dtype=getattr(torch, dtype), **sizes) for _ in range(2))
    ids, lengths = torch.zeros((2, 501), dtype=torch.long), torch.tensor([501, 501])
    by = methods.build("asft", {}, METHODS).read if read else None
    frozen = other.requires_grad_(False) if reference else None

    def backward() -> None:
        found = forward.score(model, ids, lengths, 1.0, entropy, reference=frozen, read=by, chunk=MOST)
        torch.stack([one.sum() for one in forward.inputs(found)]).sum().backward()

    backward()
    assert all(p.grad is not None for p in model.parameters())
    with Peak() as peak:
        backward()
    return peak.most


@pytest.mark.parametrize(("entropy", "reference"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_is_that_of_one_chunk_whatever_the_vocabulary(blocks: int, dtype: str, entropy: bool, reference: bool) -> None:
    """One fp32 number for each logit of a chunk, not for 20 or 150 million of them; beside it a few copies of a block, and of
    the last layer's gradient."""
    held = {vocabulary: peak(vocabulary, dtype, entropy, reference) for vocabulary in (20_000, 150_000)}
    for vocabulary, found in held.items():
        layer = torch.finfo(getattr(torch, dtype)).bits // 8 * HIDDEN * vocabulary
        logits = memory.LOGITS[dtype] * MOST
        assert logits < found < 1.1 * (logits + 4 * memory.COPIES * blocks + (3 + reference) * layer)
        assert found < 1000 * vocabulary * 4 / 1.2  # what plain fp32 logits would be, once


def test_a_method_that_reads_distributions_holds_its_own_copies_of_a_chunk(blocks: int) -> None:
    for dtype in ("float32", "bfloat16"):
        layer = torch.finfo(getattr(torch, dtype)).bits // 8 * HIDDEN * 40_000
        assert peak(40_000, dtype, True, True, True) == pytest.approx(memory.LOGITS_READ * MOST + 4 * layer, rel=0.1)


def test_logits_that_are_capped_after_the_last_layer_are_noticed() -> None:
    """By the check before a stage: the pass of training goes from the last layer's logits, the model goes further."""
    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "head_dim": 16,
    }
    torch.manual_seed(2)
    rows, statuses = [(5, 6, 7, 8, 9), (10, 11, 12)], []
    for cap in (None, 0.1):
        config = Gemma2Config(
            **sizes, num_attention_heads=2, num_key_value_heads=2, final_logit_softcapping=cap, pad_token_id=0
        )
        trainer = Trainer(Gemma2ForCausalLM(config), methods.build("sft", {}, METHODS), SETTINGS, pad=0)
        statuses.append(rows_apart(trainer, rows, "float32").status)
    assert statuses == ["passed", "failed"]


def test_ranks_with_unequal_numbers_of_chunks_keep_in_step_under_zero_3(tmp_path: Path) -> None:
    """A last layer large enough to be partitioned is gathered for each chunk, by both ranks; one has many chunks, one none."""
    script = f"""
import dataclasses, json, torch
from functools import partial
from engine import forward
forward.score = partial(forward.score, chunk=3 * 4096)
from tests.test_train import *
config = small_model().config
config.vocab_size = 4096
def large():
    torch.manual_seed(1)
    return Qwen2ForCausalLM(config)
found = []
for zero, ranks_of in ((3, trajectories()), (3, trajectories()[:1]), (2, trajectories())):
    trainer = Trainer(large(), build("trapo", "matched"), dataclasses.replace(SETTINGS, zero_stage=zero), pad=0)
    head = trainer.model.lm_head.weight
    assert not hasattr(head, "ds_id") or head.numel() < head.ds_numel, "the layer is whole on this rank"
    found.append([trainer.update(ranks_of)["grad_norm"] for _ in range(2)])
if torch.distributed.get_rank() == 0:
    open({str(tmp_path / "norms.json")!r}, "w").write(json.dumps(found))
torch.distributed.barrier()
"""
    on_two_ranks(script)
    partitioned, alone, whole = json.loads((tmp_path / "norms.json").read_text())
    assert min(*partitioned, *alone) > 1e-3
    assert partitioned == pytest.approx(whole, rel=1e-4)
