"""Losses and gradients against numbers computed by the authors' own functions (float64, two fixed batches).

The golden files normalise by a constant (token sum / 12, not divided by sequences) or by the token count; the comparison
applies exactly that to `Method.loss`, and then a second time through the engine's denominators.
"""

import json
from pathlib import Path

import pytest
import torch

from engine import methods
from engine.reduce import mean_over_tokens, sum_over_length
from engine.tokens import Tokens
from tests.conftest import METHODS

WIDTH = 12
# golden name -> method, settings, whether the expert rows of the batch are used, how
CASES = {
    "trapo_clip_low": ("trapo", {}),
    "trapo_clip_low_with_ppo_clip": ("trapo", {"clip": 0.2}),
    "luffy_shaping_0.1": ("luffy", {}),
    "grpo_no_clip": ("grpo", {}),
    "grpo_ppo_clip_0.2": ("grpo", {"clip": 0.2}),
    "sft_token_mean": ("sft", {}),
}


def view(inputs: dict, name: str, logp: torch.Tensor) -> Tokens:
    """The golden batch as the loss sees it. TRAPO learns from some prefixes; LUFFY has one whole expert row, the last."""
    response, prefix, learned = (torch.tensor(inputs[key]) for key in ("response_mask", "prefix_mask", "trained_prefix_mask"))
    expert = torch.zeros_like(response)
    trained = response
    if name.startswith("trapo"):
        expert, trained = prefix, response & (~prefix | learned)
    if name.startswith("luffy"):
        expert[7] = response[7]
    old, advantage = (torch.tensor(inputs[key], dtype=torch.float64) for key in ("old_logp", "advantages"))
    return Tokens(logp, old, advantage, expert, trained, response)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch", [0, 1])
def test_loss_and_gradient_equal_the_authors(shared: Path, name: str, batch: int) -> None:
    golden = json.loads((shared / "golden" / "loss_goldens.json").read_text())[batch]
    method_name, settings = CASES[name]
    method = methods.build(method_name, settings, METHODS)
    logp = torch.tensor(golden["inputs"]["logp"], dtype=torch.float64, requires_grad=True)
    t = view(golden["inputs"], name, logp)
    expected = golden["expected"][name]
    gradient = torch.tensor(expected["dloss_dlogp"], dtype=torch.float64)
    assert gradient.norm() > 1e-3

    values = method.loss(t)
    by_hand = values.where(t.trained, torch.zeros(())).sum() / (t.trained.sum() if name.startswith("sft") else WIDTH)
    torch.testing.assert_close(by_hand.item(), expected["loss"], rtol=1e-9, atol=0)
    by_hand.backward(retain_graph=True)
    torch.testing.assert_close(logp.grad, gradient, rtol=1e-9, atol=1e-15)

    reduce, rows = (mean_over_tokens, 1) if name.startswith("sft") else (sum_over_length(WIDTH), len(values))
    engine = reduce.numerator(values, t.trained, limit=1) / reduce.count(t.trained, len(values)) * rows
    torch.testing.assert_close(engine.item(), expected["loss"], rtol=1e-9, atol=0)
