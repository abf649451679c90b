"""GRPO's clip by hand, and the pipeline that is made of its preset `corrected`."""

import pytest
import torch

from engine import methods
from engine.reduce import mean_over_tokens
from engine.tokens import Tokens
from tests.conftest import METHODS


@pytest.mark.parametrize(
    ("preset", "rewarded", "punished"),
    [  # gradient of -min(A r, A clip(r)) on log p, r = .75, 1.25, 1.3: -A r, or 0 where the clip holds it
        (methods.MATCHED, [-0.75, -1.25, -1.3], [0.75, 1.25, 1.3]),
        ("corrected", [-0.75, -1.25, 0.0], [0.0, 1.25, 1.3]),
        ("as_released", [-0.75, 0.0, 0.0], [0.0, 1.25, 1.3]),
    ],
)
def test_the_corrected_clip_is_wider_above_than_below(preset: str, rewarded: list[float], punished: list[float]) -> None:
    method = methods.build("grpo", methods.preset("grpo", preset, METHODS), METHODS)
    logp = torch.tensor([[0.75, 1.25, 1.3]] * 2, dtype=torch.float64).log().requires_grad_()
    advantage = torch.tensor([[1.0] * 3, [-1.0] * 3], dtype=torch.float64)
    nothing, yes = torch.zeros_like(advantage), torch.ones_like(advantage, dtype=torch.bool)
    found = method.loss(Tokens(logp, nothing, advantage, ~yes, yes, yes, nothing + 3.0))
    policy = found["policy"].values if preset == "as_released" else found
    policy.sum().backward()
    torch.testing.assert_close(logp.grad, torch.tensor([rewarded, punished], dtype=torch.float64))
    if preset == "as_released":
        entropy = found["entropy"]
        assert entropy.coefficient == 0.001 / 64 and entropy.values.unique().tolist() == [-3.0] and entropy.mask.all()


def test_the_corrected_pipeline_starts_from_sft_and_reinforces_with_grpos_preset() -> None:
    first, second = methods.stages("sft_then_rl", METHODS)
    assert (first.method, first.parent, first.settings) == ("sft", None, {})  # so it is the stage of the run sft itself
    assert (second.method, second.parent) == ("grpo", "sft")
    assert second.settings == methods.preset("grpo", "corrected", METHODS)
    assert methods.build("grpo", second.settings, METHODS).reduce == mean_over_tokens
